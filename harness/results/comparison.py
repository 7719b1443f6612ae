"""Candidate and baseline records to rows with verdicts, at matched L0.

For each metric and seed the values lie on a curve over measured L0. Both sides are read off the same stretch of
L0 (`frontier.py`) and the difference is judged against the noise between seeds (`statistics.py`), after Holm's
correction (`multiple.py`): over the primary metrics, which were declared beforehand, and apart from them over all
others. What cannot be compared gets no number but a reason.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import RecordError
from ..interfaces.specs import Better, MetricSpec
from .evaluation_noise import evaluation_noise
from .factors import Factors, factors
from .frontier import Frontier, Window, covers, describe_l0, overlap
from .multiple import holm
from .record import Record
from .reliability import Label
from .side import (
    L0,
    FieldDifference,
    Side,
    method_label,
    protocol_differences,
    side_of,
)
from .statistics import CONFIDENCE, Difference, Interval, difference, mean_interval

__all__ = [
    "MIN_SEEDS",
    "Comparison",
    "ComparisonRow",
    "FieldDifference",
    "LevelRows",
    "Verdict",
    "compare",
    "judge",
    "method_label",
    "protocol_differences",
    "protocol_line",
]

Verdict = Literal[
    "better",
    "worse",
    "within noise",
    "unresolved",
    "confounded",
    "not comparable",
    "no direction",
    "matched",
    "information",
]

JUDGED: tuple[Verdict, ...] = ("better", "worse", "within noise")
"""Verdicts of rows that were put to the test; Holm's correction is over these."""

MIN_SEEDS = 3
"""With fewer on either side no verdict is given."""

ROUNDING = 1e-12
"""Share of the values below which a difference is arithmetic, not effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One metric's comparison. Numbers are None where there is nothing comparable to give."""

    metric: str
    better: Better
    verdict: Verdict
    primary: bool = False
    """Declared beforehand as what the comparison is about: corrected among these alone."""
    reason: str = ""
    """Why there is no verdict, or why it is not what the row's own interval says; empty where it is."""
    baseline_mean: float | None = None
    baseline_half_width: float | None = None
    """Half-width of the 95 % interval of the mean over seeds; None for one seed."""
    baseline_n: int = 0
    """Seeds."""
    candidate_mean: float | None = None
    candidate_half_width: float | None = None
    candidate_n: int = 0
    difference: float | None = None
    """Candidate minus baseline."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the difference."""
    smallest_detectable: float | None = None
    """Half-width of that interval: a smaller difference would have included zero."""
    method: str = ""
    """`paired` or `welch`."""
    constant: bool = False
    """Nothing varied between seeds: the interval has width 0."""
    l0_low: float | None = None
    l0_high: float | None = None
    """The stretch of L0 the numbers stand for (its widest reach, where each pair of seeds has its own)."""
    reliability: str = ""
    """Label of the metric in this suite, as `sae-harness reliability` measured it; empty where it was not measured."""
    p_value: float | None = None
    """Of no difference, two-sided, uncorrected; None where the row has no interval or is not judged."""
    p_corrected: float | None = None
    """The same after Holm's correction over the judged rows of its family (primary or not): the verdict rests on this
    one."""
    baseline_evaluation_noise: float | None = None
    """Standard error of the baseline's mean over held-out documents, at most; in no interval."""
    candidate_evaluation_noise: float | None = None
    difference_evaluation_noise: float | None = None
    """Of the difference, by the bootstrap; None where the records do not hold the values on each unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRows:
    """The rows at one L0."""

    l0: float
    rows: tuple[ComparisonRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate held against a baseline."""

    candidate: str
    """Label: `method` or `method@preset`."""
    baseline: str
    rows: tuple[ComparisonRow, ...]
    by_level: tuple[LevelRows, ...]
    """At the mean measured L0 of each level of the baseline's grid that lies inside the overlap."""
    differences: tuple[FieldDifference, ...]
    """Protocol fields that differ; where there are any, nothing is compared."""
    candidate_seeds: tuple[int, ...]
    baseline_seeds: tuple[int, ...]
    at_l0: float | None
    notes: tuple[str, ...]
    n_judged: tuple[int, int] = (0, 0)
    """Metrics that were put to the test, shown or not: primary, and others. The verdicts are corrected over them."""

    @property
    def window(self) -> Window | None:
        """The stretch of L0 the rows were read off; None where nothing could be compared."""
        return next((Window(r.l0_low, r.l0_high) for r in self.rows if r.l0_low and r.l0_high), None)

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Metric -> verdict."""
        return {row.metric: row.verdict for row in self.rows}


def compare(
    candidate: Sequence[Record],
    baseline: Sequence[Record],
    metrics: Sequence[MetricSpec],
    *,
    at_l0: float | None = None,
    allow_tainted: bool = False,
    labels: Mapping[str, Label] | None = None,
    primary: Collection[str] = (),
    as_a_whole: bool = False,
    shown: Sequence[str] = (),
) -> Comparison:
    """Hold a candidate's records against a baseline's, metric by metric, at matched L0.

    By default each value is the mean over log L0 across the stretch both sides cover; `at_l0` takes it at one L0.
    `labels`: the metrics' reliability in this suite; a misleading one gets no verdict.
    `primary`: the metrics that were declared beforehand. They stand first, and are corrected among themselves.
    `as_a_whole`: judge the candidate with all that differs, where more than one factor does; else such rows are
    `confounded`: their numbers stand, without a verdict.
    `shown`: the metrics to give rows for (default: all). All of `metrics` are judged and corrected over, whichever are
    shown: a verdict does not depend on what else was looked at.

    Raises:
        RecordError: a side is empty, mixed, has duplicates, or is tainted and `allow_tainted` is not given; or neither
            reaches `at_l0`.
    """
    ours = side_of(candidate, "candidate", allow_tainted=allow_tainted)
    theirs = side_of(baseline, "baseline", allow_tainted=allow_tainted)
    _reached(at_l0, ours, theirs)
    differences = tuple(protocol_differences(candidate[0].protocol, baseline[0].protocol))
    levels: tuple[LevelRows, ...] = ()
    between = factors(theirs, ours)
    withheld = f"{len(between.changed)} factors differ" if between.confounded and not as_a_whole else ""
    if differences:
        reason = "; ".join(d.describe() for d in differences)
        rows = tuple(_incomparable(spec, reason) for spec in metrics)
    else:
        told = (_withheld(_row(spec, ours, theirs, at_l0), withheld) for spec in metrics)
        rows = _table(told, labels or {}, primary)
        levels = _by_level(metrics, ours, theirs, labels or {}, primary, withheld)
    tested = [row.primary for row in rows if row.p_corrected is not None]
    if shown:
        rows = _chosen(rows, shown)
        levels = tuple(replace(at, rows=_chosen(at.rows, shown)) for at in levels)
    return Comparison(
        candidate=ours.label,
        baseline=theirs.label,
        rows=rows,
        by_level=levels,
        differences=differences,
        candidate_seeds=ours.seeds,
        baseline_seeds=theirs.seeds,
        at_l0=at_l0,
        notes=(*_notes(ours, theirs, metrics), *_factor_notes(between, as_a_whole)),
        n_judged=(tested.count(True), tested.count(False)),
    )


def _reached(at_l0: float | None, ours: Side, theirs: Side) -> None:
    """Raises RecordError where neither side has SAEs around that L0."""
    if at_l0 is None:
        return
    spans = {side.label: [c.window for c in side.curves(L0).values()] for side in (theirs, ours)}
    held = {label: own for label, own in spans.items() if own}
    if held and not any(covers(window, at_l0) for own in held.values() for window in own):
        told = "; ".join(
            f"{label} {Window(min(w.low for w in own), max(w.high for w in own)).describe()}"
            for label, own in held.items()
        )
        raise RecordError(f"No record reaches L0 {at_l0:g} of --at-l0: measured are {told}.")


def judge(spec: MetricSpec, found: Difference, scale: float) -> tuple[Verdict, str]:
    """The verdict on a difference candidate - baseline, with the reason where there is none.

    `scale` is the size of the values: differences below `ROUNDING` of it are arithmetic.
    """
    if not spec.compared:
        return ("matched" if spec.name == L0 else "information"), ""
    if found.n < MIN_SEEDS:
        return "unresolved", f"n={found.n} seed{'' if found.n == 1 else 's'}"
    if spec.better == "none":
        return "no direction", ""
    if not found.excludes_zero(ROUNDING * scale):
        return "within noise", ""
    return ("better" if (found.estimate > 0.0) == (spec.better == "higher") else "worse"), ""


def protocol_line(records: Sequence[Record], suite_claim: str = "") -> str:
    """The protocol of records on one line: suite, LM, hookpoint, d_sae, L0, budget, seeds, and what it may claim."""
    protocol = records[0].protocol
    targets = sorted({r.training.target_l0 for r in records if r.training.target_l0 is not None})
    seeds: dict[str, set[int]] = {}
    for record in records:
        if not record.method.control:
            seeds.setdefault(method_label(record), set()).add(record.training.seed)
    counts = sorted({len(s) for s in seeds.values()}) or [len({r.training.seed for r in records})]
    n_seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    parts = [protocol.suite, protocol.lm, protocol.hookpoint, f"d_sae {protocol.d_sae}"]
    if targets:
        parts.append(f"L0 {targets[0]}" if len(targets) == 1 else f"L0 {targets[0]}–{targets[-1]}")
    parts += [f"{_count(protocol.n_tokens)} tokens", f"{n_seeds} seed{'' if n_seeds == '1' else 's'}"]
    return " · ".join([*parts, suite_claim] if suite_claim else parts)


def _table(
    rows: Iterable[ComparisonRow], labels: Mapping[str, Label], primary: Collection[str]
) -> tuple[ComparisonRow, ...]:
    """One table's rows: labelled, decided, L0 first and then the primary metrics."""
    found = _corrected(replace(_labelled(row, labels), primary=row.metric in primary) for row in rows)
    return tuple(sorted(found, key=_place))


def _chosen(rows: Sequence[ComparisonRow], shown: Sequence[str]) -> tuple[ComparisonRow, ...]:
    """The rows of these metrics, in this order but for L0 and the primary ones, which stay first."""
    found = sorted((row for row in rows if row.metric in shown), key=lambda row: shown.index(row.metric))
    return tuple(sorted(found, key=_place))


def _place(row: ComparisonRow) -> tuple[bool, bool]:
    return row.metric != L0, not row.primary


def _withheld(row: ComparisonRow, reason: str) -> ComparisonRow:
    """The row without a verdict where more than one factor differs (`reason`)."""
    if reason and row.verdict in (*JUDGED, "unresolved"):
        return replace(row, verdict="confounded", reason=reason)
    return row


def _labelled(row: ComparisonRow, labels: Mapping[str, Label]) -> ComparisonRow:
    """The row with its metric's reliability; without a verdict where that is misleading."""
    label = labels.get(row.metric, "")
    if label == "misleading" and row.verdict in ("better", "worse", "within noise", "unresolved"):
        return replace(row, reliability=label, verdict="information", reason="misleading")
    return replace(row, reliability=label)


def _corrected(rows: Iterable[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """The rows of one table, decided after Holm's correction over those of the same family that are judged."""
    found = list(rows)
    for primary in (True, False):
        judged = [
            i
            for i, row in enumerate(found)
            if row.primary is primary and row.verdict in JUDGED and row.p_value is not None
        ]
        among = f"{len(judged)} {'primary ' if primary else ''}metrics"
        for i, p in zip(judged, holm([found[i].p_value or 0.0 for i in judged]), strict=True):
            found[i] = replace(found[i], p_corrected=p)
            if found[i].verdict != "within noise" and p >= 1.0 - CONFIDENCE:
                reason = f"not after Holm's correction over {among}"
                found[i] = replace(found[i], verdict="within noise", reason=reason)
    return tuple(replace(row, p_value=None) if row.p_corrected is None else row for row in found)


def _row(spec: MetricSpec, ours: Side, theirs: Side, at_l0: float | None) -> ComparisonRow:
    reason = _obstacle(spec.name, ours, theirs)
    if reason:
        return _incomparable(spec, reason)
    matched = _match(ours.curves(spec.name), theirs.curves(spec.name), at_l0)
    if isinstance(matched, str):
        return _incomparable(spec, matched)
    a, b = mean_interval(list(matched.candidate.values())), mean_interval(list(matched.baseline.values()))
    found = difference(matched.candidate, matched.baseline)
    scale = max(abs(a.mean), abs(b.mean))
    verdict, reason = judge(spec, found, scale)
    row = _numbers(spec, verdict, reason, a, b, found, matched.window)
    if verdict == "within noise" and found.constant:
        row = replace(row, p_value=1.0)  # a difference of rounding alone
    noise = evaluation_noise(spec, ours, theirs, matched.window, (list(matched.candidate), list(matched.baseline)))
    return replace(
        row,
        baseline_evaluation_noise=noise.baseline,
        candidate_evaluation_noise=noise.candidate,
        difference_evaluation_noise=noise.difference,
    )


def _numbers(
    spec: MetricSpec, verdict: Verdict, reason: str, a: Interval, b: Interval, found: Difference, window: Window
) -> ComparisonRow:
    return ComparisonRow(
        metric=spec.name,
        better=spec.better,
        verdict=verdict,
        reason=reason,
        baseline_mean=b.mean,
        baseline_half_width=b.half_width,
        baseline_n=b.n,
        candidate_mean=a.mean,
        candidate_half_width=a.half_width,
        candidate_n=a.n,
        difference=found.estimate,
        low=found.low,
        high=found.high,
        smallest_detectable=found.smallest_detectable,
        p_value=found.p_value,
        method=found.method,
        constant=found.constant,
        l0_low=window.low,
        l0_high=window.high,
    )


def _incomparable(spec: MetricSpec, reason: str) -> ComparisonRow:
    return ComparisonRow(metric=spec.name, better=spec.better, verdict="not comparable", reason=reason)


def _obstacle(metric: str, ours: Side, theirs: Side) -> str:
    """Why two sides of one protocol cannot be compared on a metric; empty where they can."""
    for name in (metric, L0):
        here, there = ours.entries(name), theirs.entries(name)
        if not here and not there:
            reasons = {r for side in (ours, theirs) if not (r := side.missing(name)).startswith("not in")}
            return "; ".join(sorted(reasons)) or "not measured"
        if not there:
            return theirs.missing(name, here[0].evaluator)
        if not here:
            return ours.missing(name, there[0].evaluator)
        for what, a, b in (
            ("version", {e.version for e in here}, {e.version for e in there}),
            ("evaluator", {e.evaluator for e in here}, {e.evaluator for e in there}),
        ):
            if len(a | b) > 1:
                return f"{name} {what}: {_join(a)} (candidate) vs {_join(b)} (baseline)"
        evaluator = here[0].evaluator
        a, b = ours.evaluator_options(evaluator), theirs.evaluator_options(evaluator)
        if len(a | b) > 1:
            return f"options of {evaluator}: {_join(a)} (candidate) vs {_join(b)} (baseline)"
    for side in (ours, theirs):
        if not side.curves(metric):
            return f"no latent fires in the {side.role} where {metric} is measured"
    return ""


def _join(values: set[int] | set[str]) -> str:
    return " and ".join(sorted(map(str, values)))


@dataclass(frozen=True, slots=True)
class _Matched:
    """Seed -> value of both sides, read off at the same L0s."""

    candidate: dict[int, float]
    baseline: dict[int, float]
    window: Window


def _match(ours: Mapping[int, Frontier], theirs: Mapping[int, Frontier], at_l0: float | None) -> _Matched | str:
    """Both sides' values at matched L0, or why there is no L0 to match at.

    All curves are read off the stretch they all cover, so that every seed answers the same question. Where the
    same seeds allow pairing and no stretch is common to all, each pair is read off its own overlap.
    """
    common = overlap(f.window for f in (*ours.values(), *theirs.values()))
    if set(ours) == set(theirs) and (common is None or (at_l0 is not None and not covers(common, at_l0))):
        windows = {seed: overlap((ours[seed].window, theirs[seed].window)) for seed in ours}
    else:
        windows = dict.fromkeys((*ours, *theirs), common)
    for window in windows.values():
        if window is None or (at_l0 is not None and not covers(window, at_l0)):
            where = "" if at_l0 is None else f" at L0 {describe_l0(at_l0)}"
            return f"no overlap{where} in L0: candidate {_span(ours)}, baseline {_span(theirs)}"
    chosen = {seed: w for seed, w in windows.items() if w is not None}

    def read(curves: Mapping[int, Frontier]) -> dict[int, float]:
        if at_l0 is not None:
            return {seed: curve.at(math.log(at_l0)) for seed, curve in curves.items()}
        return {seed: curve.mean_over(chosen[seed]) for seed, curve in curves.items()}

    if at_l0 is not None:
        shown = Window(at_l0, at_l0)
    else:
        shown = common or Window(min(w.low for w in chosen.values()), max(w.high for w in chosen.values()))
    return _Matched(read(ours), read(theirs), shown)


def _span(curves: Mapping[int, Frontier]) -> str:
    windows = [c.window for c in curves.values()]
    return Window(min(w.low for w in windows), max(w.high for w in windows)).describe()


def _by_level(
    metrics: Sequence[MetricSpec],
    ours: Side,
    theirs: Side,
    labels: Mapping[str, Label],
    primary: Collection[str],
    withheld: str,
) -> tuple[LevelRows, ...]:
    here, there = ours.curves(L0), theirs.curves(L0)
    if not here or not there:
        return ()
    levels: dict[int | None, list[float]] = {}
    for record in theirs.records:
        l0 = record.metric(L0)
        if l0 is not None and l0 > 0.0:
            levels.setdefault(record.training.target_l0, []).append(math.log(l0))
    compared = [spec for spec in metrics if spec.compared]
    found: list[LevelRows] = []
    for l0 in sorted(math.exp(math.fsum(logs) / len(logs)) for logs in levels.values()):
        if not isinstance(_match(here, there, l0), str):
            rows = (_withheld(_row(spec, ours, theirs, l0), withheld) for spec in compared)
            found.append(LevelRows(l0=l0, rows=_table(rows, labels, primary)))
    return tuple(found)


def _notes(ours: Side, theirs: Side, metrics: Sequence[MetricSpec]) -> list[str]:
    notes = [*theirs.notes(), *(n for n in ours.notes() if n not in theirs.notes())]
    for side in (theirs, ours):
        for spec in metrics:
            n, total = len(side.entries(spec.name)), len(side.records)
            if 0 < n < total:
                notes.append(f"{side.label}: {spec.name} is missing in {total - n} of {total} records")
    return notes


def _factor_notes(found: Factors, as_a_whole: bool) -> list[str]:
    notes = []
    if found.confounded:
        then = "it is judged as a whole" if as_a_whole else "no verdict. Add a run in which one alone changes"
        notes.append(
            f"confounded: {len(found.changed)} factors differ ({', '.join(found.changed)}), so no difference can be "
            f"laid to one of them: {then}"
        )
    elif found.changed and not found.changed[0].startswith("method "):
        notes.append(f"one factor differs: {found.changed[0]}")
    if found.of_the_methods:
        notes.append(f"each method has its own {', '.join(found.of_the_methods)}")
    return notes


def _count(n: int) -> str:
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if n >= size:
            return f"{n / size:.4g} {unit}"
    return str(n)
