"""ReLU with a norm-weighted L1 penalty (Conerly et al. 2024, Transformer Circuits' April update)."""

from __future__ import annotations

from typing import Any

import torch

from harness import ActivationBatch, LossTerms, Trainer, TrainState
from harness.training.active import active_latents

from .common import squared_error, start_at_median


class AprilTrainer(Trainer):
    """SSE + coefficient · mean over tokens of sum_i f_i ||d_i||, decoder rows of any norm.

    The weight makes the penalty indifferent to a latent's scale, so rows need no constraint; its gradient reaches them.
    """

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=0.0)
        values = active.z.relu()
        x_hat = active.decode(values, sae.W_dec, sae.b_dec)
        l1 = (values * active.of(sae.W_dec.norm(dim=1))).sum() / len(x)
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "l1": l1},
            weights={"sse": 1.0, "l1": state.coefficient},
            codes=active.codes(values),
            reconstruction=x_hat,
        )
