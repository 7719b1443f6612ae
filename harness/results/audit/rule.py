"""Rule and Finding: what the audit holds records to, and what it says where they fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...interfaces.audit import AuditHit, Scope, Severity
from .evidence import Evidence
from .tolerances import Tolerances

Check = Callable[[Sequence[Evidence], Tolerances], Iterable[AuditHit]]
CheckOne = Callable[[Evidence, Tolerances], Iterable[AuditHit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Its function is pure: records and tolerances in, hits out."""

    id: str
    family: str
    severity: Severity
    title: str
    meaning: str
    mend: str
    check: Check | None = None
    """None where no field of a record can show it: then `held_by` says what does."""
    held_by: str = ""
    """Where else it is held: a check of the conformance kit, a test, a command."""
    tolerances: tuple[str, ...] = ()
    """Fields of `Tolerances` it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of one record."""

    rule: str
    severity: Severity
    record: str
    evaluation: str
    """Empty for the whole record; `training` for what training says of itself."""
    field: str
    evidence: tuple[tuple[str, str], ...]
    """(where, value) of what was found and of what it was held against."""
    title: str
    meaning: str
    mend: str
    scope: Scope = "value"
    note: str = ""
    """What this case adds to the meaning."""
    others: tuple[str, ...] = ()
    """Other records that take part, at most twenty."""


def each(check: CheckOne) -> Check:
    """A rule on single records as one on all of them."""

    def all_of(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
        for record in records:
            yield from check(record, tolerances)

    return all_of


def said(value: object) -> str:
    """A value as findings show it."""
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(said(v) for v in value)
    return str(value) if str(value) else "''"


def listed(names: Iterable[str], limit: int = 6) -> str:
    """Names with commas between, the rest counted."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def listed_records(records: Sequence[Evidence]) -> str:
    """Names of records, the rest counted, without making them all."""
    rest = len(records) - 6
    return ", ".join(r.name for r in records[:6]) + (f" and {rest} more" if rest > 0 else "")


@lru_cache(maxsize=2**15)
def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key: numbers in a name by their size, so that run_10 comes after run_9."""
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d{1,18})", name) if p)


def by(records: Iterable[Evidence], key: Callable[[Evidence], object]) -> list[list[Evidence]]:
    """Records in groups of equal key, in the order they come in: rules are given them in natural order of names.

    None belongs to no group.
    """
    groups: dict[object, list[Evidence]] = {}
    for record in records:
        found = key(record)
        if found is not None:
            groups.setdefault(found, []).append(record)
    return list(groups.values())
