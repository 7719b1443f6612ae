"""Curves over L0: known integrals, and no extrapolation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.results.frontier import Frontier, Window, covers, overlap

LINE = Frontier.of([(8.0, 3.0), (16.0, 2.0), (64.0, 0.0)])


def test_interpolates_linearly_over_log_l0():
    assert LINE.at(math.log(32.0)) == pytest.approx(1.0)
    assert LINE.at(math.log(8.0)) == 3.0


def test_mean_is_the_exact_integral_over_log_l0():
    # One octave from 3 to 2, two octaves from 2 to 0: (2.5 + 2 * 1) / 3.
    assert LINE.mean_over(Window(8.0, 64.0)) == pytest.approx(1.5)
    assert LINE.mean_over(Window(16.0, 32.0)) == pytest.approx(1.5)
    assert LINE.mean_over(Window(32.0, 32.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("l0", [7.9, 64.8])
def test_never_extrapolates(l0):
    with pytest.raises(ValueError, match="outside the curve"):
        LINE.at(math.log(l0))


def test_within_the_tolerance_the_end_point_is_used_as_it_is():
    assert LINE.at(math.log(64.5)) == 0.0
    assert covers(LINE.window, 64.5)
    assert not covers(LINE.window, 65.0)


def test_equal_l0s_are_averaged():
    assert Frontier.of([(8.0, 1.0), (8.0, 3.0)]).at(math.log(8.0)) == 2.0


def test_overlap_of_known_windows():
    assert overlap([Window(8.0, 64.0), Window(10.0, 70.0)]) == Window(10.0, 64.0)
    assert overlap([Window(8.0, 9.0), Window(10.0, 11.0)]) is None
    assert overlap([Window(31.9, 31.9), Window(32.1, 32.1)]) is not None


@pytest.mark.parametrize(
    ("window", "text"),
    [(Window(8.024, 63.91), "8.02–63.9"), (Window(31.97, 32.0), "32"), (Window(192.0, 1898.4), "192–1898")],
)
def test_windows_are_described_in_words(window, text):
    assert window.describe() == text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 500), st.floats(-10, 10)), min_size=2, max_size=6),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_mean_lies_between_the_extremes(points, left, right):
    curve = Frontier.of(points)
    low, high = curve.window
    ends = sorted((low * (high / low) ** left, low * (high / low) ** right))
    mean = curve.mean_over(Window(max(ends[0], low), min(max(ends[1], ends[0]), high)))
    values = [p.value for p in curve.points]
    assert min(values) - 1e-6 <= mean <= max(values) + 1e-6
