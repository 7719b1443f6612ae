"""Concepts whose weights are products of two factors: the same as the products, which are never made."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning import explained
from sae_harness_hierarchical_unlearning.explained import Factored, explain
from sae_harness_hierarchical_unlearning.levels import StackedLevels, levels_of

from harness import ConfigError, SparseCodes
from harness.training.kernels import to_dense

NAME = "hierarchical_unlearning"
N, D, K, M, R = 37, 24, 4, 5, 6


@pytest.fixture
def sae(start):
    return start(NAME, concept_rank=5).sae


def products(sae):
    return sae.A_up @ sae.B_up, sae.A_down @ sae.B_down


def test_at_first_the_way_up_is_the_way_down_with_rows_of_norm_one(sae):
    up, down = products(sae)
    assert torch.allclose(down.norm(dim=1), torch.ones(16), atol=1e-5)
    assert torch.allclose(up, down.t(), atol=1e-6)


def test_a_start_near_zero_is_a_thousandth_of_it(start):
    up, down = products(start(NAME, concept_rank=5, start="near_zero").sae)
    assert torch.allclose(up * 1000, down.t(), atol=1e-5)


def test_no_weight_has_a_place_for_each_pair(sae):
    assert not {"W_up", "W_down"} & dict(sae.named_parameters()).keys()
    assert max(p.numel() for name, p in sae.named_parameters() if name.startswith(("A_", "B_"))) == 64 * 5


def test_concepts_and_expected_codes_are_those_of_the_products(sae, stream):
    codes = sae.encode_sparse(stream.batch(1).activations[:20])
    up, down = products(sae)
    pre = (to_dense(codes, 64) / sae.code_size) @ up + sae.b_up
    assert torch.allclose(sae.concept_pre_activations(codes), pre, atol=1e-5)
    concepts = sae.concepts(codes)
    expected = (to_dense(concepts, 16) @ down + sae.b_down).relu() * sae.code_size
    assert torch.allclose(sae.expected(concepts), expected, atol=1e-5)
    tokens, latents = torch.tensor([0, 3, 3, 19]), torch.tensor([5, 63, 0, 7])
    assert torch.allclose(sae.expected_at(concepts, tokens, latents), expected[tokens, latents], atol=1e-5)
    assert torch.allclose(sae.link_sizes(tokens % 16, latents), down.abs()[tokens % 16, latents], atol=1e-6)


def test_links_are_looked_up_a_few_at_a_time(sae, monkeypatch):
    _, down = products(sae)
    concepts, latents = torch.arange(16).repeat_interleave(64), torch.arange(64).repeat(16)
    monkeypatch.setattr("sae_harness_hierarchical_unlearning.sae._GATHERED", 33)
    assert torch.allclose(sae.link_sizes(concepts, latents), down.abs().flatten(), atol=1e-6)
    assert len(sae.link_sizes(concepts[:0], latents[:0])) == 0


def test_interventions_find_its_levels(sae):
    levels = levels_of(sae.eval())
    assert isinstance(levels, StackedLevels)
    found = levels.link_sizes(torch.tensor([0]), torch.tensor([0]))
    assert torch.allclose(found, products(sae)[1].abs()[:1, 0].detach(), atol=1e-6)


def test_the_rank_is_at_most_the_number_of_concepts(make_job):
    assert make_job(f"{NAME}@low_rank").sae.concept_rank == 16
    assert make_job(f"{NAME}@low_rank", n_concepts=10).sae.concept_rank == 10
    assert make_job(NAME).sae.concept_rank == 0
    assert "concept_rank" not in make_job(NAME).sae.config.options, "SAEs that are saved already are the same"


def test_training_comes_to_predict_codes(make_job, train):
    [result] = train([make_job(NAME, lr=1e-2, concept_rank=8)], 150)
    assert result.log[-1]["term/prediction"] < 0.9 * result.log[0]["term/prediction"]


def test_without_the_terms_it_is_topk_to_the_bit(make_job, train):
    ours, topk = train([make_job(NAME, concept_weight=0.0, predict_weight=0.0, concept_rank=4), make_job("topk")], 10)
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(ours.sae.state_dict()[name], value), name


def test_what_does_not_go_together_is_refused(make_job):
    with pytest.raises(ConfigError, match="no W_up"):
        make_job(NAME, concept_rank=4, l1_links=0.1)
    with pytest.raises(ConfigError, match="concept_rank"):
        make_job(NAME, concept_rank=-1)


def given():
    """What `explain` is told, with gradients wanted of the first three."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    low, columns, b_down = normal(2 * N, R), normal(R, D), normal(D)
    fired = SparseCodes(torch.stack([torch.randperm(D, generator=generator)[:K] for _ in range(N)]), normal(N, K).abs())
    return [low.requires_grad_(), columns.requires_grad_(), b_down.requires_grad_()], normal(D).abs() + 0.5, fired


def plainly(written, b_down, usual, fired):
    """Each number by its definition, of whole tensors."""
    expected, guess = (written[:N] + b_down).relu(), written[N:]
    kept = (expected * usual).topk(M, dim=1).indices
    wanted = torch.cat([fired.indices, kept], dim=1)
    residual = (to_dense(SparseCodes(fired.indices, fired.values / usual[fired.indices]), D) - expected).detach()
    variance = (residual - residual.mean(0)).square().sum(1).mean()
    return (
        wanted,
        expected.gather(1, wanted),
        expected.square().sum(0),
        (residual - guess).square().sum() / N / variance,
    )


def slopes(value, goal, parameters):
    """Gradients of the sum of value times goal; of a parameter that it does not depend on, zeros."""
    found = torch.autograd.grad((value * goal).sum(), parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, found, strict=True)]


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_what_a_step_needs_equals_the_definition_and_its_gradients(monkeypatch, factored, rows):
    monkeypatch.setattr(explained, "_CHUNK_BYTES", 4 * D * rows)
    parameters, usual, fired = given()
    low, columns, b_down = parameters
    wanted = plainly(low @ columns, b_down, usual, fired)
    found = explain(
        Factored(low, columns) if factored else low @ columns, b_down, usual, fired, M, squares=True, revive=True
    )
    assert torch.equal(found.wanted, wanted[0])
    weights = torch.randn(N, K + M, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for ours, theirs in zip((found.at, found.squares, found.missed), wanted[1:], strict=True):
        assert ours is not None
        assert torch.allclose(ours, theirs)
        goal = weights if ours.shape == weights.shape else torch.ones_like(ours)
        for one, other in zip(slopes(ours, goal, parameters), slopes(theirs, goal, parameters), strict=True):
            assert torch.allclose(one, other)


@pytest.mark.parametrize("factored", [False, True])
def test_nothing_is_made_that_is_not_asked_for(factored):
    (low, columns, b_down), usual, fired = given()
    low = low[:N]
    found = explain(
        Factored(low, columns) if factored else low @ columns, b_down, usual, fired, 0, squares=False, revive=False
    )
    assert (found.squares, found.missed) == (None, None)
    assert torch.equal(found.wanted, fired.indices)
    assert torch.allclose(found.at, (low @ columns + b_down).relu().gather(1, fired.indices))
    found.at.sum().backward()
    assert b_down.grad is not None
