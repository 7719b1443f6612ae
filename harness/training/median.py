"""The geometric median: where decoder biases start."""

from __future__ import annotations

import torch
from torch import Tensor


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
