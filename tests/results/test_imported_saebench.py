"""SAEBench's own files as records: every kind of 0.6, kinds of one SAE together, SAEs apart."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.results.audit.collect import collect
from harness.results.audit.read_json import UnreadableError
from harness.results.audit.read_saebench import saebench_evidence
from harness.results.audit.runner import audit, verdicts
from harness.results.imported import import_records
from harness.results.saebench_mdl import block_of, is_mdl
from harness.results.saebench_metrics import known_as, measured_as, specs_of
from harness.results.side import method_label

_spec = importlib.util.spec_from_file_location("saebench_files", Path(__file__).parent / "saebench_files.py")
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)


def imported(folder, suite="a-suite"):
    """Records by label, and what was left out."""
    evidence = collect([folder]).evidence
    findings = audit(evidence)
    records, left_out = import_records(evidence, verdicts(findings, evidence), findings, suite=suite)
    return {method_label(record): record for record in records}, left_out


def test_all_kinds_of_one_sae_become_one_record_with_every_number(tmp_path):
    folder = files.write(tmp_path / "all", *(files.block(kind) for kind in files.METRICS))
    records, left_out = imported(folder)
    assert left_out == {}
    [record] = records.values()
    names = {"absorption_first_letter": "absorption"}
    for kind, groups in files.METRICS.items():
        for field, value in (item for group in groups.values() for item in group.items()):
            spec = known_as(names.get(kind, kind), field)
            if field in files.NO_RESULT:
                assert spec is None, field
            elif value is not None and field != "mse":
                assert record.metric(spec.name) == value, field
    # mse is the squared error of a token over the tokens of a batch: 32 prompts of 64, the first token left out.
    assert record.metric("saebench_mse") == pytest.approx(files.figure("mse") * 32 * 63 / 64)
    assert record.taints == ()
    assert {entry.status for entry in record.evaluations.values()} == {"done"}
    assert len(record.evaluations) == len(files.METRICS)


def test_a_record_of_saebench_files_says_what_is_not_known(tmp_path):
    [record] = imported(files.write(tmp_path / "a", files.block("scr")))[0].values()
    assert method_label(record) == "a_release@topk_16k-0"
    training = record.training
    assert (training.steps, training.target_l0, training.final_loss, training.precision) == (0, None, None, "not said")
    assert (training.tokens, record.protocol.n_tokens, record.protocol.batch_size) == (500_000, 500_000, 0)
    assert (record.protocol.lm, record.protocol.hookpoint) == ("a-model", "blocks.3.hook_resid_post")
    assert record.method.architecture == "topk"
    assert record.provenance.source.startswith("scr_0.json, sha256 ")


def test_a_budget_that_is_not_said_is_none(tmp_path):
    """SAELens writes a negative number of tokens where it does not know it."""
    data = files.block("scr")
    data["sae_cfg_dict"]["training_tokens"] = -100_000
    [record] = imported(files.write(tmp_path / "a", data))[0].values()
    assert (record.training.tokens, record.protocol.n_tokens) == (0, 0)


def test_saes_stay_apart_and_the_source_names_every_file(tmp_path):
    blocks = [files.block(kind, sae=f"r/{sae}") for sae in ("one", "two") for kind in ("ravel", "tpp")]
    records, _ = imported(files.write(tmp_path / "two", *blocks))
    assert set(records) == {"r@one", "r@two"}
    for record in records.values():
        assert len(record.provenance.source.split(", sha256 ")[0].split("; ")) == 2
        assert set(record.evaluations) == {"saebench_ravel", "saebench_tpp"}


def test_two_results_of_one_evaluation_are_refused(tmp_path):
    folder = files.write(tmp_path / "twice", files.block("ravel"), files.block("ravel"))
    with pytest.raises(RecordError, match=r"ravel_0\.json and ravel_1\.json both hold ravel of SAE a_release/topk"):
        imported(folder)


def test_files_without_release_and_id_are_not_taken_for_one_sae(tmp_path):
    folder = files.write(tmp_path / "nameless", files.block("ravel", sae=""), files.block("tpp", sae=""))
    assert set(imported(folder)[0]) == {"ravel_0", "tpp_1"}


def test_a_taint_of_one_file_holds_for_its_evaluation_alone(tmp_path):
    """F03: the score is not that of the losses beside it."""
    kl = {"kl_div_score": 0.9, "kl_div_with_ablation": 8.0, "kl_div_with_sae": 2.0}
    core = {**files.METRICS["core"], "model_behavior_preservation": kl}
    folder = files.write(tmp_path / "a", files.block("core", eval_result_metrics=core), files.block("scr"))
    [record] = imported(folder)[0].values()
    assert {(t.rule, t.evaluator) for t in record.taints} == {("F03", "saebench_core")}
    assert set(record.evaluations) == {"saebench_core", "saebench_scr"}


def test_a_sentinel_is_no_number(tmp_path):
    """SAEBench writes -1 where it has none: NaN in core, probes left out to save memory."""
    core = {**files.METRICS["core"], "sparsity": {"l0": 20.0, "l1": -1}}
    core["reconstruction_quality"] = {**core["reconstruction_quality"], "cossim": -1}
    probing = {"llm": files.METRICS["sparse_probing"]["llm"], "sae": {"sae_test_accuracy": -1}}
    probing["sae"]["sae_top_1_test_accuracy"] = 0.75
    blocks = [files.block(k, eval_result_metrics=m) for k, m in (("core", core), ("sparse_probing", probing))]
    [record] = imported(files.write(tmp_path / "a", *blocks))[0].values()
    assert record.metric("l0") == 20.0
    assert record.metric("saebench_probing_top1") == 0.75
    for name in ("saebench_l1", "saebench_cosine", "saebench_probing_full"):
        assert record.metric(name) is None


def test_the_fraction_of_releases_before_06_has_a_name_of_its_own(tmp_path):
    data = files.block("absorption_first_letter")
    del data["eval_config"]["min_feats_for_eval"]
    [record] = imported(files.write(tmp_path / "a", data))[0].values()
    value = files.figure("mean_absorption_fraction_score")
    assert record.metric("saebench_mean_absorption_fraction_early") == value
    assert record.metric("saebench_mean_absorption_fraction") is None


def test_rows_of_mdl_have_a_metric_each():
    assert known_as("mdl", "description_length_16_24").name == "saebench_mdl_16_24"
    assert known_as("mdl", "mse_loss_16_24").name == "saebench_mdl_mse_16_24"
    assert known_as("mdl", "within_threshold_16_24") is None
    names = ["saebench_mdl_16_24", "saebench_mdl_4_32", "saebench_mdl_mse_4_32"]
    assert [spec.name for spec in specs_of(names)] == [
        "saebench_mdl_4_32",
        "saebench_mdl_16_24",
        "saebench_mdl_mse_4_32",
    ]


def test_a_file_of_mdl_in_its_old_form_becomes_an_evaluation():
    rows = [
        {"num_bins": bins, "bins": [], "k": k, "description_length": 100.0 + bins, "within_threshold": k == 32, **more}
        for bins, k, more in ((4, 32, {"mse_loss": 0.5}), (16, None, {"mse_loss": 0.25}))
    ]
    data = {
        "eval_instance_id": "one",
        "sae_lens_release": "a_release",
        "sae_lens_id": "topk_16k/0",
        "eval_type_id": "mdl",
        "sae_lens_version": "6.0.0",
        "sae_bench_version": "ab" * 20,
        "date_time": "2026-01-02T03:04:05.5",
        "eval_config": {"random_seed": 42, "k_values": [32]},
        "eval_results": rows,
        "eval_artifacts": {"artifacts": "None"},
        "sae_cfg_dict": files.block("scr")["sae_cfg_dict"],
    }
    assert is_mdl(data)
    assert not is_mdl(files.block("scr"))
    evidence = saebench_evidence(block_of(data), "mdl.json", "0" * 64, 40)
    [record] = import_records([evidence], {}, (), suite="a-suite")[0]
    assert {name: entry.value for name, entry in record.metrics.items()} == {
        "saebench_mdl_4_32": 104.0,
        "saebench_mdl_mse_4_32": 0.5,
        "saebench_mdl_16_0": 116.0,
        "saebench_mdl_mse_16_0": 0.25,
    }
    assert method_label(record) == "a_release@topk_16k-0"
    assert record.provenance.created == "2026-01-02T03:04:05+00:00"
    for change, told in (
        ({"eval_results": {}}, "must be a list"),
        ({"eval_results": [rows[0], rows[0]]}, "two rows of bins and k 4_32"),
        ({"date_time": "yesterday"}, "must be a time"),
    ):
        with pytest.raises(UnreadableError, match=told):
            block_of({**data, **change})


def test_every_name_has_its_spec_again(tmp_path):
    folder = files.write(tmp_path / "all", *(files.block(kind) for kind in files.METRICS))
    [record] = imported(folder)[0].values()
    assert {spec.name for spec in specs_of(record.metrics)} == set(record.metrics) - {"l0"}


def test_what_our_evaluators_measure_by_these_definitions_is_named():
    from harness.builtin.evaluators.specs import EVALUATORS

    ours = {metric.name: metric for spec in EVALUATORS for metric in spec.metrics}
    names = {"absorption_first_letter": "absorption"}
    fields = [(names.get(k, k), f) for k, groups in files.METRICS.items() for g in groups.values() for f in g]
    measured = {measured_as(kind, field) for kind, field in fields} - {""}
    # Their judge needs an endpoint or a model: it is no evaluator of every installation.
    assert measured - {"saebench_autointerp_score"} <= set(ours) | {
        f"saebench_probing_{who}_top{k}_accuracy" for k in files.KS for who in ("sae", "llm")
    }
    # SAEBench's probes, on our tasks and texts: no number of its files.
    elsewhere = {f"saebench_sparse_probing_top{k}_accuracy" for k in files.KS}
    published = {name for name in ours if name.startswith("saebench_")} - elsewhere
    assert published <= measured


def test_an_import_through_the_command_is_stored_and_verified(fresh, tmp_path):
    folder = files.write(tmp_path / "files", files.block("scr"), files.block("ravel"))
    fresh.ok("baselines", "import", str(folder), "--suite", "micro")
    [row] = fresh.json("baselines", "list")
    assert (row["method"], row["records"]) == ("a_release@topk_16k-0", 1)
    assert fresh.invoke("baselines", "verify").exit_code == 0
    shown = fresh.json("baselines", "show", "a_release@topk_16k-0", "--suite", "micro")
    assert json.loads(json.dumps(shown))[0]["metrics"]["saebench_ravel_cause_score"]["n"] == 1
