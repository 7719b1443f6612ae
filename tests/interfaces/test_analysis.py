"""What an analysis may give: plain finite values, figures whose parts fit together, and a log that may be empty."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness import (
    Analysis,
    AnalysisResult,
    AnalysisSpec,
    Bars,
    Dendrogram,
    Figure,
    Graph,
    HeatMap,
    Histogram,
    Line,
    Panel,
    Scatter,
    Table,
    TrainingLog,
)
from harness.errors import ConfigError, PluginError

LINE = Line(x=[1, 2], y=[0.5, None])


def figure(name: str = "a_figure") -> Figure:
    return Figure(name=name, title="A title", panels=(Panel(marks=(LINE,)),))


def test_figures_are_described_without_torch_or_matplotlib():
    script = (
        "import sys, harness.interfaces.analysis\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Line(x=[1, 2], y=[1.0]), "different lengths: {'x': 2, 'y': 1}"),
        (lambda: Line(x=[1], y=[float("nan")]), "holds nan: give None"),
        (lambda: Bars(categories=["a"], heights=[1.0, 2.0]), "different lengths"),
        (lambda: Scatter(x=[1], y=[1.0], errors=[0.1, 0.2]), "different lengths"),
        (lambda: Panel(marks=(LINE,), x_stretch=(1.0, float("inf"))), "holds inf"),
        (lambda: Histogram(edges=[0, 1], counts=[1, 2]), "2 edges for 2 counts"),
        (lambda: HeatMap(rows=[[1.0], [1.0, 2.0]], colour_label="x"), "one length"),
        (lambda: Dendrogram(merges=[(0, 2, 1.0)]), "names no earlier cluster"),
        (lambda: Graph(nodes=["a"], edges=[(0, 1, 1.0)]), "name two nodes"),
        (lambda: Panel(marks=()), "has no marks"),
        (lambda: Panel(marks=(LINE, HeatMap(rows=[[1.0]], colour_label="x"))), "stands alone"),
        (lambda: Figure(name="No Name", title="", panels=(Panel(marks=(LINE,)),)), "is not allowed"),
        (lambda: Table(columns=["a", "b"], rows=[[1]]), "a row of 1 values"),
        (lambda: AnalysisResult(values={"x": float("inf")}), "holds inf"),
        (lambda: AnalysisResult(figures=(figure(), figure())), "one name"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_result_is_plain_json():
    result = AnalysisResult(
        values={"answer": 1.5, "word": "no structure", "none": None},
        series={"s": [1.0, None]},
        tables={"t": Table(columns=["a"], rows=[[1], ["x"]])},
        figures=(figure(),),
        notes=("a note",),
    )
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == {
        "values": {"answer": 1.5, "word": "no structure", "none": None},
        "series": {"s": [1.0, None]},
        "tables": {"t": {"columns": ["a"], "rows": [[1], ["x"]]}},
        "figures": [{"name": "a_figure", "title": "A title", "caption": ""}],
        "notes": ["a note"],
    }


def test_a_log_gives_its_columns_with_their_steps():
    log = TrainingLog.of(
        {"options": {"lr": 0.1}, "steps": 3, "tokens": 30, "log": [{"step": 0.0, "l0": 5.0}, {"step": 2.0, "x": 1.0}]},
        method="topk",
    )
    assert log.columns == ("step", "l0", "x")
    assert log.column("x") == ([2.0], [1.0])
    assert log.column("absent") == ([], [])
    assert (log.method, log.options["lr"], log.steps) == ("topk", 0.1, 3)
    assert TrainingLog().columns == ()


def test_a_log_names_its_run_as_far_as_it_is_known():
    log = TrainingLog.of({"seed": 1}, method="temporal", preset="abs")
    assert (log.seed, log.run) == (1, "temporal@abs, seed 1")
    assert (TrainingLog(method="topk").run, TrainingLog(seed=0).run, TrainingLog().run) == ("topk", "seed 0", "")


def test_an_analysis_has_no_reference_unless_one_is_set():
    class Looks(Analysis):
        def run(self, sae, context, training):
            return AnalysisResult(values={"reference": self.reference is not None})

    assert not Looks.compares
    assert Looks().reference is None


def test_a_spec_says_what_it_is_for():
    spec = AnalysisSpec(name="a", target="package.module:function", summary="x", needs={"world"}, methods=["topk"])  # type: ignore[arg-type]
    assert (spec.needs, spec.methods) == (frozenset({"world"}), ("topk",))
    with pytest.raises(PluginError, match=r"needs \['twin'\]: allowed are \['language_model', 'world'\]"):
        AnalysisSpec(name="a", target="package.module:Class", summary="x", needs=frozenset({"twin"}))
    with pytest.raises(PluginError, match="write it as"):
        AnalysisSpec(name="a", target="package.module", summary="x")
    assert (spec.texts, spec.planted) == ((), "")
    planted = AnalysisSpec(name="a", target="p.m:f", summary="x", texts=["t"], planted="p.m:rows")  # type: ignore[arg-type]
    assert planted.texts == ("t",)
    with pytest.raises(PluginError, match="write it as"):
        AnalysisSpec(name="a", target="p.m:f", summary="x", planted="p.m")
