"""Intervals: known answers against scipy, and their coverage."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from harness.errors import ConfigError
from harness.results.statistics import (
    difference,
    mean_interval,
    paired_difference,
    t_critical,
    two_sided_p,
    welch_difference,
)

A = [0.142, 0.139, 0.150, 0.145]
B = [0.131, 0.138, 0.129]


@pytest.mark.parametrize("df", [0.5, 1, 1.37, 2, 2.5, 3, 4, 7.7, 30, 1e3, 1e5])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99, 0.9999])
def test_quantile_equals_scipy(df, confidence):
    assert t_critical(confidence, df) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, df), rel=1e-8)


@pytest.mark.parametrize(("confidence", "df"), [(0.0, 2), (1.0, 2), (0.95, 0), (0.95, -1), (0.95, float("nan"))])
def test_quantile_refuses_impossible_arguments(confidence, df):
    with pytest.raises(ConfigError, match="must"):
        t_critical(confidence, df)


def test_mean_interval_equals_scipy():
    expected = stats.t.interval(0.95, len(A) - 1, loc=sum(A) / len(A), scale=stats.sem(A))
    found = mean_interval(A)
    assert found.n == 4
    assert found.half_width is not None
    assert found.mean - found.half_width == pytest.approx(expected[0], rel=1e-12)
    assert found.mean + found.half_width == pytest.approx(expected[1], rel=1e-12)


def test_one_value_has_no_half_width():
    assert mean_interval([0.3]).half_width is None


def test_equal_values_have_width_zero_exactly():
    found = mean_interval([0.1, 0.1, 0.1])
    assert (found.mean, found.half_width) == (0.1, 0.0)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_paired_difference_equals_scipy():
    a, b = A[:3], B
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.smallest_detectable == pytest.approx((high - low) / 2, rel=1e-9)
    assert (found.method, found.n) == ("paired", 3)


def test_welch_difference_equals_scipy():
    low, high = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    found = welch_difference(A, B)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert (found.method, found.n) == ("welch", 3)


def test_welch_holds_for_tiny_variances():
    low, high = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    found = welch_difference([a * 1e-120 for a in A], [b * 1e-120 for b in B])
    assert (found.low, found.high) == pytest.approx((low * 1e-120, high * 1e-120), rel=1e-9)


def test_pairing_needs_the_same_seeds():
    assert difference({0: 1.0, 1: 2.0}, {1: 1.0, 0: 0.5}).method == "paired"
    assert difference({0: 1.0, 1: 2.0, 2: 2.1}, {0: 1.0, 1: 0.5}).method == "welch"
    assert difference({0: 1.0}, {0: 0.5}).method == "welch"


def test_one_seed_gives_an_estimate_without_interval():
    found = difference({0: 1.0}, {0: 0.25, 1: 0.5})
    assert found.estimate == 0.625
    assert found.low is found.high is found.smallest_detectable is None
    assert not found.excludes_zero()


@pytest.mark.parametrize("seeds_b", [(0, 1, 2), (5, 6, 7)])
def test_values_without_variation_say_so(seeds_b):
    found = difference(dict.fromkeys(range(3), 0.3), dict.fromkeys(seeds_b, 0.1))
    assert found.constant
    assert found.low == found.high == found.estimate
    assert found.excludes_zero()


def test_a_constant_shift_of_varying_values_is_not_called_constant():
    assert not paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}).constant


@pytest.mark.parametrize("kind", ["paired", "welch"])
def test_intervals_cover_the_truth_as_often_as_they_say(kind):
    rng, draws, covered = random.Random(7), 4000, 0
    for _ in range(draws):
        shared = [rng.gauss(0, 3) for _ in range(4)]
        a = {s: shared[s] + 0.5 + rng.gauss(0, 1) for s in range(4)}
        if kind == "paired":
            found = paired_difference(a, {s: shared[s] + rng.gauss(0, 1) for s in range(4)})
        else:
            found = welch_difference(list(a.values()), [rng.gauss(0, 2) for _ in range(6)])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.94 <= covered / draws <= 0.96


def test_p_values_equal_scipys():
    a, b = A[:3], B
    assert paired_difference(dict(enumerate(a)), dict(enumerate(b))).p_value == pytest.approx(
        stats.ttest_rel(a, b).pvalue, rel=1e-9
    )
    assert welch_difference(A, B).p_value == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue, rel=1e-9)


@pytest.mark.parametrize("df", [1, 2, 3.7, 40])
@pytest.mark.parametrize("t", [0.0, 0.3, -2.0, 12.0, 900.0])
def test_two_sided_p_equals_scipy(t, df):
    assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-9)


def test_p_values_of_extreme_statistics_are_finite():
    assert two_sided_p(1e200, 3) == two_sided_p(float("inf"), 3) == 0.0
    with pytest.raises(ConfigError, match="positive"):
        two_sided_p(1.0, 0)


def test_the_p_value_says_what_the_interval_says():
    rng = random.Random(6)
    for _ in range(300):
        found = paired_difference({s: rng.gauss(2, 1) for s in range(3)}, dict.fromkeys(range(3), 0.0))
        assert found.p_value is not None
        assert found.excludes_zero() == (found.p_value < 0.05)


def test_without_variation_the_p_value_is_0_or_1_and_without_an_interval_there_is_none():
    assert difference(dict.fromkeys(range(3), 0.3), dict.fromkeys(range(3), 0.1)).p_value == 0.0
    assert difference(dict.fromkeys(range(3), 0.3), dict.fromkeys(range(3), 0.3)).p_value == 1.0
    assert difference({0: 1.0}, {0: 0.5}).p_value is None
