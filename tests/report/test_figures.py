"""Every kind of figure is drawn, and equal descriptions give equal files."""

from __future__ import annotations

import importlib.util

import pytest

from harness import Bars, Dendrogram, Figure, Graph, HeatMap, Histogram, Line, Panel, Scatter
from harness.errors import ConfigError
from harness.report import figures

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra"
)
MERGES = ((0, 1, 1.0), (2, 3, 1.5), (4, 5, 4.0))
MARKS = {
    "line": (Line(label="a", x=[1, 2, 3], y=[1.0, None, 2.0], low=[0.5, None, 1.0], high=[2.0, None, 3.0]),),
    "dashed": (Line(label="a", x=[1, 2], y=[1, 2]), Line(label="null", x=[1, 2], y=[2, 1], dashed=True)),
    "barred": (
        Line(label="a", x=[1, 2], y=[1.0, 2.0], low=[0.5, None], high=[1.5, None], bars=True),
        Line(label="b", x=[1, 2], y=[2.0, 1.0], bars=True, dashed=True),
    ),
    "bars": (Bars(label="a", categories=["x", "y"], heights=[1.0, None], errors=[0.1, None]),) * 2,
    "histogram": (Histogram(edges=[0, 1, 2], counts=[3, 4]),),
    "heat_map": (HeatMap(rows=[[1.0, None], [-2.0, 3.0]], colour_label="value", x_ticks={0: "first"}, diverging=True),),
    "points": (Scatter(x=[1, 2], y=[3, 4], errors=[0.5, None], colour=1), Line(x=[1, 2], y=[3, 4], colour=1)),
    "scatter": (Scatter(x=[1, 2], y=[3, 4], colours=[0.1, 0.9], colour_label="share"),),
    "dendrogram": (Dendrogram(merges=MERGES, threshold=2.0),),
    "graph": (Graph(nodes=["a", "", "c"], edges=[(0, 1, 1.0), (1, 2, 0.5)], groups=[0, 0, 1], sizes=[1, 2, 3]),),
}


def described(kind: str) -> Figure:
    panel = Panel(marks=MARKS[kind], title="A panel", x_label="lag (tokens)", y_label="share")
    return Figure(name=kind, title="A title", panels=(panel, panel, panel), caption="What is seen here. " * 12)


@needs_matplotlib
@pytest.mark.parametrize("kind", sorted(MARKS))
def test_a_figure_is_drawn_to_the_same_bytes_again(kind, tmp_path):
    (tmp_path / "again").mkdir()
    first = figures.render_figure(described(kind), tmp_path)
    again = figures.render_figure(described(kind), tmp_path / "again")
    assert [path.name for path in first] == [f"{kind}.png", f"{kind}.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    svg = first[1].read_text()
    assert "lag (tokens)" in svg
    assert "<dc:date>" not in svg


@needs_matplotlib
def test_a_short_logarithmic_axis_has_plain_numbers_and_a_stretch_is_shaded(tmp_path):
    line = Line(x=[8, 16, 64], y=[1.0, 2.0, 3.0])
    panel = Panel(marks=(line,), x_label="L0", y_label="fvu", x_scale="log", x_stretch=(8.0, 32.0))
    bare = Panel(marks=(line,), x_label="L0", y_label="fvu", x_scale="log")
    shaded, plain = (
        figures.render_figure(Figure(name=name, title="", panels=(p,)), tmp_path)[1].read_text()
        for name, p in (("shaded", panel), ("plain", bare))
    )
    assert all(f">{n}</text>" in shaded for n in (10, 20, 50))
    assert figures.SHADE.lower() in shaded
    assert figures.SHADE.lower() not in plain


@needs_matplotlib
def test_the_users_settings_do_not_change_a_figure(tmp_path):
    import matplotlib as mpl

    before = figures.render_figure(described("line"), tmp_path)[0].read_bytes()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert figures.render_figure(described("line"), tmp_path)[0].read_bytes() == before
        assert mpl.rcParams["font.size"] == 30


@needs_matplotlib
def test_a_number_that_a_logarithmic_axis_would_hide_is_an_error(tmp_path):
    panel = Panel(marks=(Line(x=[1, 2], y=[0.0, 1.0]),), title="Spectrum", y_scale="log")
    with pytest.raises(ConfigError, match="'Spectrum' has a logarithmic axis and a number that is not positive"):
        figures.render_figure(Figure(name="f", title="", panels=(panel,)), tmp_path)


def test_without_matplotlib_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'sae-harness\[figures\]'\.$"):
        figures.render_figure(described("line"), tmp_path)
    with pytest.raises(ConfigError, match=r"or leave out --figure\.$"):
        figures.check_figure_path(tmp_path / "f.png")
    with pytest.raises(ConfigError, match=r"or ask for less\.$"):
        figures.require_matplotlib("ask for less")


@needs_matplotlib
def test_a_figure_carries_its_subject_below_the_caption(tmp_path):
    told = "temporal@abs, L0 16 (target 16), seed 0"
    svg = figures.render_figure(described("line"), tmp_path, told)[1].read_text()
    assert told in svg
    assert svg.index("What is seen here.") < svg.index(told)


@needs_matplotlib
def test_ticks_stand_where_the_panel_says_and_do_not_stretch_the_axis():
    line = Line(x=[8, 16, 64], y=[1.0, 2.0, 3.0])
    [axis] = axes_of(Panel(marks=(line,), x_scale="log", x_ticks={8.0: "8", 64.0: "64", 4096.0: "4096"}))
    assert list(axis.get_xticks()) == [8.0, 64.0, 4096.0]
    assert axis.get_xlim()[1] < 100


@needs_matplotlib
def test_limits_stay_inside_the_bounds():
    [axis] = axes_of(Panel(marks=(Line(x=[1, 2], y=[0.02, 0.98]),), y_bounds=(0.0, 1.0)))
    assert axis.get_ylim() == (0.0, 1.0)
    [constant] = axes_of(Panel(marks=(Line(x=[1, 2], y=[0.0, 0.0], bars=True),), y_bounds=(0.0, 1.0)))
    assert constant.get_ylim() == (0.0, 1.0)
    [open_above] = axes_of(Panel(marks=(Line(x=[1, 2], y=[0.0, 0.0]),), y_bounds=(0.0, None)))
    assert open_above.get_ylim()[0] == 0.0
    [free] = axes_of(Panel(marks=(Line(x=[1, 2], y=[0.0, 0.0]),)))
    assert free.get_ylim()[0] < 0.0


@needs_matplotlib
def test_error_bars_stand_beside_each_other_inside_the_axes():
    low, high = [0.5, 1.5], [3.0, 9.0]
    marks = [Line(label=n, x=[1, 2], y=[1.0, 2.0], low=low, high=high, bars=True) for n in ("a", "b", "c")]
    [axis] = axes_of(Panel(marks=marks, x_scale="log"))
    shifts = [line.get_transform().transform((1.0, 1.0))[0] for line in axis.get_lines() if line.get_label() in "abc"]
    assert shifts[1] - shifts[0] == pytest.approx(7 / 72 * axis.figure.dpi)
    assert shifts[2] - shifts[1] == pytest.approx(7 / 72 * axis.figure.dpi)
    assert axis.get_ylim()[0] < 0.5
    assert axis.get_ylim()[1] > 9.0
    assert axis.get_xlim()[1] > 2.0


@needs_matplotlib
def test_a_shared_legend_names_each_label_once_and_stands_above_the_axes():
    panel = Panel(marks=MARKS["barred"])
    canvas = figures._drawn(Figure(name="f", title="t", panels=(panel, panel), shared_legend=True), "")
    [legend] = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert all(axis.get_legend() is None for axis in canvas.axes)
    lowest = legend.get_window_extent().y0 / canvas.bbox.height
    assert lowest > max(axis.get_position().y1 for axis in canvas.axes)


def axes_of(*panels: Panel) -> list:
    return figures._drawn(Figure(name="f", title="t", panels=panels), "").axes
