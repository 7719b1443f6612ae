"""The runner: order, declared taints, verdicts, plugins' rules."""

from __future__ import annotations

import pytest

from harness.errors import PluginError
from harness.interfaces.audit import AuditRuleSpec
from harness.results.audit.evidence import Evidence
from harness.results.audit.read_harness import evidence_of
from harness.results.audit.runner import RULES, Verdict, audit, verdicts, with_plugins

SPEC = AuditRuleSpec(
    name="my_rule", target="m:f", severity="blocker", title="Wrong", meaning="It is wrong.", mend="Mend it."
)


def test_the_rules_are_f01_to_f50_in_order():
    assert [rule.id for rule in RULES] == [f"F{i:02}" for i in range(1, 51)]


def test_every_rule_says_what_it_is_and_is_held_somewhere():
    for rule in RULES:
        assert rule.title
        assert rule.meaning.endswith(".")
        assert rule.mend.endswith(".")
        assert rule.check is not None or rule.held_by, rule.id


def test_nothing_is_found_in_nothing():
    assert audit([]) == ()
    assert verdicts([], []) == {}


def test_blockers_come_first_and_runs_in_their_order(build):
    training = build.told(steps=0)
    records = [build.combined(f"s/run_{i}.json", training=training) for i in (10, 9, 1)]
    warned = build.combined("s/a.json", build.core(explained_variance=-1.0))
    found = [f for f in audit([*records, warned]) if f.rule in ("F13", "F18")]
    assert [f.record for f in found] == [f"s/run_{i}.json" for i in (1, 9, 10)] + ["s/a.json"]


def test_the_order_of_the_records_does_not_matter(build):
    records = [build.combined(f"s/{n}.json", build.core(l0=l0)) for n, l0 in (("a", 1.0), ("b", 5.0), ("c", 5.1))]
    assert audit(records) == audit(records[::-1])


def test_verdicts(build):
    probed = build.evaluation("sparse_probing", {"sae_test_accuracy": 0.5, "sae_top_1_test_accuracy": 0.5})
    record = build.combined("r", build.core(), probed, training=build.told(steps=10))
    other = build.combined("t", build.core(), build.evaluation("scr"), training=build.told(steps=10, loss=3.0))
    found = verdicts(audit([record, other]), [record, other])
    assert found["r"]["sparse_probing"] == Verdict("tainted", ("F13",))
    assert found["r"]["sparse_probing.llm"].status == "valid"
    assert found["r"]["core"].status == "valid"
    assert found["r"]["scr"] == Verdict("missing", ("F31",))
    assert found["t"]["sparse_probing"].status == "missing"


def test_a_blocker_of_the_whole_record_taints_all_of_it(build):
    a = build.combined("s/run_1.json", build.core(), training=build.told(loss=7.123456789))
    b = build.combined("s/run_2.json", build.core(), training=build.told(loss=7.123456789))
    found = verdicts(audit([a, b]), [a, b])
    assert {v.status for v in found["s/run_2.json"].values()} == {"tainted"}
    assert all("F08" in v.rules for v in found["s/run_2.json"].values())
    assert {v.status for v in found["s/run_1.json"].values()} == {"valid"}


def test_a_comparison_does_not_taint_a_number(build):
    a, b = (build.combined(f"s/{n}.json", build.core(l0=l0)) for n, l0 in (("a", 8.0), ("b", 80.0)))
    assert verdicts(audit([a, b]), [a, b])["s/a.json"]["core"] == Verdict("valid", ("F22",))


def test_what_a_record_says_of_itself_is_believed_and_not_found_again(build):
    declared = {"declared": (("F13", "core"), ("F18", ""))}
    record = build.ours("r", build.core(l0=0.0, explained_variance=-1.0), **declared)
    found = [f for f in audit([record]) if f.rule in ("F13", "F18")]
    assert found == []
    verdict = verdicts(audit([record]), [record])["r"]["core"]
    assert (verdict.status, verdict.rules) == ("tainted", ("F13", "F18"))


def test_what_failed_is_told_as_failed(build):
    record = build.ours("r", build.core(), build.evaluation("scr", status="failed"))
    assert verdicts([], [record])["r"]["scr"] == Verdict("failed", ())


def test_a_record_in_memory_is_evidence_too(factory):
    records = factory.make_side()
    evidence = [evidence_of(record) for record in records]
    assert len({e.name for e in evidence}) == len(records)
    assert all(isinstance(e, Evidence) and e.kind == "harness" for e in evidence)
    assert {name for name, _ in ((e.method, e.study) for e in evidence)} == {"topk"}


def test_a_plugins_rule_runs_with_ours(build):
    def check(records, tolerances):
        yield build.hit(records[0].name, evaluation="core")

    rules = with_plugins([(SPEC, check, "my-plugin")])
    record = build.ours("r")
    [finding] = audit([record], rules=rules)
    assert (finding.rule, finding.record, finding.severity, finding.mend) == ("my_rule", "r", "blocker", "Mend it.")
    assert verdicts([finding], [record])["r"]["core"] == Verdict("tainted", ("my_rule",))


@pytest.mark.parametrize("yielded", ["nonsense", "unknown record", "raises"])
def test_a_plugins_rule_that_breaks_its_contract_is_named(build, yielded):
    def check(records, tolerances):
        if yielded == "raises":
            raise ValueError("no")
        yield "nonsense" if yielded == "nonsense" else build.hit("not there")

    with pytest.raises(PluginError, match="my_rule of my-plugin"):
        audit([build.ours("r")], rules=with_plugins([(SPEC, check, "my-plugin")]))


@pytest.mark.parametrize("name", ["F13", "R01"])
def test_a_plugin_cannot_take_a_rules_name(name):
    import dataclasses

    with pytest.raises(PluginError, match=f"'{name}' of my-plugin is already that of sae-harness itself"):
        with_plugins([(dataclasses.replace(SPEC, name=name), lambda *_: (), "my-plugin")])


@pytest.mark.parametrize(
    "changes",
    [{"name": "my rule"}, {"target": "m.f"}, {"severity": "bad"}, {"title": " "}, {"meaning": ""}, {"mend": ""}],
)
def test_a_rule_that_says_too_little_is_refused(changes):
    import dataclasses

    with pytest.raises(PluginError, match=r"[Aa]udit rule"):
        dataclasses.replace(SPEC, **changes)
