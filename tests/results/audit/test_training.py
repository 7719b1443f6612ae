"""F13-F21: was anything trained?"""

from __future__ import annotations

import pytest

from harness.results.audit.tolerances import Fact, Tolerances


def test_f13_no_steps(build):
    assert build.names(build.found("F13", build.combined("r", training=build.told(steps=0, loss=None)))) == [
        ("r", "training")
    ]
    assert build.found("F13", build.combined("r", training=build.told(steps=1))) == []


def test_f13_our_own_controls_take_no_steps_for_good_reason(build):
    untrained = {"steps": 0, "loss": None, "tokens": 0}
    assert build.names(build.found("F13", build.ours("r", training=untrained))) == [("r", "training")]
    control = build.ours("r", training={**untrained, "trained": False}, control=True)
    assert build.found("F13", control) == []


def test_f13_a_budget_that_was_not_used(build):
    assert build.names(build.found("F13", build.ours("r", training={"steps": 100, "tokens": 102400}))) == [
        ("r", "training")
    ]
    last_batch_left_out = {"tokens": 524288 - 1023, "steps": 511}
    assert build.found("F13", build.ours("r", training=last_batch_left_out)) == []


def test_f13_chance_on_every_probe_is_a_dead_code(build):
    def probed(last):
        metrics = {"sae_test_accuracy": 0.5, "sae_top_1_test_accuracy": 0.5, "sae_top_2_test_accuracy": last}
        return build.combined("r", build.evaluation("sparse_probing", metrics))

    assert build.names(build.found("F13", probed(0.5))) == [("r", "sparse_probing")]
    assert build.found("F13", probed(0.5001)) == []


def test_f13_no_latent_fires(build):
    assert build.names(build.found("F13", build.saebench("r", build.core(l0=0.0)))) == [("r", "core")]
    assert build.found("F13", build.saebench("r", build.core(l0=0.1))) == []


@pytest.mark.parametrize(
    ("sae", "hits"),
    [
        ({"hook_layer": 5, "hook_name": "blocks.12.hook_resid_post"}, 1),
        ({"hook_layer": 12, "hook_name": "blocks.12.hook_resid_post", "id": "x_resid_post_layer_19_trainer_3"}, 1),
        ({"hook_layer": 12, "hook_name": "blocks.12.hook_resid_post", "release": "gemma_layer_12_sae"}, 0),
        ({"hook_layer": 12, "hook_name": "blocks.12.hook_resid_post", "id": "width_2pow14_date_0107"}, 0),
    ],
)
def test_f14_layers_agree_within_an_evaluation(build, sae, hits):
    assert len(build.found("F14", build.saebench("r", build.evaluation("core", sae=sae)))) == hits


def test_f14_the_layer_of_training_is_the_layer_evaluated(build):
    probed = build.evaluation("sparse_probing", sae={"hook_layer": 5})
    found = build.found("F14", build.combined("r", probed, training=build.told(layer=19)))
    assert build.names(found) == [("r", "sparse_probing"), ("r", "training")]
    assert build.found("F14", build.combined("r", probed, training=build.told(layer=5))) == []


@pytest.mark.parametrize(("d_sae", "hits"), [(2304, 1), (4607, 1), (4608, 0)])
def test_f15_a_dictionary_is_overcomplete(build, d_sae, hits):
    assert len(build.found("F15", build.combined("r", build.core(), d_sae=d_sae, d_in=2304))) == hits


def test_f15_of_the_identity_control_is_meant(build):
    assert build.found("F15", build.ours("r", protocol={"d_sae": 192}, control=True)) == []


def test_f17_latents_that_count_as_dead_after_the_end(build):
    run = build.combined("s/run.json", training=build.told(trainer="TrainerTopK", steps=4882))
    facts = (Fact(records="s/*", says={"batch_tokens": 2048}, source="the script"),)
    [finding] = build.found("F17", run, tolerances=Tolerances(facts=facts))
    assert finding.evidence[1] == ("tokens trained on (4882 steps of 2048)", "9998336")
    long = (Fact(records="s/*", says={"batch_tokens": 8200}, source="the script"),)
    assert build.found("F17", run, tolerances=Tolerances(facts=long)) == []
    assert build.found("F17", run) == [], "without the batch size the tokens are not known"


def test_f17_an_auxiliary_loss_of_zero_beside_dead_latents(build):
    def record(aux, dead, **terms):
        return build.ours("r", training={"terms": {"sse": 1.0, "aux": aux, **terms}, "dead": dead})

    assert build.names(build.found("F17", record(0.0, 100))) == [("r", "training")]
    assert build.names(build.found("F17", record(0.0, 100, child_aux=0.0, parents_sse=2.0))) == [("r", "training")]
    assert build.found("F17", record(0.0, 100, child_aux=0.03)) == []
    assert build.found("F17", record(0.0, 3)) == []
    assert build.found("F17", record(0.01, 100)) == []


def test_f18_worse_than_the_mean(build):
    assert build.names(build.found("F18", build.combined("r", build.core(explained_variance=-0.01)))) == [("r", "core")]
    assert build.found("F18", build.combined("r", build.core(explained_variance=0.01))) == []
    assert build.found("F18", build.ours("r", build.core(explained_variance=-0.5), control=True)) == []


@pytest.mark.parametrize(
    ("metrics", "hits"),
    [
        ({"mse": -1.0}, 1),
        ({"explained_variance": 1.5}, 1),
        ({"sae_test_accuracy": -1.0}, 1),
        ({"l0": 1537.0}, 1),
        ({"explained_variance": -0.5, "mse": 0.0, "sae_test_accuracy": 1.0, "cosine": 1.0000001}, 0),
        ({"l0": 1536.0, "kl_div_score": -0.6, "temporal_gain": -1.0}, 0),
    ],
)
def test_f19_values_a_metric_cannot_have(build, metrics, hits):
    assert len(build.found("F19", build.ours("r", build.evaluation("core", metrics)))) == hits


@pytest.mark.parametrize(("l0", "hits"), [(320.0, 2), (23.0, 2), (22.0, 0), (18.5, 0)])
def test_f20_a_declared_target_is_reached(build, l0, hits):
    run = build.combined("r", build.core(l0=l0), training=build.told(trainer="JumpReLUTrainer", target_l0=20.0))
    found = build.found("F20", run)
    assert len(found) == hits
    assert {(f.evaluation, f.severity) for f in found} <= {("training", "blocker"), ("core", "warning")}


@pytest.mark.parametrize(
    ("trainer", "reached", "l0", "hits"),
    [
        ("jumprelu", True, 40.0, 2),
        ("jumprelu", False, 40.0, 0),
        ("topk", None, 40.0, 2),
        ("topk", None, 20.0, 0),
        ("batchtopk", None, 40.0, 0),
    ],
)
def test_f20_of_our_own_what_is_said_to_be_missed_is_honest(build, trainer, reached, l0, hits):
    record = build.ours("r", build.core(l0=l0), trainer=trainer, training={"reached": reached})
    assert len(build.found("F20", record)) == hits
