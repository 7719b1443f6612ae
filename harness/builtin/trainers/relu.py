"""ReLU with an L1 penalty: the standard SAE."""

from __future__ import annotations

from typing import Any

import torch

from harness import ActivationBatch, LossTerms, Trainer, TrainState

from .common import squared_error, start_at_median


class ReluTrainer(Trainer):
    """SSE + coefficient · mean over tokens of ||f||_1, decoder rows of norm 1.

    The sparsity controller sets the coefficient, so that the run ends at its target L0.
    """

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        codes = sae.encode(x)
        x_hat = sae.decode(codes)
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "l1": codes.sum(-1).mean()},
            weights={"sse": 1.0, "l1": state.coefficient},
            codes=codes,
            reconstruction=x_hat,
        )
