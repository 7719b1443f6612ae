"""The ReLU SAE."""

from __future__ import annotations

from torch import Tensor

from .linear import LinearSAE


class ReluSAE(LinearSAE):
    """f = relu((x - b_dec) W_enc + b_enc)."""

    def encode(self, x: Tensor) -> Tensor:
        return self.pre_activations(x).relu()
