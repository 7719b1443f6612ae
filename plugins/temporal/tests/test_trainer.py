"""What the term does to a run: nothing at strength 0, its share at the start, and steadier codes at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sae_harness_temporal.options import ContiguousOptions, TemporalOptions
from sae_harness_temporal.partners import of_pairs
from sae_harness_temporal.plugin import STABILITY
from sae_harness_temporal.stability import StabilityEvaluator

from harness import ActivationBatch, ConfigError, TrainState
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.training.checkpoint import sae_id
from harness.training.fit import fit

BASES = ("topk", "relu", "jumprelu", "batchtopk", "matryoshka")
PENALTIES = ("rel", "abs", "l2", "sq", "xsim", "nce")


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
@pytest.mark.parametrize("penalty", [p for p in PENALTIES if p != "xsim"])  # that one weighs strangers little
def test_true_neighbours_are_nearer_than_strangers_at_the_start(base, penalty, start, stream):
    options = {"base": base, "penalty": penalty}
    real = loss_of(start("temporal", **options), stream.batch(3)).values["temporal"]
    shuffled = loss_of(start("temporal@shuffled", **options), stream.batch(3)).values["temporal"]
    assert real < 0.93 * shuffled


@pytest.mark.parametrize("base", ["topk", "relu", "jumprelu"])  # of the others a batch decides which codes it keeps
def test_the_term_is_the_mean_distance_over_tokens_that_have_a_previous_one(base, start, stream):
    job, batch = start("temporal@abs", base=base), stream.batch(0)
    now, before = job.sae.encode(batch.activations), job.sae.encode(batch.previous)
    expected = (now - before).abs().sum(1)[batch.has_previous].mean()
    torch.testing.assert_close(loss_of(job, batch).values["temporal"], expected)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("penalty", PENALTIES)
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


def test_a_shuffled_partner_is_never_the_true_one_and_each_is_used_once():
    rows, number = torch.arange(9.0)[:, None], torch.arange(9)
    batch = ActivationBatch(
        activations=rows,
        document=number,
        position=number,
        previous=rows,
        has_previous=torch.ones(9, dtype=torch.bool),
    )
    for seed in range(20):
        found = of_pairs(batch, "shuffled", torch.Generator().manual_seed(seed))
        assert not bool((found.x == rows).any())
        assert sorted(found.x[:, 0].tolist()) == rows[:, 0].tolist()
        assert torch.equal(found.document, found.x[:, 0].long())
        assert bool(found.valid.all())


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
        ({"penalty": "l1"}, "option penalty is 'l1'; allowed are rel, abs, l2, sq, xsim, nce"),
        ({"stop_grad": "both"}, "allowed are none, prev, both_alternating"),
        ({"share": 0.0}, r"share is 0.0; it must be in \(0, 1\]"),
        ({"window": 0}, "window is 0; it must be at least 1"),
        ({"start": "zero", "penalty": "nce"}, "has no meaning for penalty='nce'"),
        ({"detach": False, "adaptive": "const"}, "with adaptive='sigmoid' alone"),
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


def test_alternating_fixes_one_side_a_step(start, stream):
    job, batch = start("temporal", stop_grad="both_alternating"), stream.batch(0)
    reached = []
    for step in (0, 1):
        now, before = batch.activations.clone().requires_grad_(), batch.previous.clone().requires_grad_()
        terms = job.trainer.loss(job.sae, replace(batch, activations=now, previous=before), replace(state(), step=step))
        found = torch.autograd.grad(terms.values["temporal"], [now, before], allow_unused=True)
        reached.append([gradient is not None and bool(gradient.any()) for gradient in found])
    assert reached == [[True, False], [False, True]]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_latents_beyond_the_share_get_no_gradient_of_the_penalty(penalty, start, stream):
    job = start("temporal", penalty=penalty, share=0.25)
    term = loss_of(job, stream.batch(0)).values["temporal"]
    (gradient,) = torch.autograd.grad(term, [job.sae.W_enc])
    assert gradient[:, :16].abs().sum() > 0
    assert gradient[:, 16:].abs().sum() == 0


@pytest.mark.parametrize("name", ["temporal@seed003_run1", "temporal@spec003"])
def test_a_preset_that_is_not_detached_pays_the_optimiser_for_a_worse_reconstruction(name, start, stream):
    job = start(name, beta=0.5, strength=0.2)
    for index in range(4):
        terms = loss_of(job, stream.batch(index))
    strength, last = job.trainer.strength, stream.batch(3)
    slopes = torch.autograd.grad(terms.total, terms.reconstruction, retain_graph=True)[0]
    plain = torch.autograd.grad(terms.values["l2norm"], terms.reconstruction, retain_graph=True)[0]
    penalty = float(terms.values["temporal"].detach())
    expected = 1 - 0.2 * 0.5 * strength.alpha * (1 - strength.alpha) * penalty
    torch.testing.assert_close(slopes, expected * plain)
    assert expected < 1
    assert len(last) == 256


@pytest.mark.parametrize("name", ["temporal@spec003_detached", "temporal@seed003_run4", "temporal@seed003_run7"])
def test_a_detached_preset_keeps_the_slope_of_the_reconstruction_at_1(name, start, stream):
    job = start(name)
    for index in range(3):
        terms = loss_of(job, stream.batch(index))
    slopes = torch.autograd.grad(terms.total, terms.reconstruction, retain_graph=True)[0]
    plain = torch.autograd.grad(terms.values["l2norm"], terms.reconstruction, retain_graph=True)[0]
    torch.testing.assert_close(slopes, plain)


def test_the_notebooks_partner_is_the_row_of_the_batch_before(start, stream):
    job = start("temporal@seed003_run1")
    assert loss_of(job, stream.batch(0)).values["temporal"].item() == 0.0
    now, before = (job.sae.encode(stream.batch(index).activations) for index in (1, 0))
    terms = loss_of(job, stream.batch(1))
    penalty = terms.values["temporal"]
    torch.testing.assert_close(penalty, (now - before).abs().sum(1).mean())
    assert terms.weights["l1"] == 0.04
    # As far apart as strangers are, whose codes the penalty therefore shrinks like an L1 term.
    assert penalty > 0.5 * (now.sum() + before.sum()) / 256


@pytest.mark.parametrize("name", ["temporal@seed003_run1", "temporal@seed003_run7", "temporal@tsae"])
@pytest.mark.parametrize("options", [{}, {"position_weights": 1.0, "prune": 0.04, "resample_every": 3}])
def test_every_state_is_resumed_to_the_bit(name, options, make_job, stream, tmp_path):
    class Interrupted:
        def batch(self, index):
            if index == 7:
                raise KeyboardInterrupt
            return stream.batch(index)

    (whole,) = train([make_job(name, **options)], stream, 12)
    with pytest.raises(KeyboardInterrupt):
        train([make_job(name, **options)], _after(stream, Interrupted(), n_first=32), 12, tmp_path)
    (resumed,) = train([make_job(name, **options)], stream, 12, tmp_path)
    assert sae_id(resumed.sae) == sae_id(whole.sae)
    assert resumed.log == whole.log


def test_rows_in_order_give_the_term_of_the_pairs_they_hold(start, stream, world):
    sequences = world.sequences(16, 16, seed=3)
    rows = ActivationBatch(
        activations=sequences.flatten(0, 1),
        document=torch.arange(16).repeat_interleave(16),
        position=torch.arange(16).repeat(16),
    )
    has_previous = rows.position > 0
    previous = rows.activations.roll(1, 0) * has_previous[:, None]
    pairs = replace(rows, previous=previous, has_previous=has_previous)
    ordered, paired = start("temporal_contiguous"), start("temporal")
    assert torch.equal(ordered.sae.W_enc, paired.sae.W_enc)
    in_order, in_pairs = loss_of(ordered, rows), loss_of(paired, pairs)
    torch.testing.assert_close(in_order.values["temporal"], in_pairs.values["temporal"])
    near, far = (loss_of(start("temporal_contiguous", lag=lag), rows).values["temporal"] for lag in (1, 8))
    earlier = loss_of(start("temporal_contiguous@earlier"), rows).values["temporal"]
    assert near < earlier < loss_of(start("temporal_contiguous@shuffled"), rows).values["temporal"]
    assert near < far


def test_an_earlier_partner_is_refused_where_the_rows_are_shuffled(make_job):
    with pytest.raises(ConfigError, match="use the method temporal_contiguous"):
        make_job("temporal", partner="earlier")
    with pytest.raises(ConfigError, match="lag is 0; it must be at least 1"):
        ContiguousOptions(lag=0)


def test_the_weights_of_the_last_step_can_be_told(start, stream):
    job = start("temporal")
    loss_of(job, stream.batch(0))
    told = job.trainer.diagnostics()
    assert told["alpha"] == 0.5
    assert told["loss_maximum"] > 0
    assert start("temporal@off").trainer.diagnostics() == {}
