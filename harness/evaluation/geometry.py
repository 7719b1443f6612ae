"""How an SAE's directions lie to one another: neighbours, encoder against decoder, twins in another SAE, and whether
decoder rows are made of fewer common parts. Memory is bounded: no [d_sae, d_sae] matrix of cosines is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NotEvaluatedError, ShapeError
from ..interfaces.sae import SAE
from .truth import cosines, match_one_to_one

_CHUNK_ROWS = 1024
_ROW_ELEMENTS = 1 << 24
"""Largest dense codes of a chunk, in numbers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """Cosines between n distinct directions."""

    nearest: Tensor
    """[n] float32: each direction's largest cosine with another one."""
    mean_absolute: float
    """Mean of |cosine| over all pairs of two directions."""


def neighbours(directions: Tensor) -> Neighbours:
    """Of directions [n, d_in], n at least 2; a direction of length 0 has cosine 0 with all.

    Raises:
        ShapeError: there are fewer than two.
    """
    n = len(directions)
    if directions.ndim != 2 or n < 2:
        raise ShapeError(f"Neighbours need directions [n, d_in] with n of at least 2, got {tuple(directions.shape)}.")
    unit = F.normalize(directions.float(), dim=1)
    nearest = torch.empty(n, device=unit.device)
    total = 0.0
    for start in range(0, n, _CHUNK_ROWS):
        found = unit[start : start + _CHUNK_ROWS] @ unit.T
        own = torch.arange(len(found), device=found.device)
        found[own, start + own] = 0.0
        total += float(found.abs().sum(dtype=torch.float64))
        found[own, start + own] = -1.0
        nearest[start : start + len(found)] = found.amax(1)
    return Neighbours(nearest=nearest, mean_absolute=total / (n * (n - 1)))


def encoder_directions(sae: SAE, rows: Tensor, latents: Tensor) -> Tensor:
    """[m, d_in]: the gradient of latent `latents[i]`'s code with respect to the activation `rows[i]` [m, d_in].

    Where a latent's code is a rectified linear function, that is its encoder column. It needs no knowledge of the
    architecture: a row's code does not depend on the other rows. 0 where the code has no gradient (a lookup).
    """
    d_sae = sae.config.d_sae
    size = max(1, min(_CHUNK_ROWS, _ROW_ELEMENTS // d_sae))
    parts = []
    for start in range(0, len(rows), size):
        with torch.enable_grad():
            x = rows[start : start + size].detach().clone().requires_grad_(True)
            codes = sae.encode(x).gather(1, latents[start : start + size, None])
            if not codes.requires_grad:
                parts.append(torch.zeros_like(x).detach())
                continue
            (gradient,) = torch.autograd.grad(codes.sum(), x, allow_unused=True)
        parts.append(torch.zeros_like(x).detach() if gradient is None else gradient.detach())
    return torch.cat(parts)


def twins(directions: Tensor, others: Tensor) -> Tensor:
    """[min(n, m)]: cosines of the pairs in the one-to-one matching of directions [n, d_in] with others [m, d_in] of
    largest total cosine (Hungarian algorithm; Paulo & Belrose 2025, arXiv:2501.16615)."""
    similarity = cosines(directions, others).cpu()
    match = match_one_to_one(similarity)
    rows = (match >= 0).nonzero().squeeze(1)
    return similarity[rows, match[rows]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaOptions:
    """A TopK SAE over decoder rows (meta-SAE; Leask et al. 2025, arXiv:2502.04878)."""

    share: float = 0.25
    """Meta-latents for each row."""
    k: int = 4
    steps: int = 300
    batch: int = 512
    lr: float = 5e-3
    held_out: float = 0.2
    least: int = 5
    """Held-out rows below which nothing is said."""


def composition(
    directions: Tensor, generator: torch.Generator, options: MetaOptions | None = None
) -> tuple[float, int]:
    """Share of the variance of held-out unit directions [n, d_in], about their mean, that a meta-SAE trained on the
    others explains, and the number of held-out ones. High where directions are sums of a few common parts.

    Raises:
        NotEvaluatedError: too few directions are held out.
    """
    options = options or MetaOptions()
    unit = F.normalize(directions.float(), dim=1).cpu()
    order = torch.randperm(len(unit), generator=generator)
    n_held = int(options.held_out * len(unit))
    if n_held < options.least:
        raise NotEvaluatedError(
            f"A meta-SAE needs {options.least} held-out decoder rows, which is {options.least / options.held_out:.0f} "
            f"in all; {len(unit)} latents fire."
        )
    held, rows = unit[order[:n_held]], unit[order[n_held:]]
    mean = rows.mean(0)
    weights = _meta_sae(rows - mean, generator, options)
    with torch.no_grad():
        wanted = held - mean
        error = (wanted - _reconstruct(wanted, weights, options.k)).double().square().sum()
        return 1.0 - float(error / wanted.double().square().sum()), n_held


def surrogate(directions: Tensor, generator: torch.Generator) -> Tensor:
    """As many random directions [n, d_in] with the same mean and covariance, for what composition is by chance."""
    unit = F.normalize(directions.float(), dim=1).cpu()
    centred = unit - unit.mean(0)
    # Mixtures of the rows by Gaussian weights have their covariance.
    weights = torch.randn(len(unit), len(unit), generator=generator) if len(unit) <= 4096 else None
    if weights is not None:
        return weights @ centred / len(unit) ** 0.5 + unit.mean(0)
    covariance = centred.T @ centred / len(unit)
    values, vectors = torch.linalg.eigh(covariance.double())
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    noise = torch.randn(len(unit), unit.shape[1], generator=generator, dtype=torch.float64)
    return (noise @ root).float() + unit.mean(0)


def _meta_sae(rows: Tensor, generator: torch.Generator, options: MetaOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder [d, m], bias [m] and decoder [m, d], trained on centred rows [n, d]."""
    m = max(options.k, int(options.share * len(rows)))
    chosen = torch.randperm(len(rows), generator=generator)[:m]
    decoder = F.normalize(rows[chosen], dim=1).clone()
    weights = (decoder.T.contiguous().clone(), torch.zeros(m), decoder)
    with torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        optimiser = torch.optim.Adam(weights, lr=options.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, total_iters=options.steps)
        for _ in range(options.steps):
            batch = rows[torch.randint(len(rows), (min(options.batch, len(rows)),), generator=generator)]
            loss = (batch - _reconstruct(batch, weights, options.k)).square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                weights[2].copy_(F.normalize(weights[2], dim=1))
    return tuple(weight.detach() for weight in weights)  # type: ignore[return-value]


def _reconstruct(rows: Tensor, weights: tuple[Tensor, Tensor, Tensor], k: int) -> Tensor:
    encoder, bias, decoder = weights
    values, indices = (rows @ encoder + bias).relu().topk(k, dim=1)
    return torch.zeros(len(rows), len(decoder)).scatter(1, indices, values) @ decoder
