"""`reliability`: what it measures, stores and refuses."""

from __future__ import annotations

import json

ARGS = ("reliability", "--suite", "micro", "--l0", "4", "--seeds", "2", "--evaluation-seeds", "2", "--quiet")


def test_metrics_are_judged_by_methods_seeds_and_the_random_control(project):
    found = project.json(*ARGS, "--methods", "topk,relu")
    assert found["methods"] == ["random", "relu", "topk"]
    assert (found["training_seeds"], found["evaluation_seeds"], found["l0"]) == ([0, 1], [0, 1], [4])
    fvu = next(m for m in found["metrics"] if m["metric"] == "fvu")
    assert (fvu["n_saes"], fvu["evaluation_noise"], fvu["order"]) == (6, 0.0, "holds")
    assert fvu["seed_noise"] > 0
    table = project.ok(*ARGS, "--methods", "topk,relu")
    assert table.splitlines()[0].split()[:2] == ["metric", "label"]
    assert "power 0.8" in table


def test_what_is_stored_stands_beside_the_verdicts(project):
    project.ok("baselines", "build", "topk", "--suite", "micro", "--quiet")
    done = project.invoke(*ARGS, "--methods", "topk,relu", "--store")
    assert "reliability.json" in done.stderr
    [path] = project.root.rglob("reliability.json")
    [measured] = json.loads(path.read_text())["measurements"]
    assert measured["suite"] == "micro"
    table = project.ok("compare", "relu", "--suite", "micro", "--quiet", "--detail")
    header = next(line for line in table.splitlines() if line.startswith("metric"))
    assert "reliability" in header.split()
    told = {label for label in ("usable", "noisy", "blind") if f" {label} " in table}
    assert told & {m["label"] for m in measured["metrics"]}


def test_bad_input_is_one_line(micro):
    assert "must be at least 2" in micro.error("reliability", "--suite", "micro", "--evaluation-seeds", "1")
    assert "nothing_here" in micro.error(*ARGS, "--methods", "nothing_here")
    assert "geometry" in micro.error(*ARGS, "--methods", "topk", "--evaluators", "geometrie")
