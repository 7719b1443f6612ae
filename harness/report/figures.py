"""Descriptions of figures to PNG and SVG. The only file that knows matplotlib, which is imported when it is needed.

Equal descriptions give equal files: the user's matplotlib settings do not count, SVG ids are salted with a constant,
and neither date nor version is written into them.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..interfaces.analysis import Bars, Dendrogram, Figure, Graph, HeatMap, Histogram, Line, Panel, Scatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
"""Those of Okabe and Ito, told apart by the colour-blind too; their yellow is darkened to be seen on white."""
GREY = "#777777"
SHADE = "#F1F1EC"
DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
DPI = 150
PANEL_INCHES = (5.6, 3.7)
FORMATS = (".png", ".svg")
MAX_LABELS = 24
"""Tick labels of one axis that still can be read."""

_TITLE_CHARACTERS = 56
_MANY_DECADES, _SMALL = 300.0, 1e-3

_CLIP_ID = re.compile(r"(url\(#|id=\")(p[0-9a-f]{10})\b")

_RC = {
    "svg.hashsalt": "sae-harness",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def require_matplotlib() -> None:
    """Raises ConfigError, with the command that installs it, where matplotlib is absent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "Figures are drawn by matplotlib, which is not installed: pip install 'sae-harness[figures]', or "
            "ask for the numbers alone with --no-figures."
        )


def render_figure(figure: Figure, folder: Path) -> tuple[Path, Path]:
    """Draw a figure into folder/<name>.png and .svg.

    Raises:
        ConfigError: matplotlib is not installed, or a number on a logarithmic axis is not positive.
    """
    paths = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
    _render(figure, paths)
    return paths


def render_to(figure: Figure, path: Path) -> None:
    """Draw a figure into one file, whose ending says the format.

    Raises:
        ConfigError: the ending is neither `.png` nor `.svg`, or the file cannot be written; and as `render_figure`.
    """
    check_figure_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _render(figure, (path,))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}. Give another file.") from error


def check_figure_path(path: Path) -> None:
    """Raises ConfigError where a figure cannot be drawn into such a file, before the work for it is done."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} is no figure's file: its ending must be one of {', '.join(FORMATS)}.")
    require_matplotlib()


def _render(figure: Figure, paths: Sequence[Path]) -> None:
    require_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcParams.update(mpl.rcParamsDefault)
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        canvas = _drawn(figure)
        for path in paths:
            if path.suffix.lower() == ".png":
                canvas.savefig(path, format="png", metadata={"Software": None})
                continue
            drawn = io.BytesIO()
            canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
            path.write_text(_renumbered(drawn.getvalue().decode()), encoding="utf-8")


def _drawn(figure: Figure) -> Any:
    """matplotlib's figure, under the settings of this file."""
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows
    caption = _wrapped(figure.caption, width)
    head, foot = 0.45, 0.15 + 0.155 * len(caption)
    canvas = Canvas(figsize=(width, height + head + foot), dpi=DPI, layout="constrained")
    total = height + head + foot
    canvas.get_layout_engine().set(rect=(0, foot / total, 1, 1 - (head + foot) / total), hspace=0.06, wspace=0.05)  # type: ignore[union-attr]
    canvas.text(0.012, 1 - 0.14 / total, figure.title, fontsize=12.5, fontweight="bold", va="top")
    canvas.text(0.012, 0.07 / total, "\n".join(caption), fontsize=8.5, color="#444444", va="bottom")
    axes = canvas.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, figure.panels, strict=False):
        _draw_panel(canvas, axis, panel)
    for axis in axes[len(figure.panels) :]:
        axis.set_visible(False)
    _settle(canvas)
    return canvas


def _settle(canvas: Any) -> None:
    """Lay out once and round the places: the solver's last bits differ from call to call."""
    canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    for axis in canvas.axes:
        axis.set_position([round(value, 4) for value in axis.get_position().bounds])


def _renumbered(svg: str) -> str:
    """The SVG with its clip paths numbered in order: matplotlib before 3.10 makes ids from addresses."""
    numbers: dict[str, str] = {}
    return _CLIP_ID.sub(lambda found: found[1] + numbers.setdefault(found[2], f"clip{len(numbers)}"), svg)


def _wrapped(text: str, inches: float) -> list[str]:
    return textwrap.wrap(text, width=max(30, int(inches * 15.5)))


def _draw_panel(canvas: Any, axis: Any, panel: Panel) -> None:
    axis.set_title("\n".join(textwrap.wrap(panel.title, _TITLE_CHARACTERS)), loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    _check_logarithms(panel)
    if panel.x_scale != "linear":  # before the marks: it would undo the tick labels they set
        axis.set_xscale(panel.x_scale)
    if panel.y_scale != "linear":
        axis.set_yscale(panel.y_scale)
    if panel.y_reference is not None:
        axis.axhline(panel.y_reference, color=GREY, linewidth=0.9, zorder=1)
    if panel.x_stretch is not None:
        axis.axvspan(*panel.x_stretch, color=SHADE, linewidth=0, zorder=0)
    n_bars = sum(isinstance(mark, Bars) for mark in panel.marks)
    bar = 0
    for number, mark in enumerate(panel.marks):
        own = getattr(mark, "colour", None)
        colour = COLOURS[(number if own is None else own) % len(COLOURS)]
        if isinstance(mark, Bars):
            _draw_bars(axis, mark, colour, bar, n_bars)
            bar += 1
        elif isinstance(mark, Line):
            _draw_line(axis, mark, colour, sum(isinstance(m, Line) and m.dashed for m in panel.marks[:number]))
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
    if sum(bool(getattr(mark, "label", "")) for mark in panel.marks) > 1:
        axis.legend(loc="best")
    for scale, own, limits in (
        (panel.x_scale, axis.xaxis, axis.get_xlim),
        (panel.y_scale, axis.yaxis, axis.get_ylim),
    ):
        if scale == "log":
            _plain_ticks(own, *limits())


def _plain_ticks(axis: Any, low: float, high: float) -> None:
    """Of a short logarithmic axis: 10, 20 and 50, which are read faster than 2 x 10^1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if high / low < _MANY_DECADES and low >= _SMALL:
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _check_logarithms(panel: Panel) -> None:
    """A number that a logarithmic axis would silently leave out is an error."""
    for mark in panel.marks:
        across: Sequence[Any] = getattr(mark, "x", ())
        up: Sequence[Any] = [*getattr(mark, "y", ()), *getattr(mark, "heights", ())]
        for scale, values in ((panel.x_scale, across), (panel.y_scale, up)):
            if scale == "log" and any(value is not None and value <= 0 for value in values):
                raise ConfigError(
                    f"Panel {panel.title!r} has a logarithmic axis and a number that is not positive: use a linear one."
                )


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _draw_line(axis: Any, mark: Line, colour: str, n_dashed: int) -> None:
    style = DASHES[n_dashed % len(DASHES)] if mark.dashed else "-"
    marker = "o" if len(mark.x) <= 40 and not mark.dashed else None
    y = _floats(mark.y)
    axis.plot(mark.x, y, color=colour, linestyle=style, marker=marker, markersize=3, label=mark.label or None)
    if mark.low is not None and mark.high is not None:
        axis.fill_between(mark.x, _floats(mark.low), _floats(mark.high), color=colour, alpha=0.18, linewidth=0)


def _draw_bars(axis: Any, mark: Bars, colour: str, number: int, n_bars: int) -> None:
    width = 0.8 / n_bars
    places = np.arange(len(mark.categories)) + (number - (n_bars - 1) / 2) * width
    errors = None if mark.errors is None else np.nan_to_num(_floats(mark.errors))
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
