"""Tables of single records, of one SAE's metrics, and of the controls that stand beside a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..interfaces.specs import MetricSpec, MetricValue
from ..results.frontier import Frontier, Window, covers, overlap
from ..results.record import Record
from ..results.side import L0, Side, method_label, side_of
from ..results.statistics import mean_interval
from .folding import folded
from .tables import footer, render
from .text import format_value


def records_table(
    records: Sequence[Record],
    metrics: Sequence[MetricSpec],
    fmt: str = "plain",
    *,
    chosen: bool = False,
    labels: Mapping[str, str] | None = None,
) -> str:
    """One row for each target L0 with means over seeds; `chosen` shows all of `metrics`, else the compared ones.
    `labels`: record key -> what its row is called, where the method's name does not tell them apart. A plain table that
    is too wide goes on below itself. SAEs that are worse than none are named in a note, except as csv.

    Raises:
        ConfigError: the format is unknown.
    """
    names = [m.name for m in metrics if chosen or (m.compared and m.better != "none")]
    names = [n for n in names if any(n in r.metrics for r in records)]
    levels: dict[tuple[str, int | None], list[Record]] = {}
    for record in records:
        label = (labels or {}).get(record.key, method_label(record))
        levels.setdefault((label, record.training.target_l0), []).append(record)
    rows = []
    for (label, target), group in levels.items():
        seeds = len({r.training.seed for r in group})
        cells = [_over_seeds([r.metrics[n].value for r in group if n in r.metrics]) for n in ["l0", *names]]
        missed = sum(r.training.l0_reached is False for r in group)
        reached = "-" if group[0].training.l0_reached is None else f"{seeds - missed} of {seeds}"
        seconds = [r.training.wall_seconds for r in group if r.training.wall_seconds is not None]
        steps = f"{sum(seconds) / len(seconds):.1f}" if seconds else "-"
        rows.append([label, "-" if target is None else str(target), reached, *cells, str(seeds), steps])
    headers = ["method", "target L0", "reached", "l0", *names, "seeds", "training s"]
    table = folded(rows, headers, keys=2) if fmt == "plain" else render(rows, headers, fmt)
    note = "" if fmt == "csv" else poor_note(records, labels)
    return f"{table}\n\n{footer([note], fmt)}" if note else table


def poor_note(records: Sequence[Record], labels: Mapping[str, str] | None = None) -> str:
    """Which SAEs leave more of the variance unexplained than the mean of the data does; empty where none do."""
    found: dict[str, list[str]] = {}
    for record in records:
        fvu = record.metrics.get("fvu")
        if fvu is not None and not (math.isfinite(fvu.value) and fvu.value <= 1.0):
            label = (labels or {}).get(record.key, method_label(record))
            at = "" if record.training.target_l0 is None else f" at L0 {record.training.target_l0}"
            found.setdefault(f"{label}{at}", []).append(f"{fvu.value:.3g} of seed {record.training.seed}")
    told = "; ".join(f"{where} (fvu {', '.join(values)})" for where, values in found.items())
    return f"Worse than predicting the mean: {told}." if told else ""


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    interval = mean_interval(values)
    return format_value(interval.mean, interval.half_width)


def outcomes_table(
    values: Mapping[str, MetricValue],
    metrics: Sequence[MetricSpec],
    fmt: str = "plain",
    *,
    units: Mapping[str, str] | None = None,
) -> str:
    """One SAE's metrics: value, standard error over evaluation units, how many of which, and how to read it. `units`:
    metric -> what its `n` counts.

    Raises:
        ConfigError: the format is unknown.
    """
    rows = []
    for metric in metrics:
        if metric.name in values:
            found = values[metric.name]
            error = "-" if found.stderr is None else f"{found.stderr:.2g}"
            better = "-" if metric.better == "none" else metric.better
            unit = (units or {}).get(metric.name, "-")
            rows.append([metric.name, f"{found.value:.5g}", error, str(found.n), unit, better, f"v{metric.version}"])
    return render(rows, ["metric", "value", "stderr", "n", "of", "better", "version"], fmt)


def controls_table(
    window: Window | None,
    controls: Mapping[str, Sequence[Record]],
    metrics: Sequence[MetricSpec],
    fmt: str = "plain",
) -> str:
    """What the controls score over the stretch of L0 of a comparison; one that does not reach it (`identity`, whose L0
    cannot be set) at its own. The stretch stands in each column's head.

    Raises:
        ConfigError: the format is unknown.
    """
    judged = [m.name for m in metrics if m.compared and m.better != "none"]
    sides = {name: side_of(records, name) for name, records in controls.items()}
    stretches = {name: _stretch(side, window) for name, side in sides.items()}
    rows = []
    for metric in judged:
        cells = [_over(side.curves(metric), stretches[name]) for name, side in sides.items()]
        if any(cell != "-" for cell in cells):
            rows.append([metric, *cells])
    headers = [name if (at := stretches[name]) is None else f"{name} (L0 {at.describe()})" for name in sides]
    return render(rows, ["control", *headers], fmt)


def _stretch(side: Side, window: Window | None) -> Window | None:
    """`window` where all seeds of the side cover it, else the stretch they have in common."""
    own = overlap(curve.window for curve in side.curves(L0).values())
    if own is not None and window is not None and covers(own, window.low) and covers(own, window.high):
        return window
    return own


def _over(curves: Mapping[int, Frontier], stretch: Window | None) -> str:
    if not curves or stretch is None:
        return "-"
    interval = mean_interval([curve.mean_over(stretch) for curve in curves.values()])
    return format_value(interval.mean, interval.half_width)
