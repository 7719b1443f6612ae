"""Methods' frontiers as a figure: each metric over measured L0, and how far each candidate lies from the baseline."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..interfaces.analysis import Bars, Figure, Line, Mark, Panel, Scatter
from ..interfaces.specs import MetricSpec
from ..results.comparison import Comparison, ComparisonRow
from ..results.frontier import TOLERANCE, Frontier, Window, overlap
from ..results.record import Record
from ..results.side import L0, Side, side_of
from ..results.statistics import difference, mean_interval
from .text import format_difference

MAX_METRICS = 24
_FEW = 3
"""Metrics up to which each has a row of the figure to itself."""
_MAX_TICKS = 8


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A side and its place in the palette."""

    side: Side
    colour: int

    @property
    def label(self) -> str:
        return self.side.label


def frontier_figure(
    candidates: Sequence[Sequence[Record]],
    baseline: Sequence[Record],
    metrics: Sequence[MetricSpec],
    comparisons: Sequence[Comparison],
    *,
    named: bool = False,
    allow_tainted: bool = False,
    commands: Mapping[str, str] | None = None,
) -> Figure:
    """Two panels a metric: the values of all sides over measured L0, and candidate minus baseline at equal L0.

    Args:
        metrics: those to draw; unless `named`, of them the judged ones that every side has, and of these the primary
            ones of the comparisons where there are any.
        comparisons: of each candidate with the baseline on these metrics, in the same order.
        commands: metric -> the command that measures it, for the error's mend.

    Raises:
        ConfigError: there is nothing to draw, or too much; a named metric is not measured; or the protocols differ.
        RecordError: a side's records cannot be used.
    """
    for comparison in comparisons:
        if comparison.differences:
            told = "; ".join(d.describe() for d in comparison.differences)
            raise ConfigError(f"No figure of two protocols is drawn: {comparison.candidate} differs in {told}.")
    theirs = _Drawn(side_of(baseline, allow_tainted=allow_tainted), 0)
    ours = [
        _Drawn(side_of(records, allow_tainted=allow_tainted), number)
        for number, records in enumerate(candidates, start=1)
    ]
    told = set.intersection(*({row.metric for row in c.rows} for c in comparisons))
    primary = {row.metric for c in comparisons for row in c.rows if row.primary}
    chosen, left_out = _chosen([m for m in metrics if m.name in told], [theirs, *ours], named, commands or {}, primary)
    panels: list[Panel] = []
    for spec in chosen:
        rows = [next(row for row in c.rows if row.metric == spec.name) for c in comparisons]
        panels += [_frontier(spec, [theirs, *ours], rows), _difference(spec, theirs, ours, rows)]
    return Figure(
        name="frontier",
        title=f"{_listed([d.label for d in ours])} beside {theirs.label} · {baseline[0].protocol.suite}",
        panels=panels,
        columns=2 if len(chosen) <= _FEW else 4,
        caption=_caption(theirs, ours, comparisons[0].at_l0, left_out),
    )


def _chosen(
    metrics: Sequence[MetricSpec],
    sides: Sequence[_Drawn],
    named: bool,
    commands: Mapping[str, str],
    primary: Collection[str],
) -> tuple[list[MetricSpec], int]:
    """The metrics to draw, and how many could be drawn as well."""
    wanted = [spec for spec in metrics if spec.name != L0]
    if not named:
        wanted = [spec for spec in wanted if spec.compared and spec.better != "none"]
    lacking = {spec.name: [d for d in sides if not d.side.curves(spec.name)] for spec in wanted}
    found = [spec for spec in wanted if not lacking[spec.name]]
    if named and len(found) < len(wanted):
        name = next(spec.name for spec in wanted if lacking[spec.name])
        told = "; ".join(dict.fromkeys(d.side.missing(name) for d in lacking[name]))
        mend = f" Measure it with: {commands[name]}" if name in commands else ""
        raise ConfigError(f"{name} cannot be drawn ({told}).{mend}")
    if not found:
        raise ConfigError("There is no metric to draw that all sides have: name some with --metrics.")
    first = [] if named else [spec for spec in found if spec.name in primary]
    left_out = len(found) - len(first) if first else 0
    found = first or found
    if len(found) > MAX_METRICS:
        raise ConfigError(f"{len(found)} metrics are too many for one figure (at most {MAX_METRICS}): use --metrics.")
    return found, left_out


def _frontier(spec: MetricSpec, sides: Sequence[_Drawn], rows: Sequence[ComparisonRow]) -> Panel:
    """All sides' points and the mean of each over its seeds."""
    unit = "" if spec.unit in ("", "1") else f" ({spec.unit})"
    better = "" if spec.better == "none" else f", {spec.better} is better"
    title = f"{spec.name}{better}"
    windows = [overlap(f.window for f in d.side.curves(spec.name).values()) for d in sides]
    if all(window is not None and _is_point(window) for window in windows):
        return Panel(
            marks=[_bar(spec, drawn) for drawn in sides],
            title=f"{title}, at L0 {next(w for w in windows if w is not None).describe()}",
            x_label="method",
            y_label=f"mean over seeds{unit}",
        )
    marks: list[Mark] = []
    for drawn, window in zip(sides, windows, strict=True):
        marks.append(_points(spec, drawn, label=window is None))
        if window is not None:
            marks.append(_mean(spec, drawn, window))
    return Panel(
        marks=marks,
        title=title,
        x_label="measured L0 (latents per token)",
        y_label=f"value{unit}",
        x_scale="log",
        x_ticks=_trained(sides),
        y_bounds=spec.bounds,
        x_stretch=_matched(rows),
    )


def _trained(sides: Sequence[_Drawn]) -> dict[float, str]:
    """Ticks at the L0s that the suite's grid asked for; none where they are too many, or not where the SAEs lie."""
    records = [record for drawn in sides for record in drawn.side.records]
    targets = sorted({record.training.target_l0 for record in records if record.training.target_l0 is not None})
    measured = [l0 for record in records if (l0 := record.metric(L0)) is not None and l0 > 0]
    if not measured or len(targets) > _MAX_TICKS:
        return {}
    near = [l0 for l0 in targets if min(measured) / 1.1 <= l0 <= max(measured) * 1.1]
    return {float(l0): str(l0) for l0 in near} if len(near) > 1 else {}


def _matched(rows: Sequence[ComparisonRow]) -> tuple[float, float] | None:
    """The stretch that all candidates are compared on; None where there is none, or it is a single L0."""
    window = overlap(Window(r.l0_low or math.inf, r.l0_high or 0.0) for r in rows)
    return None if window is None or _is_point(window) else (window.low, window.high)


def _is_point(window: Window) -> bool:
    return window.high / window.low <= 1.0 + TOLERANCE


def _points(spec: MetricSpec, drawn: _Drawn, *, label: bool) -> Scatter:
    """One point an SAE, with its standard error over held-out units."""
    usable = {id(entry) for entry in drawn.side.entries(spec.name)}
    found: list[tuple[float, float, float | None]] = []
    for record in drawn.side.records:
        l0, entry = record.metric(L0), record.metrics.get(spec.name)
        if entry is not None and id(entry) in usable and l0 is not None and l0 > 0.0:
            found.append((l0, entry.value, entry.stderr))
    return Scatter(
        label=drawn.label if label else "",
        x=[l0 for l0, *_ in found],
        y=[value for _, value, _ in found],
        errors=[error for *_, error in found],
        colour=drawn.colour,
    )


def _mean(spec: MetricSpec, drawn: _Drawn, window: Window) -> Line:
    """The mean over seeds at equal L0, with its 95 % interval."""
    curves = drawn.side.curves(spec.name).values()
    at = _grid(curves, window)
    found = [mean_interval([curve.at(x) for curve in curves]) for x in at]
    bands = [(i.mean - i.half_width, i.mean + i.half_width) for i in found if i.half_width is not None]
    return Line(
        label=f"{drawn.label} ({len(curves)} seed{'' if len(curves) == 1 else 's'})",
        x=[math.exp(x) for x in at],
        y=[i.mean for i in found],
        low=[low for low, _ in bands] if bands else None,
        high=[high for _, high in bands] if bands else None,
        colour=drawn.colour,
    )


def _grid(curves: Iterable[Frontier], window: Window) -> list[float]:
    """Log L0s in the window at which a curve has a point, and its ends.

    Between two points a value is a mean of both: an interval there would be narrow by arithmetic alone.
    """
    low, high = math.log(window.low), math.log(window.high)
    return sorted({low, *(p.log_l0 for curve in curves for p in curve.points if low < p.log_l0 < high), high})


def _bar(spec: MetricSpec, drawn: _Drawn) -> Bars:
    found = mean_interval([_middle(curve) for curve in drawn.side.curves(spec.name).values()])
    return Bars(label=drawn.label, categories=[spec.name], heights=[found.mean], errors=[found.half_width])


def _middle(curve: Frontier) -> float:
    return curve.at(0.5 * (curve.points[0].log_l0 + curve.points[-1].log_l0))


def _difference(spec: MetricSpec, theirs: _Drawn, ours: Sequence[_Drawn], rows: Sequence[ComparisonRow]) -> Panel:
    """Candidate minus baseline at each L0 that all seeds of both reach, with the verdict over the whole stretch."""
    one = len(ours) == 1
    marks: list[Mark] = []
    for drawn, row in zip(ours, rows, strict=True):
        label = "" if one else f"{drawn.label}: {row.verdict}"
        marks.append(_apart(spec, theirs, drawn, label, comparable=row.verdict != "not comparable"))
    title = f"{spec.name}: difference from {theirs.label}"
    if one:
        title = f"{spec.name}: {_told(rows[0])}"
    single = all(isinstance(mark, Bars) for mark in marks)
    return Panel(
        marks=marks,
        title=title,
        x_label="" if single else "measured L0 (latents per token)",
        y_label=f"difference from {theirs.label}",
        x_scale="linear" if single else "log",
        x_ticks={} if single else _trained([theirs, *ours]),
        y_bounds=bounds_apart(spec),
        y_reference=0.0,
        x_stretch=_matched(rows),
    )


def bounds_apart(spec: MetricSpec) -> tuple[float | None, float | None]:
    """Of the difference of two values of a metric."""
    low, high = spec.bounds
    return (None, None) if low is None or high is None else (low - high, high - low)


def _told(row: ComparisonRow) -> str:
    if row.difference is None:
        return f"{row.verdict} ({row.reason})"
    return f"{row.verdict}, {format_difference(row.difference, row.low, row.high)}"


def _apart(spec: MetricSpec, theirs: _Drawn, ours: _Drawn, label: str, *, comparable: bool) -> Line | Bars:
    """The difference of one candidate; an empty line where no L0 is reached by all seeds of both."""
    a, b = ours.side.curves(spec.name), theirs.side.curves(spec.name)
    window = overlap(curve.window for curve in (*a.values(), *b.values())) if a and b and comparable else None
    if window is None:
        return Line(label=label, x=[], y=[], colour=ours.colour)
    if _is_point(window):
        at = 0.5 * (math.log(window.low) + math.log(window.high))
        found = difference({s: c.at(at) for s, c in a.items()}, {s: c.at(at) for s, c in b.items()})
        return Bars(label=label, categories=[ours.label], heights=[found.estimate], errors=[found.smallest_detectable])
    grid = _grid([*a.values(), *b.values()], window)
    each = [difference({s: c.at(x) for s, c in a.items()}, {s: c.at(x) for s, c in b.items()}) for x in grid]
    bounded = all(d.low is not None for d in each)
    return Line(
        label=label,
        x=[math.exp(x) for x in grid],
        y=[d.estimate for d in each],
        low=[d.low for d in each] if bounded else None,
        high=[d.high for d in each] if bounded else None,
        colour=ours.colour,
    )


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _caption(theirs: _Drawn, ours: Sequence[_Drawn], at_l0: float | None, left_out: int) -> str:
    seeds = {drawn.side.seeds for drawn in (theirs, *ours)}
    how = "paired by seed" if len(seeds) == 1 and len(theirs.side.seeds) > 1 else "of independent seeds"
    where = "over the shaded stretch, where all are compared" if at_l0 is None else f"at L0 {at_l0:.4g}"
    told = "their titles give" if len(ours) == 1 else "their legends give"
    more = (
        f" Drawn are the primary metrics (* in the table); --metrics NAME,... draws others, of which {left_out} are "
        "judged."
    )
    return (
        "Points: one SAE each, with its standard error over held-out units (documents, letters, ...) where it was "
        "measured. Lines: means over seeds, read off at equal measured L0, never beyond it; bands: 95 % intervals over "
        f"seeds, at each trained L0 by itself, uncorrected. Differences are candidate minus {theirs.label}, {how}; "
        f"{told} the verdict {where}, after the table's correction for several metrics. "
        f"What the held-out data add to the noise is common to all sides and in no band.{more if left_out else ''}"
    )
