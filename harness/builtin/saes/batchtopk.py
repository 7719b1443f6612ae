"""The BatchTopK SAE (Bussmann et al. 2024, arXiv:2412.06410)."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import ConfigError, RaggedCodes, SAEConfig
from harness.training.active import active_latents

from .linear import LinearSAE


class BatchTopKSAE(LinearSAE):
    """f = z·1[z > θ], z = relu((x - b_dec) W_enc + b_enc), with one threshold θ for all latents.

    In training a batch of n tokens keeps its k·n largest z, which no single token could repeat: the trainer leaves in θ
    the average of the smallest one kept. L0 is therefore k on data like that of training, and differs between tokens.
    """

    threshold: Tensor
    """0-dimensional, at least 0; saved with the weights."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        k = config.options.get("k")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= config.d_sae:
            raise ConfigError(
                f"A {config.architecture} SAE needs the option k, an integer in [1, d_sae = {config.d_sae}]; got {k!r}."
            )
        self.k = k
        self.register_buffer("threshold", torch.zeros(()))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        super().reset_parameters(generator)
        self.threshold.zero_()

    def encode(self, x: Tensor) -> Tensor:
        z = self.pre_activations(x).relu()
        return z * (z > self.threshold)

    def encode_sparse(self, x: Tensor) -> RaggedCodes:
        active = active_latents(x, self.W_enc, self.b_enc, self.b_dec, above=self.threshold, max_density=1.0)
        return active.codes(active.z)  # type: ignore[return-value]

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.threshold.div_(scale)
