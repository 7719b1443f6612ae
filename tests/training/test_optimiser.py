from __future__ import annotations

import pytest
import torch

from harness.training import optimiser
from harness.training.kernels import encoder_parameter, normalise_rows_
from harness.training.optimiser import FusedAdam

pytestmark = pytest.mark.usefixtures("each_way")


def test_equals_torch_adam_with_clipping_also_for_the_transposed_layout():
    g = torch.Generator().manual_seed(0)
    mine = [encoder_parameter(9, 14), torch.nn.Parameter(torch.empty(14))]
    theirs = [torch.nn.Parameter(torch.empty(9, 14)), torch.nn.Parameter(torch.empty(14))]
    for a, b in zip(mine, theirs, strict=True):
        b.data.normal_(generator=g)
        a.data.copy_(b.data)
    ours = FusedAdam([{"params": mine}], beta1=0.9, beta2=0.99, eps=1e-8)
    reference = torch.optim.Adam(theirs, lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    for step in range(6):
        for a, b in zip(mine, theirs, strict=True):
            b.grad = torch.randn(b.shape, generator=g)
            # As the sparse kernel writes it on even steps, as dense autograd does on odd ones.
            a.grad = b.grad.t().contiguous().t() if b.ndim == 2 and step % 2 == 0 else b.grad.clone()
        norm = float(ours.gradient_norm())
        assert abs(norm - float(torch.nn.utils.clip_grad_norm_(theirs, 1.0))) < 1e-5
        reference.step()
        ours.step(0.01, 1.0 / norm)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)


def test_groups_scale_the_learning_rate():
    slow, fast = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    adam = FusedAdam([{"params": [slow]}, {"params": [fast], "lr_scale": 10.0}], beta1=0.9, beta2=0.999, eps=1e-12)
    slow.grad, fast.grad = torch.ones(3), torch.ones(3)
    adam.step(0.1)
    torch.testing.assert_close(slow.detach(), torch.full((3,), -0.1))
    torch.testing.assert_close(fast.detach(), torch.full((3,), -1.0))


def test_unit_rows_are_projected_clipped_updated_and_rescaled_as_step_by_step(monkeypatch):
    monkeypatch.setattr(optimiser, "_CHUNK_BYTES", 3 * 6 * 4)  # three rows at a time, the last piece shorter
    g = torch.Generator().manual_seed(1)
    mine = [torch.nn.Parameter(torch.randn(14, 6, generator=g)), torch.nn.Parameter(torch.randn(6, generator=g))]
    normalise_rows_(mine[0].data)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    ours = FusedAdam([{"params": mine}], beta1=0.9, beta2=0.99, eps=1e-8, unit_rows=mine[0])
    reference = torch.optim.Adam(theirs, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(4):
        for a, b in zip(mine, theirs, strict=True):
            b.grad = torch.randn(b.shape, generator=g)
            a.grad = b.grad.clone()
        decoder, grad = theirs[0].detach(), theirs[0].grad
        grad -= (grad * decoder).sum(1, keepdim=True) * decoder
        norm = float(ours.gradient_norm())
        assert (mine[0] * mine[0].grad).sum(1).abs().max() < 1e-6
        assert abs(norm - float(torch.nn.utils.clip_grad_norm_(theirs, 1.0))) < 1e-5
        reference.step()
        theirs[0].data /= theirs[0].data.norm(dim=1, keepdim=True)
        ours.step(0.05, 1.0 / norm)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine[0].detach().norm(dim=1), torch.ones(14))


def test_unit_rows_without_a_gradient_still_have_norm_one():
    rows = torch.nn.Parameter(torch.full((2, 4), 3.0))
    adam = FusedAdam([{"params": [rows]}], beta1=0.9, beta2=0.99, eps=1e-8, unit_rows=rows)
    assert float(adam.gradient_norm()) == 0.0
    adam.step(0.1)
    torch.testing.assert_close(rows.detach().norm(dim=1), torch.ones(2))
