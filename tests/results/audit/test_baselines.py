"""Records made by the harness itself: no false alarm over what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.audit.collect import collect
from harness.results.audit.runner import audit, verdicts

STORED = Path(__file__).parents[3] / "baselines"
SUITES = ("tiny", "smollm2", "world-tiny")
BESIDE = ("manifest.json", "reliability.json")


@pytest.fixture(scope="module")
def stored():
    return collect([STORED / suite for suite in SUITES])


def test_every_stored_record_is_read(stored):
    files = [p for suite in SUITES for p in (STORED / suite).rglob("*.json") if p.name not in BESIDE]
    assert stored.findings == ()
    assert len(stored.evidence) == len(files) >= 130


def test_the_audit_is_silent_on_all_of_them_together(stored):
    assert audit(stored.evidence) == ()


def test_and_on_each_suite_and_method_alone(stored):
    for key in (lambda e: e.study, lambda e: (e.study, e.method)):
        groups: dict[object, list] = {}
        for evidence in stored.evidence:
            groups.setdefault(key(evidence), []).append(evidence)
        for group, records in groups.items():
            assert audit(records) == (), group


def test_every_evaluation_is_valid_or_says_that_it_was_skipped_without_a_remark(stored):
    found = verdicts(audit(stored.evidence), stored.evidence)
    given = {verdict for of_record in found.values() for verdict in of_record.values()}
    assert given == {("valid", ()), ("skipped", ())}
