"""The PCA control: the k largest principal components of each token, a linear method at the same L0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness import SAE, ActivationBatch, ConfigError, SAEConfig

from .identity import Untrained


class PcaSAE(SAE):
    """Codes are the positive and negative parts of the k principal coefficients largest in magnitude."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        k = config.options.get("k")
        if isinstance(k, bool) or not isinstance(k, int) or not k >= 1:
            raise ConfigError(f"The pca SAE needs the option k, an integer >= 1; got {k!r}.")
        if config.d_sae < 2 * config.d_in:
            raise ConfigError(f"The pca SAE needs d_sae >= 2·d_in = {2 * config.d_in}, got {config.d_sae}.")
        self.k = min(k, config.d_in)
        self.components = nn.Parameter(torch.eye(config.d_in), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(config.d_in), requires_grad=False)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.components.copy_(torch.eye(self.config.d_in))
        self.b_dec.zero_()

    def encode(self, x: Tensor) -> Tensor:
        coefficients = (x - self.b_dec) @ self.components.t()
        kept = coefficients.abs().topk(self.k, dim=-1).indices
        sparse = torch.zeros_like(coefficients).scatter(-1, kept, coefficients.gather(-1, kept))
        unused = x.new_zeros(*x.shape[:-1], self.config.d_sae - 2 * self.config.d_in)
        return torch.cat([sparse.relu(), (-sparse).relu(), unused], dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        d_in = self.config.d_in
        return (codes[..., :d_in] - codes[..., d_in : 2 * d_in]) @ self.components + self.b_dec

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        self.b_dec.div_(scale)

    def decoder_directions(self) -> Tensor:
        unused = self.components.new_zeros(self.config.d_sae - 2 * self.config.d_in, self.config.d_in)
        return torch.cat([self.components, -self.components, unused])


class PcaTrainer(Untrained):
    """Mean and principal components of the sample."""

    def sae_options(self, target_l0: int | None) -> dict[str, Any]:
        return {"k": target_l0}

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        rows = sample.activations
        sae.b_dec.copy_(rows.mean(0))
        centred = (rows - sae.b_dec).double()
        _, vectors = torch.linalg.eigh(centred.t() @ centred)
        sae.components.copy_(vectors.flip(1).t().to(rows.dtype))
