"""BatchTopK: which codes a batch keeps, and the threshold that stands for them when the SAE is used."""

from __future__ import annotations

import pytest
import torch

from harness import ActivationBatch, SAEConfig, TrainState
from harness.builtin.saes.batchtopk import BatchTopKSAE
from harness.builtin.trainers.batchtopk import BatchTopKOptions, BatchTopKTrainer, smallest_positive


def batch_of(rows: torch.Tensor) -> ActivationBatch:
    n = len(rows)
    return ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))


def state(step: int = 0, n_steps: int = 10, d_sae: int = 12, dead=()) -> TrainState:
    mask = torch.zeros(d_sae, dtype=torch.bool)
    mask[list(dead)] = True
    return TrainState(
        step=step, n_steps=n_steps, tokens_seen=0, target_l0=3, coefficient=0.0, dead=mask, generator=torch.Generator()
    )


@pytest.fixture
def rows():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def made(k: int = 3, **options):
    trainer = BatchTopKTrainer(BatchTopKOptions(**options))
    sae = BatchTopKSAE(SAEConfig(architecture="batchtopk", d_in=6, d_sae=12, options=trainer.sae_options(k)))
    sae.reset_parameters(torch.Generator().manual_seed(0))
    return trainer, sae


def identity_sae(k: int) -> BatchTopKSAE:
    """Four latents that read and write the four dimensions."""
    sae = BatchTopKSAE(SAEConfig(architecture="batchtopk", d_in=4, d_sae=4, options={"k": k}))
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec):
            weight.copy_(torch.eye(4))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def test_a_batch_keeps_its_largest_codes_whoever_has_them():
    sae = identity_sae(k=1)
    x = torch.tensor([[4.0, 3.0, 0.0, 0.0], [1.0, 2.0, 0.5, 0.0], [0.0, 0.0, 0.25, -9.0]])
    terms = BatchTopKTrainer(BatchTopKOptions()).loss(sae, batch_of(x), state(d_sae=4))
    kept = torch.tensor([[4.0, 3.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(terms.reconstruction, kept)
    # What is left: 1, .5 of the second token, .25 and -9 of the third.
    assert terms.values["sse"].item() == pytest.approx((1 + 0.25 + 0.0625 + 81) / 3)


def test_codes_that_are_not_positive_are_not_kept():
    sae = identity_sae(k=3)
    x = torch.tensor([[2.0, -1.0, -2.0, -3.0], [1.0, -1.0, -1.0, -1.0]])
    trainer = BatchTopKTrainer(BatchTopKOptions())
    terms = trainer.loss(sae, batch_of(x), state(d_sae=4))
    assert torch.equal(terms.reconstruction, x.relu())
    trainer.after_step(sae, state(n_steps=20, d_sae=4))
    assert sae.threshold.item() == 1.0  # the smallest positive one, although six were asked for


@pytest.mark.parametrize(("z", "smallest"), [([3.0, -1.0, 0.5, 0.0], 0.5), ([-1.0, 0.0], 0.0)])
def test_the_smallest_positive_code(z, smallest):
    assert smallest_positive(torch.tensor(z)).item() == smallest


def test_the_loss_is_that_of_dense_batch_top_k(rows):
    trainer, sae = made()
    terms = trainer.loss(sae, batch_of(rows), state(dead=[2, 5]))
    z = sae.pre_activations(rows).relu()
    bound = z.flatten().sort(descending=True).values[3 * 40 - 1]
    x_hat = (z * (z >= bound)) @ sae.W_dec + sae.b_dec
    dense = (rows - x_hat).square().sum(1).mean()
    assert terms.values["sse"].item() == pytest.approx(dense.item(), rel=1e-5)
    (terms.values["sse"]).backward(retain_graph=True)
    sparse = [p.grad.clone() for p in sae.parameters()]
    sae.zero_grad()
    dense.backward()
    for mine, wanted in zip(sparse, (p.grad for p in sae.parameters()), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)
    assert terms.values["aux"].item() > 0


def test_the_threshold_starts_where_the_sample_has_the_target_l0(rows):
    trainer, sae = made(k=2)
    trainer.initialise(sae, batch_of(rows), 2, torch.Generator())
    # The smallest code kept does not exceed itself.
    assert int((sae.encode(rows) > 0).sum()) == 2 * 40 - 1


def test_the_threshold_is_an_average_that_short_runs_forget_faster(rows):
    trainer, sae = made()
    for n_steps, decay in ((10, 0.0), (200, 0.9), (10_000, 0.998), (50_000, 0.999)):
        sae.threshold.fill_(5.0)
        trainer.loss(sae, batch_of(rows), state(n_steps=n_steps))
        smallest = float(trainer._smallest)
        trainer.after_step(sae, state(n_steps=n_steps))
        assert sae.threshold.item() == pytest.approx(decay * 5.0 + (1 - decay) * smallest, rel=1e-5)


def test_the_loss_leaves_the_sae_as_it_is(rows):
    trainer, sae = made()
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    trainer.loss(sae, batch_of(rows), state())
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())
    assert "threshold" in before
