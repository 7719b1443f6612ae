"""The compiled passes of the optimiser equal their definitions; whole steps are held in test_optimiser.py."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ShapeError

pytest.importorskip("numba")
compiled = pytest.importorskip("harness.training.native.compiled")


def test_squares_of_a_gradient_leave_it_as_it_is():
    grad = torch.randn(9, 33)
    before = grad.clone()
    assert abs(compiled.gradient_squares(grad) / float(before.double().square().sum()) - 1) < 1e-6
    assert torch.equal(grad, before)


def test_the_part_along_a_unit_row_is_removed_first():
    rows = torch.nn.functional.normalize(torch.randn(9, 33))
    grad = torch.randn(9, 33)
    wanted = grad - (grad * rows).sum(1, keepdim=True) * rows
    squares = compiled.gradient_squares(grad, rows)
    torch.testing.assert_close(grad, wanted)
    assert abs(squares / float(wanted.double().square().sum()) - 1) < 1e-6


@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam_is_torchs(unit_rows):
    mine = torch.randn(7, 19)
    theirs = torch.nn.Parameter(mine.clone())
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    average, square = torch.zeros_like(mine), torch.zeros_like(mine)
    for step in range(1, 6):
        grad = torch.randn(7, 19)
        theirs.grad = grad * 0.5
        adam.step()
        how = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "step": step, "scale": 0.5}
        compiled.adam(mine, grad, average, square, unit_rows=unit_rows, **how)
        if unit_rows:
            theirs.data /= theirs.data.norm(dim=1, keepdim=True)
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_nothing_is_written_to_a_copy():
    tensors = [torch.randn(5, 4).t() for _ in range(4)]
    with pytest.raises(ShapeError, match="contiguous"):
        compiled.adam(*tensors, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, step=1, scale=1.0, unit_rows=False)
    with pytest.raises(ShapeError, match="contiguous"):
        compiled.gradient_squares(tensors[0], tensors[1])
