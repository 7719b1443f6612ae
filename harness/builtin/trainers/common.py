"""What the built-in losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import ActivationBatch
from harness.training.median import geometric_median


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean over tokens of ||x - x̂||²: a scalar."""
    return F.mse_loss(x_hat, x, reduction="sum") / len(x)  # one pass each way


@torch.no_grad()
def start_at_median(b_dec: Tensor, sample: ActivationBatch) -> None:
    """Start the decoder bias at the geometric median of the sample, in place."""
    b_dec.copy_(geometric_median(sample.activations))
