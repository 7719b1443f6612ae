"""Gated SAEs (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness import ActivationBatch, LossTerms, Trainer, TrainerOptions, TrainState
from harness.training.active import active_latents

from .common import squared_error, start_at_median


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedOptions(TrainerOptions):
    """Options of `gated`."""

    beta1: float = 0.0
    """As the paper has it."""


class GatedTrainer(Trainer):
    """SSE + coefficient · mean ||relu(π)||_1 + SSE of relu(π) through a frozen copy of the decoder.

    π is the gate's pre-activation. Without the third term the penalty alone would train the gate, for the step 1[π > 0]
    has no gradient. The decoder is frozen there (weights and bias), so that the shrunken relu(π) do not shape it; b_dec
    still moves through the encoder's input, as in the paper.
    """

    options_type = GatedOptions

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=0.0)
        gate = active.z.relu()
        values = sae.magnitudes(active) * (active.z > 0)
        x_hat = active.decode(values, sae.W_dec, sae.b_dec)
        via_gate = active.decode(gate, sae.W_dec.detach(), sae.b_dec.detach())
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "l1": gate.sum() / len(x), "aux": squared_error(x, via_gate)},
            weights={"sse": 1.0, "l1": state.coefficient, "aux": 1.0},
            codes=active.codes(values),
            reconstruction=x_hat,
        )
