"""A sweep is drawn over one option: differences from its baseline at matched L0, a line for each other choice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import ConfigError
from harness.report.sweep_figure import Point, sweep_figure


@pytest.fixture
def point(factory):
    """fvu is `value` plus a tenth for each seed, and `noise` times its square, at every L0."""

    def make(method: str, value: float, grid=factory.GRID, noise=0.0, seeds=factory.SEEDS, **options) -> Point:
        records = factory.make_side(
            method, lambda seed, l0: value + 0.1 * seed + noise * seed**2, grid=grid, seeds=seeds
        )
        return Point(method, options, tuple(records))

    return make


def test_differences_from_the_plain_combination_are_paired(factory, point):
    points = [point("topk", 0.2)]
    points += [
        point("mine", 0.1 * w + 0.01 * f, noise=0.001, weight=w, fraction=f) for w in (1.0, 2.0) for f in (0.001, 0.1)
    ]
    figure = sweep_figure(points, [factory.L0, factory.FVU], over="fraction")
    [panel] = figure.panels
    lines = {line.label: line for line in panel.marks}
    assert list(lines) == ["mine weight=1.0", "mine weight=2.0"]
    assert list(lines["mine weight=2.0"].x) == [0.001, 0.1]
    # The seeds' own tenths cancel; left are 0, .001 and .004, of variance 13e-6 / 3.
    shift = 0.005 / 3
    assert list(lines["mine weight=2.0"].y) == pytest.approx([0.00001 + shift, 0.001 + shift])
    half = 4.3027 * (13e-6 / 3) ** 0.5 / 3**0.5
    assert lines["mine weight=1.0"].high[0] - lines["mine weight=1.0"].y[0] == pytest.approx(half, rel=1e-4)
    assert all(line.bars for line in panel.marks)
    assert (panel.x_scale, panel.x_label, panel.x_ticks) == ("log", "fraction", {0.001: "0.001", 0.1: "0.1"})
    assert (panel.y_reference, panel.y_label) == (0.0, "difference from topk")
    assert figure.shared_legend
    assert "Differences from topk at matched L0 (8–64), paired by seed" in figure.caption
    assert "3 seeds; bars: 95 % t-intervals over them" in figure.caption
    assert "No verdict is given" in figure.caption
    by_weight = sweep_figure(points, [factory.FVU]).panels[0]
    assert (by_weight.x_label, by_weight.x_scale) == ("weight", "linear")


def test_without_a_plain_combination_values_are_drawn_inside_their_bounds(factory, point):
    fvu = replace(factory.FVU, bounds=(0.0, 1.0), unit="nats")
    control = Point("random", {}, tuple(factory.make_side("random", lambda seed, l0: 0.5, control=True)))
    points = [control, *(point("mine", 0.1 * w, weight=w) for w in (1.0, 2.0))]
    figure = sweep_figure(points, [fvu])
    [panel] = figure.panels
    level, line = panel.marks
    assert (level.label, level.dashed, list(level.x), level.low) == ("random", True, [1.0, 2.0], [0.5, None])
    assert list(line.y) == pytest.approx([0.2, 0.3])
    assert line.high[0] - line.y[0] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert (panel.y_reference, panel.y_label, panel.y_bounds) == (None, "mean (nats)", (0.0, 1.0))
    assert "no combination without options" in figure.caption
    assert "Dashed lines: what has no weight." in figure.caption
    apart = sweep_figure([point("topk", 0.1), *points], [fvu]).panels[0]
    assert apart.y_bounds == (-1.0, 1.0)
    assert [line.label for line in apart.marks] == ["random", "mine"]


def test_values_too_near_to_be_told_apart_stand_at_equal_distances(factory, point):
    points = [point("mine", 0.1, weight=w) for w in (0.0, 0.01, 1.0)]
    [panel] = sweep_figure(points, [factory.FVU]).panels
    assert list(panel.marks[0].x) == [0.0, 1.0, 2.0]
    assert (panel.x_ticks, panel.x_scale) == ({0.0: "0", 1.0: "0.01", 2.0: "1"}, "linear")
    assert panel.x_label == "weight (at equal distances)"


def test_primary_metrics_are_drawn_unless_others_are_named(factory):
    def side(weight):
        values = {"fvu": 0.1, "ce_loss_recovered": 0.9}
        made = [factory.make_record("mine", seed=seed, values=values) for seed in factory.SEEDS]
        return Point("mine", {"weight": weight}, tuple(made))

    points, metrics = [side(1), side(2)], [factory.FVU, factory.CE]
    figure = sweep_figure(points, metrics, primary=("ce_loss_recovered",))
    assert [panel.title for panel in figure.panels] == ["ce_loss_recovered, higher is better"]
    assert "--metrics draws others, of which 1" in figure.caption
    assert len(sweep_figure(points, metrics, primary=("elsewhere",)).panels) == 2
    assert len(sweep_figure(points, metrics, primary=("fvu",), named=True).panels) == 2


def test_few_seeds_are_told(factory, point):
    two = sweep_figure([point("mine", 0.1, seeds=(0, 1), weight=w) for w in (1.0, 2.0)], [factory.FVU])
    assert "of 2 seeds they are wide, t being 12.7" in two.caption
    one = sweep_figure([point("mine", 0.1, seeds=(0,), weight=w) for w in (1.0, 2.0)], [factory.FVU])
    assert "1 seed: no intervals, and no verdict." in one.caption
    assert list(one.panels[0].marks[0].low) == [None, None]


def test_l0_is_matched_over_all_points(factory):
    def side(method, grid):
        return tuple(factory.make_side(method, lambda seed, l0: 1 / l0, grid=grid))

    points = [Point("mine", {"weight": 1}, side("mine", (8, 16))), Point("mine", {"weight": 2}, side("mine", (16, 64)))]
    [line] = sweep_figure(points, [factory.FVU]).panels[0].marks
    assert list(line.y) == pytest.approx([1 / 16, 1 / 16])


def test_what_cannot_be_drawn_is_told(factory, point):
    points = [point("mine", 0.1, weight=1.0), point("mine", 0.2, weight=2.0)]
    with pytest.raises(ConfigError, match="No option of this sweep takes several numbers"):
        sweep_figure([point("topk", 0.1), point("relu", 0.1, kind="a")], [factory.FVU])
    with pytest.raises(ConfigError, match="those that do: weight"):
        sweep_figure(points, [factory.FVU], over="fraction")
    with pytest.raises(ConfigError, match="ce_loss_recovered cannot be drawn: not in mine"):
        sweep_figure(points, [factory.CE], named=True)
    with pytest.raises(ConfigError, match="no metric to draw"):
        sweep_figure(points, [factory.CE])
    with pytest.raises(ConfigError, match="No L0 is reached by every combination"):
        sweep_figure([*points, point("topk", 0.1, (2, 4))], [factory.FVU])
    with pytest.raises(ConfigError, match="13 lines are too many"):
        sweep_figure([point("mine", 0.1, weight=w, n=n) for w in (1, 2) for n in range(13)], [factory.FVU])
