"""What the built-in losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import ActivationBatch


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean over tokens of ||x - x̂||²: a scalar."""
    return F.mse_loss(x_hat, x, reduction="sum") / len(x)  # one pass each way


@torch.no_grad()
def geometric_median(rows: Tensor, *, n_iterations: int = 50, tolerance: float = 1e-6) -> Tensor:
    """[d]: the point with the least mean distance to rows [n, d], by Weiszfeld's iteration."""
    guess = rows.mean(0)
    for _ in range(n_iterations):
        weights = 1 / (rows - guess).norm(dim=1).clamp_min(1e-9)
        update = (rows * weights[:, None]).sum(0) / weights.sum()
        moved = (update - guess).norm() / guess.norm().clamp_min(1e-9)
        guess = update
        if moved < tolerance:
            break
    return guess


@torch.no_grad()
def start_at_median(b_dec: Tensor, sample: ActivationBatch) -> None:
    """Start the decoder bias at the geometric median of the sample, in place."""
    b_dec.copy_(geometric_median(sample.activations))
