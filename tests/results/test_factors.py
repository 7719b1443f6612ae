"""One factor: what counts as one, and that more than one leave no verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.results.comparison import compare
from harness.results.factors import factors
from harness.results.side import side_of


def side(factory, name, *, architecture="topk", preset="", **options):
    made = factory.make_side(name, lambda s, l0: 0.1 + 0.01 * s, preset=preset)
    return [replace(r, method=replace(r.method, architecture=architecture, options=options)) for r in made]


def between(a, b):
    return factors(side_of(a, "baseline"), side_of(b, "candidate"))


def test_an_idea_on_its_base_is_one_factor(factory):
    base = side(factory, "topk", lr=1e-3, aux_weight=0.03)
    idea = side(factory, "idea", **{"base.lr": 1e-3, "base.aux_weight": 0.03, "strength": 0.1})
    assert not between(base, idea).confounded


@pytest.mark.parametrize("changed", [{"base.lr": 2e-3}, {"base.aux_weight": 0.1}])
def test_an_idea_with_another_setting_of_the_base_is_two(factory, changed):
    base = side(factory, "topk", lr=1e-3, aux_weight=0.03)
    idea = side(factory, "idea", **{"base.lr": 1e-3, "base.aux_weight": 0.03, **changed})
    assert len(between(base, idea).changed) == 2


def test_an_idea_on_another_base_is_two(factory):
    idea = side(factory, "idea", architecture="matryoshka", **{"base.lr": 1e-3})
    assert between(side(factory, "topk", lr=1e-3), idea).changed == (
        "method topk vs idea",
        "base topk vs matryoshka",
    )


def test_methods_of_their_own_have_their_own_settings_but_for_the_learning_rate(factory):
    topk = side(factory, "topk", lr=1e-3, beta1=0.9)
    jumprelu = side(factory, "jumprelu", architecture="jumprelu", lr=1e-3, beta1=0.0)
    found = between(topk, jumprelu)
    assert (found.changed, found.of_the_methods) == (("method topk vs jumprelu",), ("beta1 0.9 vs 0.0",))
    assert between(topk, side(factory, "jumprelu", architecture="jumprelu", lr=2e-3)).confounded


def test_the_learning_rate_of_a_control_that_is_not_trained_is_no_factor(factory):
    untrained = side(factory, "random", lr=1e-3)
    untrained = [replace(r, training=replace(r.training, steps=0)) for r in untrained]
    assert between(untrained, side(factory, "topk", lr=3e-3)).changed == ("method random vs topk",)


def test_two_settings_of_one_method_are_two(factory):
    weak, strong = side(factory, "idea", preset="a", k=1, w=0.1), side(factory, "idea", preset="b", k=2, w=0.2)
    assert between(weak, strong).changed == ("k 1 vs 2", "w 0.1 vs 0.2")
    assert between(weak, side(factory, "idea", preset="b", k=1, w=0.2)).changed == ("w 0.1 vs 0.2",)


def test_confounded_rows_have_numbers_and_no_verdict_unless_judged_as_a_whole(factory):
    base, idea = side(factory, "topk", lr=1e-3), side(factory, "idea", **{"base.lr": 2e-3})
    [row] = compare(idea, base, [factory.FVU]).rows
    assert (row.verdict, row.reason) == ("confounded", "2 factors differ")
    assert row.difference is not None
    assert (row.p_value, row.p_corrected) == (None, None)
    found = compare(idea, base, [factory.FVU], as_a_whole=True)
    assert found.rows[0].verdict == "within noise"
    assert found.notes[-1].endswith("it is judged as a whole")
