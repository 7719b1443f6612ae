"""Counts against true features, on constructed cases with known answers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.errors import ShapeError
from harness.evaluation.truth import (
    LagCounts,
    TruthCounts,
    absorption,
    contains,
    correlation,
    cosines,
    match_one_to_one,
    matched,
    n_distinct,
    surplus_latents,
)
from harness.interfaces.sae import RaggedCodes


def codes_of(dense) -> RaggedCodes:
    dense = torch.as_tensor(dense, dtype=torch.float32)
    token, latent = dense.nonzero(as_tuple=True)
    offsets = F.pad(torch.bincount(token, minlength=len(dense)).cumsum(0), (1, 0))
    return RaggedCodes(latent, offsets, dense[token, latent])


def counted(codes, truth, match, parent, follows=None) -> TruthCounts:
    counts = TruthCounts(torch.tensor(match), torch.tensor(parent))
    n = len(torch.as_tensor(codes))
    counts.update(codes_of(codes), codes_of(truth), torch.zeros(n, dtype=torch.bool) if follows is None else follows)
    return counts


def test_matching_is_one_to_one_and_the_best_in_sum():
    similarity = torch.tensor([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]])
    assert match_one_to_one(similarity).tolist() == [1, 0]
    assert matched(similarity, match_one_to_one(similarity)).tolist() == pytest.approx([0.8, 0.8])
    tall = torch.tensor([[0.5], [0.9], [0.7]])
    assert match_one_to_one(tall).tolist() == [-1, 0, -1]


def test_cosines_take_directions_of_any_length_and_none():
    found = cosines(torch.tensor([[2.0, 0.0], [0.0, 0.0], [-3.0, 3.0]]), torch.eye(2))
    assert torch.allclose(found, torch.tensor([[1.0, 0.0], [0.0, 0.0], [-(0.5**0.5), 0.5**0.5]]))
    with pytest.raises(ShapeError):
        cosines(torch.zeros(2, 3), torch.eye(2))


def test_a_duplicated_latent_is_one_too_many():
    features = torch.eye(4)
    assert surplus_latents(cosines(features, features)) == 0
    twice = torch.cat([features, features[1:2] + 0.1])
    assert surplus_latents(cosines(twice, features)) == 1
    assert n_distinct(cosines(twice, features)) == 4
    assert surplus_latents(cosines(-features, features)) == 0


def test_contains_looks_up_token_and_latent():
    codes = codes_of([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]])
    there, slot = contains(codes, torch.tensor([0, 0, 1, 2, 2, -1]), torch.tensor([3, 2, 0, 0, -1, 0]))
    assert there.tolist() == [True, False, False, True, False, False]
    assert codes.values[slot[there]].tolist() == [1.0, 3.0]
    none, _ = contains(codes_of(torch.zeros(2, 3)), torch.tensor([0]), torch.tensor([1]))
    assert none.tolist() == [False]


def test_precision_recall_and_f1_by_hand():
    truth = [[1, 0], [1, 0], [1, 0], [0, 1], [0, 0]]
    codes = [[0, 2], [0, 2], [0, 0], [0, 2], [5, 0]]
    # Latent 0 is feature 1's, latent 1 is feature 0's.
    found = counted(codes, truth, [1, 0], [-1, -1]).detection()
    assert found.precision().tolist() == pytest.approx([0.0, 2 / 3])
    assert found.recall().tolist() == pytest.approx([0.0, 2 / 3])
    assert found.f1().tolist() == pytest.approx([0.0, 2 / 3])


def test_a_latent_left_over_detects_nothing():
    found = counted([[1, 1], [1, 1]], [[1], [0]], [0, -1], [-1]).detection()
    assert found.f1().tolist() == pytest.approx([2 / 3, 0.0])
    assert found.recall().tolist() == [1.0, 0.0]


def test_shrinkage_is_written_over_true_where_both_fire():
    counts = counted([[2, 0], [7, 0]], [[4, 0], [0, 1]], [0, 1], [-1, -1])
    assert counts.shrinkage(torch.tensor([1.5, 1.0])) == pytest.approx(3 / 4)
    assert counted([[0], [0]], [[1], [1]], [0], [-1]).shrinkage(torch.ones(1)) == 0.0


def test_counts_do_not_depend_on_the_batches():
    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand(60, 5, generator=generator) < 0.4).float()
    truth = (torch.rand(60, 4, generator=generator) < 0.4).float()
    follows = torch.ones(60, dtype=torch.bool)
    follows[::10] = False
    whole = counted(codes, truth, [0, 1, 2, 3, -1], [-1, 0, 0, 1], follows)
    parts = TruthCounts(whole.match, whole.parent)
    for here in torch.arange(60).split(20):
        parts.update(codes_of(codes[here]), codes_of(truth[here]), follows[here])
    for name in ("fires", "hits", "present", "parent_kept", "replaced", "written", "true"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert torch.equal(whole.latent_lags.autocorrelation(), parts.latent_lags.autocorrelation())


def test_autocorrelation_is_pearsons_over_neighbours():
    generator = torch.Generator().manual_seed(1)
    fires = torch.rand(400, 3, generator=generator) < 0.5
    fires[:, 2] = True
    follows = torch.ones(400, dtype=torch.bool)
    follows[0] = False
    lags = LagCounts(3)
    lags.update(codes_of(fires), follows)
    found = lags.autocorrelation()
    for column in (0, 1):
        pair = torch.stack([fires[:-1, column], fires[1:, column]]).double()
        assert float(found[column]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]))
    assert bool(found[2].isnan())


def test_neighbours_across_sequences_are_no_neighbours():
    lags = LagCounts(1)
    lags.update(codes_of([[1], [1], [0], [1]]), torch.tensor([False, True, False, True]))
    assert (lags.n_pairs, lags.first.tolist(), lags.second.tolist(), lags.both.tolist()) == (2, [1], [2], [1])


PARENT = torch.tensor([-1, 0, 0, -1])
FEATURES = torch.eye(4)
TRUTH = torch.tensor(
    [[1, 1, 0, 0]] * 4 + [[1, 0, 1, 0]] * 4 + [[1, 0, 0, 0]] * 3 + [[0, 0, 0, 1]] * 2, dtype=torch.float32
)


def absorbing(codes, directions):
    counts = counted(codes, TRUTH, [0, 1, 2, 3], PARENT.tolist())
    return absorption(counts, torch.as_tensor(directions, dtype=torch.float32), FEATURES)


def test_the_true_dictionary_absorbs_nothing():
    found = absorbing(TRUTH, FEATURES)
    assert found.child.tolist() == [1, 2]
    assert found.firings.tolist() == found.kept.tolist() == [4, 4]
    assert found.absorbed.tolist() == [0, 0]
    assert not bool(found.pair.any())


def test_one_planted_absorbed_pair_is_found_and_no_other():
    codes, directions = TRUTH.clone(), FEATURES.clone()
    codes[:4, 0] = 0  # the parent's latent is silent where child 1 fires,
    directions[1] = torch.tensor([1.0, 1.0, 0.0, 0.0])  # whose latent writes both
    found = absorbing(codes, directions)
    assert found.absorbed.tolist() == [4, 0]
    assert found.kept.tolist() == [0, 4]
    assert found.pair.tolist() == [True, False]


def test_a_parent_that_is_silent_without_being_written_is_not_absorbed():
    codes = TRUTH.clone()
    codes[:4, 0] = 0
    assert absorbing(codes, FEATURES).absorbed.tolist() == [0, 0]


def test_a_parent_that_is_found_nowhere_is_neither_kept_nor_absorbed():
    directions = FEATURES.clone()
    directions[0] = torch.tensor([0.5, 0.0, 0.0, 1.0])
    found = absorbing(TRUTH, directions)
    assert found.kept.tolist() == found.absorbed.tolist() == [0, 0]


def test_correlation_is_bounded_and_zero_where_it_is_not_defined():
    x = torch.tensor([1.0, 2.0, 4.0])
    assert correlation(x, 3 * x - 1) == pytest.approx(1.0)
    assert correlation(x, -x) == pytest.approx(-1.0)
    assert correlation(x, torch.ones(3)) == 0.0
    assert correlation(x[:2], x[:2]) == 0.0
