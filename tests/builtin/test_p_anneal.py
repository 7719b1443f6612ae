"""p-annealing: the penalty, when p falls, and that the term keeps its size as it does."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from harness import ActivationBatch, ConfigError, SAEConfig, TrainState
from harness.builtin.saes.relu import ReluSAE
from harness.builtin.trainers.p_anneal import PAnnealOptions, PAnnealTrainer

N_STEPS = 100


@pytest.fixture(params=[-1.5, 0.0], ids=["sparse", "dense"])
def sae(request):
    made = ReluSAE(SAEConfig(architecture="relu", d_in=6, d_sae=12))
    made.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.b_enc.fill_(request.param)
    return made


def rows_of(step: int) -> torch.Tensor:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(step)) * (1 + step / N_STEPS)
    rows[3] = 0.0  # a token with no active latent
    return rows


def step(trainer, sae, number: int, n_steps: int = N_STEPS):
    rows = rows_of(number)
    batch = ActivationBatch(activations=rows, document=torch.zeros(40, dtype=torch.int64), position=torch.arange(40))
    state = TrainState(
        step=number,
        n_steps=n_steps,
        tokens_seen=0,
        target_l0=3,
        coefficient=0.5,
        dead=torch.zeros(12, dtype=torch.bool),
        generator=torch.Generator(),
    )
    terms = trainer.loss(sae, batch, state)
    trainer.after_step(sae, state)
    return terms


def at_level(level: int, **options) -> PAnnealTrainer:
    trainer = PAnnealTrainer(PAnnealOptions(**options))
    trainer.level = level
    return trainer


def test_p_falls_in_equal_steps_between_start_and_end(sae):
    trainer = PAnnealTrainer(PAnnealOptions(anneal_start=0.2, anneal_end=0.7, n_updates=5, p_end=0.5))
    seen = []
    for number in range(N_STEPS):
        seen.append(trainer.p(trainer.level))
        step(trainer, sae, number)
    changes = {i: round(b, 6) for i, (a, b) in enumerate(pairwise(seen), 1) if a != b}
    assert seen[0] == 1.0
    assert changes == {30: 0.9, 40: 0.8, 50: 0.7, 60: 0.6, 70: 0.5}


def test_each_change_keeps_the_mean_term_of_the_last_steps(sae):
    trainer = PAnnealTrainer(PAnnealOptions(anneal_start=0.2, anneal_end=0.4, n_updates=1, queue_length=4, p_end=0.3))
    for number in range(40):
        assert trainer.factor == 1.0
        step(trainer, sae, number)
    codes = [sae.encode(rows_of(number)).detach() for number in range(36, 40)]
    old = sum(float(c.sum(1).mean()) for c in codes)
    new = sum(float(c[c > 0].pow(0.3).sum()) / 40 for c in codes)
    assert trainer.p(trainer.level) == pytest.approx(0.3)
    assert trainer.factor == pytest.approx(old / new, rel=1e-4)
    assert step(trainer, sae, 40).weights["lp"] == pytest.approx(0.5 * old / new, rel=1e-4)


def test_penalties_of_earlier_exponents_are_forgotten(sae):
    trainer = PAnnealTrainer(PAnnealOptions(anneal_start=0.0, anneal_end=0.5, n_updates=10, queue_length=10))
    for number in range(10):  # p changes after each fifth
        step(trainer, sae, number)
        assert len(trainer.queue) == (number + 1) % 5


def test_at_one_the_penalty_is_l1(sae):
    terms = step(PAnnealTrainer(PAnnealOptions()), sae, 0)
    assert terms.values["lp"].item() == pytest.approx(sae.encode(rows_of(0)).sum(1).mean().item(), rel=1e-6)
    assert terms.weights == {"sse": 1.0, "lp": 0.5}


@pytest.mark.parametrize("penalty", ["lp^p", "lp"])
def test_the_penalty_and_its_gradient_follow_the_formula(sae, penalty):
    trainer = at_level(3, n_updates=4, p_end=0.2, penalty=penalty)  # p = .4
    terms = step(trainer, sae, 0)
    codes = sae.encode(rows_of(0)).double()
    floor = 1e-150  # stands for 0, whose power has no gradient
    sums = torch.where(codes > 0, codes.clamp_min(floor), floor).pow(0.4).sum(1)
    dense = (sums if penalty == "lp^p" else sums.pow(2.5)).mean()
    assert terms.values["lp"].item() == pytest.approx(dense.item(), rel=1e-5)
    found = torch.autograd.grad(terms.values["lp"], [sae.W_enc, sae.b_enc])
    for mine, wanted in zip(found, torch.autograd.grad(dense, [sae.W_enc, sae.b_enc]), strict=True):
        assert bool(torch.isfinite(mine).all())
        assert torch.allclose(mine, wanted, rtol=1e-3, atol=1e-4)


def test_a_resumed_trainer_goes_on_as_it_was(sae):
    def new():
        return PAnnealTrainer(PAnnealOptions(anneal_start=0.1, anneal_end=0.9, n_updates=5))

    whole, first = new(), new()
    for number in range(43):
        step(whole, sae, number)
        step(first, sae, number)
    second = new()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for number in range(43, 80):
        wanted, found = step(whole, sae, number), step(second, sae, number)
        assert found.weights == wanted.weights
        assert found.values["lp"].item() == wanted.values["lp"].item()


def test_a_second_run_starts_over(sae):
    trainer = at_level(4)
    trainer.factor, trainer.queue = 3.0, [[1.0, 2.0]]
    batch = ActivationBatch(
        activations=rows_of(0), document=torch.zeros(40, dtype=torch.int64), position=torch.arange(40)
    )
    trainer.initialise(sae, batch, 3, torch.Generator())
    assert trainer.state_dict() == {"level": 0, "factor": 1.0, "queue": []}


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": "l1"},
        {"p_end": 0.0},
        {"p_end": 1.5},
        {"anneal_start": 0.9},
        {"anneal_end": 1.1},
        {"n_updates": 0},
        {"queue_length": 0},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match="must be"):
        PAnnealOptions(**options)
