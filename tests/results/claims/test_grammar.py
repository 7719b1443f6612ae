"""Annotations: every form, and what is said of a form that is none."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.results.claims.grammar import Assertion, Bound, Check, Compare, Fill, Ignore, Same, parse


def test_every_form_is_read():
    assert parse("topk/l0=32/fvu", "") == Fill(reference=reference("topk", "fvu", ("l0", "32")))
    assert parse("topk/fvu:.3f", "") == Fill(reference=reference("topk", "fvu"), format=".3f")
    assert parse("topk/fvu:±", "") == Fill(reference=reference("topk", "fvu"), format="±")
    assert parse("= runs/run_1/core.mse", "") == Check(reference=reference("runs/run_1", "core.mse"))
    assert parse("= max runs/*/l0", "") == Check(reference=reference("runs/*", "l0"), aggregate="max")
    assert parse("<= topk/fvu", "") == Bound(reference=reference("topk", "fvu"), operator="<=")
    assert parse("topk/training.steps > 0", "") == Assertion(
        reference=reference("topk", "training.steps"), operator=">", number=0.0
    )
    assert parse("same runs/*/training.lr", "") == Same(reference=reference("runs/*", "training.lr"))
    assert parse("ignore a heading", "") == Ignore(reason="a heading")


def reference(record, field, *conditions):
    from harness.results.claims.grammar import Reference, Side

    return Reference(side=Side(record=record, conditions=conditions), field=field)


@pytest.mark.parametrize(
    ("text", "relation", "at_l0", "part"),
    [
        ("idea < topk : fvu", "<", None, "difference"),
        ("idea better than topk : fvu @ l0=32", "better", 32.0, "difference"),
        ("idea ~ topk : fvu", "~", None, "difference"),
        ("idea vs topk : fvu | verdict", "vs", None, "verdict"),
        ("idea vs topk : core.fvu @ l0=8.5 | p", "vs", 8.5, "p"),
    ],
)
def test_comparisons_are_read(text, relation, at_l0, part):
    found = parse(text, "")
    assert isinstance(found, Compare)
    assert (found.first.record, found.second.record) == ("idea", "topk")
    assert (found.relation, found.at_l0, found.part) == (relation, at_l0, part)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fvu", "'fvu' is no reference: write RECORD/FIELD"),
        ("topk/l0=32", "ends in no field"),
        ("topk/k=32/fvu", "condition k=32 is not known; there are l0, seed, d_sae, preset"),
        ("l0=32/fvu", "names no record"),
        ("idea > topk", "is no comparison: write {{A > B : FIELD}}"),
        ("idea ? topk : fvu", "is no comparison"),
        ("idea > topk : fvu | p", "is taken by `A vs B` alone"),
        ("idea vs topk : fvu | size", "one of difference, estimate, verdict, p"),
        ("what is this", "is no annotation"),
    ],
)
def test_what_is_no_annotation_says_the_place_and_the_form(text, told):
    with pytest.raises(ConfigError) as error:
        parse(text, "paper.md:7")
    assert str(error.value).startswith("paper.md:7: ")
    assert told in str(error.value)
