"""`sweep`: every combination once, one row each; and what a file may not say."""

from __future__ import annotations

import importlib.util
import json

import pytest

GRID = """
suite: micro
l0: [4]
seeds: 2
methods:
  topk:
    options: {lr: [0.01, 2e-2], aux_weight: [0.0, 0.03125]}
  random: {}
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_every_combination_is_made_once_and_has_its_row(project, grid, tmp_path):
    out = tmp_path / "records"
    table = project.ok("sweep", str(grid), "--quiet", "--out", str(out), "--metrics", "fvu")
    rows = [line for line in table.splitlines() if line.startswith(("topk", "random"))]
    labels = [row.split("  ")[0] for row in rows]
    assert labels == [
        "topk lr=0.01 aux_weight=0.0",
        "topk lr=0.01 aux_weight=0.03125",
        "topk lr=0.02 aux_weight=0.0",
        "topk lr=0.02 aux_weight=0.03125",
        "random",
    ]
    records = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert len(records) == 10
    assert {r["method"]["options"]["lr"] for r in records if r["method"]["name"] == "topk"} == {0.01, 0.02}
    # One at a time gives the same SAEs.
    [alone] = project.json(
        "run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1", "--set", "lr=0.02", "--quiet"
    )
    assert alone["sae_id"] in {r["sae_id"] for r in records}


def test_a_dry_run_counts_what_is_missing_and_makes_nothing(project, grid):
    before = set(project.artefacts("sae"))
    told = project.ok("sweep", str(grid), "--dry-run")
    # The project's cache holds the control's records already.
    assert "topk lr=0.02 aux_weight=0.0: 2 SAEs, 2 to make" in told
    assert "random: 2 SAEs, 0 to make" in told
    assert told.splitlines()[-1].startswith("8 SAEs of 4,096 tokens")
    assert set(project.artefacts("sae")) == before


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra")
def test_a_figure_shows_differences_from_the_plain_combination(project, tmp_path):
    path, figure = tmp_path / "drawn.yaml", tmp_path / "drawn.svg"
    path.write_text(
        "suite: micro\nl0: [2, 8]\nseeds: 2\nmethods: {topk: {}, batchtopk: {options: {lr: [0.01, 0.02]}}, random: {}}"
    )
    told = project.invoke("sweep", str(path), "--quiet", "--figure", str(figure), "--metrics", "fvu")
    assert told.exit_code == 0, told.output
    drawn = figure.read_text()
    assert "difference from topk" in drawn
    assert "No verdict is given" in drawn
    assert all(f">{label}</text>" in drawn for label in ("batchtopk", "random", "0.01", "0.02"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("suite: micro", "`methods` map at least one"),
        ("- topk", "must hold a mapping with suite"),
        ("suite: micro\nmethods: {topk: {}}\nl0s: [4]", "unknown keys l0s"),
        ("suite: micro\nmethods: {topk: {presets: off}}", "must be a list of names"),
        ("suite: micro\nmethods: {topk: {presets: [off]}}", "preset"),
        ("suite: micro\nmethods: {topk: {options: {lr: [[1]]}}}", "must list numbers"),
        ("suite: micro\nmethods: {topk: {options: {lr: [0.1, 0.1]}}}", "twice"),
        ("suite: micro\nmethods: {topk: {}}\nl0: [0]", "positive whole numbers"),
        ("suite: micro\nmethods: {topk: {}}\nseeds: many", "it is how many"),
        ("suite: micro\nmethods: {topk: {options: {speed: [1]}}}", "speed"),
        ("suite: nowhere\nmethods: {topk: {}}", "nowhere"),
        ("suite: [", "cannot be read as YAML"),
    ],
)
def test_a_bad_file_is_one_line(micro, tmp_path, text, told):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert told in micro.error("sweep", str(path), "--quiet")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--figure", "nodir/s.png"), "there is no folder nodir: make it first"),
        (
            ("--figure", "s.png", "--over", "nope"),
            "--over nope: this sweep does not vary it in numbers; what it varies: ",
        ),
        (("--over", "nope"), "what it varies: lr, aux_weight."),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_told_before_anything_is_trained(
    micro, grid, tmp_path, monkeypatch, args, told
):
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--dry-run",)):
        assert told in micro.error("sweep", str(grid), *args, *more)


def test_a_figure_needs_an_option_with_several_numbers(micro, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("suite: micro\nmethods: {topk: {options: {lr: [0.01]}}, random: {}}")
    assert "no option of this sweep has several numbers" in micro.error(
        "sweep", str(path), "--figure", str(tmp_path / "s.png"), "--dry-run"
    )


def test_a_missing_file_is_one_line(micro, tmp_path):
    assert "cannot be read" in micro.error("sweep", str(tmp_path / "none.yaml"))
