"""What the term does to a run: nothing at weight 0, its share at the start, its target alone, and fewer close rows."""

from __future__ import annotations

import pytest
import torch
from sae_harness_topk_orthogonality.options import TopKOrthogonalityOptions

from harness import ConfigError
from harness.training.checkpoint import sae_id
from harness.training.pairs import correlation, pair_statistics

BASES = ("topk", "relu", "jumprelu")
NAME = "topk_orthogonality"


@pytest.mark.parametrize("base", BASES)
def test_off_is_the_base_trainer_to_the_bit(base, make_job, train):
    plain, off, on = train([make_job(base), make_job(f"{NAME}@off", base=base), make_job(NAME, base=base)], 25)
    assert sae_id(off.sae) == sae_id(plain.sae)
    assert off.final_terms == plain.final_terms
    assert sae_id(on.sae) != sae_id(plain.sae)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("options", "reached"),
    [
        ({}, {"W_dec"}),
        ({"penalty": "abs", "adaptive": True}, {"W_dec"}),
        ({"pairs": "random"}, {"W_dec"}),
        ({"pairs": "chunked"}, {"W_dec"}),
        ({"pairs": "gram"}, {"W_dec"}),
        ({"correlation": "cos_times_dec"}, {"W_dec"}),
        ({"target": "encoder"}, {"W_enc"}),
        ({"target": "codes"}, {"W_enc", "b_enc", "b_dec", "log_threshold"}),
    ],
)
def test_the_gradient_of_the_term_reaches_its_target_alone(base, options, reached, start, stream, loss_of):
    job = start(base=base, **options)
    term = loss_of(job, stream.batch(0)).values["orthogonality"]
    assert term > 0
    names, parameters = zip(*job.sae.named_parameters(), strict=True)
    grads = torch.autograd.grad(term, parameters, allow_unused=True)
    found = {name for name, grad in zip(names, grads, strict=True) if grad is not None and bool(grad.any())}
    assert found == reached & set(names)


@pytest.mark.parametrize("base", BASES)
def test_the_gradient_with_respect_to_the_reconstruction_is_one(base, start, stream, loss_of):
    job = start(base=base)
    for index in range(3):
        terms = loss_of(job, stream.batch(index), step=index)
    assert all(type(weight) is float for weight in terms.weights.values())
    assert torch.autograd.grad(terms.total, terms.values["sse"], retain_graph=True)[0].item() == 1.0


@pytest.mark.parametrize("base", BASES)
def test_a_relative_weight_is_a_share_of_the_reconstruction_loss_at_the_start(base, start, stream, loss_of):
    terms = loss_of(start(base=base, weight=0.05), stream.batch(0))
    share = terms.weights["orthogonality"] * terms.values["orthogonality"] / terms.values["sse"]
    assert share.item() == pytest.approx(0.05, rel=1e-5)
    absolute = loss_of(start(base=base, weight=0.05, scale="absolute"), stream.batch(0))
    assert absolute.weights["orthogonality"] == 0.05


def test_the_term_is_the_mean_over_the_most_correlated_pairs(start, stream, loss_of):
    job, batch = start(fraction=0.05, adaptive=True), stream.batch(0)
    terms = loss_of(job, batch)
    found = pair_statistics(terms.codes, 64)
    scores = correlation(found, "cos").masked_fill(found.count < 3, -1.0)
    n = -(-int((found.count >= 3).sum()) // 20)
    top = scores.topk(n)
    rows = torch.nn.functional.normalize(job.sae.W_dec, dim=1)
    squares = (rows[found.first[top.indices]] * rows[found.second[top.indices]]).sum(1).square()
    wanted = (squares * (1 + top.values)).sum() / (1 + top.values).sum()
    torch.testing.assert_close(terms.values["orthogonality"], wanted)


def test_pairs_are_selected_on_data_in_which_latents_fire_together_and_the_log_tells(make_job, train):
    job = make_job(NAME, lr=1e-2, fraction=0.05)
    (result,) = train([job], 30)
    rows = [{k.removeprefix("trainer/"): v for k, v in row.items()} for row in result.log]
    assert len(rows) == 30
    assert all(0 < row["selected"] <= row["observed"] for row in rows)
    assert all(0 <= row["mean_cosine"] <= 1 for row in rows)


def test_the_random_control_takes_as_many_pairs(start, stream, loss_of):
    jobs = [start(fraction=0.05), start(f"{NAME}@random_pairs", fraction=0.05)]
    for job in jobs:
        loss_of(job, stream.batch(0))
    selected, random = (job.trainer.diagnostics()["selected"] for job in jobs)
    assert selected == random > 0


def test_the_literal_filters_select_nothing_and_the_fixed_ones_do(start, stream, loss_of):
    """Correlations divided by the tokens are below every minimum: the term is 0, not NaN, and told as such."""
    literal, fixed = start(f"{NAME}@seed000_run6"), start(f"{NAME}@seed000_run6_fixed")
    assert loss_of(literal, stream.batch(0)).values["orthogonality"].item() == 0.0
    assert literal.trainer.diagnostics()["selected"] == 0
    assert loss_of(fixed, stream.batch(0)).values["orthogonality"].item() > 0
    assert fixed.trainer.diagnostics()["selected"] > 0


@pytest.mark.parametrize("preset", [f"seed000_run{i}" for i in range(1, 10)])
def test_a_literal_run_acts_on_codes_and_its_fixed_form_on_the_decoder(preset, make_job, catalogue):
    literal = make_job(f"{NAME}@{preset}").trainer.options
    fixed = make_job(f"{NAME}@{preset}_fixed").trainer.options
    assert (literal.target, literal.weight, literal.divide_by_tokens) == ("codes", 0.1, True)
    assert (fixed.target, fixed.divide_by_tokens) == ("decoder", False)
    presets = catalogue.trainer(NAME).spec.presets
    assert presets[preset].faulty
    assert not presets[f"{preset}_fixed"].faulty


@pytest.mark.parametrize("method", ["louvain", "components"])
def test_clusters_part_the_pairs(method, start, stream, loss_of):
    options = {"clusters": method, "memory": 0.9, "fraction": 1.0}
    within, between = start(between_weight=0.0, **options), start(within_weight=0.0, **options)
    both, one = start(**options), start(memory=0.9, fraction=1.0)
    selected = []
    for job in (within, between, both, one):
        loss_of(job, stream.batch(0))
        selected.append(job.trainer.diagnostics()["selected"])
    assert selected[0] > 0
    assert selected[0] + selected[1] == selected[2] <= selected[3]
    assert within.trainer.diagnostics()["clusters"] >= 1


def test_the_term_is_taken_at_every_so_many_steps(start, stream, loss_of):
    job = start(every=5)
    named = ["orthogonality" in loss_of(job, stream.batch(i), step=i).values for i in range(6)]
    assert named == [True, False, False, False, False, True]


@pytest.mark.parametrize("name", [f"{NAME}@remembered", f"{NAME}@within_clusters", f"{NAME}@random_pairs"])
def test_an_interrupted_run_ends_bit_identical(name, make_job, stream, train, tmp_path):
    class Interrupted:
        calls = 0

        def batch(self, index):
            self.calls += 1
            if self.calls > 32 and index == 7:  # `initialise` has seen the first 32
                raise KeyboardInterrupt
            return stream.batch(index)

    (whole,) = train([make_job(name, cluster_every=5)], 12)
    with pytest.raises(KeyboardInterrupt):
        train([make_job(name, cluster_every=5)], 12, tmp_path, Interrupted())
    job = make_job(name, cluster_every=5)
    (resumed,) = train([job], 12, tmp_path)
    assert sae_id(resumed.sae) == sae_id(whole.sae)
    assert resumed.log == whole.log


@pytest.mark.parametrize("options", [{"fraction": 0.5}, {"pairs": "chunked", "chunk": 16}, {"pairs": "gram"}])
def test_training_draws_the_rows_apart(options, make_job, train):
    def close(sae):
        rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
        return float((rows @ rows.T).fill_diagonal_(0).square().mean())

    plain, ours = train([make_job("topk", lr=1e-2), make_job(NAME, lr=1e-2, weight=0.5, **options)], 150)
    assert close(ours.sae) < 0.9 * close(plain.sae)


def test_the_memory_estimate_has_no_square_of_the_width(make_job):
    estimate = make_job(NAME).trainer.memory_estimate(d_sae=65_536, d_in=768)
    assert estimate.peak < 65_536**2 * 4 / 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "l2"}, "option penalty is 'l2'; allowed are abs, sq, hinge, relu2"),
        ({"weight": -0.1}, "weight is -0.1; it must be at least 0"),
        ({"fraction": 0.0}, r"fraction is 0.0; it must be in \(0, 1\]"),
        ({"quantile_low": 0.5, "quantile_high": 0.5}, "quantile_low is 0.5"),
        ({"pairs": "gram", "target": "codes"}, "use pairs='selected'"),
        ({"pairs": "random", "clusters": "louvain"}, "clusters need pairs='selected'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TopKOrthogonalityOptions(**options)
