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

from harness.builtin.evaluators.saebench_core_specs import FIELDS
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
CORE = {
    **{f"saebench_core_{field}": files.figure(field) for field in FIELDS},
    "saebench_core_kl_div_score": 0.75,
    "saebench_core_kl_div_with_ablation": 8.0,
    "saebench_core_kl_div_with_sae": 2.0,
    "saebench_core_ce_loss_score": 0.875,
    "saebench_core_ce_loss_with_ablation": 11.0,
    "saebench_core_ce_loss_with_sae": 4.0,
    "saebench_core_ce_loss_without_sae": 3.0,
    "saebench_core_total_tokens": 4096.0,
}
PROBING = {
    f"saebench_probing_{who}_{probe}accuracy": (0.75, {"one/set_a": (0.5, 1.0), "another": (0.625, 0.875)})
    for who in ("llm", "sae")
    for probe in ("", "top1_", "top2_", "top5_")
}
"""Value, and by set its classes'."""


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


@pytest.fixture
def measured(record) -> Record:
    """That record after the evaluators saebench_core and saebench_sparse_probing."""
    metrics = dict(record.metrics)
    for name, value in CORE.items():
        metrics[name] = MetricEntry(value=value, n=8, version=1, evaluator="saebench_core", stderr=0.5)
    sizes = {"one/set_a: x": (400.0, 100.0), "another: y": (380.0, 90.0)}
    entry = MetricEntry(value=2.0, n=2, version=1, evaluator="saebench_sparse_probing", detail=sizes)
    metrics["probing_classes"] = entry
    for name, (value, detail) in PROBING.items():
        metrics[name] = dataclasses.replace(entry, value=value, stderr=0.1, detail=detail)
    evaluations = dict(record.evaluations)
    evaluations["saebench_core"] = EvaluationEntry(status="done")
    evaluations["saebench_sparse_probing"] = EvaluationEntry(status="done", options={"max_tokens": 63})
    return dataclasses.replace(record, metrics=metrics, evaluations=evaluations)


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
    left_out = {"core": ("fvu", "ce_loss_recovered"), "scr": ("scr_n20",)}
    assert found.left_out == {**left_out, "sparse_probing": ("saebench_sparse_probing_top1_accuracy",)}
    assert "0.4" not in json.dumps(found.files["scr"]["eval_result_metrics"])


def test_a_required_number_that_is_not_held_refuses_the_kind(record):
    refused = export(record).refused
    assert set(refused) == {"core"}
    assert refused["core"].endswith("kl_div_score, kl_div_with_ablation, kl_div_with_sae, ce_loss_score and 19 more")
    lone = dataclasses.replace(record.metrics["saebench_absorption_fraction"], stderr=None)
    fewer = dataclasses.replace(record, metrics={**record.metrics, "saebench_absorption_fraction": lone})
    assert "std_dev_absorption_fraction_score" in export(fewer).refused["absorption"]


def test_core_and_sparse_probing_are_written_where_saebenchs_numbers_were_measured(measured):
    found = export(measured)
    assert set(found.files) == {*WRITTEN, "core", "sparse_probing"}
    assert found.refused == {}
    core = found.files["core"]
    assert {group: set(fields) for group, fields in core["eval_result_metrics"].items()} == {
        group: set(fields) for group, fields in files.METRICS["core"].items()
    }
    assert core["eval_result_metrics"]["token_stats"] == dict.fromkeys(
        ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"), 4096
    )
    assert core["eval_result_metrics"]["sparsity"] == {
        "l0": measured.metric("l0"),
        "l1": CORE["saebench_core_l1"],
    }
    assert core["eval_result_metrics"]["reconstruction_quality"]["cossim"] == 0.9
    length = measured.protocol.seq_len
    config = core["eval_config"]
    assert (config["batch_size_prompts"], config["context_size"]) == (16, length)
    assert config["n_eval_reconstruction_batches"] == math.ceil(4096 / (16 * length))
    assert config["compute_kl"] is True
    assert "exclude_special_tokens_from_reconstruction" not in config, "the class's own default is what was done"


def test_probing_files_name_their_sets_and_hold_each(measured):
    file = export(measured).files["sparse_probing"]
    values = file["eval_result_metrics"]
    assert values["llm"]["llm_test_accuracy"] == values["sae"]["sae_top_5_test_accuracy"] == 0.75
    assert values["sae"]["sae_top_100_test_accuracy"] is None
    config = file["eval_config"]
    assert config["dataset_names"] == ["one/set_a", "another"]
    assert (config["probe_train_set_size"], config["probe_test_set_size"], config["context_length"]) == (400, 100, 64)
    assert config["k_values"] == [1, 2, 5]
    assert [row["dataset_name"] for row in file["eval_result_details"]] == ["one/set_a_results", "another_results"]
    assert file["eval_result_details"][0]["sae_test_accuracy"] == 0.75


def test_what_core_and_probing_files_say_of_the_sae_is_read_again(measured, tmp_path):
    [back] = read_back(written(tmp_path, measured))
    lms_own = {"kl_div_with_ablation", "ce_loss_with_ablation", "ce_loss_without_sae", "l2_norm_in", "total_tokens"}
    for name, value in CORE.items():
        field = name.removeprefix("saebench_core_")
        # The import turns the mse, which falls with the batch, into one of an element.
        wanted = None if field in lms_own or field == "mse" else value
        assert back.metric(name) == wanted, name
    assert (back.metric("l0"), back.metric("cosine")) == (measured.metric("l0"), 0.9)
    for name, (value, _) in PROBING.items():
        assert back.metric(name) == (value if "_sae_" in name else None), name
    again = export(back)
    assert "llm_test_accuracy" in again.refused["sparse_probing"]


def test_sae_probes_files_come_out_but_for_the_lms_numbers(tmp_path):
    kind = "sparse_probing_sae_probes"
    [record] = read_back(files.write(tmp_path / "in", files.block(kind)))
    found = export(record).files[kind]["eval_result_metrics"]
    assert found["sae"] == files.METRICS[kind]["sae"]
    assert set(found["llm"].values()) == {None}


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
def test_the_installed_package_reads_every_file_and_has_this_structure(measured, tmp_path):
    """With sae-bench's own classes, in its own environment (`SAE_HARNESS_PEERS` names the folder that holds it)."""
    python = PEERS / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: make it with benchmarks/, or set SAE_HARNESS_PEERS")
    ours = sorted(written(tmp_path / "ours", measured).rglob("*.json"))
    assert len(ours) == 8
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
