"""Synthetic worlds: every rate, tree and lag is the configured one; documents are pure functions of their number."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from harness.config import WorldConfig
from harness.data.world_structure import build_structure, zipf_rates
from harness.data.worlds import World, join_codes, spread_apart
from harness.errors import ConfigError

SMALL = WorldConfig(
    n_features=60,
    d_in=16,
    seq_len=48,
    n_train_tokens=480,
    n_eval_sequences=10,
    p_max=0.3,
    p_min=0.02,
    roots=5,
    branching=3,
    depth=2,
    correlation_rank=6,
    correlation_scale=0.3,
    sticky_share=0.5,
    dwell_min=3.0,
    dwell_max=12.0,
    emission=0.8,
    forget_subtrees=1,
    forget_share=0.5,
)
SYNTH_16K = WorldConfig(
    n_features=16384,
    d_in=768,
    seed=42,
    n_train_tokens=1,
    n_eval_sequences=1,
    zipf_exponent=0.5,
    p_max=0.4,
    p_min=0.0005,
    roots=128,
    branching=4,
    depth=3,
    correlation_rank=25,
    correlation_scale=0.1,
)


def changed(**changes) -> WorldConfig:
    return dataclasses.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL)


@pytest.fixture(scope="module")
def firing(world) -> torch.Tensor:
    """[n_documents, seq_len, n_features] bool."""
    return fired(world, 1200)


def fired(world: World, n_documents: int) -> torch.Tensor:
    steps, n = world.config.seq_len, world.config.n_features
    dense = torch.zeros(n_documents, steps, n, dtype=torch.bool)
    for number in range(n_documents):
        codes = world.codes("train", number)
        token = torch.arange(steps).repeat_interleave(codes.offsets.diff())
        dense[number, token, codes.latents] = True
    return dense


def standard_scores(per_document: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Of means over documents [n_documents, n], which are independent."""
    error = per_document.std(0) / len(per_document) ** 0.5
    return (per_document.mean(0) - expected) / error.clamp_min(1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sticky_share": 0.0},
        {"correlation_rank": 0},
        {"exclusive_share": 0.0},
        {"compensate": False},
        {"forget_subtrees": 0},
        {"roots": 0, "branching": 0, "depth": 0, "forget_subtrees": 0},
    ],
    ids=str,
)
def test_every_feature_fires_as_often_as_configured(changes):
    world = World(changed(**changes))
    rates = fired(world, 1000).double().mean(1)
    often = world.structure.probability * 1000 * 48 >= 200
    assert int(often.sum()) >= 20
    scores = standard_scores(rates, world.structure.probability)[often]
    assert float(scores.abs().max()) < 4.5
    # Scores of one draw are not independent: the copula moves many features at once.
    assert float(scores.square().mean()) < 2.0


def test_how_long_features_last_does_not_change_how_often_they_fire():
    lasting, fleeting = build_structure(changed(sticky_share=1.0)), build_structure(changed(sticky_share=0.0))
    assert torch.equal(lasting.probability, fleeting.probability)


def test_a_child_fires_only_with_its_parent(world, firing):
    children = (world.structure.parent >= 0).nonzero().squeeze(1)
    assert len(children) == 55  # the features run out before the last tree is full
    assert not bool((firing[..., children] & ~firing[..., world.structure.parent[children]]).any())


def test_exclusive_siblings_never_fire_together(world, firing):
    parent = world.structure.parent
    for above in parent[parent >= 0].unique().tolist():
        siblings = (parent == above).nonzero().squeeze(1)
        assert int(firing[..., siblings].sum(-1).max()) <= 1


def test_siblings_that_do_not_exclude_each_other_may_fire_together():
    world = World(changed(exclusive_share=0.0, p_min=0.1))
    parent = world.structure.parent
    siblings = (parent == 0).nonzero().squeeze(1)
    assert int(fired(world, 50)[..., siblings].sum(-1).max()) > 1


def test_siblings_share_no_more_than_their_parents_tokens():
    structure = build_structure(changed(p_min=0.25))
    total = torch.zeros(60, dtype=torch.float64)
    children = structure.parent >= 0
    total.index_add_(0, structure.parent[children], structure.probability[children])
    assert bool((total <= structure.probability + 1e-12).all())
    above = structure.parent == 0
    assert float(total[0]) == pytest.approx(float(structure.probability[0]))
    assert float(structure.probability[above].sum()) < float(zipf_rates(changed(p_min=0.25))[above.numpy()].sum())


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_autocorrelation_is_that_of_the_formula(world, firing, lag):
    expected = world.structure.autocorrelation(SMALL, lag)
    p = world.structure.probability
    x = firing.double() - p
    # p is known, so each document's mean of products is an unbiased estimate of the covariance.
    covariance = (x[:, :-lag] * x[:, lag:]).mean(1)
    scores = standard_scores(covariance, expected * p * (1 - p))
    assert float(scores.abs().max()) < 5.0
    assert 0.4 < float(scores.square().mean()) < 2.0


def test_a_feature_alone_decays_as_a_markov_chain():
    config = changed(
        n_features=2, roots=0, branching=0, depth=0, forget_subtrees=0, sticky_share=1.0, dwell_min=5.0, dwell_max=5.0,
        emission=1.0, p_max=0.2,
    )  # fmt: skip
    found = build_structure(config)
    for lag in (1, 3):
        assert found.autocorrelation(config, lag).tolist() == pytest.approx([0.8**lag] * 2)
    hidden = build_structure(dataclasses.replace(config, emission=0.5))
    # p = 0.2: on with 0.4, shown by half; covariance 0.25 · 0.4 · 0.6 · 0.8, variance 0.2 · 0.8.
    assert float(hidden.autocorrelation(dataclasses.replace(config, emission=0.5))[0]) == pytest.approx(0.3)


def test_features_that_do_not_last_have_no_autocorrelation_but_by_forgetting():
    config = changed(sticky_share=0.0)
    found = build_structure(config)
    lags = found.autocorrelation(config)
    assert lags[~found.forget].abs().max() < 1e-12
    assert bool((lags[found.forget] > 0).all())


def test_forget_subtrees_fire_in_forget_documents_alone(world, firing):
    forget = world.structure.forget
    documents = torch.tensor([world.is_forget(number) for number in range(len(firing))])
    assert float(documents.double().mean()) == 0.5
    assert int(forget.sum()) >= 4
    assert not bool(firing[~documents][..., forget].any())
    assert bool(firing[documents][..., forget].any(0).any(0).all())


def test_more_subtrees_to_forget_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="3 trees have children and fire rarely enough"):
        build_structure(changed(roots=5, n_features=13, forget_subtrees=4))


def test_roots_correlate_as_the_copula_says_and_paths_do_not():
    config = changed(correlation_scale=0.5, sticky_share=0.0, forget_subtrees=0)
    structure = build_structure(config)
    unit, parent = structure.unit, structure.parent
    loadings = structure.loadings.double()
    for feature in (parent >= 0).nonzero().squeeze(1).tolist():
        above = int(parent[feature])
        while above >= 0:
            assert abs(float(loadings[unit[feature]] @ loadings[unit[above]])) < 1e-6
            above = int(parent[above])
    x = fired(World(config), 800).double().view(-1, 60)[:, :5]
    measured = torch.corrcoef(x.T)
    wanted = loadings[unit[:5]] @ loadings[unit[:5]].T
    i, j = torch.triu_indices(5, 5, 1)
    assert float(torch.corrcoef(torch.stack([measured[i, j], wanted[i, j]]))[0, 1]) > 0.95


def test_activations_are_the_codes_times_the_features_and_the_bias(world):
    batch = world.batch("eval", range(4))
    codes = torch.zeros(4 * 48, 60, dtype=torch.float64)
    token = torch.arange(4 * 48).repeat_interleave(batch.codes.offsets.diff())
    codes[token, batch.codes.latents] = batch.codes.values.double()
    wanted = codes @ world.features.double() + world.bias.double()
    assert torch.allclose(batch.activations.view(-1, 16).double(), wanted, atol=1e-5)
    assert torch.equal(batch.activations.view(-1, 16), world.activations(batch.codes))
    assert float(world.bias.norm()) == pytest.approx(0.5)
    assert bool(batch.mask.all())
    assert bool((batch.codes.values > 0).all())


def test_features_of_a_token_ascend(world):
    codes = world.batch("train", range(3)).codes
    token = torch.arange(3 * 48).repeat_interleave(codes.offsets.diff())
    assert bool(((token * 60 + codes.latents).diff() > 0).all())


def test_magnitudes_follow_their_means_and_their_parents():
    config = changed(magnitude_std_mean=0.0, magnitude_std_std=0.0)
    world = World(config)
    codes = world.codes("train", 1)
    expected = torch.linspace(5.0, 4.0, 60)
    assert torch.allclose(codes.values, expected[codes.latents])
    # A parent at twice its mean doubles its child.
    token, feature = torch.tensor([0, 0]), torch.tensor([0, int((world.structure.parent == 0).nonzero()[0])])
    scaled = world._scaled(token, feature, torch.tensor([10.0, 4.0]))
    assert scaled.tolist() == pytest.approx([10.0, 8.0])


def test_a_document_does_not_depend_on_what_is_drawn_with_it(world):
    together = world.batch("train", [3, 1, 4])
    alone = World(SMALL).batch("train", [4])
    assert torch.equal(together.activations[2], alone.activations[0])
    assert torch.equal(join_codes([world.codes("train", n) for n in (3, 1, 4)]).values, together.codes.values)
    state = torch.get_rng_state()
    world.codes("train", 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_splits_seeds_and_numbers_give_other_documents(world):
    rows = [world.batch("train", range(20)), world.batch("eval", range(20)), World(changed(seed=1)).batch("train", [0])]
    documents = torch.cat([found.activations.flatten(1) for found in rows])
    assert len(documents.unique(dim=0)) == 41
    train, held_out = (found.activations.view(-1, 16) for found in rows[:2])
    train = train[(train != world.bias).any(1)]  # a token without features is the bias alone, in any document
    assert len(train) > 0.5 * 20 * 48
    assert not bool((train[:, None] == held_out).all(-1).any())


def test_spreading_is_the_published_objectives_descent():
    start = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    found = spread_apart(start, steps=3, lr=0.01)
    vectors = F.normalize(start, dim=1).requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        dots = vectors @ vectors.T
        off = dots - torch.diag(dots.diagonal())
        (off.square().sum() + 40 * (dots.diagonal() - 1).square().sum()).backward()
        optimiser.step()
    assert torch.allclose(found, F.normalize(vectors.detach(), dim=1), atol=1e-5)


def test_spreading_makes_features_less_alike(world):
    def likeness(vectors):
        dots = vectors @ vectors.T
        return float((dots - torch.eye(len(dots))).square().sum())

    raw = F.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert likeness(spread_apart(raw, steps=100, lr=0.01)) < 0.95 * likeness(raw)
    assert torch.allclose(world.features.norm(dim=1), torch.ones(60))


def test_the_values_of_synthsaebench_16k_give_its_published_sparsity():
    """Published: mean L0 about 34, about 25 of it within the 4,096 most frequent; 128 trees of 85 features."""
    structure = build_structure(SYNTH_16K)
    assert 33.5 < float(structure.probability.sum()) < 35.5
    assert 24.5 < float(structure.probability[:4096].sum()) < 25.9
    assert int((structure.parent >= 0).sum()) + 128 == 128 * 85
    world = World(SYNTH_16K)
    counts = torch.cat([world.codes("eval", number).offsets.diff() for number in range(8)]).double()
    error = float(counts.view(8, -1).mean(1).std()) / 8**0.5
    assert abs(float(counts.mean()) - float(structure.probability.sum())) < 6 * error
