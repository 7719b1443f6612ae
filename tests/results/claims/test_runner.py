"""Texts against the harness's own records: numbers, verdicts, and what is bound to nothing."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.results.claims.bindings import load_bindings


def one(report, **wanted):
    found = [o for o in report.outcomes if all(getattr(o, k) == v for k, v in wanted.items())]
    assert len(found) == 1, report.outcomes
    return found[0]


@pytest.mark.parametrize(
    ("sentence", "status", "reason"),
    [
        ("FVU is 0.33 {{= topk/l0=32/fvu}}.", "supported", "the mean of 3 seeds"),
        ("FVU is 33 % {{= tiny/topk/l0=32/fvu}}.", "supported", "0.33"),
        ("FVU is 0.31 {{= topk/l0=32/fvu}}.", "refuted", "is 0.33"),
        ("FVU is 0.23 {{= idea/l0=32/seed=1/fvu}}.", "supported", "0.23"),
        ("FVU is 0.23 {{= idae/l0=32/fvu}}.", "unresolved", "no record idae; near it: idea"),
        ("FVU is 0.23 {{= idea/l0=16/fvu}}.", "unresolved", "no record of idea has l0=16"),
        ("FVU is 0.23 {{= idea/fvu}}.", "unresolved", "idea has records at L0 8, 32: add l0="),
        ("FVU is 0.23 {{= idea/l0=32/fvuu}}.", "unresolved", "has no fvuu; near it: fvu"),
        ("FVU is 0.23 {{= nope/fvu}}.", "unresolved", "no record nope"),
        ("The rest is 0.1 {{= */fvuu}}.", "unresolved", "has no fvuu; near it: fvu"),
        ("The step is 0.001 {{= topk/l0=8/training.lr}}.", "supported", "0.001"),
        ("It has 1,536 {{= topk/l0=8/d_sae}} latents.", "supported", "1536"),
        ("FVU is below 0.5 {{> */fvu}}.", "supported", ""),
        ("FVU is below 0.3 {{> */fvu}}.", "refuted", "is 0.3"),
        ("It is 0.10 {{= min */fvu}} at least.", "supported", "the smallest is 0.1, of tiny/single/l0=32"),
        ("It is trained {{topk/l0=8/training.steps > 0}}.", "supported", "training.steps is 585"),
        ("It is trained for long {{topk/l0=8/training.steps > 1e4}}.", "refuted", "training.steps is 585"),
    ],
)
def test_numbers(check, sentence, status, reason):
    found = one(check(sentence), status=status)
    assert reason in found.reason.replace("core.", "")


@pytest.mark.parametrize(
    ("sentence", "status", "reason"),
    [
        ("It has a lower FVU {{idea < topk : fvu}}.", "supported", "better: the difference is -0."),
        ("It is better {{idea better than topk : fvu}}.", "supported", "better"),
        ("It is better {{topk better than idea : fvu}}.", "refuted", "worse"),
        ("It is worse {{topk worse than idea : fvu @ l0=32}}.", "supported", "over L0 32-32"),
        ("It is better {{twin better than topk : fvu}}.", "unsupported", "within noise"),
        ("They match {{twin ~ topk : fvu}}.", "supported", "within noise"),
        ("They match {{idea ~ topk : fvu}}.", "refuted", "better"),
        ("It is better {{single better than topk : fvu}}.", "unsupported", "unresolved: n=1 seed"),
        ("It is better {{idea better than topk : density_slope}}.", "unsupported", "has no direction"),
        ("It is better {{idea better than topk : cosine}}.", "unsupported", "has no direction"),
        ("It is better {{idea better than topk : fvu @ l0=500}}.", "unsupported", "No record reaches L0 500"),
    ],
)
def test_comparisons(check, sentence, status, reason):
    assert reason in one(check(sentence), status=status).reason


def test_words_against_the_direction_are_refuted_though_the_comparison_holds(check):
    [found] = check("It has a higher FVU {{idea < topk : fvu}}.").outcomes
    assert (found.status, found.reason) == ("refuted", "the sentence says higher, the binding says lower fvu")


def test_an_annotation_with_two_faults_is_one_finding_that_tells_both(check):
    [found] = check("It has a higher FVU {{twin < topk : fvu}}.").outcomes
    assert found.status == "refuted"
    assert found.reason.startswith("the sentence says higher, the binding says lower fvu; within noise: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("It is {{nonsense}} here.", "'nonsense' is no reference: write RECORD/FIELD"),
        ("It is 0.912 {{= topk}} here.", "'topk' is no reference"),
        ("FVU is low {{= topk/l0=32/fvu}}.", "a number does not stand there"),
        ("It is 0.3 {{= range */fvu}}.", "two numbers such as 0.08–0.24 does not stand there"),
        ("It is {{single/fvu:xyz}}.", "'xyz' is no format of a number"),
        ("It is better {{idea ? topk : fvu}}.", "is no comparison"),
    ],
)
def test_an_annotation_that_is_none_is_one_finding_and_the_others_are_checked(check, text, told):
    first, other = check(f"{text} Then 0.31 {{{{= topk/l0=32/fvu}}}}.").outcomes
    assert (first.status, other.status) == ("unresolved", "refuted")
    assert told in first.reason


def test_what_is_no_annotation_stays_in_the_text(check):
    text = "It is {{nonsense}} and {{= topk/fvu}} here."
    assert check(text).filled == text


def test_a_record_far_from_what_was_written_is_not_suggested(check):
    assert one(check("It is {{nope/fvu}}."), kind="fill").reason == "no record nope"


def test_a_finding_quotes_its_own_sentence_where_the_next_begins_with_a_small_letter(check):
    text = "topk has 0.31 {{= topk/l0=32/fvu}} here.\nidea is at 0.23 {{= idea/l0=32/fvu}}. topk is better."
    found = check(text).outcomes
    assert [o.sentence for o in found] == ["topk has 0.31 here.", "idea is at 0.23.", "topk is better."]


def test_unbound_numbers_and_claims_are_told_with_where_the_number_could_be_from(check):
    report = check("It reaches 0.100 and is significantly better.")
    number, words = report.outcomes
    assert (number.status, number.claim) == ("unbound", "0.100")
    assert number.reason.endswith("it could be tiny/single/l0=32/seed=0/core.fvu")
    assert (words.status, words.claim) == ("unbound", "significantly, better")


def test_a_right_number_does_not_bear_a_claim_of_more(check):
    report = check("It is far better with 0.33 {{= topk/l0=32/fvu}}.")
    assert {o.status for o in report.outcomes} == {"supported", "unbound"}


def test_ignored_sentences_are_counted(check):
    report = check("Run it on 16 cores, which is faster. {{ignore the machine}}")
    assert (report.outcomes, report.ignored) == ((), 1)


def test_the_same_in_all(check):
    assert one(check("One rate for all {{same */training.lr}}."), kind="comparison").status == "supported"
    assert one(check("One k for all {{same */training.k}}."), kind="comparison").status == "refuted"


def test_fills_have_the_digits_their_noise_leaves_and_bindings_go(check):
    text = (
        "| {{topk/l0=32/fvu}} | {{topk/l0=32/fvu:.2%}} | {{topk/l0=32/fvu:±}} |\n\n"
        "It gains {{idea vs topk : fvu}} ({{idea vs topk : fvu | verdict}}), 0.33 {{= topk/l0=32/fvu}} before. "
        "Done <!-- {{ignore}} -->."
    )
    report = check(text)
    assert {o.status for o in report.outcomes if o.kind == "fill"} == {"supported"}
    row, _, sentence = report.filled.partition("\n\n")
    value, percent, interval = (cell.strip() for cell in row.strip("|").split("|"))
    assert 0.32 < float(value) < 0.34
    assert percent.startswith("33.")
    assert " ± 0.0" in interval
    assert sentence.startswith("It gains -0.1")
    assert sentence.endswith("(better), 0.33 before. Done.")


def test_what_cannot_be_filled_stays_as_it_is(check):
    text = "It is {{idea/fvu}}, {{single/fvu:±}} and {{nobody/fvu}}."
    report = check(text)
    assert report.filled == text
    assert [o.status for o in report.outcomes] == ["unresolved", "unsupported", "unresolved"]


def test_a_binding_on_a_line_of_its_own_leaves_no_gap(check):
    assert check("It is lower\n{{idea < topk : fvu}}.").filled == "It is lower."


def test_a_tainted_number_bears_nothing(factory, tmp_path):
    from harness.results.claims.comparisons import Terms
    from harness.results.claims.library import Library
    from harness.results.claims.runner import check_text
    from harness.results.record import Taint

    record = factory.make_record(values={"fvu": 0.25}, taints=[Taint(rule="F03", reason="spliced")])
    record.save(tmp_path / "r.json")
    terms = Terms(specs={"fvu": factory.FVU}, labels={})
    report = check_text("It is 0.25 {{= topk/fvu}}, {{topk/fvu}}.", Library([tmp_path]), terms, name="t")
    assert [o.status for o in report.outcomes] == ["unsupported"] * 2
    assert all("tainted (F03): it may not be used" in o.reason for o in report.outcomes)


def test_a_comparison_with_what_the_audit_taints_bears_nothing(factory, tmp_path):
    """All of topk's runs end at one loss: all but one are copies (F08)."""
    from harness.results.claims.comparisons import Terms
    from harness.results.claims.library import Library
    from harness.results.claims.runner import check_text

    for i, record in enumerate(factory.make_side("topk") + factory.make_side("idea")):
        record.save(tmp_path / f"r{i}.json")
    terms = Terms(specs={"fvu": factory.FVU, "l0": factory.L0}, labels={})
    report = check_text("It is better {{idea better than topk : fvu}}.", Library([tmp_path]), terms, name="t")
    assert "is tainted (F08)" in one(report, status="unsupported").reason


def test_bindings_are_read_and_put_to_their_sentences(check, tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text(
        "claims:\n- id: a\n  sentence: reaches 0.23\n  checks: ['0.23 = idea/l0=32/fvu', 'idea < topk : fvu']\n"
    )
    report = check("First. It reaches 0.23, a lower FVU.", bindings=load_bindings(path))
    assert [(o.id, o.status) for o in report.outcomes] == [("a", "supported"), ("a", "supported")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "must hold a list under `claims:`"),
        ("claims: [{id: 1}]", "must have id, sentence and checks"),
        ("claims: [{id: 1, sentence: x, checks: []}]", "checks must be a list"),
        ("claims: [{id: 1, sentence: '', checks: [a]}]", "sentence must be text"),
        ("claims: [{id: 1, sentence: x, checks: ['topk/fvu']}]", "checks nothing"),
        ("claims: [{id: 1, sentence: x, checks: ['= topk/fvu']}]", "needs the number"),
        ("claims: [{id: 1, sentence: x, checks: ['1 = range topk/fvu']}]", "needs two numbers"),
        ("claims: [{id: 1, sentence: x, checks: [ignore]}, {id: 1, sentence: x, checks: [ignore]}]", "the id '1'"),
        ("a: [", "are no YAML"),
    ],
)
def test_malformed_bindings_are_refused(tmp_path, content, told):
    path = tmp_path / "b.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        load_bindings(path)


def test_bindings_that_no_longer_fit_the_text_are_refused(check, tmp_path):
    path = tmp_path / "b.yaml"
    path.write_text("claims: [{id: a, sentence: reaches 0.23, checks: ['0.24 = idea/l0=32/fvu']}]")
    with pytest.raises(ConfigError, match=r"no sentence with 'reaches 0.23' \(claim a\)"):
        check("It is gone.", bindings=load_bindings(path))
    with pytest.raises(ConfigError, match=r"the number 0.24 is not in its sentence"):
        check("It reaches 0.23.", bindings=load_bindings(path))
