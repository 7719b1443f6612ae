"""Shaffer's correction over pairs: known answers, and the family-wise error it promises."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results.multiple import holm
from harness.results.pairwise import equal_pairs, shaffer
from harness.results.statistics import difference


def pairs_of(k):
    return list(combinations(range(k), 2))


@pytest.mark.parametrize(
    ("k", "numbers"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 3}), (4, {0, 1, 2, 3, 6}), (5, {0, 1, 2, 3, 4, 6, 10})]
)
def test_how_many_pairs_can_be_equal_is_shaffers_table(k, numbers):
    assert equal_pairs(k) == numbers


def test_the_factors_of_four_groups_are_shaffers():
    """Table 2 of Shaffer 1986 for k = 4: 6, 3, 3, 3, 2, 1, where Holm has 6, 5, 4, 3, 2, 1."""
    p = dict(zip(pairs_of(4), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 2e-2], strict=True))
    assert list(shaffer(p).values()) == pytest.approx([6e-6, 3e-5, 3e-4, 3e-3, 2e-2, 2e-2])


def test_two_groups_are_not_corrected_and_none_are_none():
    assert shaffer({("a", "b"): 0.03}) == {("a", "b"): 0.03}
    assert shaffer({}) == {}


def test_pairs_that_were_not_tested_are_not_counted():
    """Of four groups two pairs alone: at most two can be equal."""
    assert shaffer({(0, 1): 0.01, (2, 3): 0.03}) == {(0, 1): 0.02, (2, 3): 0.03}


@given(p=st.lists(st.floats(0, 1), min_size=10, max_size=10))
def test_it_lies_between_the_p_value_and_holms_and_keeps_the_order(p):
    found = list(shaffer(dict(zip(pairs_of(5), p, strict=True))).values())
    assert all(raw <= new <= other for raw, new, other in zip(p, found, holm(p), strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [found[i] for i in order] == sorted(found)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match="must lie in"):
        shaffer({(0, 1): 0.5, (0, 2): p})


def test_a_group_beside_itself_is_refused():
    with pytest.raises(ValueError, match="paired with itself"):
        shaffer({("a", "a"): 0.5})


@pytest.mark.parametrize(
    "levels", [(0, 0, 0, 0, 0, 0), (0, 0, 0, 1, 1, 1), (0, 0, 0, 0, 0, 1)], ids=["all equal", "two threes", "five, one"]
)
def test_chance_parts_any_equal_groups_in_five_per_cent_of_lists(levels):
    """Noise is shared, of unequal size, and one group has more seeds: tests of both kinds that depend on each other.

    Levels apart are so by 1000 standard deviations: the correction may grow milder, and must still hold.
    """
    rng, lists, wrong, uncorrected = random.Random(7), 1200, 0, 0
    for _ in range(lists):
        shared = [rng.gauss(0, 1) for _ in range(6)]
        values = [
            {s: 1000 * level + shared[s] + rng.gauss(0, 1 + group % 3) for s in range(5 if group == 2 else 4)}
            for group, level in enumerate(levels)
        ]
        p = {(a, b): difference(values[a], values[b]).p_value or 0.0 for a, b in pairs_of(6)}
        equal = [pair for pair in p if levels[pair[0]] == levels[pair[1]]]
        corrected = shaffer(p)
        wrong += any(corrected[pair] < 0.05 for pair in equal)
        uncorrected += any(p[pair] < 0.05 for pair in equal)
        assert all(corrected[pair] < 0.05 for pair in p if pair not in equal)
    assert wrong / lists <= 0.065  # 5 % and 2.4 standard errors
    assert uncorrected / lists > 0.1
