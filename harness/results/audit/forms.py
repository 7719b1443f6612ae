"""Findings as rows, as plain data, as SARIF 2.1.0, and rules in words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .rule import Finding, Rule
from .runner import Verdict
from .tolerances import DEFAULT, Tolerances

HEADERS = ("severity", "rule", "record", "evaluation", "field", "evidence")
_LONGEST = 200
_FIELDS = tuple(field.name for field in dataclasses.fields(Finding))


def rows(findings: Sequence[Finding]) -> list[list[str]]:
    """One row for each finding, under `HEADERS`."""
    return [
        [
            finding.severity,
            finding.rule,
            printable(finding.record),
            printable(finding.evaluation) or "-",
            printable(finding.field) or "-",
            _evidence(finding),
        ]
        for finding in findings
    ]


def legend(findings: Sequence[Finding]) -> list[str]:
    """For each rule among the findings: what it is, what it means, what to do."""
    told = {f.rule: f for f in sorted(findings, key=lambda f: f.rule)}
    return [f"{rule}: {f.title}. {f.meaning} Mend: {f.mend}" for rule, f in told.items()]


def json_chunks(
    findings: Sequence[Finding], verdicts: Mapping[str, Mapping[str, Verdict]], files: int
) -> Iterator[str]:
    """Findings and verdicts as the text of one JSON object, piece by piece: there may be very many.

    `kind` and `version` name the layout.
    """
    head = {
        "kind": "sae-harness/audit",
        "version": 1,
        "files": files,
        "records": len(verdicts),
        "blockers": sum(f.severity == "blocker" for f in findings),
        "warnings": sum(f.severity == "warning" for f in findings),
    }
    yield json.dumps(head, indent=1)[:-2] + ',\n "findings": ['
    for i, finding in enumerate(findings):
        yield f"{',' if i else ''}\n  {json.dumps(_plain(finding))}"
    yield '\n ],\n "verdicts": {'
    for i, (record, of_record) in enumerate(verdicts.items()):
        told = {name: {"status": v.status, "rules": list(v.rules)} for name, v in of_record.items()}
        yield f"{',' if i else ''}\n  {json.dumps(record)}: {json.dumps(told)}"
    yield "\n }\n}"


def to_sarif_dict(findings: Sequence[Finding], rules: Sequence[Rule], version: str, root: str = "") -> dict[str, Any]:
    """Findings as SARIF 2.1.0, which code hosts show beside the files; `root` is put before the records' names."""
    used = sorted({f.rule for f in findings})
    known = {rule.id: rule for rule in rules}
    driver = {
        "name": "sae-harness audit",
        "version": version,
        "rules": [_sarif_rule(known[rule]) for rule in used],
    }
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": used.index(finding.rule),
            "level": "error" if finding.severity == "blocker" else "warning",
            "message": {"text": f"{finding.title}: {_evidence(finding)}"},
            "locations": [_location(finding, root)],
            "properties": {"scope": finding.scope, "others": list(finding.others)},
        }
        for finding in findings
    ]
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return {"$schema": schema, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def explained(rule: Rule, tolerances: Tolerances = DEFAULT) -> str:
    """A rule in full: what it is, where it is held, and with which tolerances."""
    lines = [f"{rule.id} ({rule.severity}, {rule.family}): {rule.title}", "", rule.meaning, f"Mend: {rule.mend}"]
    if rule.check is None and rule.family != "reading":
        lines.append(f"No field of a record shows it. Held by: {rule.held_by}")
    elif rule.held_by:
        lines.append(f"Held by: {rule.held_by}")
    for name in rule.tolerances:
        default, value = getattr(DEFAULT, name), getattr(tolerances, name)
        changed = "" if value == default else f" (default {_value(default)})"
        lines.append(f"Tolerance {name}: {_value(value)}{changed}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text of a file without what would act on a terminal, and not endless."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 4 * _LONGEST])
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."


def _evidence(finding: Finding) -> str:
    told = "; ".join(f"{printable(where)}: {printable(value)}" for where, value in finding.evidence)
    return f"{told}. {printable(finding.note)}" if finding.note else told


def _plain(finding: Finding) -> dict[str, Any]:
    data = {name: getattr(finding, name) for name in _FIELDS}  # `asdict` would copy every text: a quarter of the time
    data["evidence"] = [{"where": where, "value": value} for where, value in finding.evidence]
    data["others"] = list(finding.others)
    return data


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": rule.mend},
        "defaultConfiguration": {"level": "error" if rule.severity == "blocker" else "warning"},
        "properties": {"family": rule.family},
    }


def _location(finding: Finding, root: str) -> dict[str, Any]:
    file = finding.record.partition("#")[0]
    path = f"{root.rstrip('/')}/{file}" if root else file
    where: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(path)}}}
    name = ": ".join(part for part in (finding.evaluation, finding.field) if part)
    if name:
        where["logicalLocations"] = [{"fullyQualifiedName": name}]
    return where


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v:g}" for k, v in value.items())
    if isinstance(value, tuple):
        return "; ".join(f"{fact.records}: {dict(fact.says)} ({fact.source})" for fact in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
