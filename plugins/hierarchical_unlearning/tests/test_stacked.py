"""The trainer and the SAE of two levels: the base untouched, a gradient for the concepts, exact shapes."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning.centroids import centroids

from harness import ConfigError, SparseCodes, TrainState
from harness.training.kernels import to_dense

NAME = "hierarchical_unlearning"


def gradients(job, terms, name=None):
    job.sae.zero_grad(set_to_none=True)
    (terms.total if name is None else terms.values[name]).backward(retain_graph=True)
    return {key: p.grad.clone() for key, p in job.sae.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(
    ("options", "term"),
    [({"predict_weight": 0.0}, "concept_sse"), ({"concept_weight": 0.0}, "prediction")],
)
def test_either_term_alone_gives_the_links_a_gradient(start, loss_of, stream, options, term):
    job = start(NAME, **options)
    found = gradients(job, loss_of(job, stream.batch(1)), term)
    assert {"W_up", "b_up", "W_down", "b_down"} <= found.keys()
    assert "W_enc" in found, "through the codes that the concepts read"


def test_the_reconstruction_does_not_depend_on_concepts(start, loss_of, stream):
    job = start(NAME)
    assert gradients(job, loss_of(job, stream.batch(1)), "sse").keys() == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert loss_of(job, stream.batch(1)).weights["sse"] == 1.0


def test_detached_concepts_move_nothing_of_the_base(start, loss_of, stream):
    job = start(f"{NAME}@detached")
    assert gradients(job, loss_of(job, stream.batch(1)), "prediction").keys() == {"W_up", "b_up", "W_down", "b_down"}


def test_without_its_terms_it_is_topk_to_the_bit(make_job, train):
    ours, topk = train([make_job(NAME, concept_weight=0.0, predict_weight=0.0), make_job("topk")], 30)
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(ours.sae.state_dict()[name], value), name


def test_the_faulty_preset_learns_its_links_from_penalties_alone(start, loss_of, stream):
    job = start(f"{NAME}@seed002")
    terms = loss_of(job, stream.batch(1))
    assert terms.values.keys() == {"sse", "aux", "l1_base", "l1_links", "l1_concepts"}
    assert float(job.sae.W_up.detach().abs().max()) < 1e-2, "near zero"


def test_prediction_equals_the_dense_definition(start, loss_of, stream):
    job = start(NAME)
    with torch.no_grad():
        terms = loss_of(job, stream.batch(1))
        z = to_dense(terms.codes, 64)
        y = job.sae.expected(job.sae.concepts(terms.codes))
    wanted = (z - y).square().sum() / z.square().sum()
    assert float(terms.values["prediction"]) == pytest.approx(float(wanted), rel=1e-5)


def test_concepts_equal_the_dense_definition(start, stream):
    sae = start(NAME, n_concepts=10, k_concepts=3).sae
    codes = sae.encode_sparse(stream.batch(1).activations[:20])
    pre = (to_dense(codes, 64) / sae.code_size) @ sae.W_up + sae.b_up
    kept = pre.relu().topk(3, dim=1)
    wanted = torch.zeros(20, 10).scatter(1, kept.indices, kept.values)
    assert torch.allclose(to_dense(sae.concepts(codes), 10), wanted, atol=1e-5)
    down = wanted @ sae.W_down + sae.b_down
    assert torch.allclose(sae.expected(sae.concepts(codes)), down.relu() * sae.code_size, atol=1e-5)


def test_concepts_are_the_same_after_a_scale_is_folded_in(start, stream):
    sae, rows = start(NAME).sae, stream.batch(1).activations[:20]
    before = sae.concepts(sae.encode_sparse(2.0 * rows))
    expected = sae.expected(before)
    sae.fold_input_scale(2.0)
    after = sae.concepts(sae.encode_sparse(rows))
    assert torch.allclose(to_dense(before, 16), to_dense(after, 16), atol=1e-4)
    assert torch.allclose(sae.expected(after), expected / 2.0, atol=1e-4)


def test_a_quarter_of_the_latents_are_concepts_and_a_quarter_of_l0_are_kept(make_job):
    sae = make_job(NAME, k=12).sae
    assert (sae.n_concepts, sae.k_concepts) == (16, 3)
    assert isinstance(sae.concepts(SparseCodes(torch.zeros(5, 12).long(), torch.zeros(5, 12))), SparseCodes)


def test_concepts_come_to_predict_codes(make_job, train):
    [result] = train([make_job(NAME, lr=1e-2)], 150)
    first, last = result.log[0]["term/prediction"], result.log[-1]["term/prediction"]
    assert last < 0.9 * first


def test_centroids_are_the_patterns_that_codes_come_in():
    """Tokens of two patterns of latents, at any size, and some without a code."""
    generator = torch.Generator().manual_seed(0)
    size = 1 + torch.rand(60, 1, generator=generator)
    indices = torch.tensor([[0, 1]] * 30 + [[5, 6]] * 30)
    values = size * torch.tensor([[3.0, 4.0]] * 30 + [[1.0, 0.0]] * 30)
    found, own = centroids(SparseCodes(indices, values), 8, 2, torch.Generator().manual_seed(1))
    assert own.tolist() == [0, 1]
    wanted = torch.zeros(2, 8)
    wanted[0, :2], wanted[1, 5] = torch.tensor([0.6, 0.8]), 1.0
    assert torch.allclose(found[found[:, 5].argsort()], wanted, atol=1e-5)
    silent = SparseCodes(indices, torch.zeros(60, 2))
    assert len(centroids(silent, 8, 1, torch.Generator().manual_seed(1))[0]) == 0
    with pytest.raises(ConfigError, match="61 centroids cannot be found in 60 tokens"):
        centroids(silent, 8, 61, torch.Generator())


def test_a_start_at_centroids_is_tied_and_the_same_again(start):
    sae, again, drawn = start(NAME, start="kmeans").sae, start(NAME, start="kmeans").sae, start(NAME).sae
    assert torch.equal(sae.W_up, sae.W_down.t())
    assert torch.equal(sae.W_up, again.W_up)
    assert torch.allclose(sae.W_down.norm(dim=1), torch.ones(16), atol=1e-5)
    assert float(sae.W_down.detach().min()) >= 0, "codes are"
    assert torch.equal(sae.W_enc, drawn.W_enc), "the base is as drawn"


def test_in_the_warm_up_concepts_count_a_tenth(start, stream):
    weights = []
    for steps in (0, 5):
        job = start(NAME, concept_warmup=steps, l1_links=0.5)
        found = {}
        for step in (4, 5):
            state = TrainState(
                step=step,
                n_steps=100,
                tokens_seen=0,
                coefficient=0.0,
                target_l0=4,
                dead=torch.zeros(64, dtype=torch.bool),
                generator=torch.Generator().manual_seed(7),
            )
            found[step] = dict(job.trainer.loss(job.sae, stream.batch(1), state).weights)
        weights.append(found)
    off, on = weights
    assert off[4] == off[5] == on[5]
    for name in ("concept_sse", "prediction", "l1_links"):
        assert on[4][name] == pytest.approx(0.1 * off[4][name])
    assert (on[4]["sse"], on[4]["aux"]) == (off[4]["sse"], off[4]["aux"])


@pytest.mark.parametrize(
    "options",
    [
        {"start": "zero"},
        {"concept_weight": -1.0},
        {"concept_dead_fraction": 0.0},
        {"concept_warmup": -1},
        {"concept_rank": 4, "start": "kmeans"},
    ],
)
def test_options_that_make_no_sense_are_refused(make_job, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_job(NAME, **options)
