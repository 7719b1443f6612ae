"""TopK with the auxiliary loss that revives dead latents (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ActivationBatch, LossTerms, Trainer, TrainerOptions, TrainState
from harness.training.kernels import topk_autoencode

from .common import squared_error, start_at_median


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKOptions(TrainerOptions):
    """Options of `topk`."""

    aux_weight: float = 1 / 32
    """Weight of the auxiliary loss."""
    aux_k_fraction: float = 0.5
    """Dead latents used per token, as a share of d_in."""


class TopKTrainer(Trainer):
    """SSE + aux_weight · aux, both means over tokens.

    aux = ||e - ê||² / Var(e): the residual e (detached) is reconstructed from the dead latents' own largest
    pre-activations, without bias. A latent is dead when it has not fired for the suite's dead_after_fraction of
    the budget, so the term acts within any budget.
    """

    options_type = TopKOptions

    def sae_options(self, target_l0: int | None) -> dict[str, Any]:
        return {"k": target_l0}

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        codes, x_hat = topk_autoencode(x, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.k)
        aux = self._dead_residual(sae, x, x_hat, state.dead)
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "aux": aux},
            weights={"sse": 1.0, "aux": self.options.aux_weight},
            codes=codes,
            reconstruction=x_hat,
        )

    def _dead_residual(self, sae: Any, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        ids = dead.nonzero(as_tuple=True)[0]
        if len(ids) == 0:
            return x.new_zeros(())
        residual = (x - x_hat).detach()
        pre = (x - sae.b_dec) @ sae.W_enc.t().index_select(0, ids).t() + sae.b_enc[ids]
        k_aux = min(len(ids), max(1, int(self.options.aux_k_fraction * x.shape[1])))
        values, slots = pre.topk(k_aux, dim=-1, sorted=False)
        codes = torch.zeros_like(pre).scatter(1, slots, values.relu())
        error = (residual - codes @ sae.W_dec.index_select(0, ids)).square().sum(-1).mean()
        variance = (residual - residual.mean(0)).square().sum(-1).mean()
        # A perfect reconstruction leaves nothing to explain: the term is 0 there, not 0/0.
        return torch.where(variance > 0, error / variance.clamp_min(1e-12), torch.zeros_like(error))
