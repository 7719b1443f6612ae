"""Every kind of figure is drawn, and equal descriptions give equal files."""

from __future__ import annotations

import importlib.util

import numpy as np
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
    with pytest.raises(ConfigError, match=r"pip install 'sae-harness\[figures\]'.*--no-figures"):
        figures.render_figure(described("line"), tmp_path)


def test_leaves_stand_in_the_order_of_the_tree():
    assert figures.leaf_order(Dendrogram(merges=MERGES)) == [0, 1, 2, 3]
    assert figures.leaf_order(Dendrogram(merges=((1, 3, 1.0), (0, 2, 2.0), (4, 5, 3.0)))) == [1, 3, 0, 2]


def test_a_layout_draws_linked_nodes_together():
    edges = [(a, b, 1.0) for group in ((0, 1, 2), (3, 4, 5)) for a in group for b in group if a < b]
    places = figures.spring_layout(6, edges)
    inside = np.linalg.norm(places[0] - places[1])
    assert inside < 0.7 * np.linalg.norm(places[:3].mean(0) - places[3:].mean(0))
    np.testing.assert_array_equal(places, figures.spring_layout(6, edges))
