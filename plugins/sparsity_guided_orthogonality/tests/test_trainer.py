"""What the term does to a run: nothing at weight 0, its share at the start, its target alone, and fewer close rows."""

from __future__ import annotations

import pytest
import torch
from sae_harness_sparsity_guided_orthogonality.options import SparsityGuidedOptions
from sae_harness_sparsity_guided_orthogonality.trainer import EPS, weighted_pairs

from harness import ConfigError
from harness.training.checkpoint import sae_id
from harness.training.kernels import to_dense
from harness.training.pairs import pair_statistics

BASES = ("topk", "relu", "jumprelu")
NAME = "sparsity_guided_orthogonality"


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
        ({"competition": "shrunk", "penalty": "sq", "normalise": "none"}, {"W_dec"}),
        ({"partners": "random"}, {"W_dec"}),
        ({"target": "encoder"}, {"W_enc"}),
        ({"target": "codes"}, {"W_enc", "b_enc", "b_dec", "log_threshold"}),
        ({"target": "codes_gram"}, {"W_enc", "b_enc", "b_dec", "log_threshold"}),
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


def dense_definition(f, W_dec, *, threshold, normalise):
    """masks^T masks over the smaller count, thresholded, times |cosine| of decoder rows; each pair once."""
    masks = (f > 0).double()
    joint, n = masks.T @ masks, masks.sum(0)
    c = torch.triu((joint / torch.minimum(n[:, None], n).clamp_min(1) - threshold).relu(), 1)
    rows = torch.nn.functional.normalize(W_dec.double(), dim=1)
    total = (c * (rows @ rows.T).abs()).sum()
    return total / {"by_c": c.sum() + EPS, "by_pairs": (c > 0).sum(), "none": 1.0}[normalise]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("normalise", ["by_c", "by_pairs", "none"])
def test_the_term_equals_the_dense_definition(base, normalise, start, stream, loss_of):
    job = start(
        base=base, competition="min", min_count=1, memory=0.0, sample_tokens=256, per_token=64, normalise=normalise
    )
    terms = loss_of(job, stream.batch(0))
    f = terms.codes if isinstance(terms.codes, torch.Tensor) else to_dense(terms.codes, 64)
    wanted = dense_definition(f.detach(), job.sae.W_dec.detach(), threshold=0.1, normalise=normalise)
    torch.testing.assert_close(terms.values["orthogonality"].double(), wanted, atol=1e-6, rtol=1e-6)


def test_the_published_form_is_the_squared_gram_of_the_codes(start, stream, loss_of):
    job = start(f"{NAME}@seed001_run1")
    terms = loss_of(job, stream.batch(0))
    f = to_dense(terms.codes, 64).detach().double()
    masks = (f > 0).double()
    joint, n = masks.T @ masks, masks.sum(0)
    c = torch.triu((joint / torch.minimum(n[:, None], n).clamp_min(1) - 0.1).relu(), 1)
    gram = f.T @ f / len(f)
    wanted = (c * gram.square()).sum() / (c.sum() + EPS)
    torch.testing.assert_close(terms.values["orthogonality"].detach().double(), wanted, atol=1e-6, rtol=1e-5)
    assert terms.weights["orthogonality"] == 0.1


@pytest.mark.parametrize(
    ("kind", "threshold", "share"), [("relu", 0.1, None), ("hard", 0.1, None), ("hard", 0.3, None), ("top", 0.2, 0.2)]
)
def test_thresholds_weigh_and_leave_out(kind, threshold, share, stream):
    found = pair_statistics(stream.codes(0), 40)
    options = SparsityGuidedOptions(threshold_kind=kind, threshold=threshold, min_count=2)
    at, w = weighted_pairs(found, options)
    c = found.count[at] / (found.fires[found.first[at]] * found.fires[found.second[at]]).sqrt()
    torch.testing.assert_close(w, c - threshold if kind == "relu" else c)
    assert 0 < len(at) < len(found)
    if share is None:
        assert bool((c > threshold).all())
    else:
        assert len(at) == -(-int((found.count >= 2).sum()) // 5)


def test_twins_weigh_more_than_strangers(stream):
    """The planted pairs (2i, 2i + 1) fire together six times in ten, others by chance."""
    found = pair_statistics(stream.codes(0), 40)
    at, _ = weighted_pairs(found, SparsityGuidedOptions(threshold=0.4))
    first, second = found.first[at], found.second[at]
    assert len(at) >= 15
    assert bool(((first % 2 == 0) & (second == first + 1)).all())


def test_the_log_tells_how_much_competition_there_is(make_job, train):
    job = make_job(NAME, lr=1e-2)
    (result,) = train([job], 30)
    rows = [{k.removeprefix("trainer/"): v for k, v in row.items()} for row in result.log]
    assert len(rows) == 30
    assert all(0 < row["selected"] <= row["observed"] for row in rows)
    assert all(row["sum_w"] == pytest.approx(row["mean_w"] * row["selected"]) for row in rows)


def test_the_random_control_has_the_same_weights_on_other_pairs(start, stream, loss_of):
    jobs = [start(), start(f"{NAME}@random_pairs")]
    values = [float(loss_of(job, stream.batch(0)).values["orthogonality"].detach()) for job in jobs]
    true, random = (job.trainer.diagnostics() for job in jobs)
    assert (true["selected"], true["sum_w"]) == (random["selected"], random["sum_w"])
    assert values[0] != values[1]


def test_without_a_pair_above_the_threshold_the_term_is_zero(start, stream, loss_of):
    job = start(threshold=1.0)
    terms = loss_of(job, stream.batch(0))
    assert terms.values["orthogonality"].item() == 0.0
    assert terms.weights["orthogonality"] == 0.0
    terms.total.backward()


@pytest.mark.parametrize("name", [NAME, f"{NAME}@random_pairs"])
def test_an_interrupted_run_ends_bit_identical(name, make_job, stream, train, tmp_path):
    class Interrupted:
        calls = 0

        def batch(self, index):
            self.calls += 1
            if self.calls > 32 and index == 7:  # `initialise` has seen the first 32
                raise KeyboardInterrupt
            return stream.batch(index)

    (whole,) = train([make_job(name)], 12)
    with pytest.raises(KeyboardInterrupt):
        train([make_job(name)], 12, tmp_path, Interrupted())
    job = make_job(name)
    (resumed,) = train([job], 12, tmp_path)
    assert sae_id(resumed.sae) == sae_id(whole.sae)
    assert resumed.log == whole.log


def test_training_draws_competing_rows_apart(make_job, train, stream):
    def weighed_cosine(sae):
        f = sae.encode(torch.cat([stream.batch(500 + i).activations for i in range(4)]))
        found = pair_statistics(f.detach(), 64, n_tokens=1024)
        at, w = weighted_pairs(found, SparsityGuidedOptions())
        rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
        cosines = (rows[found.first[at]] * rows[found.second[at]]).sum(1)
        return float((w * cosines.abs()).sum() / w.sum())

    plain, ours = train([make_job("topk", lr=1e-2), make_job(NAME, lr=1e-2, weight=0.5)], 150)
    assert weighed_cosine(ours.sae) < 0.8 * weighed_cosine(plain.sae)


def test_the_memory_estimate_has_no_square_of_the_width(make_job):
    estimate = make_job(NAME).trainer.memory_estimate(d_sae=65_536, d_in=768)
    assert estimate.peak < 65_536**2 * 4 / 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"competition": "cosine"}, "option competition is 'cosine'; allowed are min, jaccard, ochiai, lift, shrunk"),
        ({"weight": -0.1}, "weight is -0.1; it must be at least 0"),
        ({"threshold": 1.5}, r"threshold is 1.5; it must be in \[0, 1\]"),
        ({"threshold_kind": "top", "threshold": 0.0}, "takes no pair"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SparsityGuidedOptions(**options)
