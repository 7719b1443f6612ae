"""F31-F33: what is missing is said to be missing."""

from __future__ import annotations


def test_f31_an_evaluation_the_others_have(build):
    whole = build.combined("s/a.json", build.core(), build.evaluation("scr"))
    part = build.combined("s/b.json", build.core())
    [finding] = build.found("F31", whole, part)
    assert (finding.record, finding.evaluation, finding.severity) == ("s/b.json", "scr", "blocker")
    assert build.found("F31", whole, build.combined("t/b.json", build.core(), study="other")) == []


def test_f31_what_was_overwritten_is_the_matter_of_f09(build):
    whole = build.combined("s/a.json", build.evaluation("scr"), build.evaluation("tpp"))
    part = build.combined("s/b.json", build.evaluation("scr", key="scr and tpp evaluations results"))
    assert build.found("F31", whole, part) == []


def test_f31_files_that_are_not_given_are_a_warning(build):
    a = [build.saebench(f"a{n}", build.evaluation(n), key="r/a") for n in ("core", "scr")]
    b = build.saebench("b", build.evaluation("core"), key="r/b")
    [finding] = build.found("F31", *a, b)
    assert (finding.record, finding.evaluation, finding.severity) == ("b", "scr", "warning")
    other = build.saebench("b", build.evaluation("core"), key="another release/b")
    assert build.found("F31", *a, other) == []


def test_f31_records_of_one_method_are_evaluated_alike(build):
    def record(name, *evaluations, method="topk"):
        return build.ours(name, build.core(), *evaluations, method=method)

    extra = build.evaluation("scr", {"x": 1.0})
    found = build.found("F31", record("a", extra), record("b"), record("c", method="relu"))
    assert build.names(found) == [("b", "scr")]


def test_f31_done_without_its_numbers(build):
    done = build.evaluation("scr", {"x": 1.0, "y": 2.0})
    half = build.evaluation("scr", {"x": 1.0})
    assert build.names(build.found("F31", build.ours("a", done), build.ours("b", half))) == [("b", "scr")]
    failed = build.evaluation("scr", status="failed")
    assert build.found("F31", build.ours("a", done), build.ours("b", failed)) == [], "what failed says so"


def test_f31_measured_on_less(build):
    def file(name, size):
        return build.saebench(name, build.evaluation("scr", config={"train_set_size": size}))

    [finding] = build.found("F31", file("a", 4000), file("b", 2000))
    assert (finding.record, finding.scope) == ("b", "comparison")
    assert build.found("F31", file("a", 4000), file("b", 4000)) == []


def test_f32_a_gap_in_the_runs(build):
    assert len(build.found("F32", build.combined("s/run_4.json", run_numbers=(1, 2, 4)))) == 1
    assert build.found("F32", build.combined("s/run_2.json", run_numbers=(1, 2, 4))) == []
    assert build.found("F32", build.combined("s/run_1.json", run_numbers=(1, 2))) == []
    assert build.found("F32", build.combined("s/run_0.json", run_numbers=(0, 1))) == []
    assert build.found("F32", build.combined("s/baseline.json", run_numbers=(2, 4))) == []


def test_f33_zeros_for_nothing(build):
    zeros = dict.fromkeys("abc", 0.0)
    assert build.names(build.found("F33", build.saebench("r", build.evaluation("scr", zeros)))) == [("r", "scr")]
    assert build.found("F33", build.saebench("r", build.evaluation("scr", {**zeros, "d": 0.01}))) == []
    assert build.found("F33", build.saebench("r", build.evaluation("unlearning", {"unlearning_score": 0.0}))) == []
