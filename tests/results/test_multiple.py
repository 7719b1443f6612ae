"""Holm's correction: known answers, and the family-wise error it promises."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results.multiple import holm
from harness.results.statistics import paired_difference


def test_the_example_of_rs_documentation():
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_known_answer_of_statsmodels():
    """statsmodels 0.14, multipletests(p, method="holm")."""
    p = [0.0018, 0.0016, 0.2, 0.0078, 0.5, 0.0117, 0.0133, 0.9, 0.04]
    assert holm(p) == pytest.approx([0.0144, 0.0144, 0.6, 0.0546, 1.0, 0.0702, 0.0702, 1.0, 0.16])


@given(p=st.lists(st.floats(0, 1), max_size=12))
def test_it_lies_between_the_p_value_and_bonferronis_and_keeps_the_order(p):
    found = holm(p)
    assert all(raw <= new <= min(1.0, len(p) * raw) + 1e-12 for raw, new in zip(p, found, strict=True))
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert [found[i] for i in order] == sorted(found)


def test_one_test_is_not_corrected_and_none_is_none():
    assert holm([0.03]) == (0.03,)
    assert holm([]) == ()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match="must lie in"):
        holm([0.5, p])


def test_chance_decides_any_of_nine_metrics_in_five_per_cent_of_tables():
    """Nine metrics of one SAE hang together (shared noise), and none differs in truth."""
    rng, tables, seeds, wrong, uncorrected = random.Random(3), 1500, range(4), 0, 0
    for _ in range(tables):
        shared = {s: rng.gauss(0, 1) for s in seeds}
        p_values = []
        for _ in range(9):
            a = {s: 0.5 * shared[s] + rng.gauss(0, 1) for s in seeds}
            p_values.append(paired_difference(a, {s: rng.gauss(0, 1) for s in seeds}).p_value or 0.0)
        wrong += any(p < 0.05 for p in holm(p_values))
        uncorrected += any(p < 0.05 for p in p_values)
    assert 0.03 <= wrong / tables <= 0.06
    assert uncorrected / tables > 0.25
