"""Tables: what a reader sees, letter by letter."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from harness.errors import ConfigError
from harness.report.tables import (
    FORMATS,
    WIDTH,
    comparison_table,
    comparison_to_json_dict,
    headline,
    leaderboard_table,
    leaderboard_to_json_dict,
    render,
)
from harness.results.comparison import compare
from harness.results.leaderboard import leaderboard


@pytest.fixture
def sides(factory):
    def level(height):
        return lambda seed, l0: height + 0.001 * (seed - 1)

    def jitter(height):
        return lambda seed, l0: height + 0.001 * (seed - 1) ** 2

    return factory.make_side("topk", level(0.142)), factory.make_side("temporal", jitter(0.130))


@pytest.fixture
def comparison(factory, sides):
    gap = replace(factory.FVU, name="gap", better="higher")
    return compare(sides[1], sides[0], [factory.L0, factory.FVU, gap])


def test_the_comparison_table_reads_as_the_style_page_shows_it(comparison):
    assert comparison_table(comparison).splitlines() == [
        "metric  topk (3 seeds)    temporal (3 seeds)  difference [95 %]           verdict",
        "l0      28      ± 0       28      ± 0         +0      [+0, +0]            = matched",
        "fvu ↓    0.1420 ± 0.0025   0.1307 ± 0.0014    -0.0113 [-0.0142, -0.0085]  better",
        "gap ↑   -                 -                   -                           x not measured",
        "",
        "difference = temporal - topk at matched L0 (mean over log L0 in 8–64), paired by seed; ± and [ ] are 95 % "
        "intervals over",
        "  training seeds.",
    ]


def test_metrics_without_a_verdict_are_left_out_where_not_all_are_asked_for(factory, sides):
    found = compare(sides[1], sides[0], [factory.L0, replace(factory.FVU, compared=False)])
    assert comparison_table(found).splitlines()[2].startswith("fvu")
    short = comparison_table(found, every=False)
    assert [line.split()[0] for line in short.splitlines()[:2]] == ["metric", "l0"]
    assert "fvu" not in short
    assert "Not shown are 1 that get no verdict: --metrics all." in short
    assert "fvu" in comparison_table(found, "csv", every=False)


def test_a_label_that_warns_stands_beside_the_verdict(factory, sides):
    for label, shown in (("blind", "better (blind)"), ("usable", "better"), ("misleading", "misleading")):
        found = compare(sides[1], sides[0], [factory.FVU], labels={"fvu": label})
        assert comparison_table(found, every=False).splitlines()[1].endswith(f"]  {shown}")


def test_the_headline_breaks_at_its_dots(comparison):
    line = " · ".join(["suite", "x" * 60, "y" * 60, "a claim of some length"])
    assert headline(line).splitlines() == [f"suite · {'x' * 60}", f"{'y' * 60} · a claim of some length"]
    assert headline(line, "md") == line


def test_detail_adds_the_smallest_detectable_difference(comparison):
    assert "detectable" not in comparison_table(comparison)
    assert " detectable " in comparison_table(comparison, detail=True).splitlines()[0]
    assert " 0.0029 " in comparison_table(comparison, detail=True).splitlines()[2]


def test_levels_are_tables_of_their_own(comparison):
    text = comparison_table(comparison, levels=True)
    assert [line for line in text.splitlines() if line.startswith("at L0")] == [
        "at L0 8",
        "at L0 16",
        "at L0 32",
        "at L0 64",
    ]


def test_long_reasons_become_one_footnote(factory, sides):
    far = factory.make_side("far", l0=lambda s, t: 100.0 * t)
    text = comparison_table(compare(far, sides[0], [factory.L0, factory.FVU]))
    assert text.count("x not comparable [1]") == 2
    assert "[1] no overlap in L0: candidate 800–6400, baseline 8–64" in text


def test_fewer_seeds_are_said_in_the_row(factory, sides):
    one = factory.make_side("one", lambda s, l0: 0.1, seeds=(0,))
    text = comparison_table(compare(one, sides[0], [factory.FVU]))
    assert "one (1 seed)" in text
    assert "? unresolved (n=1 seed)" in text


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_format_holds_each_metric(comparison, fmt):
    text = comparison_table(comparison, fmt)
    assert all(name in text for name in ("l0", "fvu", "gap", "better"))
    assert ("|" in text) == (fmt in ("md", "github"))


def test_csv_has_the_numbers_in_full(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison_table(comparison, "csv"))))
    fvu = next(r for r in rows if r["metric"] == "fvu")
    assert float(fvu["difference"]) == comparison.rows[1].difference
    assert (fvu["verdict"], fvu["method"], fvu["constant"]) == ("better", "paired", "false")
    assert next(r for r in rows if r["metric"] == "gap")["difference"] == ""


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="Unknown table format 'html': known are plain, md, github, csv"):
        render([["a"]], ["x"], "html")


def test_an_empty_table_is_its_header():
    assert render([], ["a", "b"]) == "a  b"


def test_the_leaderboard_keeps_to_the_width_and_says_what_it_left_out(factory, sides):
    names = [f"metric_number_{i}" for i in range(9)]
    metrics = [factory.FVU, *(replace(factory.FVU, name=n) for n in names)]
    wide = {}
    for side in sides:
        fvu = [r.metrics["fvu"] for r in side]
        wide[side[0].method.name] = [
            replace(r, metrics={**r.metrics, **dict.fromkeys(names, m)}) for r, m in zip(side, fvu, strict=True)
        ]
    board = leaderboard(wide, metrics)
    text = leaderboard_table(board)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Not shown, for want of width:" in text
    assert "metric_number_8 ↓" in leaderboard_table(board, metrics=["metric_number_8"]).splitlines()[0]
    assert "metric_number_8 ↓" in leaderboard_table(board, "md")


def test_the_leaderboard_marks_ties_and_the_unranked(factory, sides):
    identity = factory.make_side("identity", lambda s, l0: 0.0, grid=(None,), l0=lambda s, t: 192.0, control=True)
    twin = [replace(r, method=replace(r.method, name="twin")) for r in sides[0]]
    board = leaderboard({"topk": sides[0], "twin": twin, "temporal": sides[1], "identity": identity}, [factory.FVU])
    lines = leaderboard_table(board).splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["1", "temporal"],
        ["2–3", "topk"],
        ["2–3", "twin"],
        ["-", "identity"],
    ]
    assert lines[4].endswith("control, at L0 192")
    rows = list(csv.DictReader(io.StringIO(leaderboard_table(board, "csv"))))
    assert [(r["rank"], r["worst_rank"]) for r in rows] == [("1", "1"), ("2", "3"), ("2", "3"), ("", "")]
    assert rows[3]["control"] == "true"


def test_json_is_plain_and_stable(factory, sides, comparison):
    data = comparison_to_json_dict(comparison)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["kind"], data["version"], data["rows"][1]["verdict"]) == ("sae-harness/comparison", 1, "better")
    board = leaderboard_to_json_dict(leaderboard({"topk": sides[0], "temporal": sides[1]}, [factory.FVU]))
    assert json.loads(json.dumps(board, allow_nan=False)) == board
    assert board["metrics"] == [{"name": "fvu", "better": "lower", "version": 1}]
    assert board["window"] == {"low": pytest.approx(8), "high": pytest.approx(64)}
    assert board["entries"][0]["values"]["fvu"]["n"] == 3


@pytest.fixture
def many(factory, sides):
    """Six metrics: fvu with its effect, five that are equal but for noise between seeds."""
    names = [f"gap_{i}" for i in range(5)]
    both = []
    for side in sides:
        records = []
        for r in side:
            noise = {
                n: (r.training.seed * (i + 2) % 3) * (0.01 if side is sides[0] else 0.02) for i, n in enumerate(names)
            }
            entries = {n: replace(r.metrics["fvu"], value=v) for n, v in noise.items()}
            records.append(replace(r, metrics={**r.metrics, **entries}))
        both.append(records)
    return compare(both[1], both[0], [factory.FVU, *(replace(factory.FVU, name=n) for n in names)])


def test_the_correction_is_told_and_a_row_it_takes_the_verdict_from_says_why(many):
    text = comparison_table(many)
    assert "Verdicts on the 6 metrics judged are after Holm's correction:" in text
    assert "The intervals shown are uncorrected." in " ".join(text.split())
    reasons = [row.reason for row in many.rows if row.reason]
    assert set(reasons) <= {"not after Holm's correction over 6 metrics"}
    assert ("[1] not after Holm's correction over 6 metrics" in text) == bool(reasons)


def test_primary_metrics_are_marked_and_the_note_tells_both_groups(many):
    rows = tuple(replace(row, primary=row.metric == "fvu") for row in many.rows)
    text = " ".join(comparison_table(replace(many, rows=rows, n_judged=(3, 8))).split())
    assert "fvu ↓ *" in text
    assert "Verdicts on the 3 primary metrics judged and on the 8 other metrics judged are after Holm's" in text
    assert "each group by itself" in text
    assert "5 of the metrics judged are not shown." in text
    one = " ".join(comparison_table(replace(many, rows=rows, n_judged=(1, 5))).split())
    assert "Verdicts on the 5 other metrics judged are after Holm's correction: chance" in one
    assert "not shown" not in one


def test_one_judged_metric_needs_no_correction_and_no_note(comparison):
    assert "Holm" not in comparison_table(comparison)


def test_detail_shows_the_corrected_p_value_and_the_evaluation_noise(many):
    text = comparison_table(many, detail=True)
    header, first, *_ = text.splitlines()
    assert "p (Holm)" in header
    assert "evaluation noise" in header
    assert "0.01 / 0.01" in first
    assert "evaluation noise: standard error over held-out documents" in text
    assert "evaluation noise" not in comparison_table(many)
