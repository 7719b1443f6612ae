"""ReLU with an L1 penalty: the standard SAE."""

from __future__ import annotations

from typing import Any

import torch

from harness import ActivationBatch, LossTerms, Trainer, TrainState
from harness.training.active import active_latents

from .common import squared_error, start_at_median


class ReluTrainer(Trainer):
    """SSE + coefficient · mean over tokens of ||f||_1, decoder rows of norm 1.

    The sparsity controller sets the coefficient, so that the run ends at its target L0.
    """

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=0.0)
        values = active.z.relu()
        x_hat = active.decode(values, sae.W_dec, sae.b_dec)
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "l1": values.sum() / len(x)},
            weights={"sse": 1.0, "l1": state.coefficient},
            codes=active.codes(values),
            reconstruction=x_hat,
        )
