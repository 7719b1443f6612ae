"""Records as SAEBench's files: what follows its definitions, under its names, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.results.audit.collect import collect
from harness.results.audit.runner import audit, verdicts
from harness.results.imported import import_records
from harness.results.record import EvaluationEntry, MetricEntry, Record, Taint
from harness.results.saebench import KINDS, MADE_BY, export, file_name

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("SAE_HARNESS_PEERS", HERE.parents[1] / ".cache" / "peers"))
_spec = importlib.util.spec_from_file_location("saebench_files", HERE / "saebench_files.py")
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)

PUBLISHED = {
    "absorption": {
        "saebench_absorption_fraction": 0.02,
        "saebench_full_absorption": 0.01,
        "saebench_split_latents": 1.25,
    },
    "scr": {
        "saebench_scr_n5": 0.1,
        "saebench_scr_n20": 0.2,
        "saebench_scr_dir1_n20": 0.3,
        "saebench_scr_dir2_n20": 0.2,
    },
    "tpp": {"saebench_tpp_n2": 0.01, "saebench_tpp_n50": 0.25},
    "saebench_ravel": {
        "saebench_ravel_disentanglement": 0.6,
        "saebench_ravel_cause": 0.5,
        "saebench_ravel_isolation": 0.7,
    },
    "unlearning": {"saebench_unlearning_score": 0.125},
    "autointerp": {"saebench_autointerp_score": 0.8},
    "sparse_probing": {"saebench_sparse_probing_top1_accuracy": 0.7},
}
"""Evaluator -> metrics of ours that follow SAEBench's definition."""
WRITTEN = ("absorption", "scr", "tpp", "unlearning", "ravel", "autointerp")


@pytest.fixture
def record(factory) -> Record:
    """A record of ours with every published variant, and with metrics of other definitions."""
    made = factory.make_record(values={"fvu": 0.1, "cosine": 0.9, "l2_ratio": 0.95, "ce_loss_recovered": 0.99})
    metrics = dict(made.metrics)
    for evaluator, values in PUBLISHED.items():
        for name, value in values.items():
            metrics[name] = MetricEntry(value=value, n=25, version=1, evaluator=evaluator, stderr=value / 50)
    metrics["scr_n20"] = MetricEntry(value=0.4, n=8, version=1, evaluator="scr", stderr=0.1)
    evaluations = {name: EvaluationEntry(status="done") for name in ("core", *PUBLISHED)}
    return dataclasses.replace(made, metrics=metrics, evaluations=evaluations)


def written(folder: Path, record: Record, **options) -> Path:
    for kind, data in export(record, **options).files.items():
        path = folder / file_name(record, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))
    return folder


def read_back(folder: Path) -> list[Record]:
    evidence = collect([folder]).evidence
    findings = audit(evidence)
    assert [f for f in findings if f.severity == "blocker"] == []
    records, left_out = import_records(evidence, verdicts(findings, evidence), findings, suite="tiny")
    assert left_out == {}
    return records


def test_each_kind_that_can_be_filled_has_its_file(record):
    found = export(record)
    assert tuple(found.files) == WRITTEN
    scr = found.files["scr"]["eval_result_metrics"]["scr_metrics"]
    assert (scr["scr_metric_threshold_20"], scr["scr_dir1_threshold_20"]) == (0.2, 0.3)
    assert scr["scr_metric_threshold_2"] is None
    assert set(scr) == set(files.METRICS["scr"]["scr_metrics"])
    told = found.files["scr"]
    assert told["sae_bench_commit_hash"] == MADE_BY
    assert told["datetime_epoch_millis"] == 1_767_323_045_000  # 2026-01-02T03:04:05 UTC
    assert told["sae_cfg_dict"]["hook_layer"] == 1
    assert (told["sae_lens_release_id"], told["sae_lens_id"]) == (
        "sae-harness_tiny_topk",
        f"l0-32_seed-0_{record.key[:12]}",
    )
    assert file_name(record, "absorption").startswith("absorption_first_letter/sae-harness_tiny_topk_l0-32_seed-0_")


def test_a_spread_is_the_standard_error_times_the_root_of_n(record):
    mean = export(record).files["absorption"]["eval_result_metrics"]["mean"]
    assert mean["std_dev_absorption_fraction_score"] == pytest.approx(0.02 / 50 * math.sqrt(25))
    judged = export(record).files["autointerp"]["eval_result_metrics"]["autointerp"]
    assert judged["autointerp_std_dev"] == pytest.approx(0.8 / 50 * 5)


def test_what_has_another_definition_is_left_out_and_named(record):
    found = export(record)
    assert found.left_out == {"core": ("fvu", "ce_loss_recovered"), "scr": ("scr_n20",)}
    assert "0.4" not in json.dumps(found.files["scr"]["eval_result_metrics"])


def test_a_required_number_that_is_not_held_refuses_the_kind(record):
    refused = export(record).refused
    assert set(refused) == {"core", "sparse_probing"}
    assert refused["core"].endswith("kl_div_score, kl_div_with_ablation, kl_div_with_sae, ce_loss_score and 19 more")
    assert refused["sparse_probing"].endswith("that the record does not hold: llm_test_accuracy")
    lone = dataclasses.replace(record.metrics["saebench_absorption_fraction"], stderr=None)
    fewer = dataclasses.replace(record, metrics={**record.metrics, "saebench_absorption_fraction": lone})
    assert "std_dev_absorption_fraction_score" in export(fewer).refused["absorption"]


def test_kinds_that_are_asked_for_and_not_there_say_why(record):
    found = export(record, ["scr", "mdl"])
    assert list(found.files) == ["scr"]
    assert "no structure for it" in found.refused["mdl"]
    assert found.left_out == {"scr": ("scr_n20",)}
    bare = dataclasses.replace(record, metrics={"l0": record.metrics["l0"]})
    assert export(bare, ["tpp"]).refused == {"tpp": "the record holds no metric of its definition"}
    assert export(bare).refused.keys() == {"core"}
    with pytest.raises(RecordError, match="SAEBench has no evaluation 'geometry': its kinds are core, absorption"):
        export(record, ["geometry"])


@pytest.mark.parametrize("evaluator", ["scr", ""])
def test_a_tainted_evaluation_needs_asking_for_and_is_marked(record, tmp_path, evaluator):
    tainted = dataclasses.replace(record, taints=(Taint(rule="F99", reason="it is", evaluator=evaluator),))
    found = export(tainted)
    assert found.refused["scr"] == "tainted (F99: it is); --allow-tainted writes it, marked"
    assert ("tpp" in found.files) == bool(evaluator)
    allowed = export(tainted, allow_tainted=True)
    assert allowed.files["scr"]["eval_config"]["sae_harness_taints"] == [["F99", "it is"]]
    assert ("sae_harness_taints" in allowed.files["tpp"]["eval_config"]) == (not evaluator)
    [back] = read_back(written(tmp_path, tainted, allow_tainted=True))
    assert Taint(rule="F99", reason="it is", evaluator="saebench_scr") in back.taints


def test_export_and_import_give_the_same_numbers_under_the_same_names(record, tmp_path):
    [back] = read_back(written(tmp_path, record))
    for kind in WRITTEN:
        for name, value in PUBLISHED["saebench_ravel" if kind == "ravel" else kind].items():
            entry, old = back.metrics[name], record.metrics[name]
            assert (entry.value, entry.n, entry.version, entry.stderr) == (value, 25, old.version, old.stderr)
    assert not {"fvu", "scr_n20", "saebench_sparse_probing_top1_accuracy"} & set(back.metrics)
    assert (back.protocol.d_sae, back.protocol.hookpoint, back.protocol.lm) == (
        record.protocol.d_sae,
        record.protocol.hookpoint,
        record.protocol.lm,
    )
    assert back.training.tokens == record.training.tokens
    assert (back.provenance.created, back.taints) == (record.provenance.created, ())


def test_an_export_cannot_give_a_number_a_name_of_another_definition(record, tmp_path):
    """A file that claims that SCR's number is our explained variance is read as SCR."""
    folder = written(tmp_path, record)
    path = folder / file_name(record, "scr")
    data = json.loads(path.read_text())
    data["eval_config"]["sae_harness_metrics"] = [["scr_metric_threshold_20", "explained_variance", 1, 25, 0.1]]
    path.write_text(json.dumps(data))
    [back] = read_back(folder)
    assert back.metric("explained_variance") is None
    assert back.metric("saebench_scr_metric_n20") == 0.2


def test_saebench_files_come_out_as_they_came_in(tmp_path):
    kinds = ("absorption_first_letter", "scr", "tpp", "ravel", "unlearning", "autointerp")
    [record] = read_back(files.write(tmp_path / "in", *(files.block(kind) for kind in kinds)))
    found = export(record)
    assert {data["eval_type_id"]: data["eval_result_metrics"] for data in found.files.values()} == {
        kind: files.METRICS[kind] for kind in kinds
    }
    assert found.files["scr"]["eval_config"]["sae_harness_source"] == record.provenance.source
    [again] = read_back(written(tmp_path / "out", record))
    assert {name: entry.value for name, entry in again.metrics.items()} == {
        name: entry.value for name, entry in record.metrics.items()
    }


def test_a_record_without_a_time_cannot_be_written(record):
    timeless = dataclasses.replace(record, provenance=dataclasses.replace(record.provenance, created=""))
    with pytest.raises(RecordError, match="does not say when it was made"):
        export(timeless)


@pytest.mark.slow
def test_the_installed_package_reads_every_file_and_has_this_structure(record, tmp_path):
    """With sae-bench's own classes, in its own environment (`SAE_HARNESS_PEERS` names the folder that holds it)."""
    python = PEERS / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: make it with benchmarks/, or set SAE_HARNESS_PEERS")
    ours = sorted(written(tmp_path / "ours", record).rglob("*.json"))
    theirs = sorted(files.write(tmp_path / "theirs", *(files.block(kind) for kind in files.METRICS)).rglob("*.json"))
    missing = json.loads(theirs[0].read_text())
    missing["eval_result_metrics"]["mean"].pop("mean_num_split_features")
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(missing))
    out = tmp_path / "out.json"
    command = [python, HERE / "peer_saebench_schema.py", out, *ours, *theirs, wrong]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    for path in ours + theirs:
        assert found["files"][str(path)] == {"metrics": json.loads(path.read_text())["eval_result_metrics"]}, path
    assert "mean_num_split_features" in found["files"][str(wrong)]["error"]
    for kind in KINDS.values():
        if not kind.refused:
            assert found["schema"][kind.type_id] == kind.groups
    assert {kind: {g: set(f) for g, f in groups.items()} for kind, groups in found["schema"].items()} == {
        kind: {g: set(f) for g, f in groups.items()} for kind, groups in files.METRICS.items()
    }
