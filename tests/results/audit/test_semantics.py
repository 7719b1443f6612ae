"""F40-F46: numbers that mean another thing."""

from __future__ import annotations


def row(build, name, metrics, key="core", **config):
    return build.saebench(name, build.evaluation(key, metrics, config=config), identity=name, key=name)


def test_f40_mse_over_batches_of_different_size(build):
    def file(name, prompts):
        return row(build, name, {"mse": 1.0}, batch_size_prompts=prompts, context_size=128)

    assert build.names(build.found("F40", file("a", 16), file("b", 16), file("c", 32))) == [("c", "core")]
    assert build.found("F40", file("a", 16), file("b", 16)) == []


def test_f40_saebenchs_mse_beside_ours(build):
    theirs = build.saebench("theirs", build.evaluation("core", {"mse": 1.0}), lm="lm")
    assert build.names(build.found("F40", theirs, build.ours("ours", build.core(mse=2.0)))) == [("theirs", "core")]
    other = build.saebench("theirs", build.evaluation("core", {"mse": 1.0}), lm="gemma")
    assert build.found("F40", other, build.ours("ours", build.core(mse=2.0))) == []


def test_f41_two_formulas_of_explained_variance(build):
    old = [row(build, n, {"explained_variance": 0.9}) for n in "ab"]
    new = row(build, "c", {"explained_variance": 0.98, "explained_variance_legacy": 0.9})
    assert build.names(build.found("F41", *old, new)) == [("c", "core")]
    assert build.found("F41", *old) == []


def test_f42_ties_in_bfloat16(build):
    def file(name, mse, score, dtype="bfloat16"):
        metrics = {"ce_loss_score": score, "mse": mse, "cossim": mse / 7, "l1": mse * 3.3}
        return row(build, name, metrics, llm_dtype=dtype)

    found = build.found("F42", file("a", 1.1, 0.99178), file("b", 1.2, 0.99178), file("c", 1.3, 0.98))
    assert build.names(found) == [("a", "core"), ("b", "core")]
    assert build.found("F42", file("a", 1.1, 0.99178, "float32"), file("b", 1.2, 0.99178, "float32")) == []
    assert build.names(build.found("F42", file("a", 1.1, 1.0))) == [("a", "core")], "1 is below the step, not perfect"


def test_f42_a_copy_is_no_tie(build):
    metrics = {"ce_loss_score": 0.99, "mse": 1.1, "cossim": 0.91}
    copies = [row(build, n, metrics, llm_dtype="bfloat16") for n in "ab"]
    assert build.found("F42", *copies) == []


def test_f43_other_letters(build):
    def file(name, letters):
        found = build.evaluation("absorption", {"x": 0.1}, letters=dict.fromkeys(letters, 1))
        return build.saebench(name, found)

    [finding] = build.found("F43", file("a", "abc"), file("b", "ab"))
    assert (finding.record, finding.evidence[1][1]) == ("b", "c")
    assert build.found("F43", file("a", "ab"), file("b", "ab")) == []
    assert build.found("F43", file("a", "ab")) == [], "alone there is nothing to differ from"


def test_f46_another_sweep(build):
    def file(name, **config):
        return row(build, name, {"unlearning_score": 0.1}, "unlearning", **config)

    same = [file(n, multipliers=(25, 50), llm_batch_size=b) for n, b in (("a", 32), ("b", 8))]
    [finding] = build.found("F46", *same, file("c", multipliers=(10, 25)))
    assert finding.record == "c"
    assert finding.evidence == (("multipliers", "10, 25 here, 25, 50 in a"),)
    assert build.found("F46", *same) == [], "a batch size does not move a number"


def test_f46_what_was_skipped_or_failed_has_no_settings(build):
    def record(name, status, **config):
        return build.ours(
            name, build.evaluation("scr", {} if config == {} else {"x": 0.1}, status=status, config=config)
        )

    done = [record(n, "done", seed=1) for n in "abc"]
    assert build.found("F46", *done, record("d", "skipped"), record("e", "failed")) == []
    [finding] = build.found("F46", *done, record("d", "done", seed=2))
    assert finding.record == "d"
