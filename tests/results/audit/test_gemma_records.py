"""The golden test: the 28 published records, and the verdict on every evaluation in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from harness.results.audit.collect import collect
from harness.results.audit.runner import audit, verdicts
from harness.results.audit.tolerances import load_tolerances

FOLDER = Path(__file__).parents[2] / "fixtures" / "gemma_records"
EXPECTED = yaml.safe_load((FOLDER / "verdicts.yaml").read_text(encoding="utf-8"))
TOLERANCES = load_tolerances(FOLDER / "facts.yaml")


@pytest.fixture(scope="module")
def judged():
    """(evidence, findings) of all records together."""
    collected = collect([FOLDER], TOLERANCES)
    assert collected.findings == ()
    return collected.evidence, audit(collected.evidence, TOLERANCES)


def found_in(judged, *rules: str) -> dict[str, list[str]]:
    """Record -> evaluations in which a rule is found."""
    found: dict[str, list[str]] = {}
    for finding in judged[1]:
        if finding.rule in rules:
            found.setdefault(finding.record, []).append(finding.evaluation)
    return found


def test_the_records_are_as_published():
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        sha256, name = line.split()
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sha256, name
    assert len(EXPECTED) == 28


@pytest.mark.parametrize("record", sorted(EXPECTED))
def test_every_verdict_is_reproduced(judged, record):
    evidence, findings = judged
    expected = {name: text for name, text in EXPECTED[record].items() if name != "record"}
    found = verdicts(findings, evidence)[record]
    assert {name: " ".join([v.status, *v.rules]) for name, v in found.items()} == expected
    whole = sorted({f.rule for f in findings if f.record == record and not f.evaluation and f.severity == "blocker"})
    assert whole == EXPECTED[record].get("record", "").split()


@pytest.mark.parametrize("study", ["sparsity_guided_orthogonality", "hierarchical_unlearning", "topk_orthogonality"])
def test_a_study_alone_has_the_taints_that_its_own_files_show(study):
    """What only another study gives away is F06 (its source is in 003) and the duplicates."""
    collected = collect([FOLDER / study], TOLERANCES)
    found = verdicts(audit(collected.evidence, TOLERANCES), collected.evidence)
    for record, of_record in found.items():
        for name, verdict in of_record.items():
            expected = EXPECTED[f"{study}/{record}"][name].split()
            assert verdict.status == expected[0], (record, name)
            assert set(verdict.rules) <= set(expected[1:]) | {"F11", "F43"}, (record, name)


def test_the_stale_absorption_is_found_seven_times(judged):
    found = found_in(judged, "F01")
    assert set(found) == {
        "hierarchical_unlearning/baseline_jumprelu.json",
        *(f"temporal/baseline_{name}.json" for name in ("topk", "jumprelu", "standard")),
        *(f"temporal/run_{i}.json" for i in (1, 2, 3)),
    }
    assert all(evaluations == ["absorption"] for evaluations in found.values())


def test_the_second_stale_set_is_found_six_times(judged):
    assert set(found_in(judged, "F02")) == {f"temporal/run_{i}.json" for i in range(4, 10)}


def test_the_mislabelled_record_names_the_one_it_is_a_copy_of(judged):
    [finding] = [f for f in judged[1] if f.rule == "F05"]
    assert finding.record == "hierarchical_unlearning/baseline_jumprelu.json"
    assert finding.others == ("temporal/baseline_topk.json",)


def test_the_loss_ratios_are_those_computed_by_hand(judged):
    ratios = {f.record: f.evidence[1][1] for f in judged[1] if f.rule == "F03"}
    assert ratios == {
        "hierarchical_unlearning/baseline_jumprelu.json": "2923.75, a ratio of 9.05",
        "temporal/baseline_jumprelu.json": "2217.3, a ratio of 11.9",
    }


def test_run_9_is_the_copy_and_run_8_is_not(judged):
    [finding] = [f for f in judged[1] if f.rule == "F08"]
    assert (finding.record, finding.others) == ("temporal/run_9.json", ("temporal/run_8.json",))
    assert "core" in finding.note


def test_foreign_evaluations_tell_how_much_older_they_are(judged):
    notes = {f.record: f.note for f in judged[1] if f.rule == "F04"}
    assert "14.8 h" in notes["sparsity_guided_orthogonality/baseline_topk.json"]
    assert "21.7 h" in notes["sparsity_guided_orthogonality/baseline_standard.json"]


def test_unlearning_sweeps_of_two_studies_are_told_apart(judged):
    assert set(found_in(judged, "F46")) >= {
        "sparsity_guided_orthogonality/baseline_topk.json",
        "sparsity_guided_orthogonality/baseline_standard.json",
    }


def test_each_study_is_told_to_rest_on_one_seed(judged):
    found = [f for f in judged[1] if f.rule == "F30"]
    assert {f.record.partition("/")[0] for f in found} >= {"sparsity_guided_orthogonality", "temporal"}


def test_without_the_facts_only_what_rests_on_them_is_silent(judged):
    collected = collect([FOLDER])
    without = {f.rule for f in audit(collected.evidence)}
    assert {f.rule for f in judged[1]} - without == {"F17", "F26"}
