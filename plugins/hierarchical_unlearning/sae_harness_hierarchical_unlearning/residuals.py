"""Errors that several trainers of this plugin minimise, and topk's term for dead latents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean over tokens of ||x - x̂||²."""
    return F.mse_loss(x_hat, x, reduction="sum") / len(x)


def relative_error(residual: Tensor, guess: Tensor) -> Tensor:
    """||e - ê||² / Var(e), 0 where there is nothing to explain."""
    error = (residual - guess).square().sum(-1).mean()
    variance = (residual - residual.mean(0)).square().sum(-1).mean()
    return torch.where(variance > 0, error / variance.clamp_min(1e-12), torch.zeros_like(error))


def dead_residual(
    x: Tensor,
    x_hat: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    dead: Tensor,
    k_fraction: float,
) -> Tensor:
    """topk's auxiliary loss (Gao et al. 2024): the residual from dead latents' own largest pre-activations.

    Args:
        dead: [d_sae] bool.
        k_fraction: dead latents used per token, as a share of d_in.
    """
    ids = dead.nonzero(as_tuple=True)[0]
    if len(ids) == 0:
        return x.new_zeros(())
    pre = (x - b_dec) @ W_enc.t().index_select(0, ids).t() + b_enc[ids]
    k_aux = min(len(ids), max(1, int(k_fraction * x.shape[1])))
    values, slots = pre.topk(k_aux, dim=-1, sorted=False)
    codes = torch.zeros_like(pre).scatter(1, slots, values.relu())
    return relative_error((x - x_hat).detach(), codes @ W_dec.index_select(0, ids))
