"""Numbers held to records: equal as rounded, within bounds, the same in all."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from ..audit.rule import said
from ..statistics import mean_interval
from .grammar import Assertion, Bound, Check, Reference, Same
from .library import Library, Reading
from .numbers import Written
from .outcome import Ruling, worst

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}


def check_number(library: Library, check: Check, numbers: Sequence[Written], *, spread: bool) -> Ruling:
    """Whether numbers are what the records say, rounded as written.

    Several seeds of one method stand for their mean (`v ± h`: with the half-width of its 95 % interval). Of records
    chosen by a pattern each must say it, but for `min`, `max` and `range`.
    """
    readings, problem = library.read(check.reference)
    if problem:
        return Ruling(status="unresolved", reason=problem)
    absent = [r.why for r in readings if r.value is None]
    if check.aggregate != "each":
        if absent:
            return Ruling(status="unsupported", reason=absent[0])
        return _extremes(library, check, readings, numbers)
    rulings = []
    for group in _seeds_together(readings):
        rulings.append(_group(library, group, numbers, spread=spread))
    return worst(rulings)


def check_bound(library: Library, bound: Bound, number: Written) -> Ruling:
    """Whether `number OPERATOR value` holds for every record chosen."""
    readings, problem = library.read(bound.reference)
    if problem:
        return Ruling(status="unresolved", reason=problem)
    compared = _COMPARE[bound.operator]
    return worst([_held(r, r.value is not None and compared(number.value, r.value)) for r in readings])


def check_assertion(library: Library, assertion: Assertion) -> Ruling:
    """Whether `value OPERATOR number` holds for every record chosen."""
    readings, problem = library.read(assertion.reference)
    if problem:
        return Ruling(status="unresolved", reason=problem)
    return worst([_held(r, r.value is not None and _compared(assertion, r.value)) for r in readings])


def _compared(assertion: Assertion, value: float) -> bool:
    return _COMPARE[assertion.operator](value, assertion.number)


def _held(reading: Reading, holds: bool) -> Ruling:
    if reading.value is None:
        return Ruling(status="unsupported", reason=reading.why)
    told = f"{_shown(reading)} is {said(reading.value)}"
    return _unless_tainted(reading, told) if holds else Ruling(status="refuted", reason=told)


def check_same(library: Library, same: Same) -> Ruling:
    """Whether all records chosen have one value."""
    readings, problem = library.read(same.reference)
    if problem:
        return Ruling(status="unresolved", reason=problem)
    told = [r for r in readings if r.value is not None or r.text]
    values: dict[object, Reading] = {}
    for reading in told:
        values.setdefault(reading.text if reading.value is None else reading.value, reading)
    if len(values) > 1:
        shown = ", ".join(f"{said(v)} ({r.name})" for v, r in list(values.items())[:4])
        return Ruling(status="refuted", reason=f"{same.reference.field} is {shown}")
    if len(told) < len(readings):
        return Ruling(status="unsupported", reason=next(r.why for r in readings if r.value is None and not r.text))
    if len(told) < 2:
        return Ruling(status="unsupported", reason=f"{same.reference.side} is one record: there is nothing beside it")
    return worst([_unless_tainted(r, f"{r.field} is {said(next(iter(values)))} in all {len(told)}") for r in told])


def one_value(library: Library, reference: Reference) -> tuple[float, float | None, int] | Ruling:
    """(mean over seeds, half-width of its interval, seeds) of one method's field, or why there is none."""
    readings, problem = library.read(reference)
    if problem:
        return Ruling(status="unresolved", reason=problem)
    groups = _seeds_together(readings)
    if len(groups) > 1:
        return Ruling(status="unresolved", reason=f"{reference.side} is {len(groups)} records: name one")
    values = [r.value for r in groups[0] if r.value is not None]
    for reading in groups[0]:
        if reading.value is None:
            return Ruling(status="unsupported", reason=reading.why)
        if reading.taint:
            return _unless_tainted(reading, "")
    interval = mean_interval(values)
    return interval.mean, interval.half_width, interval.n


def _group(library: Library, group: Sequence[Reading], numbers: Sequence[Written], *, spread: bool) -> Ruling:
    reading = group[0]
    for one in group:
        if one.value is None:
            return Ruling(status="unsupported", reason=one.why)
    interval = mean_interval([r.value for r in group if r.value is not None])
    told = f"{_shown(reading)} is {said(interval.mean)}" + (
        f", the mean of {len(group)} seeds" if len(group) > 1 else ""
    )
    if not all(n.agrees(interval.mean) for n in (numbers[:1] if spread else numbers)):
        return Ruling(status="refuted", reason=told + _elsewhere(library, numbers[0], reading))
    if spread and (interval.half_width is None or not numbers[1].agrees(interval.half_width)):
        width = "none: it is one seed" if interval.half_width is None else said(interval.half_width)
        return Ruling(status="refuted", reason=f"{told}; the half-width of its 95 % interval is {width}")
    return worst([_unless_tainted(r, told) for r in group])


def _extremes(library: Library, check: Check, readings: Sequence[Reading], numbers: Sequence[Written]) -> Ruling:
    ordered = sorted(readings, key=lambda r: r.value or 0.0)
    wanted = {"min": (ordered[0],), "max": (ordered[-1],), "range": (ordered[0], ordered[-1])}[check.aggregate]
    rulings = []
    for number, reading, name in zip(
        numbers, wanted, ("largest",) if check.aggregate == "max" else ("smallest", "largest"), strict=False
    ):
        told = f"the {name} is {said(reading.value)}, of {_shown(reading)}"
        if not number.agrees(reading.value or 0.0):
            told += _elsewhere(library, number, reading)
            rulings.append(Ruling(status="refuted", reason=told))
        else:
            rulings.append(_unless_tainted(reading, told))
    return worst(rulings)


def _unless_tainted(reading: Reading, told: str) -> Ruling:
    if reading.taint:
        value = reading.text if reading.value is None else said(reading.value)
        void = f"{_shown(reading)} is {value}, and tainted ({' '.join(reading.taint)}): it may not be used"
        return Ruling(status="unsupported", reason=void)
    return Ruling(status="supported", reason=told)


def _elsewhere(library: Library, number: Written, reading: Reading) -> str:
    """Where the number written is to be found instead; nothing for numbers of few digits."""
    if number.digits < 3:
        return ""
    found = [place for place in library.where(number.agrees) if place != _shown(reading)]
    return f" ({number.text} is {' and '.join(found[:2])})" if found else ""


def _shown(reading: Reading) -> str:
    return f"{reading.name}/{reading.field}"


def _seeds_together(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Readings of one method at one L0 under one protocol, seeds together; every other record by itself."""
    groups: dict[object, list[Reading]] = {}
    for reading in readings:
        record, training = reading.record, reading.record.training
        own = record.kind == "harness" and training is not None
        key = (record.study, record.method, training.target_l0) if own and training else record.name
        groups.setdefault(key, []).append(reading)
    return list(groups.values())
