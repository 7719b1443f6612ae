"""BatchTopK (Bussmann et al. 2024, arXiv:2412.06410)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ActivationBatch, LossTerms, TrainState
from harness.training.active import ActiveLatents, active_latents

from .common import squared_error
from .topk import TopKOptions, TopKTrainer

_SPANS = 20
"""How many times its own span the threshold's average has run when training ends, at least: what it started from then
weighs e^-20, and the weights it averages over are nearly the final ones (the learning rate decays)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTopKOptions(TopKOptions):
    """Options of `batchtopk`."""

    threshold_decay: float = 0.999
    """Decay a step of the threshold's average; runs of fewer than 20,000 steps take 1 - 20 / steps."""


class BatchTopKTrainer(TopKTrainer):
    """SSE + aux_weight · aux as `topk`, with the k·n largest codes of a batch of n tokens instead of k of each.

    The SAE's threshold is the exponential average of the smallest positive code that a batch keeps.
    """

    options_type = BatchTopKOptions

    def __init__(self, options: Any, base: Any = None) -> None:
        super().__init__(options, base)
        self._smallest: Tensor | None = None

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        super().initialise(sae, sample, target_l0, generator)
        active = _kept(sae, sample.activations[:2048])
        sae.threshold.copy_(smallest_positive(active.z))

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        active = _kept(sae, x)
        self._smallest = smallest_positive(active.z)
        values = active.z.relu()
        sse, x_hat = self.reconstruct(sae, x, active, values)
        aux = self._dead_residual(sae, x, x_hat, state.dead)
        return LossTerms(
            values={"sse": sse, "aux": aux},
            weights={"sse": 1.0, "aux": self.options.aux_weight},
            codes=active.codes(values),
            reconstruction=x_hat,
        )

    def reconstruct(self, sae: Any, x: Tensor, active: ActiveLatents, values: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction term and x̂ [n, d_in]."""
        x_hat = active.decode(values, sae.W_dec, sae.b_dec)
        return squared_error(x, x_hat), x_hat

    @torch.no_grad()
    def after_step(self, sae: Any, state: TrainState) -> None:
        super().after_step(sae, state)
        assert self._smallest is not None, "the loop takes the loss before it calls after_step"
        decay = min(self.options.threshold_decay, max(0.0, 1 - _SPANS / state.n_steps))
        sae.threshold.lerp_(self._smallest.to(sae.threshold.dtype), 1 - decay)


def _kept(sae: Any, x: Tensor) -> ActiveLatents:
    return active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, keep=sae.k * len(x))


@torch.no_grad()
def smallest_positive(z: Tensor) -> Tensor:
    """0-dimensional: the smallest of z above 0, or 0 where there is none. Waits for no GPU."""
    smallest = z.masked_fill(z <= 0, torch.inf).min()
    return smallest.masked_fill(smallest.isinf(), 0.0)
