"""F22-F30: unlike comparisons."""

from __future__ import annotations

import pytest

from harness.results.audit.tolerances import Fact, Tolerances


def test_f22_l0s_that_do_not_meet(build):
    runs = [build.combined(f"s/{n}.json", build.core(l0=l0)) for n, l0 in (("a", 320.0), ("b", 340.0), ("c", 7.3))]
    found = build.found("F22", *runs)
    assert build.names(found) == [("s/a.json", "core"), ("s/b.json", "core"), ("s/c.json", "core")]
    assert {f.scope for f in found} == {"comparison"}
    assert build.found("F22", *runs[:2]) == [], "within 10 % they are matched"


def test_f22_frontiers_that_overlap_are_comparable(build):
    def sae(method, l0):
        return build.saebench(f"{method}_{l0}", build.core(l0=l0), key=f"r/{method}{l0}", method=method)

    grid = [sae("topk", l0) for l0 in (20.0, 80.0, 320.0)]
    assert build.found("F22", *grid, sae("relu", 60.0), sae("relu", 900.0)) == []
    assert len(build.found("F22", *grid, sae("relu", 900.0))) == 2


def test_f22_other_studies_and_controls_are_not_compared(build):
    a = build.combined("s/a.json", build.core(l0=8.0))
    b = build.combined("t/b.json", build.core(l0=800.0), study="other")
    assert build.found("F22", a, b) == []
    ours = [build.ours("topk/0"), build.ours("identity/0", build.core(l0=192.0), method="identity", control=True)]
    assert build.found("F22", *ours) == []


def run(build, name, settings, label="topk", lr=0.001, **fields):
    training = build.told({"lr": lr, **settings}, trainer="TrainerTopK", label=label, lr=lr, **fields)
    return build.combined(f"s/{name}.json", training=training)


def test_f23_two_factors_changed(build):
    base = run(build, "baseline", {"k": 320})
    both = run(build, "run_1", {"k": 160, "ortho_weight": 0.1})
    [finding] = build.found("F23", base, both)
    assert (finding.record, [where for where, _ in finding.evidence]) == ("s/run_1.json", ["k", "ortho_weight"])


def test_f23_a_chain_of_single_changes_is_sound(build):
    base = run(build, "baseline", {"k": 320})
    k = run(build, "run_1", {"k": 160})
    weight = run(build, "run_2", {"k": 160, "ortho_weight": 0.1})
    seed = run(build, "run_3", {"k": 160, "ortho_weight": 0.1, "seed": 7}, seed=7)
    assert build.found("F23", base, k, weight, seed) == []


def test_f23_replicates_are_no_control_of_each_other(build):
    base = run(build, "baseline", {"k": 320, "seed": 0}, seed=0)
    both = [run(build, f"run_{s}", {"k": 160, "ortho_weight": 0.1, "seed": s}, seed=s) for s in range(2)]
    assert build.names(build.found("F23", base, *both)) == [("s/run_0.json", ""), ("s/run_1.json", "")]


def test_f23_adding_one_factor_and_dropping_another_are_two_changes(build):
    base, other = run(build, "baseline", {"a": 1}), run(build, "run_1", {"b": 1})
    assert build.names(build.found("F23", base, other)) == [("s/run_1.json", "")]


def method(build, name, options, **fields):
    settings = {"lr": 0.001, "grad_clip": 1.0, "sae.k": 32, **options}
    lr = settings.get("base.lr", settings["lr"])
    return build.ours(f"{name}/0", method=name, training={"settings": settings, "lr": lr}, **fields)


def test_f23_of_our_own_a_method_is_one_factor_and_another_option_a_second(build):
    topk = method(build, "topk", {})
    temporal = {"base.lr": 0.001, "base.grad_clip": 1.0, "strength": 0.1}
    sound = build.ours("t/0", method="temporal", training={"settings": {"sae.k": 32, **temporal}, "lr": 0.001})
    assert build.found("F23", topk, sound) == []
    clipped = {"sae.k": 32, **temporal, "base.grad_clip": 0.1}
    unsound = build.ours("t/0", method="temporal", training={"settings": clipped, "lr": 0.001})
    assert build.names(build.found("F23", topk, unsound)) == [("t/0", "")]


def test_f24_the_learning_rate_changed_with_the_method(build):
    base = run(build, "baseline", {}, label="base")
    other = run(build, "run_1", {}, label="idea", lr=0.002)
    assert build.names(build.found("F24", base, other)) == [("s/run_1.json", "")]
    control = run(build, "run_0", {}, label="base", lr=0.002)
    assert build.found("F24", base, other, control) == []


def test_f24_two_trainers_may_each_have_their_own(build):
    ours = [method(build, "topk", {}), method(build, "relu", {"lr": 0.01}, trainer="relu")]
    assert build.found("F24", *ours) == []
    assert build.names(build.found("F24", ours[0], method(build, "topk_idea", {"lr": 0.01}))) == [("topk_idea/0", "")]


def test_f25_what_the_language_model_alone_gives_must_be_equal(build):
    def row(name, clean, dataset="a"):
        measured = build.evaluation("core", {"ce_loss_without_sae": clean}, config={"dataset": dataset})
        return build.saebench(name, measured)

    found = build.found("F25", row("1", 2.9375), row("2", 2.9375), row("3", 2.640625, "b"))
    assert build.names(found) == [("3", "core")]
    assert found[0].evidence[0][0] == "3 on b"
    assert build.found("F25", row("1", 2.9375), row("2", 2.9375 * (1 + 1e-7))) == []


def test_f25_other_models_may_differ(build):
    rows = [
        build.saebench(n, build.evaluation("core", {"ce_loss_without_sae": v}), group=n)
        for n, v in (("pythia", 3.5), ("gemma", 2.9))
    ]
    assert build.found("F25", *rows) == []


def test_f25_of_our_own_the_held_out_text_is_one(build):
    sound = [build.ours(str(i)) for i in range(3)]
    other = build.ours("3", protocol={"eval_data": "9" * 64})
    assert build.names(build.found("F25", *sound, other)) == [("3", "")]
    assert build.found("F25", *sound, build.ours("4", protocol={"eval_data": "9" * 64, "suite": "other"})) == []


def test_f26_evaluated_on_the_training_text(build):
    measured = build.evaluation("core", config={"dataset": "pile"})
    facts = (Fact(records="s/run_*", says={"train_dataset": "pile"}, source="the script"),)
    record = build.combined("s/run_4.json", measured)
    [finding] = build.found("F26", record, tolerances=Tolerances(facts=facts))
    assert (finding.severity, finding.scope) == ("blocker", "comparison")
    assert build.found("F26", record) == []
    other = build.combined("s/run_4.json", build.evaluation("core", config={"dataset": "openwebtext"}))
    assert build.found("F26", other, tolerances=Tolerances(facts=facts)) == []


def test_f26_a_name_alone_is_a_warning_and_equal_fingerprints_block(build):
    named = build.evaluation("core", sae={"dataset_path": "pile"}, config={"dataset": "pile"})
    assert [f.severity for f in build.found("F26", build.saebench("r", named))] == ["warning"]
    assert [f.severity for f in build.found("F26", build.ours("r", protocol={"eval_data": "c" * 64}))] == ["blocker"]
    assert build.found("F26", build.ours("r")) == []


def test_f28_equal_settings_with_different_results(build):
    a, b = (run(build, n, {"k": 8}, loss=loss) for n, loss in (("a", 1.0), ("b", 2.0)))
    assert build.names(build.found("F28", a, b)) == [("s/a.json", "training"), ("s/b.json", "training")]
    same = run(build, "c", {"k": 8}, loss=1.0)
    other = run(build, "d", {"k": 9}, loss=2.0)
    assert build.found("F28", a, same, other) == []


def test_f28_of_our_own_one_key_is_one_sae_on_one_machine(build):
    a, b = (build.ours(n, key="k", identity=n) for n in "ab")
    assert len(build.found("F28", a, b)) == 2
    assert build.found("F28", a, build.ours("c", key="k", identity="c", machine="cuda")) == []


def test_f28_one_saebench_evaluation_with_two_results(build):
    def file(name, value, **config):
        return build.saebench(name, build.evaluation("scr", {"x": value}, config=config), identity="one")

    assert len(build.found("F28", file("a", 0.1), file("b", 0.2))) == 2
    assert build.found("F28", file("a", 0.1), file("b", 0.1), file("c", 0.2, random_seed=7)) == []


@pytest.mark.parametrize(
    ("settings", "final", "hits"),
    [
        ({"lr": 0.0001}, {"learning_rate": 0.0003}, 1),
        ({"sparsity_penalty": 1.0}, {"sparsity_penalty": 0.04}, 1),
        ({"lr": 0.0003, "dict_size": 8}, {"learning_rate": 0.0003, "dict_size": 8.0}, 0),
        ({"k": 320}, {"learning_rate": 0.001, "dict_size": 8}, 0),
    ],
)
def test_f29_two_values_for_one_setting(build, settings, final, hits):
    assert len(build.found("F29", build.combined("r", training=build.told(settings, final=final)))) == hits


def test_f29_of_our_own_k_is_the_target(build):
    assert len(build.found("F29", build.ours("r", training={"settings": {"sae.k": 64}}))) == 1
    assert build.found("F29", build.ours("r")) == []


def test_f30_methods_on_too_few_seeds(build):
    def records(name, seeds):
        return [build.ours(f"{name}/{s}", method=name, training={"seed": s}) for s in seeds]

    found = build.found("F30", *records("topk", range(3)), *records("relu", range(2)))
    assert build.names(found) == [("relu/0", "")]
    assert build.found("F30", *records("topk", range(3)), *records("relu", range(3))) == []
    assert build.found("F30", *records("topk", range(1))) == [], "one method alone is compared with nothing"


def test_f30_a_study_of_combined_records(build):
    seeds = [run(build, f"{k}_{s}", {"k": k, "seed": s}, seed=s) for k in (8, 16) for s in range(3)]
    assert build.found("F30", *seeds) == []
    assert build.names(build.found("F30", *seeds[:4])) == []
    assert len(build.found("F30", *[seeds[0], seeds[3]])) == 1
