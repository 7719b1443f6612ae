"""Comparisons held to records: at least three seeds a side, matched L0, nothing tainted, and a verdict that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import RecordError
from ...interfaces.specs import Better, MetricSpec
from ..audit.evidence import Evidence
from ..audit.rule import said
from ..comparison import JUDGED, MIN_SEEDS, ComparisonRow, compare
from ..record import Record
from ..reliability import Label
from ..statistics import CONFIDENCE, Difference, difference
from .directions import direction
from .grammar import Compare, Side
from .library import Library, Reading
from .outcome import Ruling


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What comparisons rest on besides the records."""

    specs: Mapping[str, MetricSpec]
    """Of all installed evaluators."""
    labels: Mapping[str, Mapping[str, Label]]
    """Suite -> metric -> reliability, where it was measured."""
    primary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Suite -> its primary metrics."""
    aims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Method -> the metrics it is meant to move."""


def check_comparison(library: Library, claim: Compare, terms: Terms) -> tuple[Ruling, int, Better]:
    """(ruling, sign of first - second as claimed, the metric's direction)."""
    sides = [_side(library, side, claim.at_l0) for side in (claim.first, claim.second)]
    for _, problem in sides:
        if problem is not None:
            return problem, 0, "none"
    first, second = sides[0][0], sides[1][0]
    kinds = {e.kind == "harness" for e in (*first, *second)}
    metric = claim.field.rpartition(".")[2]
    better = direction(metric, terms.specs, harness=kinds == {True})
    sign = _claimed_sign(claim, better)
    if len(kinds) > 1:
        return Ruling(status="unsupported", reason="records of the harness stand beside foreign ones"), sign, better
    if claim.relation in ("better", "worse") and better == "none":
        return Ruling(status="unsupported", reason=f"{metric} has no direction: neither way is good"), sign, better
    if kinds == {True}:
        return _of_harness(library, claim, terms, first, second), sign, better
    return _of_foreign(library, claim, first, second, sign), sign, better


def row_of(library: Library, claim: Compare, terms: Terms) -> ComparisonRow | Ruling:
    """The row that `compare` gives for the claim's metric, or why there is none; of the harness's own records."""
    sides = [_side(library, side, claim.at_l0) for side in (claim.first, claim.second)]
    for _, problem in sides:
        if problem is not None:
            return problem
    return _row(library, claim, terms, sides[0][0], sides[1][0])


def _side(library: Library, side: Side, at_l0: float | None) -> tuple[list[Evidence], Ruling | None]:
    """The records of a side, or why there are none; all L0s of a method belong to it, since the comparison is at
    matched L0."""
    chosen, problem = library.choose(side)
    own = {(e.study, e.method) for e in chosen if e.kind == "harness"}
    if problem and chosen and len(own) == 1 and all(e.kind == "harness" for e in chosen):
        return chosen, None
    if at_l0 is not None and chosen and all(e.kind != "harness" for e in chosen):
        found = [e for e in chosen if (l0 := e.l0()) and abs(l0[1] / at_l0 - 1) <= library.tolerances.l0_match]
        absent = Ruling(status="unsupported", reason=f"{side} was not measured at L0 {at_l0:g}")
        return found, None if found else absent
    return chosen, Ruling(status="unresolved", reason=problem) if problem else None


def _claimed_sign(claim: Compare, better: Better) -> int:
    if claim.relation in ("<", ">"):
        return 1 if claim.relation == ">" else -1
    if claim.relation in ("better", "worse") and better != "none":
        return 1 if (claim.relation == "better") == (better == "higher") else -1
    return 0


def _of_harness(
    library: Library, claim: Compare, terms: Terms, first: Sequence[Evidence], second: Sequence[Evidence]
) -> Ruling:
    row = _row(library, claim, terms, first, second)
    if isinstance(row, Ruling):
        return row
    told = _told(row)
    if row.verdict not in (*JUDGED, "no direction"):
        reason = f"{row.verdict}: {row.reason}" if row.reason else row.verdict
        return Ruling(status="unsupported", reason=f"{reason}; {told}" if told else reason)
    found = 0
    if row.verdict == "no direction" and row.low is not None and row.high is not None:
        found = 1 if row.low > 0.0 else (-1 if row.high < 0.0 else 0)
    elif row.verdict in ("better", "worse"):
        found = 1 if (row.difference or 0.0) > 0.0 else -1
    sign = _claimed_sign(claim, row.better)
    if found == sign:
        return Ruling(status="supported", reason=f"{row.verdict}: {told}")
    if found == 0:
        return Ruling(status="unsupported", reason=f"within noise: {told}" + (f", {row.reason}" if row.reason else ""))
    return Ruling(status="refuted", reason=f"{row.verdict}: {told}")


def _row(
    library: Library, claim: Compare, terms: Terms, first: Sequence[Evidence], second: Sequence[Evidence]
) -> ComparisonRow | Ruling:
    tainted = _tainted(library, (*first, *second), claim.field)
    if tainted:
        return Ruling(status="unsupported", reason=tainted)
    ours, theirs = _records(library, first), _records(library, second)
    held = {name for record in (*ours, *theirs) for name in record.metrics}
    metric = claim.field.rpartition(".")[2]
    if metric not in held:
        return Ruling(status="unresolved", reason=f"{metric} is in neither side's records")
    if metric not in terms.specs:
        return Ruling(status="unsupported", reason=f"no installed evaluator says what {metric} is")
    specs = [replace(s, compared=True) if n == metric else s for n, s in terms.specs.items() if n in held]
    try:
        suite = ours[0].protocol.suite
        primary = (*terms.primary.get(suite, ()), *terms.aims.get(ours[0].method.name, ()))
        labels = terms.labels.get(suite, {})
        found = compare(ours, theirs, specs, at_l0=claim.at_l0, labels=labels, primary=primary)
    except RecordError as error:
        return Ruling(status="unsupported", reason=" ".join(str(error).split()))
    return next(row for row in found.rows if row.metric == metric)


def _tainted(library: Library, evidence: Sequence[Evidence], field: str) -> str:
    """The first record whose value may not be used, with the rules; empty where all may."""
    for record in evidence:
        reading = library.reading(record, field)
        if reading.taint:
            return f"{reading.name}/{reading.field} is tainted ({' '.join(reading.taint)})"
    return ""


def _records(library: Library, evidence: Sequence[Evidence]) -> list[Record]:
    return [library.records[e.key] for e in evidence if e.key in library.records]


def _told(row: ComparisonRow) -> str:
    if row.difference is None:
        return ""
    interval = "" if row.low is None else f" [{row.low:+.3g}, {row.high:+.3g}]"
    l0 = "" if row.l0_low is None else f" over L0 {row.l0_low:.3g}-{row.l0_high:.3g}"
    return f"the difference is {row.difference:+.3g}{interval}{l0}"


def _of_foreign(
    library: Library, claim: Compare, first: Sequence[Evidence], second: Sequence[Evidence], sign: int
) -> Ruling:
    """SAEBench's and combined records: first what the values say, then whether they may be set beside each other."""
    readings = [[library.reading(e, claim.field) for e in side] for side in (first, second)]
    absent = next((r.why for side in readings for r in side if r.value is None), "")
    if absent:
        nowhere = all(r.unknown for side in readings for r in side)
        status = "unresolved" if nowhere else "unsupported"
        return Ruling(status=status, reason=f"{absent}: there is nothing to compare")
    a, b = ([r.value or 0.0 for r in side] for side in readings)
    means = (sum(a) / len(a), sum(b) / len(b))
    told = f"{_shown(readings[0])} is {said(means[0])}, {_shown(readings[1])} is {said(means[1])}"
    actual = (means[0] > means[1]) - (means[0] < means[1])
    if sign and actual != sign:
        return Ruling(status="refuted", reason=told)
    obstacles = _obstacles(library, readings)
    seeds = [{r.record.training.seed for r in side if r.record.training is not None} for side in readings]
    n = min(len(own - {None}) if own - {None} else 1 for own in seeds)
    if any(len(_by_seed(side)) < len(side) for side in readings if len(side) > 1):
        obstacles.append("a side has two records of one seed, or of none")
    if n < MIN_SEEDS:
        obstacles.append(f"{n} seed{'' if n == 1 else 's'} a side: no noise is known")
    if obstacles:
        return Ruling(status="unsupported", reason=f"{told}; but {'; '.join(obstacles)}")
    return _decided(told, difference(_by_seed(readings[0]), _by_seed(readings[1])), sign)


def _decided(told: str, found: Difference, sign: int) -> Ruling:
    decided = found.p_value is not None and found.p_value < 1.0 - CONFIDENCE
    if sign == 0:
        return Ruling(status="refuted" if decided else "supported", reason=told)
    return Ruling(status="supported" if decided else "unsupported", reason=told if decided else f"within noise: {told}")


def _by_seed(readings: Sequence[Reading]) -> dict[int, float]:
    return {r.record.training.seed or 0: r.value or 0.0 for r in readings if r.record.training is not None}


def _shown(readings: Sequence[Reading]) -> str:
    names = [r.name for r in readings]
    return f"{readings[0].field} of {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _obstacles(library: Library, readings: Sequence[Sequence[Reading]]) -> list[str]:
    found = []
    for side in readings:
        for reading in side:
            if reading.taint:
                found.append(f"{reading.name} is tainted ({' '.join(reading.taint)})")
    records = [r.record for side in readings for r in side]
    l0s = [l0[1] for record in records if (l0 := record.l0()) is not None]
    if len(l0s) < len(records):
        found.append("no L0 is known to match at")
    elif max(l0s) > (1 + library.tolerances.l0_match) * min(l0s):
        found.append(f"L0 is {said(l0s[0])} and {said(l0s[-1])}")
    if len({record.group for record in records}) > 1:
        found.append("language model or hookpoint differ")
    part = readings[0][0].field.rpartition(".")[0]
    for one in readings[0]:
        for other in readings[1]:
            found += library.not_beside(one.record, other.record, part)
    return list(dict.fromkeys(found))
