"""The marks of a panel, drawn on matplotlib's axes, which figures.py has made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..interfaces.analysis import Bars, Dendrogram, Graph, HeatMap, Histogram, Line, Panel, Scatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
"""Those of Okabe and Ito, told apart by the colour-blind too; their yellow is darkened to be seen on white."""
GREY = "#777777"
DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MAX_LABELS = 24
"""Tick labels of one axis that still can be read."""
_APART, _WIDEST = 7.0, 56.0
"""Points between the error bars of two lines, and over those of all lines at one place, at most."""


def draw_marks(canvas: Any, axis: Any, panel: Panel) -> None:
    """All marks of a panel, in order."""
    n_bars = sum(isinstance(mark, Bars) for mark in panel.marks)
    barred = [number for number, mark in enumerate(panel.marks) if isinstance(mark, Line) and mark.bars]
    bar = 0
    for number, mark in enumerate(panel.marks):
        own = getattr(mark, "colour", None)
        colour = COLOURS[(number if own is None else own) % len(COLOURS)]
        if isinstance(mark, Bars):
            _draw_bars(axis, mark, colour, bar, n_bars)
            bar += 1
        elif isinstance(mark, Line):
            n_dashed = sum(isinstance(m, Line) and m.dashed for m in panel.marks[:number])
            if mark.bars:
                _draw_barred(axis, mark, colour, n_dashed, _aside(barred.index(number), len(barred)))
            else:
                _draw_line(axis, mark, colour, n_dashed)
        elif isinstance(mark, Histogram):
            axis.stairs(mark.counts, mark.edges, color=colour, linewidth=1.5, label=mark.label or None)
        elif isinstance(mark, Scatter):
            _draw_scatter(canvas, axis, mark, colour)
        elif isinstance(mark, HeatMap):
            _draw_heat_map(canvas, axis, mark)
        elif isinstance(mark, Dendrogram):
            _draw_dendrogram(axis, mark)
        else:
            _draw_graph(axis, mark)


def _aside(number: int, n: int) -> float:
    """Points to the right of its place at which the `number`-th of `n` lines is drawn."""
    return (number - (n - 1) / 2) * min(_APART, _WIDEST / n)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _draw_line(axis: Any, mark: Line, colour: str, n_dashed: int) -> None:
    style = DASHES[n_dashed % len(DASHES)] if mark.dashed else "-"
    marker = "o" if len(mark.x) <= 40 and not mark.dashed else None
    y = _floats(mark.y)
    axis.plot(mark.x, y, color=colour, linestyle=style, marker=marker, markersize=3, label=mark.label or None)
    if mark.low is not None and mark.high is not None:
        axis.fill_between(mark.x, _floats(mark.low), _floats(mark.high), color=colour, alpha=0.18, linewidth=0)


def _draw_barred(axis: Any, mark: Line, colour: str, n_dashed: int, aside: float) -> None:
    """A line whose points have error bars, drawn `aside` points (1/72 inch) to the right of its places."""
    from matplotlib.transforms import ScaledTranslation

    moved = axis.transData + ScaledTranslation(aside / 72, 0, axis.figure.dpi_scale_trans)
    style = DASHES[n_dashed % len(DASHES)] if mark.dashed else "-"
    y = _floats(mark.y)
    # Not clipped: half of a marker on the edge of the axes would be lost.
    axis.plot(
        mark.x,
        y,
        color=colour,
        linestyle=style,
        linewidth=1.0,
        marker="o",
        markersize=4,
        label=mark.label or None,
        transform=moved,
        clip_on=False,
        zorder=3,
    )
    ends = [y]
    if mark.low is not None and mark.high is not None:
        low, high = _floats(mark.low), _floats(mark.high)
        ends += [low, high]
        reach = np.stack([y - low, high - y]).clip(min=0)
        axis.errorbar(mark.x, y, yerr=reach, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5, transform=moved)
    # matplotlib does not see through the shift where the data end.
    places = np.column_stack([np.tile(np.asarray(mark.x, dtype=float), len(ends)), np.concatenate(ends)])
    axis.update_datalim(places[np.isfinite(places).all(1)])
    axis.autoscale_view()


def _draw_bars(axis: Any, mark: Bars, colour: str, number: int, n_bars: int) -> None:
    width = 0.8 / n_bars
    places = np.arange(len(mark.categories)) + (number - (n_bars - 1) / 2) * width
    errors = None if mark.errors is None else _floats(mark.errors)  # NaN: no bar, where 0 would have caps
    axis.bar(
        places,
        _floats(mark.heights),
        width * 0.92,
        yerr=errors,
        color=colour,
        label=mark.label or None,
        error_kw={"elinewidth": 1.0, "capsize": 2.5, "ecolor": "#333333"},
    )
    step = max(1, math.ceil(len(mark.categories) / MAX_LABELS))
    axis.set_xticks(range(0, len(mark.categories), step), list(mark.categories)[::step])
    crowded = sum(map(len, mark.categories[::step])) > 60
    axis.tick_params(axis="x", length=0, labelrotation=35 if crowded else 0)
    axis.grid(visible=False, axis="x")


def _draw_scatter(canvas: Any, axis: Any, mark: Scatter, colour: str) -> None:
    size = 14 if len(mark.x) < 400 else 5
    alpha = 0.8 if len(mark.x) < 400 else 0.45
    if mark.errors is not None:
        errors = np.nan_to_num(_floats(mark.errors))
        axis.errorbar(mark.x, mark.y, yerr=errors, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)
    if mark.colours is None:
        axis.scatter(mark.x, mark.y, s=size, color=colour, alpha=alpha, linewidths=0, label=mark.label or None)
        return
    drawn = axis.scatter(mark.x, mark.y, s=size, c=mark.colours, cmap="cividis", alpha=alpha, linewidths=0)
    canvas.colorbar(drawn, ax=axis, label=mark.colour_label, pad=0.02)


def _draw_heat_map(canvas: Any, axis: Any, mark: HeatMap) -> None:
    values = np.array([_floats(row) for row in mark.rows])
    limit = float(np.nanmax(np.abs(values))) if mark.diverging and values.size else None
    drawn = axis.imshow(
        values,
        aspect="auto",
        interpolation="nearest",
        cmap="PuOr" if mark.diverging else "cividis",
        vmin=None if limit is None else -limit,
        vmax=limit,
    )
    for ticks, set_ticks in ((mark.x_ticks, axis.set_xticks), (mark.y_ticks, axis.set_yticks)):
        if ticks:
            set_ticks(list(ticks), list(ticks.values()))
    axis.grid(visible=False)
    canvas.colorbar(drawn, ax=axis, label=mark.colour_label, pad=0.02)


def _draw_dendrogram(axis: Any, mark: Dendrogram) -> None:
    from matplotlib.collections import LineCollection

    n = len(mark.merges) + 1
    place = {leaf: float(number) for number, leaf in enumerate(leaf_order(mark))}
    height = dict.fromkeys(range(n), 0.0)
    colour = _cluster_colours(mark)
    strokes, colours = [], []
    for number, (a, b, at) in enumerate(mark.merges):
        strokes.append([(place[a], height[a]), (place[a], at), (place[b], at), (place[b], height[b])])
        colours.append(colour.get(n + number, GREY))
        place[n + number], height[n + number] = (place[a] + place[b]) / 2, at
    axis.add_collection(LineCollection(strokes, colors=colours, linewidths=0.9 if n < 200 else 0.5))
    axis.set_xlim(-0.5, n - 0.5)
    axis.set_ylim(0, 1.05 * max((at for *_, at in mark.merges), default=1.0) or 1.0)
    if mark.threshold is not None:
        axis.axhline(mark.threshold, color=GREY, linewidth=0.9, linestyle=DASHES[0])
    axis.set_xticks([])
    axis.grid(visible=False, axis="x")


def leaf_order(tree: Dendrogram) -> list[int]:
    """The leaves from left to right, as the tree is drawn."""
    n = len(tree.merges) + 1
    order, stack = [], [2 * n - 2]
    while stack:
        node = stack.pop()
        if node < n:
            order.append(node)
        else:
            a, b, _ = tree.merges[node - n]
            stack += [b, a]
    return order


def _cluster_colours(tree: Dendrogram) -> dict[int, str]:
    """Merge (as a cluster's number) -> its colour; those at or above the threshold have none."""
    n, threshold = len(tree.merges) + 1, tree.threshold
    if threshold is None:
        return {n + number: COLOURS[0] for number in range(n - 1)}
    found: dict[int, str] = {}
    roots, stack = [], [2 * n - 2]
    while stack:
        node = stack.pop()
        if node < n or tree.merges[node - n][2] < threshold:
            roots.append(node)
        else:
            a, b, _ = tree.merges[node - n]
            stack += [b, a]
    for number, root in enumerate(roots):
        inner = [root]
        while inner:
            node = inner.pop()
            if node >= n:
                found[node] = COLOURS[number % len(COLOURS)]
                inner += tree.merges[node - n][:2]
    return found


def _draw_graph(axis: Any, mark: Graph) -> None:
    from matplotlib.collections import LineCollection

    places = spring_layout(len(mark.nodes), mark.edges)
    if mark.edges:
        weights = np.array([weight for *_, weight in mark.edges])
        widths = 0.4 + 2.2 * weights / weights.max()
        strokes = [[places[a], places[b]] for a, b, _ in mark.edges]
        axis.add_collection(LineCollection(strokes, colors="#AAAAAA", linewidths=widths, alpha=0.7, zorder=1))
    sizes = np.asarray(mark.sizes if mark.sizes is not None else np.ones(len(mark.nodes)), dtype=float)
    area = 20 + 160 * sizes / max(float(sizes.max(initial=0.0)), 1e-12)
    groups = mark.groups if mark.groups is not None else [0] * len(mark.nodes)
    axis.scatter(*places.T, s=area, c=[COLOURS[group % len(COLOURS)] for group in groups], zorder=2, linewidths=0)
    for label, (x, y) in zip(mark.nodes, places, strict=True):
        if label:
            axis.annotate(label, (x, y), fontsize=7.5, xytext=(4, 3), textcoords="offset points")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


def spring_layout(n: int, edges: Sequence[tuple[int, int, float]], *, n_steps: int = 200) -> np.ndarray:
    """[n, 2]: places by Fruchterman and Reingold (1991), from a fixed spiral: equal graphs get equal places."""
    turn = np.arange(n) * math.pi * (3 - math.sqrt(5))
    places = np.sqrt((np.arange(n) + 0.5) / max(n, 1))[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    pull = np.zeros((n, n))
    top = max((weight for *_, weight in edges), default=1.0)
    for a, b, weight in edges:
        pull[a, b] = pull[b, a] = 0.3 + 0.7 * weight / top
    spacing = math.sqrt(2.0 / max(n, 1))
    for step in range(n_steps):
        between = places[:, None] - places[None]
        distance = np.maximum(np.linalg.norm(between, axis=2), 1e-3)
        force = spacing**2 / distance**2 - pull * distance / spacing
        moved = (between * force[..., None]).sum(1) - 0.5 * places
        length = np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
        places = places + moved / length * np.minimum(length, 0.15 * (1 - step / n_steps))
    return places
