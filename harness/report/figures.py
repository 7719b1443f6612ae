"""Descriptions of figures to PNG and SVG, by matplotlib, which is imported when it is needed. What a mark looks like is
in figure_marks.py; no other file knows matplotlib.

Equal descriptions give equal files: the user's matplotlib settings do not count, SVG ids are salted with a constant,
and neither date nor version is written into them.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..interfaces.analysis import Figure, Panel
from .figure_marks import GREY, draw_marks

SHADE = "#F1F1EC"
DPI = 150
PANEL_INCHES = (5.6, 3.7)
FORMATS = (".png", ".svg")

_TITLE_CHARACTERS = 56
_LINE, _LEGEND_ROW = 0.155, 0.19
"""Inches of a line of the caption, and of a row of the shared legend."""
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


def require_matplotlib(otherwise: str = "") -> None:
    """Raises ConfigError, with the command that installs it, where matplotlib is absent; `otherwise` says how to do
    without figures."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "Figures are drawn by matplotlib, which is not installed: pip install 'sae-harness[figures]'"
            f"{f', or {otherwise}' if otherwise else ''}."
        )


def render_figure(figure: Figure, folder: Path, subject: str = "") -> tuple[Path, Path]:
    """Draw a figure into folder/<name>.png and .svg; `subject` says of which SAE it is, on a line below the caption.

    Raises:
        ConfigError: matplotlib is not installed, or a number on a logarithmic axis is not positive.
    """
    paths = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
    _render(figure, paths, subject)
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
    require_matplotlib("leave out --figure")


def _render(figure: Figure, paths: Sequence[Path], subject: str = "") -> None:
    require_matplotlib()
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcParams.update(mpl.rcParamsDefault)
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        canvas = _drawn(figure, subject)
        for path in paths:
            if path.suffix.lower() == ".png":
                canvas.savefig(path, format="png", metadata={"Software": None})
                continue
            drawn = io.BytesIO()
            canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
            path.write_text(_renumbered(drawn.getvalue().decode()), encoding="utf-8")


def _drawn(figure: Figure, subject: str) -> Any:
    """matplotlib's figure, under the settings of this file."""
    from matplotlib.figure import Figure as Canvas

    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width, height = PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows
    title = textwrap.wrap(figure.title, int(width * 9))
    caption, about = _wrapped(figure.caption, width), _wrapped(subject, width)
    legend = _legend_columns(figure, width) if figure.shared_legend else (0, 0)
    title_height = 0.24 + 0.21 * max(1, len(title))
    head = title_height + (0.1 + _LEGEND_ROW * legend[1] if legend[1] else 0.0)
    foot = 0.15 + _LINE * (len(caption) + len(about))
    total = height + head + foot
    canvas = Canvas(figsize=(width, total), dpi=DPI, layout="constrained")
    canvas.get_layout_engine().set(rect=(0, foot / total, 1, 1 - (head + foot) / total), hspace=0.06, wspace=0.05)  # type: ignore[union-attr]
    canvas.text(0.012, 1 - 0.14 / total, "\n".join(title), fontsize=12.5, fontweight="bold", va="top")
    above = (0.07 + _LINE * len(about)) / total
    canvas.text(0.012, above, "\n".join(caption), fontsize=8.5, color="#444444", va="bottom")
    canvas.text(0.012, 0.07 / total, "\n".join(about), fontsize=8.5, color=GREY, va="bottom", style="italic")
    axes = canvas.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, figure.panels, strict=False):
        _draw_panel(canvas, axis, panel, legend=not figure.shared_legend)
    for axis in axes[len(figure.panels) :]:
        axis.set_visible(False)
    if legend[0]:
        found = [axis.get_legend_handles_labels() for axis in axes]
        handles = {label: handle for both in found for handle, label in zip(*both, strict=True)}
        place = {"loc": "upper left", "bbox_to_anchor": (0.008, 1 - title_height / total), "borderaxespad": 0}
        canvas.legend(handles.values(), handles, ncols=legend[0], **place)
    _settle(canvas)
    return canvas


def _legend_columns(figure: Figure, inches: float) -> tuple[int, int]:
    """Columns and rows of the shared legend; none where no mark has a label."""
    labels = {label for panel in figure.panels for mark in panel.marks if (label := getattr(mark, "label", ""))}
    if not labels:
        return 0, 0
    columns = max(1, min(len(labels), int(inches / (0.6 + 0.075 * max(map(len, labels))))))
    return columns, math.ceil(len(labels) / columns)


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


def _draw_panel(canvas: Any, axis: Any, panel: Panel, *, legend: bool) -> None:
    axis.set_title("\n".join(textwrap.wrap(panel.title, _TITLE_CHARACTERS)), loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    _check_logarithms(panel)
    if panel.x_scale != "linear":  # before the marks: it would undo the tick labels they set
        axis.set_xscale(panel.x_scale)
    if panel.y_scale != "linear":
        axis.set_yscale(panel.y_scale)
    if panel.y_reference is not None:
        axis.axhline(panel.y_reference, color=GREY, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
    if panel.x_stretch is not None:
        axis.axvspan(*panel.x_stretch, color=SHADE, linewidth=0, zorder=0)
    draw_marks(canvas, axis, panel)
    if legend and sum(bool(getattr(mark, "label", "")) for mark in panel.marks) > 1:
        axis.legend(loc="best")
    _keep_inside(axis, panel.y_bounds)
    for scale, own, limits in (
        (panel.x_scale, axis.xaxis, axis.get_xlim),
        (panel.y_scale, axis.yaxis, axis.get_ylim),
    ):
        if scale == "log":
            _plain_ticks(own, *limits())
    if panel.x_ticks:
        _ticks_at(axis.xaxis, panel.x_ticks)


def _keep_inside(axis: Any, bounds: tuple[float | None, float | None]) -> None:
    """Limits that what is drawn can have. Where it has no height, matplotlib's are arbitrary: those bounds are taken
    whole, where there are two."""
    least, most = bounds
    if least is not None and most is not None and axis.dataLim.height <= 0.0:
        axis.set_ylim(least, most)
        return
    low, high = axis.get_ylim()
    axis.set_ylim(low if least is None else max(low, least), high if most is None else min(high, most))


def _ticks_at(axis: Any, ticks: Mapping[float, str]) -> None:
    """Those alone. By a locator: `set_ticks` would stretch the axis to ticks beyond what is drawn."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FixedFormatter(list(ticks.values())))
    axis.set_minor_locator(NullLocator())


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
