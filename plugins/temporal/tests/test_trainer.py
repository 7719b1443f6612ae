"""What the term does to a run: nothing at strength 0, its share at the start, and steadier codes at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sae_harness_temporal.plugin import STABILITY
from sae_harness_temporal.stability import StabilityEvaluator
from sae_harness_temporal.trainer import TemporalOptions

from harness import ConfigError, TrainState
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.training.checkpoint import sae_id
from harness.training.fit import fit

BASES = ("topk", "relu")


def train(jobs, stream, n_steps, resume_folder=None):
    return fit(
        jobs,
        stream,
        n_steps=n_steps,
        batch_size=256,
        dead_after_tokens=256 * 40,
        resume_folder=resume_folder,
        save_every_s=0.0,
    )


def state(coefficient: float = 0.1) -> TrainState:
    return TrainState(
        step=0,
        n_steps=100,
        tokens_seen=0,
        coefficient=coefficient,
        target_l0=4,
        dead=torch.zeros(64, dtype=torch.bool),
        generator=torch.Generator().manual_seed(7),
    )


def loss_of(job, batch):
    return job.trainer.loss(job.sae, batch, state())


@pytest.mark.parametrize("base", BASES)
def test_off_is_the_base_trainer_to_the_bit(base, make_job, stream):
    jobs = [make_job(base), make_job("temporal@off", base=base)]
    plain, off = train(jobs, stream, 25)
    assert sae_id(off.sae) == sae_id(plain.sae)
    assert off.final_terms == plain.final_terms
    (on,) = train([make_job("temporal", base=base)], stream, 25)
    assert sae_id(on.sae) != sae_id(plain.sae)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("penalty", ["rel", "abs"])
def test_true_neighbours_are_nearer_than_strangers_at_the_start(base, penalty, start, stream):
    options = {"base": base, "penalty": penalty}
    real = loss_of(start("temporal", **options), stream.batch(3)).values["temporal"]
    shuffled = loss_of(start("temporal@shuffled", **options), stream.batch(3)).values["temporal"]
    assert real < 0.9 * shuffled


@pytest.mark.parametrize("base", BASES)
def test_the_term_is_the_mean_distance_over_tokens_that_have_a_previous_one(base, start, stream):
    job, batch = start("temporal@abs", base=base), stream.batch(0)
    now, before = job.sae.encode(batch.activations), job.sae.encode(batch.previous)
    expected = (now - before).abs().sum(1)[batch.has_previous].mean()
    torch.testing.assert_close(loss_of(job, batch).values["temporal"], expected)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("penalty", ["rel", "abs"])
def test_a_relative_strength_is_a_share_of_the_reconstruction_loss_at_the_start(base, penalty, start, stream):
    job = start("temporal", base=base, penalty=penalty, strength=0.05, adaptive="const")
    terms = loss_of(job, stream.batch(0))
    share = terms.weights["temporal"] * terms.values["temporal"] / terms.values["sse"]
    assert share.item() == pytest.approx(0.05, rel=1e-5)


def test_the_adaptive_factor_is_a_half_on_the_first_batch(start, stream):
    const = loss_of(start("temporal", adaptive="const"), stream.batch(0)).weights["temporal"]
    adaptive = loss_of(start("temporal"), stream.batch(0)).weights["temporal"]
    assert adaptive == pytest.approx(const / 2)


def test_an_absolute_strength_is_the_weight_itself(start, stream):
    terms = loss_of(start("temporal", scale="absolute", adaptive="const", strength=0.3), stream.batch(0))
    assert terms.weights["temporal"] == 0.3


@pytest.mark.parametrize("base", BASES)
def test_no_gradient_reaches_the_reconstruction_through_a_weight(base, start, stream):
    job = start("temporal", base=base)
    for index in range(3):
        terms = loss_of(job, stream.batch(index))
    assert all(type(weight) is float for weight in terms.weights.values())
    assert torch.autograd.grad(terms.total, terms.values["sse"], retain_graph=True)[0].item() == 1.0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stop_grad", ["none", "prev"])
def test_the_gradient_reaches_the_encoder_from_both_tokens_or_from_the_current_alone(base, stop_grad, start, stream):
    job, batch = start("temporal", base=base, stop_grad=stop_grad), stream.batch(0)
    now, before = batch.activations.clone().requires_grad_(), batch.previous.clone().requires_grad_()
    penalty = loss_of(job, replace(batch, activations=now, previous=before)).values["temporal"]
    from_now, from_before, encoder = torch.autograd.grad(penalty, [now, before, job.sae.W_enc], allow_unused=True)
    assert from_now[batch.has_previous].abs().sum() > 0
    assert not from_now[~batch.has_previous].any()
    assert encoder.abs().sum() > 0
    assert (from_before is None) == (stop_grad == "prev")
    assert from_before is None or from_before.abs().sum() > 0


@pytest.mark.parametrize("name", ["temporal", "temporal@shuffled", "temporal@relu"])
def test_without_previous_tokens_the_term_is_zero_and_the_loss_that_of_the_base(name, start, stream):
    batch = stream.batch(0)
    alone = replace(batch, has_previous=torch.zeros(256, dtype=torch.bool), previous=torch.zeros_like(batch.previous))
    job = start(name)
    terms = loss_of(job, alone)
    assert terms.values["temporal"].item() == 0.0
    assert torch.equal(terms.total, job.trainer.base.loss(job.sae, alone, state()).total)
    terms.total.backward()


def test_start_zero_adds_the_size_of_codes_that_have_no_previous_one(start, stream):
    job, batch = start("temporal@relu_abs", start="zero"), stream.batch(0)
    terms = loss_of(job, batch)
    sizes = job.sae.encode(batch.activations).sum(1)[~batch.has_previous]
    torch.testing.assert_close(terms.values["temporal_start"], sizes.sum() / batch.has_previous.sum())
    assert terms.weights["temporal_start"] == terms.weights["temporal"]
    relative = loss_of(start("temporal", start="zero"), batch)
    assert relative.values["temporal_start"].item() == pytest.approx(2 * 32 / 224)
    everywhere = replace(batch, has_previous=torch.ones(256, dtype=torch.bool))
    assert loss_of(start("temporal", start="zero"), everywhere).values["temporal_start"].item() == 0.0


def test_a_shuffled_partner_is_never_the_true_one_and_each_is_used_once(make_job):
    trainer = make_job("temporal@shuffled").trainer
    rows, valid = torch.arange(9.0)[:, None], torch.ones(9, dtype=torch.bool)
    for seed in range(20):
        partner, kept = trainer._partner(rows, valid, torch.Generator().manual_seed(seed))
        assert not bool((partner == rows).any())
        assert sorted(partner[:, 0].tolist()) == rows[:, 0].tolist()
        assert bool(kept.all())


def test_the_same_seed_gives_the_same_shuffled_run(make_job, stream):
    first, second = (train([make_job("temporal@shuffled")], stream, 8)[0] for _ in range(2))
    assert sae_id(first.sae) == sae_id(second.sae)


@pytest.mark.parametrize("name", ["temporal@shuffled", "temporal@relu_abs"])
def test_an_interrupted_run_ends_bit_identical(name, make_job, stream, tmp_path):
    class Interrupted:
        def batch(self, index):
            if index == 7:
                raise KeyboardInterrupt
            return stream.batch(index)

    (whole,) = train([make_job(name)], stream, 12)
    # The first 32 calls are those of `initialise`, which samples 8192 tokens.
    with pytest.raises(KeyboardInterrupt):
        train([make_job(name)], _after(stream, Interrupted(), n_first=32), 12, tmp_path)
    (resumed,) = train([make_job(name)], stream, 12, tmp_path)
    assert sae_id(resumed.sae) == sae_id(whole.sae)
    assert resumed.log == whole.log


def _after(first, then, n_first):
    """The stream `first` for so many calls, then the other."""

    class Switching:
        calls = 0

        def batch(self, index):
            self.calls += 1
            return (first if self.calls <= n_first else then).batch(index)

    return Switching()


def test_a_trainer_used_again_starts_anew(make_job, stream):
    job = make_job("temporal")
    (first,) = train([job], stream, 5)
    identity = sae_id(first.sae)
    (second,) = train([job], stream, 5)
    assert sae_id(second.sae) == identity


@pytest.mark.parametrize("seed", [0, 1])
def test_training_makes_codes_steadier_than_the_base_and_than_the_shuffled_control(
    seed, make_job, stream, world, make_context
):
    names = ["topk", "temporal", "temporal@shuffled"]
    jobs = [make_job("topk", seed=seed, lr=1e-2)]
    jobs += [make_job(name, seed=seed, lr=1e-2, strength=0.5) for name in names[1:]]
    results = train(jobs, stream, 200)
    context = make_context(world.sequences(60, 20, seed=5))
    planned = [PlannedEvaluator(STABILITY, StabilityEvaluator, {})]
    gains = {}
    for name, result in zip(names, results, strict=True):
        gains[name] = evaluate_sae(result.sae, planned, context).metrics["temporal_gain"].value
    assert gains["temporal"] > gains["topk"] + 0.01
    assert gains["temporal"] > gains["temporal@shuffled"] + 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "l2"}, "option penalty is 'l2'; allowed are rel, abs"),
        ({"stop_grad": "both"}, "allowed are none, prev"),
        ({"strength": -0.1}, "strength is -0.1; it must be at least 0"),
        ({"beta": 0.0}, "beta is 0.0; it must be above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TemporalOptions(**options)


def test_a_stream_without_pairs_is_refused(start, stream):
    with pytest.raises(ConfigError, match="stream of the kind 'pairs'"):
        loss_of(start("temporal"), replace(stream.batch(0), previous=None, has_previous=None))
