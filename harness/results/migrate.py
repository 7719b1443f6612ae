"""Old records to the present schema: one step a version. A record's file is never edited in place.

To change the schema: raise `SCHEMA_VERSION` in record.py by one and add to `STEPS` the function that turns the
JSON of the version before into the new one. Steps are never changed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import RecordError

Step = Callable[[dict[str, Any]], dict[str, Any]]

_BEHAVIOUR = ("ce_loss_recovered", "kl_div_recovered")


def _behaviour_apart(data: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: the metrics of the LM's behaviour became an evaluator of their own; their definition is the same.

    They ended as `core` did, and its taints are theirs. Their seconds are within those of `core`.
    """
    new = dict(data)
    metrics, evaluations, taints = (data.get(name) for name in ("metrics", "evaluations", "taints"))
    # What has another type is left to the reader, which says so.
    if isinstance(metrics, dict):
        new["metrics"] = {
            name: {**entry, "evaluator": "behaviour"} if name in _BEHAVIOUR and _of_core(entry) else entry
            for name, entry in metrics.items()
        }
    if isinstance(evaluations, dict) and isinstance(evaluations.get("core"), dict):
        new["evaluations"] = {**evaluations, "behaviour": {**evaluations["core"], "wall_seconds": 0.0}}
    if isinstance(taints, list):
        new["taints"] = [*taints, *({**taint, "evaluator": "behaviour"} for taint in taints if _of_core(taint))]
    return new


def _of_core(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("evaluator") == "core"


def _no_evaluator_options(data: dict[str, Any]) -> dict[str, Any]:
    """2 to 3: evaluations say their options; until then no suite set any, which is what a missing field means."""
    return dict(data)


STEPS: Mapping[int, Step] = MappingProxyType({1: _behaviour_apart, 2: _no_evaluator_options})
"""Schema version -> the function that brings a record of that version to the next. Version 1 is the first."""


def migrate(
    data: Mapping[str, Any], *, current: int, where: str = "record", steps: Mapping[int, Step] = STEPS
) -> dict[str, Any]:
    """The record's JSON object brought to schema `current`; the one given is left as it was.

    Raises:
        RecordError: the schema version is missing or malformed, newer than `current`, or older than any step.
    """
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError(
            f"{where}: schema_version is {version!r}; it must be a whole number from 1 to {current}. "
            "This is no record of sae-harness, or it was edited: make it anew with `sae-harness run`."
        )
    if version > current:
        raise RecordError(
            f"{where} was written by a newer sae-harness (schema {version}); this one reads up to {current}: "
            "upgrade with `pip install -U sae-harness`."
        )
    result = dict(data)
    for step_version in range(version, current):
        if step_version not in steps:
            raise RecordError(
                f"{where} has schema {version}, which can no longer be brought to {current}: "
                "make it anew with `sae-harness run`."
            )
        result = {**steps[step_version](result), "schema_version": step_version + 1}
    return result
