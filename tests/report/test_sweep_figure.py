"""A sweep is drawn over one option: means at matched L0 with intervals, a line for each of the other choices."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.report.sweep_figure import Point, sweep_figure


@pytest.fixture
def point(factory):
    """fvu is `value` plus a thousandth for each seed, at every L0."""

    def make(method: str, value: float, grid=factory.GRID, **options) -> Point:
        records = factory.make_side(method, lambda seed, l0: value + 0.001 * seed, grid=grid)
        return Point(method, options, tuple(records))

    return make


def test_each_choice_of_the_others_is_a_line_over_the_option(factory, point):
    points = [point("topk", 0.2)]
    points += [point("mine", 0.1 * w + 0.01 * f, weight=w, fraction=f) for w in (1.0, 2.0) for f in (0.001, 0.1)]
    figure = sweep_figure(points, [factory.L0, factory.FVU], over="fraction")
    [panel] = figure.panels
    lines = {line.label: line for line in panel.marks}
    assert list(lines) == ["topk", "mine weight=1.0", "mine weight=2.0"]
    assert list(lines["mine weight=2.0"].x) == [0.001, 0.1]
    assert list(lines["mine weight=2.0"].y) == pytest.approx([0.20101, 0.202])
    assert lines["mine weight=1.0"].high[0] - lines["mine weight=1.0"].y[0] == pytest.approx(
        4.3027 * 0.001 / 3**0.5, rel=1e-4
    )
    assert (lines["topk"].dashed, list(lines["topk"].x)) == (True, [0.001, 0.1])
    assert (panel.x_scale, panel.x_label) == ("log", "fraction")
    by_weight = sweep_figure(points, [factory.FVU]).panels[0]
    assert (by_weight.x_label, by_weight.x_scale) == ("weight", "linear")


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
