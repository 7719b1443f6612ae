"""Frontiers in two metrics: known areas, dominance, and intervals over seeds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, RecordError
from harness.results.pareto import compare_frontiers, coverage, dominates, front, hypervolume

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)


def test_a_point_beats_what_is_nowhere_better_and_somewhere_worse():
    assert dominates((1, 2), (1, 3))
    assert not dominates((1, 2), (1, 2))
    assert not dominates((1, 3), (2, 2))


def test_hypervolume_of_a_staircase_by_hand():
    # 1x1 steps below the reference (4, 4): columns of height 1, 2 and 3.
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (4, 4)) == 6
    assert hypervolume([(1, 3), (2, 2), (3, 1), (3, 3)], (4, 4)) == 6
    assert hypervolume([(5, 5), (4, 0)], (4, 4)) == 0


@given(points=POINTS)
def test_hypervolume_counts_the_cells_that_some_point_beats(points):
    cells = sum(any(x <= i and y <= j for x, y in points) for i in range(10) for j in range(10))
    assert hypervolume([(float(x), float(y)) for x, y in points], (10.0, 10.0)) == cells


@given(points=POINTS)
def test_the_front_is_what_no_point_beats(points):
    assert set(front(points)) == {p for p in points if not any(dominates(q, p) for q in points)}


def test_coverage_with_and_without_slack():
    ours, theirs = [(1.0, 1.0)], [(1.0, 1.0), (0.99, 2.0), (0.5, 0.5)]
    assert coverage(ours, theirs) == pytest.approx(1 / 3)
    assert coverage(ours, theirs, (0.02, 0.0)) == pytest.approx(2 / 3)


def test_a_frontier_below_another_beats_all_its_points(factory):
    base = factory.make_side("topk", lambda s, l0: 1.0 / l0 + 0.05 + 0.001 * s)
    idea = factory.make_side("idea", lambda s, l0: 1.0 / l0 + 0.001 * s)
    found = compare_frontiers(idea, base, (factory.L0, factory.FVU))
    assert found.verdict == "better"
    assert (found.candidate_covers.mean, found.baseline_covers.mean) == (1.0, 0.0)
    turned = compare_frontiers(base, idea, (factory.L0, factory.FVU))
    assert turned.verdict == "worse"
    assert turned.volume_difference.estimate == pytest.approx(-found.volume_difference.estimate)
    assert found.reference == pytest.approx((64 * 8 ** (1 / 3), found.reference[1]))


def test_jitter_of_the_measured_l0_beats_nothing(factory):
    base = factory.make_side("topk", lambda s, l0: round(1.0 / round(l0), 9))
    idea = factory.make_side("idea", lambda s, l0: round(1.0 / round(l0), 9), l0=lambda s, t: t * 1.001)
    found = compare_frontiers(idea, base, (factory.L0, factory.FVU))
    assert (found.candidate_covers.mean, found.baseline_covers.mean) == (1.0, 1.0)


def test_two_seeds_are_unresolved(factory):
    idea = factory.make_side("idea", lambda s, l0: 0.5 / l0, seeds=(0, 1))
    assert compare_frontiers(idea, factory.make_side("topk"), (factory.L0, factory.FVU)).verdict == "unresolved"


def test_the_interval_covers_the_true_difference_as_often_as_it_says(factory):
    """Both methods have one law: the true difference is 0."""
    rng, runs, covered, grid = random.Random(2), 600, 0, (8, 64)
    for _ in range(runs):
        sides = [
            factory.make_side(m, lambda s, l0: 1.0 / l0 + rng.gauss(0, 0.01), grid=grid, seeds=range(4))
            for m in ("idea", "topk")
        ]
        found = compare_frontiers(*sides, (factory.L0, factory.FVU)).volume_difference
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.0 <= found.high
    assert 0.94 <= covered / runs <= 0.96


def test_what_has_no_frontier_is_refused(factory):
    base = factory.make_side("topk")
    with pytest.raises(ConfigError, match="twice"):
        compare_frontiers(base, base, (factory.FVU, factory.FVU))
    side = factory.make_side("topk", metric="density_slope")
    with pytest.raises(ConfigError, match="density_slope has none"):
        compare_frontiers(side, side, (factory.L0, factory.DENSITY))
    with pytest.raises(RecordError, match="No frontier of topk: ce_loss_recovered is not in"):
        compare_frontiers(base, base, (factory.L0, factory.CE))
    with pytest.raises(RecordError, match="two protocols"):
        compare_frontiers(factory.with_protocol(base, d_sae=1), base, (factory.L0, factory.FVU))
