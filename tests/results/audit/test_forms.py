"""Findings as rows, JSON and SARIF; rules in words."""

from __future__ import annotations

import json

import pytest

from harness.results.audit.collect import READING
from harness.results.audit.forms import (
    HEADERS,
    explained,
    json_chunks,
    legend,
    printable,
    rows,
    to_sarif_dict,
)
from harness.results.audit.runner import RULES, audit, verdicts
from harness.results.audit.tolerances import Tolerances


@pytest.fixture
def judged(build):
    records = [build.combined(f"s/{n}.json", build.core(l0=l0)) for n, l0 in (("a b", 8.0), ("c", 80.0))]
    never = build.combined("s/d.json", build.core(l0=0.0), study="t", group="x")
    findings = audit([*records, never])
    return findings, verdicts(findings, [*records, never])


def test_a_row_has_both_values(judged):
    row = dict(zip(HEADERS, next(r for r in rows(judged[0]) if r[1] == "F22"), strict=True))
    assert row == {
        "severity": "blocker",
        "rule": "F22",
        "record": "s/a b.json",
        "evaluation": "core",
        "field": "l0",
        "evidence": "a b: 8; others: c 80",
    }


def test_the_legend_tells_each_rule_once(judged):
    told = legend(judged[0])
    assert [line.partition(":")[0] for line in told] == ["F13", "F22"]
    assert all("Mend:" in line for line in told)


def test_json_holds_findings_and_verdicts(judged):
    found = json.loads("".join(json_chunks(*judged, files=3)))
    assert (found["kind"], found["files"], found["records"]) == ("sae-harness/audit", 3, 3)
    assert (found["blockers"], found["warnings"]) == (3, 0)
    first = found["findings"][0]
    assert first.keys() >= {"rule", "severity", "record", "field", "evidence", "meaning", "mend", "scope", "note"}
    assert all(part.keys() == {"where", "value"} for part in first["evidence"])
    assert found["verdicts"]["s/d.json"]["core"] == {"status": "tainted", "rules": ["F13"]}


def test_json_of_nothing_is_json():
    found = json.loads("".join(json_chunks([], {}, files=1)))
    assert (found["findings"], found["verdicts"], found["files"]) == ([], {}, 1)


def test_sarif_has_what_its_schema_requires(judged):
    found = to_sarif_dict(judged[0], (*READING, *RULES), "0.1.0", "results")
    [run] = found["runs"]
    assert found["version"] == "2.1.0"
    assert run["tool"]["driver"]["name"] == "sae-harness audit"
    assert len(run["results"]) == len(judged[0])
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning")
        assert result["message"]["text"]
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in run["results"]}
    assert uris == {"results/s/a%20b.json", "results/s/c.json", "results/s/d.json"}


def test_a_rule_is_explained_with_its_tolerances():
    [rule] = [r for r in RULES if r.id == "F22"]
    assert "Tolerance l0_match: 0.1" in explained(rule)
    assert "Tolerance l0_match: 0.2 (default 0.1)" in explained(rule, Tolerances(l0_match=0.2))


def test_a_rule_of_the_kit_says_where_it_is_held():
    [rule] = [r for r in RULES if r.id == "F36"]
    assert "No field of a record shows it. Held by: `sae-harness check`" in explained(rule)


def test_what_would_act_on_a_terminal_is_escaped():
    assert printable("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert len(printable("x" * 10_000)) == 200
