"""The JumpReLU SAE (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness import RaggedCodes, SAEConfig
from harness.training.active import active_latents

from .linear import LinearSAE


class JumpReLUFunction(torch.autograd.Function):
    """f = z·1[z > θ] of pre-activations z and thresholds θ of the same shape.

    Straight-through gradient of θ: -(θ/ε) where z > 0 and |z - θ| < ε/2. (With z = 0 a latent is silent whatever θ.)
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, threshold = ctx.saved_tensors
        inside = _window(z, threshold, ctx.bandwidth)
        return grad * (z > threshold), grad * inside * threshold * (-1.0 / ctx.bandwidth), None


class StepFunction(torch.autograd.Function):
    """H(z - θ), whose sum is the L0; gradient of θ alone: -(1/ε) in the window of `JumpReLUFunction`, none to z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, threshold = ctx.saved_tensors
        return None, grad * _window(z, threshold, ctx.bandwidth) * (-1.0 / ctx.bandwidth), None


def _window(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (z > 0) & ((z - threshold).abs() < bandwidth / 2)


class JumpReLUSAE(LinearSAE):
    """f = z·1[z > θ], z = relu((x - b_dec) W_enc + b_enc), with a learned threshold θ > 0 of each latent.

    The parameter is log θ, so that no step can make a threshold negative.
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.log_threshold = nn.Parameter(torch.empty(config.d_sae))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        super().reset_parameters(generator)
        self.log_threshold.fill_(math.log(0.1))

    @property
    def threshold(self) -> Tensor:
        """[d_sae], positive."""
        return self.log_threshold.exp()

    def encode(self, x: Tensor) -> Tensor:
        z = self.pre_activations(x)
        return z * (z > self.threshold)

    def encode_sparse(self, x: Tensor) -> RaggedCodes:
        above = self.threshold.detach()
        active = active_latents(x, self.W_enc, self.b_enc, self.b_dec, above=above, max_density=1.0)
        return active.codes(active.z)  # type: ignore[return-value]

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        super().fold_input_scale(scale)
        self.log_threshold.sub_(math.log(scale))
