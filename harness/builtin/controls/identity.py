"""Controls: SAEs that must come out as known, so that a metric's floor and ceiling stand in every table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness import SAE, ActivationBatch, ConfigError, LossTerms, SAEConfig, Trainer, TrainState


class IdentitySAE(SAE):
    """x̂ = x: positive and negative parts of each dimension as 2·d_in latents, the rest unused. The ceiling."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        if config.d_sae < 2 * config.d_in:
            raise ConfigError(f"The identity SAE needs d_sae >= 2·d_in = {2 * config.d_in}, got {config.d_sae}.")

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill: it has no parameters."""

    def encode(self, x: Tensor) -> Tensor:
        unused = x.new_zeros(*x.shape[:-1], self.config.d_sae - 2 * self.config.d_in)
        return torch.cat([x.relu(), (-x).relu(), unused], dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        d_in = self.config.d_in
        return codes[..., :d_in] - codes[..., d_in : 2 * d_in]

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold: it is linear."""

    def decoder_directions(self) -> Tensor:
        eye = torch.eye(self.config.d_in)
        return torch.cat([eye, -eye, torch.zeros(self.config.d_sae - 2 * self.config.d_in, self.config.d_in)])


class Untrained(Trainer):
    """A trainer that takes no step: `initialise` makes the SAE. Its loss is never called."""

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        raise ConfigError("This control is not trained: its spec says trained=False.")


class IdentityTrainer(Untrained):
    """The identity SAE as it is."""
