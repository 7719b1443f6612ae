"""JumpReLU with learned thresholds (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness import ActivationBatch, LossTerms, Trainer, TrainerOptions, TrainState
from harness.training.active import active_latents

from ..saes.jumprelu import JumpReLUFunction, StepFunction
from .common import squared_error, start_at_median


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpReLUOptions(TrainerOptions):
    """Options of `jumprelu`."""

    beta1: float = 0.0
    """As dictionary_learning has it."""
    bandwidth: float = 0.1
    """Width ε of the straight-through window, in units of inputs with mean norm sqrt(d_in). The paper's .001
    suits 10^5 steps and more: at a thousand steps hardly any activation falls into it."""
    threshold_lr_scale: float = 10.0
    """Learning rate of the log-thresholds over that of the weights."""
    l0_weight: float = 20.0
    """Weight of (L0 / target - 1)² as a multiple of the batch's SSE, so that it needs no scale: at 20, a tenth
    too dense or too sparse costs a fifth of the SSE."""


class JumpReLUTrainer(Trainer):
    """SSE + weight · (L0 / target - 1)², the gradient of L0 and of the jump reaching θ through the pre-activations z.

    The target form that dictionary_learning trains: it pushes L0 from both sides. Thresholds start at the one value at
    which the untrained encoder has the target L0 on a sample: short budgets begin near the goal.
    """

    options_type = JumpReLUOptions

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        start_at_median(sae.b_dec, sample)
        if target_l0 is None:
            return
        z = sae.pre_activations(sample.activations[:2048])
        n_active = max(1, round(target_l0 * z.shape[0]))
        value = z.flatten().kthvalue(z.numel() - min(n_active, z.numel() - 1)).values
        sae.log_threshold.fill_(float(value.clamp_min(1e-3).log()))

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x, width = batch.activations, self.options.bandwidth
        # A pair has value or gradient only above the lower edge of its window.
        edge = (sae.threshold.detach() - width / 2).clamp_min(0)
        active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=edge)
        z, threshold = active.z.relu(), active.of(sae.threshold)
        codes = JumpReLUFunction.apply(z, threshold, width)
        x_hat = active.decode(codes, sae.W_dec, sae.b_dec)  # type: ignore[arg-type]
        l0 = StepFunction.apply(z, threshold, width).sum() / len(x)  # type: ignore[union-attr]
        assert state.target_l0 is not None, "the loop gives a method with sparsity='target' its target"
        sse = squared_error(x, x_hat)
        return LossTerms(
            values={"sse": sse, "l0": (l0 / state.target_l0 - 1).square()},
            weights={"sse": 1.0, "l0": self.options.l0_weight * float(sse.detach())},
            codes=active.codes(codes),  # type: ignore[arg-type]
            reconstruction=x_hat,
        )

    def parameter_groups(self, sae: Any) -> list[dict[str, Any]]:
        weights = [p for name, p in sae.named_parameters() if name != "log_threshold"]
        return [
            {"params": weights},
            {"params": [sae.log_threshold], "lr_scale": self.options.threshold_lr_scale},
        ]
