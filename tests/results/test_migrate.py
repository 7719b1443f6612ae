"""Migration: step by step, in order, without touching what was given."""

from __future__ import annotations

import pytest

from harness.errors import RecordError
from harness.results.migrate import STEPS, migrate
from harness.results.record import SCHEMA_VERSION


def test_steps_are_applied_in_order():
    steps = {1: lambda d: {**d, "trail": [*d["trail"], 1]}, 2: lambda d: {**d, "trail": [*d["trail"], 2]}}
    old = {"schema_version": 1, "trail": []}
    assert migrate(old, current=3, steps=steps) == {"schema_version": 3, "trail": [1, 2]}
    assert old == {"schema_version": 1, "trail": []}


def test_a_schema_without_a_step_says_to_make_it_anew():
    with pytest.raises(RecordError, match="can no longer be brought to 3: make it anew"):
        migrate({"schema_version": 1}, current=3, steps={2: dict})


def test_every_older_schema_has_its_step():
    assert set(STEPS) == set(range(1, SCHEMA_VERSION))


def test_schema_1_had_the_lm_losses_in_core():
    entry = {"value": 0.9, "n": 80, "version": 1, "evaluator": "core"}
    old = {
        "schema_version": 1,
        "metrics": {"fvu": entry, "ce_loss_recovered": entry, "flip_rate": {**entry, "evaluator": "stability"}},
        "evaluations": {"core": {"status": "done", "reason": "", "wall_seconds": 4.3}},
        "taints": [{"rule": "F01", "reason": "copied", "evaluator": "core"}],
    }
    new = migrate(old, current=2)
    assert {name: m["evaluator"] for name, m in new["metrics"].items()} == {
        "fvu": "core",
        "ce_loss_recovered": "behaviour",
        "flip_rate": "stability",
    }
    assert new["evaluations"]["behaviour"] == {"status": "done", "reason": "", "wall_seconds": 0.0}
    assert [taint["evaluator"] for taint in new["taints"]] == ["core", "behaviour"]
    assert old["metrics"]["ce_loss_recovered"]["evaluator"] == "core"
