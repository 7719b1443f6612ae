"""A sweep as a figure: how far each combination lies from the sweep's baseline at matched L0, over one option."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from typing import NamedTuple

from ..errors import ConfigError
from ..interfaces.analysis import Figure, Line, Panel, Scale
from ..interfaces.specs import MetricSpec, Option
from ..results.frontier import Window, overlap
from ..results.record import Record
from ..results.side import L0, Side, side_of
from ..results.statistics import CONFIDENCE, difference, mean_interval, t_critical
from .frontier_figure import bounds_apart

MAX_METRICS = 24
MAX_LINES = 12
_LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""
_TOO_NEAR = 0.06
"""Share of the axis below which two values would have one place: all are then drawn at equal distances."""
_FEW_SEEDS = 3
"""Below so many, Student's t is so large that the caption says it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of a sweep, for all L0s and seeds."""

    method: str
    """`method` or `method@preset`."""
    options: Mapping[str, Option]
    records: tuple[Record, ...]


class _Estimate(NamedTuple):
    """Of one combination and metric; the interval is None with one seed."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where the option's values stand."""

    label: str
    scale: Scale
    places: Mapping[float, float]
    """Value -> place."""

    @property
    def ticks(self) -> dict[float, str]:
        return {place: f"{value:g}" for value, place in self.places.items()}


def sweep_figure(
    points: Sequence[Point],
    metrics: Sequence[MetricSpec],
    *,
    over: str = "",
    named: bool = False,
    primary: Collection[str] = (),
) -> Figure:
    """One panel a metric: differences from the baseline, which is the first combination without options that is no
    control; where the sweep has none, values.

    Args:
        metrics: those to draw; unless `named`, of them the judged ones that every point has, and of these the
            `primary` ones where there are any.
        over: the option on the x axis [default: the first that has several numbers].

    Raises:
        ConfigError: no option, or not that one, takes several numbers; there is nothing to draw, or too much; a named
            metric is not measured; or no L0 is common to all.
        RecordError: a point's records cannot be used.
    """
    factor = _factor(points, over)
    sides = [side_of(point.records) for point in points]
    chosen, left_out = _chosen(metrics, sides, named, primary)
    window = overlap(curve.window for side in sides for curve in side.curves(L0).values())
    if window is None:
        raise ConfigError("No L0 is reached by every combination of this sweep: nothing can be matched.")
    axis = _axis(factor, {at for at in (_number(point, factor) for point in points) if at is not None})
    base = _baseline(points, sides)
    panels = [_panel(spec, points, sides, base, axis, factor, window) for spec in chosen]
    level = any(_number(point, factor) is None for n, point in enumerate(points) if n != base)
    return Figure(
        name="sweep",
        title=f"What {factor} does · {points[0].records[0].protocol.suite}",
        panels=panels,
        columns=min(3, len(panels)),
        caption=" ".join(
            (
                _what(points, sides, base, window),
                _how_sure(sides),
                *([f"Dashed lines: what has no {factor}."] if level else []),
                *([_others(left_out)] if left_out else []),
            )
        ),
        shared_legend=True,
    )


def _what(points: Sequence[Point], sides: Sequence[Side], base: int | None, window: Window) -> str:
    where = f"at matched L0 ({window.describe()})"
    if base is None:
        return f"Means over seeds {where}; this sweep has no combination without options to take differences from."
    paired = len({side.seeds for side in sides}) == 1 and len(sides[base].seeds) > 1
    how = ", paired by seed" if paired else ""
    return f"Differences from {points[base].method} {where}{how}; the dashed line at 0 is {points[base].method}."


def _how_sure(sides: Sequence[Side]) -> str:
    """How many seeds, what the bars are, and what is not said."""
    counts = sorted({len(side.seeds) for side in sides})
    fewest = counts[0]
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{fewest} seed{'' if fewest == 1 else 's'}"
    if counts[-1] == 1:
        return "1 seed: no intervals, and no verdict."
    wide = ""
    if 1 < fewest < _FEW_SEEDS:
        wide = f"; of {fewest} seeds they are wide, t being {t_critical(CONFIDENCE, fewest - 1):.1f}"
    return (
        f"{seeds}; bars: 95 % t-intervals over them, each by itself and uncorrected for how many are drawn{wide}. "
        "No verdict is given: `sae-harness compare` gives one."
    )


def _others(names: Sequence[str]) -> str:
    return f"Drawn are the primary metrics; --metrics draws others, of which {len(names)} are measured."


def _number(point: Point, factor: str) -> float | None:
    """The option's value; None where it is no number, or not chosen."""
    value = point.options.get(factor)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _factor(points: Sequence[Point], over: str) -> str:
    """The option on the x axis."""
    names = dict.fromkeys(name for point in points for name in point.options)
    several = [name for name in names if len({_number(point, name) for point in points} - {None}) > 1]
    if over and over not in several:
        told = ", ".join(several) or "none"
        raise ConfigError(f"{over!r} takes no several numbers in this sweep; those that do: {told}.")
    if not several:
        raise ConfigError("No option of this sweep takes several numbers: there is no axis to draw it over.")
    return over or several[0]


def _baseline(points: Sequence[Point], sides: Sequence[Side]) -> int | None:
    """Which combination the others are held against."""
    plain = (n for n, (p, s) in enumerate(zip(points, sides, strict=True)) if not (p.options or s.control or s.faulty))
    return next(plain, None)


def _axis(factor: str, values: Collection[float]) -> _Axis:
    """Linear or logarithmic; by rank where two values would fall together on it."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    scale: Scale = "log" if low > 0 and high / low >= _LOG_FROM else "linear"
    spots = [log10(value) for value in ordered] if scale == "log" else ordered
    if min(b - a for a, b in pairwise(spots)) < _TOO_NEAR * (spots[-1] - spots[0]):
        return _Axis(f"{factor} (at equal distances)", "linear", {v: float(n) for n, v in enumerate(ordered)})
    return _Axis(factor, scale, {value: value for value in ordered})


def _chosen(
    metrics: Sequence[MetricSpec], sides: Sequence[Side], named: bool, primary: Collection[str]
) -> tuple[list[MetricSpec], list[str]]:
    """The metrics to draw, and the names of those that could be drawn as well."""
    wanted = [spec for spec in metrics if spec.name != L0]
    if not named:
        wanted = [spec for spec in wanted if spec.compared and spec.better != "none"]
    found = []
    for spec in wanted:
        without = [side for side in sides if not side.curves(spec.name)]
        if not without:
            found.append(spec)
        elif named:
            raise ConfigError(f"{spec.name} cannot be drawn: {without[0].missing(spec.name)}.")
    if not found:
        raise ConfigError("There is no metric to draw that all combinations have: name some with --metrics.")
    first = [] if named else [spec for spec in found if spec.name in primary]
    left_out = [spec.name for spec in found if spec not in first] if first else []
    found = first or found
    if len(found) > MAX_METRICS:
        raise ConfigError(f"{len(found)} metrics are too many for one figure (at most {MAX_METRICS}): use --metrics.")
    return found, left_out


def _panel(
    spec: MetricSpec,
    points: Sequence[Point],
    sides: Sequence[Side],
    base: int | None,
    axis: _Axis,
    factor: str,
    window: Window,
) -> Panel:
    """A line for each combination of the other choices; a level one where there is no choice of this option."""
    theirs = None if base is None else sides[base]
    groups: dict[str, dict[float | None, _Estimate]] = {}
    for n, (point, side) in enumerate(zip(points, sides, strict=True)):
        if n != base:
            others = [f"{name}={value}" for name, value in point.options.items() if name != factor]
            label = " ".join([point.method, *others])
            groups.setdefault(label, {})[_number(point, factor)] = _estimate(spec, side, theirs, window)
    if len(groups) > MAX_LINES:
        raise ConfigError(f"{len(groups)} lines are too many for one panel (at most {MAX_LINES}): sweep fewer options.")
    unit = "" if spec.unit in ("", "1") else f" ({spec.unit})"
    return Panel(
        marks=[_line(label, own, axis, colour) for colour, (label, own) in enumerate(groups.items())],
        title=spec.name + ("" if spec.better == "none" else f", {spec.better} is better"),
        x_label=axis.label,
        y_label=f"mean{unit}" if base is None else f"difference from {points[base].method}{unit}",
        x_scale=axis.scale,
        x_ticks=axis.ticks,
        y_bounds=spec.bounds if base is None else bounds_apart(spec),
        y_reference=None if base is None else 0.0,
    )


def _estimate(spec: MetricSpec, side: Side, theirs: Side | None, window: Window) -> _Estimate:
    own = {seed: curve.mean_over(window) for seed, curve in side.curves(spec.name).items()}
    if theirs is None:
        found = mean_interval(list(own.values()))
        half = found.half_width
        return _Estimate(found.mean, *((None, None) if half is None else (found.mean - half, found.mean + half)))
    apart = difference(own, {seed: curve.mean_over(window) for seed, curve in theirs.curves(spec.name).items()})
    return _Estimate(apart.estimate, apart.low, apart.high)


def _line(label: str, own: Mapping[float | None, _Estimate], axis: _Axis, colour: int) -> Line:
    """Over the option's values; level, with its interval once, for what has none."""
    known = sorted((axis.places[at], found) for at, found in own.items() if at is not None)
    if not known:
        found = own[None]
        places = list(axis.places.values())
        return Line(
            label=label,
            x=[places[0], places[-1]],
            y=[found.value] * 2,
            low=[found.low, None],
            high=[found.high, None],
            colour=colour,
            dashed=True,
            bars=True,
        )
    return Line(
        label=label,
        x=[at for at, _ in known],
        y=[found.value for _, found in known],
        low=[found.low for _, found in known],
        high=[found.high for _, found in known],
        colour=colour,
        bars=True,
    )
