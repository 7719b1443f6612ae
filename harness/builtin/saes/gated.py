"""The gated SAE (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import RaggedCodes, SAEConfig
from harness.training.active import ActiveLatents, active_latents

from .linear import LinearSAE


class GatedSAE(LinearSAE):
    """f = 1[π > 0]·relu(exp(r_mag)·(x - b_dec) W_enc + b_mag), with the gate π = (x - b_dec) W_enc + b_enc.

    Which latents fire and how strongly are separate: the penalty shrinks π, not f. `b_enc` is the paper's b_gate.
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.r_mag = nn.Parameter(torch.empty(config.d_sae))
        self.b_mag = nn.Parameter(torch.empty(config.d_sae))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        super().reset_parameters(generator)
        self.r_mag.zero_()
        self.b_mag.zero_()

    def encode(self, x: Tensor) -> Tensor:
        gate = self.pre_activations(x)
        return (gate * self.r_mag.exp() + self._shift()).relu() * (gate > 0)

    def encode_sparse(self, x: Tensor) -> RaggedCodes:
        # One threshold a latent is the same rule: π > 0 and exp(r)·π + shift > 0.
        above = (-self._shift() / self.r_mag.exp()).clamp_min(0).detach()
        active = active_latents(x, self.W_enc, self.b_enc, self.b_dec, above=above, max_density=1.0)
        return active.codes(self.magnitudes(active))  # type: ignore[return-value]

    def magnitudes(self, active: ActiveLatents) -> Tensor:
        """Code values in the shape of `active.z`, whose pairs are the gate's π; the gate is not applied."""
        return (active.z * active.of(self.r_mag.exp()) + active.of(self._shift())).relu()

    def _shift(self) -> Tensor:
        """[d_sae]: what turns exp(r_mag)·π into the magnitude. The gradient of b_enc through π and this one cancel."""
        return self.b_mag - self.r_mag.exp() * self.b_enc

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.b_mag.div_(scale)
