"""The norm-weighted L1 penalty: indifferent to a latent's scale, with a gradient for the rows it weighs by."""

from __future__ import annotations

import pytest
import torch

from harness import ActivationBatch, SAEConfig, TrainerOptions, TrainState
from harness.builtin.saes.april import AprilSAE
from harness.builtin.trainers.april import AprilTrainer
from harness.builtin.trainers.common import squared_error


@pytest.fixture
def rows():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[-1.5, 0.0], ids=["sparse", "dense"])
def sae(request):
    made = AprilSAE(SAEConfig(architecture="april", d_in=6, d_sae=12))
    generator = torch.Generator().manual_seed(0)
    made.reset_parameters(generator)
    with torch.no_grad():
        made.b_enc.fill_(request.param)
        made.W_dec.mul_(torch.rand(12, 1, generator=generator) + 0.5)
    return made


def loss(sae, rows):
    n = len(rows)
    batch = ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))
    state = TrainState(
        step=0,
        n_steps=10,
        tokens_seen=0,
        target_l0=3,
        coefficient=0.25,
        dead=torch.zeros(12, dtype=torch.bool),
        generator=torch.Generator(),
    )
    return AprilTrainer(TrainerOptions()).loss(sae, batch, state)


def test_the_penalty_weighs_each_code_by_its_rows_norm(sae, rows):
    terms = loss(sae, rows)
    wanted = (sae.encode(rows) * sae.W_dec.norm(dim=1)).sum(1).mean()
    assert terms.values["l1"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert terms.values["sse"].item() == pytest.approx(squared_error(rows, sae(rows)).item(), rel=1e-5)
    assert terms.weights == {"sse": 1.0, "l1": 0.25}


def test_gradients_are_those_of_the_dense_definition(sae, rows):
    parameters = list(sae.parameters())
    found = torch.autograd.grad(loss(sae, rows).total, parameters)
    codes = sae.encode(rows)
    dense = squared_error(rows, sae.decode(codes)) + 0.25 * (codes * sae.W_dec.norm(dim=1)).sum(1).mean()
    for mine, wanted in zip(found, torch.autograd.grad(dense, parameters), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)


def test_scaling_a_latent_changes_neither_term(sae, rows):
    before = loss(sae, rows)
    factors = torch.rand(12, generator=torch.Generator().manual_seed(3)) * 4 + 0.2
    with torch.no_grad():
        sae.W_enc.mul_(factors)
        sae.b_enc.mul_(factors)
        sae.W_dec.div_(factors[:, None])
    after = loss(sae, rows)
    for name in ("sse", "l1"):
        assert after.values[name].item() == pytest.approx(before.values[name].item(), rel=1e-4)


def test_the_penalty_moves_decoder_rows_along_themselves_alone(sae, rows):
    (grad,) = torch.autograd.grad(loss(sae, rows).values["l1"], [sae.W_dec])
    unit = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    across = grad - (grad * unit).sum(1, keepdim=True) * unit
    assert bool(grad.any())
    assert float(across.detach().abs().max()) < 1e-5
