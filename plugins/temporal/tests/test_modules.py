"""Position weights, pruning and resampling: known answers, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sae_harness_temporal.modules import PositionWeights, Pruning, Resampling

from harness import TrainState

D_SAE = 64


def state(step=9, n_dead=0) -> TrainState:
    return TrainState(
        step=step,
        n_steps=100,
        tokens_seen=0,
        coefficient=0.1,
        target_l0=4,
        dead=torch.arange(D_SAE) < n_dead,
        generator=torch.Generator().manual_seed(7),
    )


def test_positions_that_reconstruct_badly_count_more_with_mean_1():
    weights = PositionWeights(exponent=1.0)
    position, losses = torch.tensor([1, 1, 3, 3]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    found = weights.update(losses, position)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 1.5, 1.5]))
    assert weights.losses.tolist() == [0.0, 1.0, 0.0, 3.0]
    assert weights.term(losses, position).item() == pytest.approx(float((found * losses).mean() - losses.mean()))


def test_weights_are_clipped_and_follow_slowly():
    weights = PositionWeights(exponent=2.0)
    found = weights.update(torch.tensor([1.0, 1.0, 100.0]), torch.tensor([0, 1, 2]))
    assert (found[2] / found[0]).item() == pytest.approx(4.0)  # 2 over .5
    weights.update(torch.tensor([3.0]), torch.tensor([0]))
    assert weights.losses[0].item() == pytest.approx(0.99 + 0.03)
    assert weights.losses[2].item() == 100.0


def test_the_pruning_penalty_falls_on_latents_that_matter_little(start, stream):
    job, batch = start("topk"), stream.batch(0)
    terms = job.trainer.loss(job.sae, batch, state())
    pruning = Pruning(end=0.04, quantile=0.5)
    mask = pruning.mask(terms.codes, job.sae)
    order = pruning.importance.argsort()
    assert torch.equal(mask[order], mask[order].sort().values)
    assert (mask < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert [round(pruning.weight(progress), 4) for progress in (0.0, 1.0)] == [0.01, 0.04]


def test_dead_latents_take_the_direction_of_badly_reconstructed_inputs(start, stream):
    job, batch = start("topk"), stream.batch(0)
    sae = job.sae
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    resampling = Resampling(every=10, share=0.1)
    worst = torch.zeros(256, dtype=torch.bool)
    worst[[3, 50, 90, 200, 210, 220, 230]] = True
    resampling.see(batch, torch.where(worst[:, None], 0.0, batch.activations))
    assert resampling.after_step(sae, state(n_dead=20)) == 6  # a tenth of 64
    changed = (sae.W_dec != before["W_dec"]).any(1)
    assert int(changed.sum()) == 6
    assert not bool(changed[20:].any())
    directions = torch.nn.functional.normalize(batch.activations[worst] - sae.b_dec, dim=1)
    cosines = (sae.W_dec[changed] @ directions.t()).max(1).values
    torch.testing.assert_close(cosines, torch.ones(6))
    alive = before["W_enc"][:, 20:].norm(dim=0).mean()
    torch.testing.assert_close(sae.W_enc[:, changed].norm(dim=0), (0.2 * alive).expand(6))
    assert not bool(sae.b_enc[changed].any())
    assert torch.equal(sae.W_enc[:, ~changed], before["W_enc"][:, ~changed])


@pytest.mark.parametrize(("step", "n_dead"), [(8, 20), (9, 0), (9, 40)])
def test_nothing_is_resampled_between_times_without_dead_latents_or_with_too_many(step, n_dead, start, stream):
    job, batch = start("topk"), stream.batch(0)
    before = job.sae.W_dec.clone()
    resampling = Resampling(every=10, share=0.1)
    resampling.see(batch, torch.zeros_like(batch.activations))
    assert resampling.after_step(job.sae, state(step=step, n_dead=n_dead)) == 0
    assert torch.equal(job.sae.W_dec, before)


@pytest.mark.parametrize(
    "option", [{"position_weights": 1.0}, {"prune": 0.04}, {"reconstruction": "l2norm", "base": "relu"}]
)
def test_a_module_acts_without_the_penalty_and_keeps_the_slope_of_the_reconstruction_at_1(option, start, stream):
    job = start("temporal@off", **option)
    terms = job.trainer.loss(job.sae, stream.batch(0), replace(state()))
    plain = job.trainer.base.loss(job.sae, stream.batch(0), state())
    assert "temporal" not in terms.values
    assert float(terms.total.detach()) != float(plain.total.detach())
    first = next(iter(terms.values.values()))
    assert torch.autograd.grad(terms.total, first, retain_graph=True)[0].item() == 1.0
