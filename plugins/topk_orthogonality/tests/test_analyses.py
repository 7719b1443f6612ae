"""Analyses give the known answers of planted cases."""

from __future__ import annotations

import math

import pytest
import torch
from sae_harness_topk_orthogonality.analyses import (
    collect_selections,
    cosines_before_and_after,
    decoder_cosines,
    expected_random_jaccard,
    selection_stability,
    spearman,
)
from sae_harness_topk_orthogonality.matching import matching

from harness import DataError
from harness.training.pairs import PairStatistics, correlation, pair_statistics, select_pairs


def statistics(keys, scores):
    """Statistics of which only keys are read, and their scores."""
    n = len(keys)
    ones = torch.ones(100)
    found = PairStatistics(
        keys=torch.tensor(keys), count=torch.ones(n), dot=torch.ones(n), fires=ones, squares=ones, n_tokens=1.0
    )
    return found, torch.tensor(scores)


def stability_of(selections, **options):
    observed, scores = zip(*[statistics([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])] * len(selections), strict=True)
    keys = [torch.tensor(s) for s in selections]
    return selection_stability(keys, observed=observed, scores=scores, **options)


def test_equal_selections_are_stable():
    found = stability_of([[1, 2]] * 4)
    assert (found.lags, found.jaccard, found.rank_correlation) == ((1,), (1.0,), (1.0,))
    assert found.survival == (1.0,) * 4
    assert found.half_life is None
    assert found.share_persistent == 1.0
    assert math.isnan(found.halves_jaccard)


def test_changing_selections_have_the_known_numbers():
    found = stability_of([[1, 2], [2, 3], [3, 4], [4, 1]], lags=(1, 2), halves=[(torch.tensor([1]), torch.tensor([2]))])
    assert found.jaccard == (pytest.approx(1 / 3), 0.0)
    assert found.survival == (1.0, 0.5, 0.0, 0.0)
    assert found.half_life == pytest.approx(1.0)
    assert found.share_persistent == 1.0
    assert found.halves_jaccard == 0.0
    assert found.random_jaccard == pytest.approx(expected_random_jaccard(2, 4)) == pytest.approx(1 / 3)
    assert found.sizes == (2, 2, 2, 2)


def test_one_batch_has_no_stability():
    with pytest.raises(DataError, match="two batches or more, got 1"):
        stability_of([[1]])


def test_planted_twins_are_selected_again_and_more_than_at_random(stream):
    codes = [stream.codes(seed) for seed in range(6)]
    found = selection_stability(
        **collect_selections(
            codes,
            40,
            score=lambda s: correlation(s, "cos"),
            select=lambda scores, s: select_pairs(scores, s, fraction=20 / 780, of="all", min_count=3),
            generator=torch.Generator().manual_seed(0),
        )
    )
    assert found.jaccard[0] > 0.8 > 5 * found.random_jaccard
    assert found.halves_jaccard > 0.5
    assert set(found.sizes) == {20}


def test_spearman_ranks_ties_alike():
    a, b = torch.tensor([1.0, 2.0, 2.0, 9.0]), torch.tensor([-5.0, 0.0, 0.0, 3.0])
    assert spearman(a, b) == pytest.approx(1.0)
    assert spearman(a, -b) == pytest.approx(-1.0)


def test_cosines_of_known_rows():
    angle = torch.tensor([0.0, torch.pi / 3, torch.pi / 2])
    found = decoder_cosines(3 * torch.stack([angle.cos(), angle.sin()], dim=1))
    torch.testing.assert_close(found.max_per_row, torch.tensor([0.5, 3**0.5 / 2, 3**0.5 / 2]))
    assert found.mean_abs == pytest.approx((0.5 + 3**0.5 / 2) / 3, abs=1e-6)
    assert found.counts.sum() == 3
    with pytest.raises(DataError, match="two rows or more"):
        decoder_cosines(torch.ones(1, 3))


def test_cosines_in_blocks_equal_the_dense_ones():
    W = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    found = decoder_cosines(W)
    dense = torch.nn.functional.normalize(W, dim=1)
    dense = (dense @ dense.T).fill_diagonal_(0).abs()
    torch.testing.assert_close(found.max_per_row, dense.amax(1))
    upper = dense[tuple(torch.triu_indices(1500, 1500, 1))]
    assert found.mean_abs == pytest.approx(float(upper.mean()), rel=1e-5)
    assert found.quantile_999 == pytest.approx(float(upper.kthvalue(int(0.999 * len(upper))).values), abs=2e-3)


def test_states_are_set_beside_each_other():
    table = cosines_before_and_after({"apart": torch.eye(4), "together": torch.ones(4, 4)})
    assert table["apart"]["max"] == 0.0
    assert table["together"]["mean_abs"] == pytest.approx(1.0)


def test_rows_are_matched_split_or_composed():
    other = torch.eye(6)
    rows = torch.stack([other[0], other[1] + 0.1 * other[5], other[1] - 0.1 * other[5], other[2] + other[3], -other[4]])
    found = matching(rows, other, threshold=0.8, parts=2)
    assert found.share_matched == pytest.approx(3 / 5)
    assert found.share_split == pytest.approx(1 / 6)
    assert found.share_composed == pytest.approx(1 / 5)  # the sum of two; the opposite of a row is none


def test_statistics_of_the_stream_have_pairs(stream):
    assert len(pair_statistics(stream.codes(0), 40)) > 100
