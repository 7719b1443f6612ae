"""Others' results as records: numbers under their own definitions, taints kept, sources told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.results.audit.collect import collect
from harness.results.audit.runner import audit, verdicts
from harness.results.audit.tolerances import load_tolerances
from harness.results.comparison import compare
from harness.results.imported import import_records
from harness.results.leaderboard import leaderboard
from harness.results.record import Record
from harness.results.saebench_metrics import known_as, specs_of
from harness.results.side import method_label

GEMMA = Path(__file__).parents[1] / "fixtures" / "gemma_records"
SUITE = "gemma-2-2b-L12"


@pytest.fixture(scope="module")
def imported():
    tolerances = load_tolerances(GEMMA / "facts.yaml")
    evidence = collect([GEMMA], tolerances).evidence
    findings = audit(evidence, tolerances)
    records, left_out = import_records(evidence, verdicts(findings, evidence), findings, suite=SUITE, main="temporal")
    return {method_label(record): record for record in records}, left_out


def test_every_record_of_a_trained_sae_is_imported_and_the_others_say_why_not(imported):
    records, left_out = imported
    assert len(records) == 17
    assert left_out["hierarchical_unlearning/baseline_topk.json"] == "holds no evaluation"
    assert {left_out[f"topk_orthogonality/run_{i}.json"] for i in range(10)} == {"never trained"}


@pytest.mark.parametrize("millis", [1e308, 10**17, -1e308])
def test_a_time_that_no_calendar_has_is_told(tmp_path, millis):
    block = json.loads((GEMMA / "temporal" / "baseline_topk.json").read_text())["sparse probing evaluation results"]
    (tmp_path / "probing.json").write_text(json.dumps({**block, "datetime_epoch_millis": millis}))
    evidence = collect([tmp_path]).evidence
    records, left_out = import_records(evidence, verdicts((), evidence), (), suite=SUITE)
    assert records == []
    assert "seconds after 1970, which is no date" in left_out["probing.json"]


def test_numbers_keep_their_definition_and_mse_its_unit(imported):
    topk = imported[0]["topk"]
    assert topk.metric("saebench_explained_variance_legacy") == 0.7890625
    assert topk.metric("explained_variance") is None
    # 1.328 is the squared error of a token over the 2032 tokens of a batch; an element's is over 2304 dimensions.
    assert topk.metric("saebench_mse") == pytest.approx(1.328125 * 2032 / 2304)
    assert topk.metric("l0") == 320.0
    assert topk.training.target_l0 == 320
    assert topk.metric("saebench_scr_metric_n20") == pytest.approx(0.15287, abs=1e-5)


def test_tainted_evaluations_are_kept_with_their_rule_and_never_used(imported):
    records = imported[0]
    tainted = {label: {(t.evaluator, t.rule) for t in record.taints} for label, record in records.items()}
    assert ("saebench_absorption", "F01") in tainted["topk"]
    assert ("saebench_core", "F03") in tainted["jumprelu"]
    assert ("saebench_core", "F08") in tainted["temporal@run_9"]
    assert not any(evaluator == "saebench_core" for evaluator, _ in tainted["topk"])
    specs = specs_of(records["topk"].metrics)
    result = compare([records["topk"]], [records["jumprelu"]], specs)
    assert {row.verdict for row in result.rows} == {"not comparable"}
    assert any("F03" in row.reason for row in result.rows)


def test_one_seed_is_unresolved_and_another_width_is_not_comparable(imported):
    records = imported[0]
    specs = specs_of(["saebench_explained_variance_legacy"])
    alone = compare([records["topk"]], [records["topk"]], specs)
    assert [row.reason for row in alone.rows] == ["n=1 seed"]
    widths = compare([records["topk"]], [records["topk@sparsity_guided_orthogonality"]], specs)
    assert widths.rows[0].reason == "d_sae: 65536 (candidate) vs 18432 (baseline)"
    texts = compare([records["temporal@run_1"]], [records["temporal@run_4"]], specs)
    assert texts.rows[0].verdict == "not comparable"


def test_nothing_imported_is_ranked_and_what_is_tainted_shows_only_when_asked(imported):
    groups = {label: [record] for label, record in imported[0].items()}
    specs = specs_of({name for record in imported[0].values() for name in record.metrics})
    board = leaderboard(groups, specs)
    assert board.primary == "saebench_explained_variance_legacy"
    assert {entry.rank for entry in board.entries} == {None}
    shown = {entry.label: entry for entry in board.entries}
    assert "saebench_absorption_rate" not in shown["topk"].values
    asked = {e.label: e for e in leaderboard(groups, specs, allow_tainted=True).entries}
    assert "saebench_absorption_rate" in asked["topk"].values
    assert "saebench_absorption_rate" in asked["topk"].tainted
    assert "saebench_explained_variance_legacy" not in asked["topk"].tainted


def test_an_imported_record_says_where_it_is_from_and_survives_a_file(imported, tmp_path):
    record = imported[0]["topk"]
    assert record.provenance.source.startswith("temporal/baseline_topk.json, sha256 ")
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record
    assert record.training.wall_seconds is None


def test_two_files_of_one_method_are_refused():
    tolerances = load_tolerances(GEMMA / "facts.yaml")
    evidence = [e for e in collect([GEMMA], tolerances).evidence if e.name == "temporal/baseline_topk.json"]
    with pytest.raises(RecordError, match="both become topk"):
        import_records([*evidence, *evidence], {}, (), suite=SUITE, main="temporal")


def test_the_lms_own_numbers_are_no_metrics_of_an_sae():
    assert known_as("core", "ce_loss_without_sae") is None
    assert known_as("sparse_probing", "llm_test_accuracy") is None
    assert known_as("tpp", "tpp_threshold_20_total_metric").name == "saebench_tpp_total_n20"
    assert known_as("core", "explained_variance").name == "saebench_explained_variance_corrected"
