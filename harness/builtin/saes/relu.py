"""The ReLU SAE."""

from __future__ import annotations

from torch import Tensor

from harness import RaggedCodes
from harness.training.active import active_latents

from .linear import LinearSAE


class ReluSAE(LinearSAE):
    """f = relu((x - b_dec) W_enc + b_enc)."""

    def encode(self, x: Tensor) -> Tensor:
        return self.pre_activations(x).relu()

    def encode_sparse(self, x: Tensor) -> RaggedCodes:
        active = active_latents(x, self.W_enc, self.b_enc, self.b_dec, above=0.0, max_density=1.0)
        return active.codes(active.z)  # type: ignore[return-value]
