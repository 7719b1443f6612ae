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

STEPS: Mapping[int, Step] = MappingProxyType({})
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
