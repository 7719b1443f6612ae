"""Frontiers are drawn from records: points, means with intervals, and differences that agree with the table."""

from __future__ import annotations

import importlib.util

import pytest

from harness.errors import ConfigError
from harness.interfaces.analysis import Bars, Line, Scatter
from harness.report.figures import render_to
from harness.report.frontier_figure import frontier_figure
from harness.results.comparison import compare


@pytest.fixture
def sides(factory):
    """(candidate, baseline): fvu falls with L0; the candidate's is .01 lower, and .02 at the last L0."""

    def make(method: str, shift: float, grid=factory.GRID, **more):
        return [
            factory.make_record(
                method,
                seed=seed,
                target_l0=l0,
                values={"l0": float(l0), "fvu": 1.0 / l0 + 0.001 * seed + shift * (2 if l0 == grid[-1] else 1)},
                **more,
            )
            for seed in factory.SEEDS
            for l0 in grid
        ]

    return make


def drawn(factory, candidates, baseline, metrics=None, **more):
    metrics = [factory.L0, factory.FVU] if metrics is None else metrics
    comparisons = [compare(own, baseline, metrics) for own in candidates]
    return frontier_figure(candidates, baseline, metrics, comparisons, **more), comparisons


def test_means_points_and_intervals_of_each_side_are_drawn_over_measured_l0(factory, sides):
    figure, [comparison] = drawn(factory, [sides("temporal", -0.01)], sides("topk", 0.0))
    values, apart = figure.panels
    points, mean, *_ = values.marks
    assert isinstance(points, Scatter)
    assert isinstance(mean, Line)
    assert len(points.x) == len(factory.SEEDS) * len(factory.GRID)
    assert list(mean.x) == pytest.approx(list(factory.GRID))
    assert list(mean.y) == pytest.approx([1 / l0 + 0.001 for l0 in factory.GRID])
    # Student's t of two degrees of freedom, over seeds .001 apart.
    assert mean.high[0] - mean.y[0] == pytest.approx(4.3027 * 0.001 / 3**0.5, rel=1e-4)
    assert values.x_stretch == pytest.approx((8.0, 64.0))
    assert (values.x_scale, points.colour, mean.colour) == ("log", 0, 0)
    [line] = apart.marks
    assert list(line.y) == pytest.approx([-0.01, -0.01, -0.01, -0.02])
    assert apart.y_reference == 0.0
    assert comparison.verdicts["fvu"] in apart.title
    assert values.x_ticks == apart.x_ticks == {8.0: "8", 16.0: "16", 32.0: "32", 64.0: "64"}
    assert "their titles give the verdict" in figure.caption


def test_several_candidates_share_a_panel_and_are_told_apart(factory, sides):
    candidates = [sides("temporal", -0.01), sides("jumprelu", 0.01)]
    figure, _ = drawn(factory, candidates, sides("topk", 0.0))
    values, apart = figure.panels
    assert [mark.colour for mark in values.marks] == [0, 0, 1, 1, 2, 2]
    assert [mark.label for mark in apart.marks] == ["temporal: better", "jumprelu: worse"]
    assert figure.title.startswith("temporal and jumprelu beside topk")
    assert "their legends give the verdict" in figure.caption


def test_one_l0_is_drawn_as_bars(factory, sides):
    figure, _ = drawn(factory, [sides("temporal", -0.01, (32,))], sides("topk", 0.0, (32,)))
    values, apart = figure.panels
    assert [mark.heights for mark in values.marks] == [[pytest.approx(1 / 32 + 0.001)], [pytest.approx(1 / 32 - 0.019)]]
    assert all(isinstance(mark, Bars) for mark in (*values.marks, *apart.marks))
    assert apart.marks[0].heights == [pytest.approx(-0.02)]


def test_curves_without_a_common_l0_have_no_difference(factory, sides):
    figure, _ = drawn(factory, [sides("temporal", -0.01, (2, 4))], sides("topk", 0.0))
    values, apart = figure.panels
    assert len(values.marks) == 4
    assert list(apart.marks[0].x) == []
    assert "no overlap" in apart.title
    assert values.x_stretch is None


def test_primary_metrics_are_drawn_unless_others_are_named(factory):
    def side(method, shift):
        values = {"fvu": 0.1 + shift, "ce_loss_recovered": 0.9 - shift}
        grid = [(seed, l0) for seed in factory.SEEDS for l0 in factory.GRID]
        return [factory.make_record(method, seed=seed, target_l0=l0, values=values) for seed, l0 in grid]

    idea, base, metrics = side("temporal", 0.01), side("topk", 0.0), [factory.L0, factory.FVU, factory.CE]
    told = [compare(idea, base, metrics, primary=("ce_loss_recovered",))]
    figure = frontier_figure([idea], base, metrics, told)
    assert [panel.title.split(",")[0].split(":")[0] for panel in figure.panels] == ["ce_loss_recovered"] * 2
    assert "--metrics NAME,... draws others, of which 1 are judged" in figure.caption
    assert len(frontier_figure([idea], base, metrics, told, named=True).panels) == 4
    assert "--metrics" not in frontier_figure([idea], base, metrics, [compare(idea, base, metrics)]).caption


def test_ticks_are_left_to_the_renderer_where_no_sae_lies_near_a_trained_l0(factory):
    def side(method, shift):
        return factory.make_side(method, lambda seed, l0: shift + 1 / l0, l0=lambda seed, target: target / 100.0)

    figure, _ = drawn(factory, [side("temporal", -0.01)], side("topk", 0.0))
    assert all(panel.x_ticks == {} for panel in figure.panels)


def test_one_seed_has_no_band(factory, sides):
    one = [record for record in sides("topk", 0.0) if record.training.seed == 0]
    figure, _ = drawn(factory, [sides("temporal", -0.01)], one)
    assert figure.panels[0].marks[1].low is None
    assert figure.panels[0].marks[3].low is not None


def test_what_is_not_measured_names_the_command_that_measures_it(factory, sides):
    metrics = [factory.L0, factory.FVU, factory.CE]
    told = {"ce_loss_recovered": "sae-harness compare temporal --evaluators core"}
    candidates, baseline = [sides("temporal", -0.01)], sides("topk", 0.0)
    figure, _ = drawn(factory, candidates, baseline, metrics)
    assert len(figure.panels) == 2
    with pytest.raises(
        ConfigError, match=r"ce_loss_recovered cannot be drawn \(not in topk.*with: sae-harness compare"
    ):
        drawn(factory, candidates, baseline, metrics, named=True, commands=told)
    with pytest.raises(ConfigError, match="no metric to draw"):
        drawn(factory, candidates, baseline, [factory.L0, factory.DENSITY])


def test_two_protocols_are_not_drawn(factory, sides):
    from dataclasses import replace

    other = sides("temporal", -0.01, protocol=replace(factory.PROTOCOL, n_tokens=1))
    with pytest.raises(ConfigError, match="two protocols"):
        drawn(factory, [other], sides("topk", 0.0))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra")
def test_a_figure_goes_into_one_file_of_its_endings_format(factory, sides, tmp_path):
    figure, _ = drawn(factory, [sides("temporal", -0.01)], sides("topk", 0.0))
    render_to(figure, tmp_path / "new" / "f.png")
    render_to(figure, tmp_path / "f.svg")
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    assert "measured L0" in (tmp_path / "f.svg").read_text()
    with pytest.raises(ConfigError, match=r"its ending must be one of \.png, \.svg"):
        render_to(figure, tmp_path / "f.jpg")


def test_the_caption_says_where_the_verdict_was_taken(factory, sides):
    idea, base, metrics = sides("temporal", -0.01), sides("topk", 0.0), [factory.L0, factory.FVU]
    whole, _ = drawn(factory, [idea], base)
    assert "over the shaded stretch" in whole.caption
    at_one = frontier_figure([idea], base, metrics, [compare(idea, base, metrics, at_l0=20.0)])
    assert "give the verdict at L0 20," in at_one.caption
