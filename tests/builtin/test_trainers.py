"""The built-in losses against values worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness import ActivationBatch, SAEConfig, TrainState
from harness.builtin.saes.april import AprilSAE
from harness.builtin.saes.batchtopk import BatchTopKSAE
from harness.builtin.saes.gated import GatedSAE
from harness.builtin.saes.jumprelu import JumpReLUSAE
from harness.builtin.saes.matryoshka import MatryoshkaSAE
from harness.builtin.saes.relu import ReluSAE
from harness.builtin.saes.topk import TopKSAE
from harness.builtin.trainers.april import AprilTrainer
from harness.builtin.trainers.batchtopk import BatchTopKTrainer
from harness.builtin.trainers.common import squared_error, start_at_median
from harness.builtin.trainers.gated import GatedTrainer
from harness.builtin.trainers.jumprelu import JumpReLUTrainer
from harness.builtin.trainers.matryoshka import MatryoshkaTrainer
from harness.builtin.trainers.p_anneal import PAnnealTrainer
from harness.builtin.trainers.relu import ReluTrainer
from harness.builtin.trainers.topk import TopKTrainer
from harness.training.median import geometric_median

KINDS = {
    "topk": (TopKTrainer, TopKSAE),
    "relu": (ReluTrainer, ReluSAE),
    "jumprelu": (JumpReLUTrainer, JumpReLUSAE),
    "batchtopk": (BatchTopKTrainer, BatchTopKSAE),
    "matryoshka": (MatryoshkaTrainer, MatryoshkaSAE),
    "gated": (GatedTrainer, GatedSAE),
    "april": (AprilTrainer, AprilSAE),
    "p_anneal": (PAnnealTrainer, ReluSAE),
}
NEEDED = {"matryoshka": {"groups": "1/4,3/4"}}
"""What so small an SAE needs."""
THRESHOLDED = ("batchtopk", "matryoshka")
"""Their codes in training are the batch's largest; the threshold below which lie the others is the SAE's alone."""


def batch_of(rows: torch.Tensor) -> ActivationBatch:
    n = rows.shape[0]
    return ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))


def make(kind: str, d_in: int = 6, d_sae: int = 12, target_l0: int = 3, **options):
    trainer_class, sae_class = KINDS[kind]
    trainer = trainer_class(trainer_class.options_type(**NEEDED.get(kind, {}), **options))
    sae = sae_class(SAEConfig(architecture=kind, d_in=d_in, d_sae=d_sae, options=dict(trainer.sae_options(target_l0))))
    sae.reset_parameters(torch.Generator().manual_seed(0))
    return trainer, sae


def state_of(sae, *, coefficient: float = 0.0, dead=(), target_l0: int | None = 3) -> TrainState:
    mask = torch.zeros(sae.config.d_sae, dtype=torch.bool)
    mask[list(dead)] = True
    return TrainState(
        step=0,
        n_steps=10,
        tokens_seen=0,
        target_l0=target_l0,
        coefficient=coefficient,
        dead=mask,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.fixture
def rows():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def test_squared_error_sums_over_dimensions_and_averages_over_tokens():
    assert squared_error(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)).item() == 2.5


def test_the_geometric_median_resists_an_outlier():
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert torch.allclose(geometric_median(square), torch.tensor([1.0, 1.0]), atol=1e-4)
    line = torch.tensor([[0.0], [1.0], [1e6]])
    assert geometric_median(line, n_iterations=2000).item() == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_bias_starts_at_the_samples_median(kind, rows):
    trainer, sae = make(kind)
    trainer.initialise(sae, batch_of(rows), 3, torch.Generator())
    assert torch.allclose(sae.b_dec, geometric_median(rows))
    other = torch.zeros(6)
    start_at_median(other, batch_of(rows))
    assert torch.equal(other, sae.b_dec)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_sum_to_the_total_and_gradients_reach_every_parameter(kind, rows):
    trainer, sae = make(kind, **({"bandwidth": 1.0} if kind == "jumprelu" else {}))
    if kind == "jumprelu":
        trainer.initialise(sae, batch_of(rows), 3, torch.Generator())
    before = rows.clone()
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, coefficient=0.5, dead=(0, 1)))
    expected = sum(terms.weights[name] * value.item() for name, value in terms.values.items())
    assert terms.total.item() == pytest.approx(expected, rel=1e-6)
    terms.total.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in sae.parameters())
    assert torch.equal(rows, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reconstruction_and_codes_are_the_saes(kind, rows):
    trainer, sae = make(kind)
    terms = trainer.loss(sae, batch_of(rows), state_of(sae))
    if kind in THRESHOLDED:
        z = sae.pre_activations(rows).detach().flatten().sort(descending=True).values
        sae.threshold.fill_(float(z[3 * 40 - 1 : 3 * 40 + 1].mean()))
    assert torch.allclose(terms.reconstruction, sae(rows), atol=1e-6)
    if kind != "matryoshka":  # whose term is the mean over prefixes
        assert terms.values["sse"].item() == pytest.approx(squared_error(rows, sae(rows)).item(), rel=1e-5)


# relu


def test_relus_penalty_is_the_codes_sum_times_the_coefficient(rows):
    trainer, sae = make("relu")
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, coefficient=0.25))
    assert terms.values["l1"].item() == pytest.approx(sae.encode(rows).sum(1).mean().item(), rel=1e-6)
    assert terms.weights == {"sse": 1.0, "l1": 0.25}


# topk


def test_topks_l0_is_an_option_of_its_sae():
    assert make("topk", target_l0=5)[1].k == 5


def test_without_dead_latents_the_auxiliary_term_is_zero(rows):
    trainer, sae = make("topk")
    terms = trainer.loss(sae, batch_of(rows), state_of(sae))
    assert terms.values["aux"].item() == 0.0
    assert terms.weights["aux"] == pytest.approx(1 / 32)


def test_the_auxiliary_term_is_the_share_of_the_residual_dead_latents_leave(rows):
    trainer, sae = make("topk", aux_k_fraction=0.34)  # 2 of d_in 6
    dead = [1, 4, 7, 9]
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, dead=dead))
    with torch.no_grad():
        residual = rows - sae(rows)
        pre = sae.pre_activations(rows)[:, dead]
        kept = pre.topk(2, dim=1)
        codes = torch.zeros(40, 4).scatter(1, kept.indices, kept.values.relu())
        error = (residual - codes @ sae.W_dec[dead]).square().sum(1).mean()
        variance = (residual - residual.mean(0)).square().sum(1).mean()
    assert terms.values["aux"].item() == pytest.approx((error / variance).item(), rel=1e-5)


def test_the_auxiliary_term_moves_dead_latents_alone(rows):
    trainer, sae = make("topk")
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, dead=[2, 5]))
    terms.values["aux"].backward()
    moved = sae.W_dec.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(moved) <= {2, 5}
    assert moved


def test_a_perfect_reconstruction_leaves_nothing_to_explain():
    trainer, sae = make("topk")
    still = torch.zeros(8, 6)
    assert trainer.loss(sae, batch_of(still), state_of(sae, dead=[0])).values["aux"].item() == 0.0


# jumprelu


def test_jumprelus_term_is_the_relative_distance_from_the_target_squared(rows):
    trainer, sae = make("jumprelu", l0_weight=4.0)
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, target_l0=3))
    l0 = (sae.encode(rows) > 0).sum(1).float().mean().item()
    assert terms.values["l0"].item() == pytest.approx((l0 / 3 - 1) ** 2, rel=1e-5)
    assert terms.weights["l0"] == pytest.approx(4.0 * terms.values["sse"].item(), rel=1e-5)


@pytest.mark.parametrize("target", [1, 3, 5])
def test_jumprelus_thresholds_start_at_the_target_l0(target, rows):
    trainer, sae = make("jumprelu", target_l0=target)
    trainer.initialise(sae, batch_of(rows), target, torch.Generator())
    assert (sae.encode(rows) > 0).sum(1).float().mean().item() == pytest.approx(target, abs=0.05)
    assert sae.threshold.unique().numel() == 1


@pytest.mark.parametrize(("start", "falls"), [(1, True), (5, False)])
def test_jumprelus_thresholds_move_towards_the_target(start, falls, rows):
    trainer, sae = make("jumprelu", bandwidth=0.5)
    trainer.initialise(sae, batch_of(rows), start, torch.Generator())
    terms = trainer.loss(sae, batch_of(rows), state_of(sae, target_l0=3))
    terms.values["l0"].backward()
    assert bool((sae.log_threshold.grad >= 0).all()) is falls  # descent lowers what has a positive gradient
    assert bool(sae.log_threshold.grad.any())


def test_jumprelus_thresholds_learn_at_their_own_rate():
    trainer, sae = make("jumprelu", threshold_lr_scale=7.0)
    weights, thresholds = trainer.parameter_groups(sae)
    assert [p is sae.log_threshold for p in thresholds["params"]] == [True]
    assert thresholds["lr_scale"] == 7.0
    assert len(weights["params"]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_a_default(kind):
    options = KINDS[kind][0].options_type
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(options))
