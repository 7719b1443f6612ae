"""`export`: records as SAEBench's files, and what is told of the rest."""

from __future__ import annotations

import json

import pytest

RAVEL = {"disentanglement": 0.75, "cause": 0.5, "isolation": 1.0}


@pytest.fixture
def records(micro, tmp_path):
    """Two records of topk, in one file, with SAEBench's RAVEL beside what the suite measures; the second tainted."""
    data = micro.json("baselines", "show", "topk", "--suite", "micro")[:2]
    for record in data:
        record["evaluations"]["saebench_ravel"] = {"status": "done"}
        for name, value in RAVEL.items():
            entry = {"value": value, "n": 6, "version": 1, "evaluator": "saebench_ravel", "stderr": 0.1}
            record["metrics"][f"saebench_ravel_{name}"] = entry
    data[1]["taints"] = [{"rule": "F99", "reason": "planted", "evaluator": "saebench_ravel"}]
    (tmp_path / "records.json").write_text(json.dumps(data))
    return tmp_path / "records.json"


def test_files_are_written_by_kind_and_the_rest_is_told(micro, records, tmp_path):
    done = micro.invoke("export", str(records), "--format", "saebench", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert done.stdout == f"Wrote 1 files of 2 records to {tmp_path / 'out'}.\n"
    [path] = (tmp_path / "out").rglob("*.json")
    assert path.parent.name == "ravel"
    assert path.name.startswith("sae-harness_micro_topk_l0-")
    told = json.loads(path.read_text())["eval_result_metrics"]
    assert told == {"ravel": {f"{name}_score": value for name, value in RAVEL.items()}}
    assert "No ravel: tainted (F99: planted); --allow-tainted writes it, marked (topk)" in done.stderr
    assert "No core: SAEBench's structure requires numbers that the record does not hold: kl_div_score" in done.stderr
    assert "Left out of behaviour, not SAEBench's definition: ce_loss_recovered, kl_div_recovered (topk)" in done.stderr
    [core] = [line for line in done.stderr.splitlines() if line.startswith("Left out of core")]
    assert "fvu" in core
    assert "l2_ratio" not in core


def test_tainted_ones_are_written_when_asked_for(micro, records, tmp_path):
    micro.ok("export", str(records), "--out", str(tmp_path / "out"), "--allow-tainted", "--kinds", "ravel")
    marked = ["sae_harness_taints" in p.read_text() for p in (tmp_path / "out").rglob("*.json")]
    assert sorted(marked) == [False, True]


def test_what_was_exported_is_imported_again(project, records, tmp_path):
    project.ok("export", str(records), "--out", str(tmp_path / "out"), "--allow-tainted")
    project.ok("baselines", "import", str(tmp_path / "out"), "--suite", "micro")
    rows = [r for r in project.json("baselines", "list") if r["method"].startswith("sae-harness_micro_topk@l0-")]
    assert [row["tainted"] for row in rows] == [0, 1] or [row["tainted"] for row in rows] == [1, 0]
    shown = [project.json("baselines", "show", row["method"], "--suite", "micro")[0] for row in rows]
    assert all(record["metrics"]["saebench_ravel_cause"]["value"] == RAVEL["cause"] for record in shown)


def test_nothing_to_write_is_an_error_that_says_why(micro, records, tmp_path):
    done = micro.invoke("export", str(records), "--out", str(tmp_path / "out"), "--kinds", "mdl,tpp")
    assert done.exit_code == 2
    assert "No mdl: sae-bench 0.6 has no structure for it" in done.stderr
    assert "No tpp: the record holds no metric of its definition (topk)" in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: Nothing could be exported of 2 records: see above why."
    assert not (tmp_path / "out").exists()


def test_wrong_kinds_and_files_are_refused(micro, records, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert "SAEBench has no evaluation 'charm'" in micro.error("export", str(records), *out, "--kinds", "charm")
    assert "No file" in micro.error("export", str(tmp_path / "none.json"), *out)
    (tmp_path / "file").write_text("")
    line = micro.error(
        "export", str(records), "--out", str(tmp_path / "file" / "out"), "--kinds", "ravel", "--allow-tainted"
    )
    assert "Give another --out" in line
