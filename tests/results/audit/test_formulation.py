"""F34-F39: what records can show of them, and that the rest is held where it is said to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.results.audit.formulation import RULES

ROOT = Path(__file__).parents[3]


def test_f34_true_neighbours_are_nearer_than_strangers(build):
    def record(real, shuffled, **protocol):
        measured = build.evaluation("stability", {"temporal_distance": real, "temporal_distance_shuffled": shuffled})
        return build.ours("r", measured, protocol=protocol)

    assert build.names(build.found("F34", record(1.9, 1.9))) == [("r", "stability")]
    assert build.found("F34", record(1.8, 1.9)) == []
    assert build.found("F34", record(1.9, 1.9, hookpoint="as generated")) == [], "a world may have no memory"


@pytest.mark.parametrize("rule", [r.id for r in RULES if r.id != "F34"])
def test_losses_are_not_in_records(rule):
    [found] = [r for r in RULES if r.id == rule]
    assert found.check is None
    assert found.held_by


def test_what_holds_a_rule_exists():
    """The checks and tests that rules name are there: (name, file) as `held_by` writes them."""
    from harness.results.audit.runner import RULES as EVERY

    named = 0
    for rule in EVERY:
        files = re.findall(r"[\w/]+\.py", rule.held_by)
        text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"\b[a-z]+(?:_[a-z0-9]+){3,}\b", rule.held_by):
            assert f"def {name}(" in text, (rule.id, name)
            named += 1
    assert named >= 8
