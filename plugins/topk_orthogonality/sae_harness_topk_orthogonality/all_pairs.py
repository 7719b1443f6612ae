"""Penalties that ask no statistics: the nearest row within random chunks (OrtSAE), and all pairs of a small SAE."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness import ConfigError
from harness.training.pair_penalties import pair_cosines, penalty

MAX_GRAM = 8192
"""Rows up to which all pairs are taken."""
_BLOCK = 1024


def nearest_in_chunks(table: Tensor, *, chunk: int, kind: str, margin: float, generator: torch.Generator) -> Tensor:
    """Mean over rows of g(the row's largest cosine to another row of its chunk): a scalar.

    The rows of table [m, d] are dealt into chunks of `chunk` at random, so that the cost is m · chunk · d. The largest
    is that of |cosine|, or of the cosine itself where g ignores negative ones (relu2). Only a row and its nearest get a
    gradient, as of any maximum. Korznikov et al. 2025, arXiv:2509.22033 (chunk 8192).
    """
    order = torch.randperm(len(table), generator=generator).to(table.device)
    with torch.no_grad():
        unit = F.normalize(table.detach(), dim=1)
        rows, nearest = [], []
        for ids in order.split(chunk):
            if len(ids) < 2:
                continue
            members = unit[ids]
            for start in range(0, len(ids), _BLOCK):
                cosines = members[start : start + _BLOCK] @ members.t()
                if kind != "relu2":
                    cosines.abs_()
                own = torch.arange(len(cosines), device=table.device)
                cosines[own, own + start] = -2.0
                rows.append(ids[start : start + _BLOCK])
                nearest.append(ids[cosines.argmax(1)])
    if not rows:
        return table.sum() * 0.0
    return penalty(pair_cosines(table, torch.cat(rows), torch.cat(nearest)), kind, margin=margin).mean()


def whole_gram(table: Tensor, *, kind: str, margin: float) -> Tensor:
    """Mean of g(cosine) over all pairs of rows of table [m, d]: a scalar. Made in blocks of rows.

    Raises:
        ConfigError: the table has more than MAX_GRAM rows.
    """
    if len(table) > MAX_GRAM:
        raise ConfigError(
            f"topk_orthogonality: pairs='gram' is for at most {MAX_GRAM} latents, this SAE has {len(table)}: use "
            "pairs='chunked' or pairs='selected'."
        )
    return _Gram.apply(table, kind, margin)  # type: ignore[return-value]


class _Gram(torch.autograd.Function):
    """Value and gradient in one pass, so that no [m, m] matrix is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, kind: str, margin: float) -> Tensor:
        norm = table.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit = table / norm
        total, across = table.new_zeros(()), torch.empty_like(table)
        for start in range(0, len(table), _BLOCK):
            part = slice(start, start + _BLOCK)
            with torch.enable_grad():
                cosines = (unit[part] @ unit.t()).requires_grad_()
                g = penalty(cosines, kind, margin=margin)
                own = torch.arange(len(g), device=table.device)
                kept = g.masked_fill(F.one_hot(own + start, len(table)).bool(), 0.0).sum()
                (slopes,) = torch.autograd.grad(kept, cosines)
            total += kept.detach() / 2
            across[part] = slopes @ unit
        n_pairs = max(1, len(table) * (len(table) - 1) // 2)
        along = (across * unit).sum(1, keepdim=True)
        ctx.save_for_backward((across - along * unit) / norm / n_pairs)
        return total / n_pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad * ctx.saved_tensors[0], None, None
