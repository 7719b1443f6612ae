"""A sweep as a figure: each metric at matched L0 over the values of one option, a line for each other choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..interfaces.analysis import Figure, Line, Mark, Panel
from ..interfaces.specs import MetricSpec, Option
from ..results.frontier import Window, overlap
from ..results.record import Record
from ..results.side import L0, Side, side_of
from ..results.statistics import Interval, mean_interval

MAX_METRICS = 24
MAX_LINES = 12
_LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of a sweep, for all L0s and seeds."""

    method: str
    """`method` or `method@preset`."""
    options: Mapping[str, Option]
    records: tuple[Record, ...]


def sweep_figure(
    points: Sequence[Point], metrics: Sequence[MetricSpec], *, over: str = "", named: bool = False
) -> Figure:
    """One panel a metric.

    Args:
        metrics: those to draw; unless `named`, of them the judged ones that every point has.
        over: the option on the x axis [default: the first that has several numbers].

    Raises:
        ConfigError: no option, or not that one, takes several numbers; there is nothing to draw, or too much; a named
            metric is not measured; or no L0 is common to all.
        RecordError: a point's records cannot be used.
    """
    factor = _factor(points, over)
    sides = [side_of(point.records) for point in points]
    chosen = _chosen(metrics, sides, named)
    window = overlap(curve.window for side in sides for curve in side.curves(L0).values())
    if window is None:
        raise ConfigError("No L0 is reached by every combination of this sweep: nothing can be matched.")
    values = [at for at in (_number(point, factor) for point in points) if at is not None]
    low, high = min(values), max(values)
    panels = [
        Panel(
            marks=_lines(spec, points, sides, factor, window, (low, high)),
            title=f"{spec.name}" + ("" if spec.better == "none" else f", {spec.better} is better"),
            x_label=factor,
            y_label=spec.name if spec.unit in ("", "1") else f"{spec.name} ({spec.unit})",
            x_scale="log" if low > 0 and high / low >= _LOG_FROM else "linear",
        )
        for spec in chosen
    ]
    n_seeds = max(len(side.seeds) for side in sides)
    return Figure(
        name="sweep",
        title=f"What {factor} does · {points[0].records[0].protocol.suite}",
        panels=panels,
        columns=min(3, len(panels)),
        caption=(
            f"Means over {n_seeds} seed{'' if n_seeds == 1 else 's'} at matched L0 ({window.describe()}); bands: 95 % "
            f"intervals over seeds, each by itself. Dashed: what has no {factor}, or one value of it alone."
        ),
    )


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


def _chosen(metrics: Sequence[MetricSpec], sides: Sequence[Side], named: bool) -> list[MetricSpec]:
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
    if len(found) > MAX_METRICS:
        raise ConfigError(f"{len(found)} metrics are too many for one figure (at most {MAX_METRICS}): use --metrics.")
    return found


def _lines(
    spec: MetricSpec,
    points: Sequence[Point],
    sides: Sequence[Side],
    factor: str,
    window: Window,
    reach: tuple[float, float],
) -> list[Mark]:
    """A line for each combination of the other choices; a level one where there is no choice of this option."""
    groups: dict[str, dict[float | None, Interval]] = {}
    for point, side in zip(points, sides, strict=True):
        others = [f"{name}={value}" for name, value in point.options.items() if name != factor]
        label = " ".join([point.method, *others])
        at = _number(point, factor)
        found = mean_interval([curve.mean_over(window) for curve in side.curves(spec.name).values()])
        groups.setdefault(label, {})[at] = found
    if len(groups) > MAX_LINES:
        raise ConfigError(f"{len(groups)} lines are too many for one panel (at most {MAX_LINES}): sweep fewer options.")
    return [_line(label, own, reach) for label, own in groups.items()]


def _line(label: str, own: Mapping[float | None, Interval], reach: tuple[float, float]) -> Line:
    known = sorted((at, found) for at, found in own.items() if at is not None)
    level = len(known) < 2
    if level:
        found = known[0][1] if known else own[None]
        known = [(reach[0], found), (reach[1], found)]
    bounds = [(i.mean - i.half_width, i.mean + i.half_width) for _, i in known if i.half_width is not None]
    whole = len(bounds) == len(known)
    return Line(
        label=label,
        x=[at for at, _ in known],
        y=[found.mean for _, found in known],
        low=[low for low, _ in bounds] if whole else None,
        high=[high for _, high in bounds] if whole else None,
        dashed=level,
    )
