"""The random SAE: random directions at the same L0. What a metric gives for no training at all."""

from __future__ import annotations

from typing import Any

import torch

from harness import ActivationBatch

from ..trainers.common import start_at_median
from .identity import Untrained


class RandomTrainer(Untrained):
    """A TopK SAE with random unit decoder rows, the encoder their transpose, and the data's median as bias.

    Each token's k codes are scaled by least squares over the sample, so that the floor is not merely a matter
    of a wrong magnitude.
    """

    def sae_options(self, target_l0: int | None) -> dict[str, Any]:
        return {"k": target_l0}

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)
        centred = sample.activations - sae.b_dec
        guess = sae(sample.activations) - sae.b_dec
        gain = (centred * guess).sum() / guess.square().sum().clamp_min(1e-12)
        sae.W_enc.mul_(gain)
