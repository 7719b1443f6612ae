"""F01-F12: each is found where it is, and not where something sound looks like it."""

from __future__ import annotations

import pytest

LETTERS = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}


def absorption(build, sha="", score=0.01, letters=LETTERS, **fields):
    return build.evaluation(
        "absorption", {"mean_absorption_score": score}, details_sha256=sha, letters=letters, **fields
    )


def test_f01_equal_details_of_different_saes_are_stale(build):
    a = build.combined("s/a.json", absorption(build, "same"))
    b = build.combined("s/b.json", absorption(build, "same"))
    c = build.combined("s/c.json", absorption(build, "other"))
    found = build.found("F01", a, b, c)
    assert build.names(found) == [("s/a.json", "absorption"), ("s/b.json", "absorption")]
    assert found[0].others == ("s/b.json",)
    assert found[0].severity == "blocker"


def test_f01_one_sae_evaluated_again_may_give_the_same(build):
    again = [build.combined(f"s/{n}.json", absorption(build, "same"), identity="one") for n in "ab"]
    assert build.found("F01", *again) == []


def test_f01_details_that_tell_nothing_may_be_equal(build):
    silent = [build.combined(f"s/{n}.json", absorption(build, "")) for n in "ab"]
    assert build.found("F01", *silent) == []


def test_f01_equal_metrics_without_details_count_too(build):
    metrics = {"mse": 1.2345, "cosine": 0.91234, "kl": 0.5123, "l0": 32.0}
    a, b = (build.ours(n, build.evaluation("core", metrics)) for n in "ab")
    assert build.names(build.found("F01", a, b)) == [("a", "core"), ("b", "core")]
    near = build.ours("c", build.evaluation("core", {**metrics, "mse": 1.23451}))
    assert build.found("F01", a, near) == []


def test_f01_controls_that_do_not_depend_on_the_seed_are_equal_for_good_reason(build):
    metrics = {"mse": 1.2345, "cosine": 0.91234, "kl": 0.5123}
    pca = [build.ours(n, build.evaluation("core", metrics), control=True) for n in "ab"]
    assert build.found("F01", *pca) == []


def test_f02_a_zero_on_few_letters_is_no_measurement(build):
    few = dict.fromkeys("dklmqxyz", 0)
    record = build.combined("r", absorption(build, score=0.0, letters=few))
    [finding] = build.found("F02", record)
    assert dict(finding.evidence)["letters it rests on"] == "8 (dklmqxyz)"


@pytest.mark.parametrize(("score", "n"), [(0.0, 20), (0.001, 8)])
def test_f02_a_zero_on_enough_letters_and_a_score_on_few_are_none(build, score, n):
    record = build.combined("r", absorption(build, score=score, letters=dict.fromkeys(list(LETTERS)[:n], 0)))
    assert build.found("F02", record) == []


def core_of(build, mse, **metrics):
    config = {"batch_size_prompts": 16, "context_size": 128}
    return build.evaluation("core", {"mse": mse, **metrics}, config=config)


@pytest.mark.parametrize(
    ("trainer", "settings", "loss", "l0", "sound"),
    [
        ("TrainerTopK", {}, 2032.0 * 0.86, 320.0, True),
        ("TrainerTopK", {}, 2032.0 * 1.6, 320.0, False),
        ("CustomTrainer", {"l1_penalty": 0.04}, (2032**0.5 + 0.04 * 200) * 0.98, 50.0, True),
        ("CustomTrainer", {"l1_penalty": 0.04}, (2032**0.5 + 0.04 * 200) * 0.6, 50.0, False),
        ("JumpReLUTrainer", {"sparsity_penalty": 1.0}, 2032 + 15.0**2, 320.0, True),
        ("JumpReLUTrainer", {"sparsity_penalty": 1.0}, 26473.6, 320.0, False),
        ("UnknownTrainer", {}, 1e9, 320.0, True),
    ],
)
def test_f03_the_loss_must_follow_from_the_metrics(build, trainer, settings, loss, l0, sound):
    training = build.told(settings, trainer=trainer, loss=loss, target_l0=20.0)
    found = build.found("F03", build.combined("r", core_of(build, 1.0, l0=l0, l1=200.0), training=training))
    assert build.names(found) == ([] if sound else [("r", "core")])


def test_f03_a_score_must_follow_from_its_parts(build):
    parts = {"kl_div_with_ablation": 10.0, "kl_div_with_sae": 1.0, "kl_div_score": 0.9}
    assert build.found("F03", build.saebench("r", build.evaluation("core", parts))) == []
    [finding] = build.found("F03", build.saebench("r", build.evaluation("core", {**parts, "kl_div_score": 0.99})))
    assert dict(finding.evidence) == {"kl_div_score": "0.99", "(ablated - SAE) / ablated": "0.9"}


def test_f03_holds_our_own_records_too(build):
    def record(sse, fvu=0.2):
        measured = build.core(mse=100.0, fvu=fvu, explained_variance=0.8)
        return build.ours("r", measured, training={"terms": {"sse": sse}, "input_scale": 0.1})

    whole = 100.0 * 192 * 0.1**2
    assert build.found("F03", record(whole * 0.9)) == []
    assert build.names(build.found("F03", record(whole * 2))) == [("r", "core")]
    assert build.names(build.found("F03", record(whole, fvu=0.3))) == [("r", "core")]


def test_f04_an_evaluation_of_another_sae_is_foreign(build):
    sae = {"architecture": "TopK", "d_sae": 18432, "d_in": 2304}
    own = build.evaluation("scr", sae=sae, time=90_000.0)
    other = build.evaluation("unlearning", sae={**sae, "d_sae": 4608}, time=36_000.0)
    record = build.combined("r", own, other, training=build.told(trainer="TrainerTopK"), d_sae=18432, d_in=2304)
    [finding] = build.found("F04", record)
    assert finding.evaluation == "unlearning"
    assert finding.note == "It was made 15.0 h before the others."
    assert build.found("F04", build.combined("r", own, training=build.told(trainer="TrainerTopK"), d_sae=18432)) == []


def test_f04_old_evaluations_of_the_same_sae_are_none(build):
    sae = {"architecture": "TopK", "d_sae": 18432}
    early, late = (build.evaluation(n, sae=sae, time=t) for n, t in (("scr", 0.0), ("tpp", 9e5)))
    assert build.found("F04", build.combined("r", early, late, d_sae=18432)) == []


def test_f04_one_name_for_two_saes(build):
    def file(name, d_sae, key="release/custom"):
        return build.saebench(name, build.evaluation(name, sae={"architecture": "topk", "d_sae": d_sae}), key=key)

    found = build.found("F04", file("core", 4096), file("scr", 4096), file("tpp", 16384))
    assert build.names(found) == [("tpp", "tpp")]
    assert build.found("F04", file("core", 4096), file("tpp", 16384, key="release/other")) == []


def test_f05_a_trainer_that_makes_another_architecture(build):
    def record(architecture):
        found = build.evaluation("scr", sae={"architecture": architecture, "d_sae": 8})
        return build.combined("r", found, training=build.told(trainer="JumpReLUTrainer"))

    [finding] = build.found("F05", record("TopK"))
    assert (finding.evaluation, finding.severity) == ("", "blocker")
    assert build.found("F05", record("jumprelu")) == []


def test_f05_one_of_many_records_of_a_method_with_another_architecture(build):
    sound = [build.ours(f"topk/{i}") for i in range(3)]
    assert build.found("F05", *sound) == []
    assert build.names(build.found("F05", *sound, build.ours("topk/3", trainer="relu"))) == [("topk/3", "")]


def probing(build, llm, sae=(0.9, 0.8, 0.7), **fields):
    metrics = {f"sae_{i}": v for i, v in enumerate(sae)} | {f"llm_{i}": v for i, v in enumerate(llm)}
    return build.evaluation("sparse_probing", metrics, **fields)


def test_f06_one_half_equal_and_the_other_not(build):
    a = build.combined("a", probing(build, (0.95, 0.66, 0.71)))
    b = build.combined("b", probing(build, (0.96, 0.65, 0.72)))
    assert build.names(build.found("F06", a, b)) == [("a", "sparse_probing"), ("b", "sparse_probing")]


def test_f06_the_mislabelled_one_is_the_copy(build):
    training = build.told(trainer="JumpReLUTrainer")
    mislabelled = build.evaluation(
        "sparse_probing",
        {"sae_0": 0.9, "sae_1": 0.8, "sae_2": 0.7, "llm_0": 0.95, "llm_1": 0.6, "llm_2": 0.5},
        sae={"architecture": "TopK"},
    )
    a = build.combined("a", mislabelled, training=training)
    b = build.combined("b", probing(build, (0.96, 0.65, 0.72)))
    assert [(f.record, f.severity) for f in build.found("F06", a, b)] == [("a", "blocker"), ("b", "warning")]


def test_f06_both_halves_equal_or_one_shared_lm_half_are_none(build):
    a = build.combined("a", probing(build, (0.95, 0.66, 0.71)))
    same = build.combined("b", probing(build, (0.95, 0.66, 0.71)))
    other = build.combined("c", probing(build, (0.95, 0.66, 0.71), sae=(0.91, 0.82, 0.73)))
    assert build.found("F06", a, same, other) == []


@pytest.mark.parametrize(("seconds", "hits"), [(12.0, 1), (61.0, 0)])
def test_f07_an_evaluation_cannot_end_sooner_than_it_takes(build, seconds, hits):
    before = build.evaluation("sparse_probing", time=1000.0)
    after = build.evaluation("unlearning", {"unlearning_score": 0.0}, time=1000.0 + seconds)
    assert len(build.found("F07", build.combined("r", before, after))) == hits


def test_f07_separate_files_may_come_from_machines_side_by_side(build):
    files = [build.saebench(n, build.evaluation(n, time=1000.0)) for n in ("scr", "unlearning")]
    assert build.found("F07", *files) == []


def test_f07_our_own_are_held_against_their_like(build):
    def record(name, seconds, machine="cpu"):
        return build.ours(name, build.evaluation("core", {"l0": 32.0}, wall_seconds=seconds), machine=machine)

    slow = [record(f"{i}", 10.0 + i) for i in range(4)]
    [finding] = build.found("F07", *slow, record("fast", 0.5))
    assert (finding.record, finding.severity) == ("fast", "warning")
    assert build.found("F07", *slow, record("gpu", 0.5, "cuda"), record("unknown", 0.0), record("quick", 2.0)) == []


def test_f08_the_same_loss_to_the_last_digit(build):
    def run(name, loss, time, **fields):
        found = build.evaluation("core", {"l0": 1.5}, time=time)
        return build.combined(name, found, training=build.told(loss=loss), **fields)

    older, newer = run("s/run_8.json", 7468.884765625, 10.0), run("s/run_9.json", 7468.884765625, 20.0)
    [finding] = build.found("F08", newer, older)
    assert (finding.record, finding.evaluation, finding.others) == ("s/run_9.json", "", ("s/run_8.json",))
    assert build.found("F08", older, run("s/run_9.json", 7468.884775625, 20.0)) == []
    assert build.found("F08", older, run("t/run_9.json", 7468.884765625, 20.0, study="other")) == []


def test_f08_the_same_sae_evaluated_again_is_no_copy(build):
    a, b = (build.ours(n, identity="one", training={"loss": 7.123456789}) for n in "ab")
    assert build.found("F08", a, b) == []
    copy = build.ours("c", identity="another", training={"loss": 7.123456789})
    assert build.names(build.found("F08", a, copy)) == [("c", "")]


def test_f09_a_key_that_promises_more_than_it_holds(build):
    scr = build.evaluation("scr", key="scr and tpp evaluations results")
    assert build.names(build.found("F09", build.combined("r", scr))) == [("r", "tpp")]
    tpp = build.evaluation("tpp", key="tpp evaluations results")
    assert build.found("F09", build.combined("r", build.evaluation("scr", key="scr evaluations results"), tpp)) == []


def test_f09_metrics_of_another_evaluation(build):
    wrong = build.evaluation("scr", {"tpp_x": 0.1}, groups=("tpp_metrics",))
    assert build.names(build.found("F09", build.saebench("r", wrong))) == [("r", "scr")]
    unknown = build.evaluation("scr", {"x": 0.1}, groups=("new_group",))
    assert build.found("F09", build.saebench("r", unknown)) == []


def test_f09_metrics_whose_evaluation_is_not_listed(build):
    foreign = build.evaluation("scr", {"x": 0.1}, status="not listed")
    assert build.names(build.found("F09", build.ours("r", build.core(), foreign))) == [("r", "scr")]


def test_f10_one_id_with_the_same_numbers_and_time(build):
    def file(name, value, eval_id="e1", time=1.0):
        return build.saebench(name, build.evaluation("scr", {"x": value}, eval_id=eval_id, time=time))

    assert build.names(build.found("F10", file("a", 0.5), file("b", 0.5))) == [("b", "scr")]
    assert build.found("F10", file("a", 0.5), file("b", 0.6), file("c", 0.5, "e2")) == []
    assert build.found("F10", file("a", 0.5), file("b", 0.5, time=2.0)) == [], "one call, a coarse score"


def test_f11_versions_of_the_code(build):
    def file(name, commit, group="g"):
        return build.saebench(name, build.evaluation("scr", {"x": 0.5}, commit=commit), group=group)

    assert build.names(build.found("F11", file("a", "1"), file("b", "1"), file("c", "2"))) == [("c", "scr")]
    assert build.found("F11", file("a", "1"), file("b", "Unknown"), file("c", ""), file("d", "2", "other")) == []


def test_f11_versions_of_a_metric(build):
    def record(name, version):
        return build.ours(name, build.evaluation("core", {"l0": 32.0}, versions={"l0": version}))

    assert build.names(build.found("F11", record("a", 1), record("b", 1), record("c", 2))) == [("c", "core")]
    assert build.found("F11", record("a", 1), record("b", 1)) == []


def test_f12_placeholders(build):
    sae = {"device": "", "training_tokens": -100000, "dtype": "bfloat16"}
    [finding] = build.found("F12", build.saebench("r", build.evaluation("scr", sae=sae)))
    assert [where for where, _ in finding.evidence] == ["device", "training_tokens"]
    filled = {"device": "cuda", "training_tokens": 500_000_000, "context_size": None}
    assert build.found("F12", build.saebench("r", build.evaluation("scr", sae=filled))) == []


def test_f12_a_protocol_that_says_nothing(build):
    assert build.names(build.found("F12", build.ours("r", protocol={"lm_sha256": ""}))) == [("r", "")]
    world = {"hookpoint": "as generated", "tokenizer_sha256": ""}
    assert build.found("F12", build.ours("r", protocol=world)) == []


def test_f08_of_our_own_nine_digits_can_agree_by_chance(build):
    a, b = (build.ours(n, training={"loss": loss}) for n, loss in (("a", 7.123456789), ("b", 7.1234567890001)))
    assert build.found("F08", a, b) == []
