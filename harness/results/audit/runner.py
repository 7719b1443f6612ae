"""Apply the rules to all evidence at once, and give a verdict on each evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...errors import PluginError
from ...interfaces.audit import AuditHit, AuditRuleSpec
from . import confounds, coverage, formulation, identity, infrastructure, semantics, training
from .collect import READING
from .evidence import LLM_HALF, Evidence
from .rule import Check, Finding, Rule, natural
from .tolerances import DEFAULT, Tolerances

RULES: tuple[Rule, ...] = (
    *identity.RULES,
    *training.RULES,
    *confounds.RULES,
    *coverage.RULES,
    *formulation.RULES,
    *semantics.RULES,
    *infrastructure.RULES,
)
"""F01 to F50, in order."""


class Verdict(NamedTuple):
    """Whether one evaluation may be used."""

    status: str
    """`valid`, `tainted`, `missing` (it should be there), or what the record itself says: `failed`, `skipped`."""
    rules: tuple[str, ...]
    """What taints it; of a valid one, what to mind when it is used."""


def audit(
    records: Sequence[Evidence], tolerances: Tolerances = DEFAULT, rules: Sequence[Rule] = RULES
) -> tuple[Finding, ...]:
    """All findings on these records, alone and together: blockers first, then by record and rule.

    What a record bears as a taint already is not found again.

    Raises:
        PluginError: a plugin's rule raises, or yields something else than hits on these records.
    """
    ordered = sorted(records, key=lambda r: natural(r.name))
    names = {record.name: set(record.declared) for record in ordered}
    found: dict[Finding, None] = {}
    for rule in rules:
        for hit in _hits(rule, ordered, tolerances, names):
            declared = names[hit.record]
            if (rule.id, hit.evaluation) not in declared and (rule.id, "") not in declared:
                found.setdefault(_finding(rule, hit))
    return tuple(sorted(found, key=_order))


def verdicts(findings: Iterable[Finding], evidence: Sequence[Evidence]) -> dict[str, dict[str, Verdict]]:
    """Record -> evaluation -> verdict.

    Evaluations are those of the record, `training` for what training says of itself, `sparse_probing.llm` for the
    language model's half of SAEBench's probing, and those that are missing. A whole record's blocker taints them all.
    """
    of_record: dict[str, list[Finding]] = {}
    for finding in findings:
        of_record.setdefault(finding.record, []).append(finding)
    return {record.name: _verdicts(of_record.get(record.name, []), record) for record in evidence}


def with_plugins(specs: Iterable[tuple[AuditRuleSpec, Check, str]]) -> tuple[Rule, ...]:
    """Our rules and then those of plugins: (spec, its function, distribution).

    Raises:
        PluginError: a rule's name is taken.
    """
    rules = list(RULES)
    taken = {rule.id: "sae-harness itself" for rule in (*RULES, *READING)}
    for spec, check, distribution in specs:
        if spec.name in taken:
            raise PluginError(f"Audit rule {spec.name!r} of {distribution} is already that of {taken[spec.name]}.")
        taken[spec.name] = distribution
        rules.append(
            Rule(
                id=spec.name,
                family=distribution,
                severity=spec.severity,
                title=spec.title,
                meaning=spec.meaning,
                mend=spec.mend,
                check=check,
            )
        )
    return tuple(rules)


def _hits(
    rule: Rule, records: Sequence[Evidence], tolerances: Tolerances, names: Mapping[str, object]
) -> Iterable[AuditHit]:
    if rule.check is None:
        return ()
    if rule in RULES:
        return rule.check(records, tolerances)
    try:
        hits = list(rule.check(records, tolerances))
    except Exception as error:
        raise PluginError(f"Audit rule {rule.id} of {rule.family} raised {type(error).__name__}: {error}") from error
    for hit in hits:
        if not isinstance(hit, AuditHit) or hit.record not in names:
            raise PluginError(f"Audit rule {rule.id} of {rule.family} yielded {hit!r:.200}: yield hits on the records.")
    return hits


def _finding(rule: Rule, hit: AuditHit) -> Finding:
    return Finding(
        rule=rule.id,
        severity=hit.severity or rule.severity,
        record=hit.record,
        evaluation=hit.evaluation,
        field=hit.field,
        evidence=hit.evidence,
        title=rule.title,
        meaning=rule.meaning,
        mend=rule.mend,
        scope=hit.scope,
        note=hit.note,
        others=hit.others,
    )


def _order(finding: Finding) -> tuple[object, ...]:
    return finding.severity != "blocker", natural(finding.record), finding.rule, finding.evaluation, finding.field


def _verdicts(findings: Sequence[Finding], record: Evidence) -> dict[str, Verdict]:
    found = {}
    whole = {f.rule for f in findings if not f.evaluation and _taints(f)}
    for part in record.parts():
        status = record.evaluations[part].status if part in record.evaluations else "done"
        if status in ("failed", "skipped"):
            found[part] = Verdict(status, ())
            continue
        own = [f for f in findings if f.evaluation == part]
        declared = {rule for rule, evaluation in record.declared if evaluation in ("", part)}
        taints = whole | {f.rule for f in own if _taints(f)} | declared
        if taints:
            found[part] = Verdict("tainted", tuple(sorted(taints)))
        else:
            found[part] = Verdict("valid", tuple(sorted({f.rule for f in own})))
    for finding in findings:
        name = finding.evaluation
        if name and name != "training" and name != LLM_HALF and name not in record.evaluations:
            rules = found[name].rules if name in found else ()
            found[name] = Verdict("missing", tuple(sorted({*rules, finding.rule})))
    return found


def _taints(finding: Finding) -> bool:
    return finding.severity == "blocker" and finding.scope == "value"
