"""What a training step needs of expected codes, with few tensors of the size [n, d_sae]: most of a step's memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness import SparseCodes

_CHUNK_BYTES = 2**24
"""Of a tensor that is made a few tokens at a time."""


class Factored(NamedTuple):
    """A tensor [rows, d_sae] = low @ columns that is never made."""

    low: Tensor
    """[rows, r]."""
    columns: Tensor
    """[r, d_sae]."""


class Explained(NamedTuple):
    """What `explain` finds; `None` what was not asked for."""

    wanted: Tensor
    """[n, k + m] int64: the latents that fire, then those of the m largest expected codes."""
    at: Tensor
    """[n, k + m]: expected codes there, in units of each latent's usual size."""
    squares: Tensor | None
    """[d_sae]: sum over tokens of the squares of expected codes in these units."""
    missed: Tensor | None
    """||e - ê||² / Var(e), where e are the codes in these units less those expected, and ê is what dead concepts write;
    0 where there is nothing to explain."""


def explain(
    written: Tensor | Factored,
    b_down: Tensor,
    usual: Tensor,
    fired: SparseCodes,
    m: int,
    *,
    squares: bool,
    revive: bool,
) -> Explained:
    """The expected codes relu(written + b_down) of n tokens, as far as the loss needs them.

    Of tensors [n, d_sae] it holds `written`, which it overwrites, for a while one more, and in the backward pass the
    gradient: with `revive` four where the plain way holds nine. Of a factored one it holds none: it is made twice, a
    few tokens at a time.

    Args:
        written: [n, d_sae], what concepts write; with `revive` [2n, d_sae], below it what dead ones write.
        usual: [d_sae], usual sizes of latents; no gradient.
        fired: codes [n, k]; no gradient.
        m: how many of the largest expected codes of a token, in the activations' units, are looked up.
    """
    given = usual, fired.indices, fired.values.detach(), m, squares, revive
    if isinstance(written, Factored):
        at, total, missed, wanted = _ExplainFactored.apply(*written, b_down, *given)  # type: ignore[misc]
    else:
        at, total, missed, wanted, _ = _Explain.apply(written, b_down, *given)  # type: ignore[misc]
    return Explained(wanted, at, total, missed)


class _Explain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        written: Tensor,
        b_down: Tensor,
        usual: Tensor,
        indices: Tensor,
        values: Tensor,
        m: int,
        squares: bool,
        revive: bool,
    ) -> Any:
        n = len(indices)
        expected, guess = written[:n], written[n:]
        expected.add_(b_down).relu_()
        wanted = _wanted(expected, usual, indices, m)
        at = expected.gather(1, wanted)
        total = expected.square().sum(0) if squares else None
        sizes = values / usual[indices]
        missed = variance = None
        if revive:
            residual = _residual(expected, indices, sizes)
            variance = residual.norm().square() / n - residual.mean(0).norm().square()
            missed = _share(residual.sub_(guess).square_().sum() / n, variance)
        ctx.mark_dirty(written)
        ctx.mark_non_differentiable(wanted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(written, wanted, indices, sizes, variance)
        return at, total, missed, wanted, written

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_at: Tensor | None, by_total: Tensor | None, by_missed: Tensor | None, _wanted: Any, _written: Any
    ) -> Any:
        written, wanted, indices, sizes, variance = ctx.saved_tensors
        n = len(wanted)
        slopes = _Slopes(wanted, indices, sizes, by_at, by_total, by_missed, variance)
        grad = torch.empty_like(written)
        for part in _chunks(n, written.shape[1]):
            below = slice(n + part.start, n + part.stop)
            grad[part], grad[below] = slopes.of(part, written[part], written[below])
        return grad, grad[:n].sum(0), None, None, None, None, None, None


class _ExplainFactored(torch.autograd.Function):
    """The same of low @ columns. Sums over tokens are made chunk by chunk, so that their last digits are others."""

    @staticmethod
    def forward(
        ctx: Any,
        low: Tensor,
        columns: Tensor,
        b_down: Tensor,
        usual: Tensor,
        indices: Tensor,
        values: Tensor,
        m: int,
        squares: bool,
        revive: bool,
    ) -> Any:
        n, d_sae = len(indices), columns.shape[1]
        sizes = values / usual[indices]
        found: list[tuple[Tensor, Tensor]] = []
        total = columns.new_zeros(d_sae) if squares else None
        sums, square, error = columns.new_zeros(d_sae), columns.new_zeros(()), columns.new_zeros(())
        for part in _chunks(n, d_sae):
            expected, guess = _made(low, columns, b_down, part, n)
            wanted = _wanted(expected, usual, indices[part], m)
            found.append((wanted, expected.gather(1, wanted)))
            if total is not None:
                total += expected.square().sum(0)
            if revive:
                residual = _residual(expected, indices[part], sizes[part])
                sums += residual.sum(0)
                square += residual.square().sum()
                error += residual.sub_(guess).square_().sum()
        missed = variance = None
        if revive:
            variance = square / n - (sums / n).square().sum()
            missed = _share(error / n, variance)
        wanted, at = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.mark_non_differentiable(wanted)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(low, columns, b_down, wanted, indices, sizes, variance)
        return at, total, missed, wanted

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_at: Tensor | None, by_total: Tensor | None, by_missed: Tensor | None, _wanted: Any
    ) -> Any:
        low, columns, b_down, wanted, indices, sizes, variance = ctx.saved_tensors
        n, d_sae = len(wanted), columns.shape[1]
        slopes = _Slopes(wanted, indices, sizes, by_at, by_total, by_missed, variance)
        by_low, by_columns, by_b = torch.zeros_like(low), torch.zeros_like(columns), torch.zeros_like(b_down)
        for part in _chunks(n, d_sae):
            below = slice(n + part.start, n + part.stop)
            by_expected, by_guess = slopes.of(part, *_made(low, columns, b_down, part, n))
            by_b += by_expected.sum(0)
            for rows, slope in ((part, by_expected), (below, by_guess)):
                if len(slope):
                    by_low[rows] = slope @ columns.t()
                    by_columns.addmm_(low[rows].t(), slope)
        return by_low, by_columns, by_b, None, None, None, None, None, None


class _Slopes:
    """Gradients of a loss by what is written, for a few tokens at a time."""

    def __init__(
        self,
        wanted: Tensor,
        indices: Tensor,
        sizes: Tensor,
        by_at: Tensor | None,
        by_total: Tensor | None,
        by_missed: Tensor | None,
        variance: Tensor | None,
    ) -> None:
        self._wanted, self._indices, self._sizes = wanted, indices, sizes
        self._by_at, self._by_total = by_at, by_total
        self._by_error: Tensor | None = None
        if by_missed is not None and variance is not None:
            self._by_error = torch.where(variance > 0, by_missed, 0.0) / variance.clamp_min(1e-12) / len(wanted)

    def of(self, part: slice, expected: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """Of the expected codes [c, d_sae] before their relu, and of a guess [c, d_sae] or [0, d_sae]."""
        slope = torch.zeros_like(expected)
        if self._by_at is not None:
            slope.scatter_add_(1, self._wanted[part], self._by_at[part])
        if self._by_total is not None:
            slope += (2 * expected).mul_(self._by_total)
        slope.masked_fill_(expected <= 0, 0.0)
        if self._by_error is None or not len(guess):
            return slope, torch.zeros_like(guess)
        residual = _residual(expected, self._indices[part], self._sizes[part])
        return slope, (guess - residual).mul_(2).mul_(self._by_error)


def _made(low: Tensor, columns: Tensor, b_down: Tensor, part: slice, n: int) -> tuple[Tensor, Tensor]:
    """Expected codes of a few of n tokens, and what is below them."""
    # The backward pass makes them anew, outside of any autocast.
    with torch.autocast(low.device.type, enabled=False):
        expected = (low[part] @ columns).add_(b_down).relu_()
        return expected, low[n + part.start : n + part.stop] @ columns


def _chunks(n: int, d_sae: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // (4 * d_sae))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _wanted(expected: Tensor, usual: Tensor, indices: Tensor, m: int) -> Tensor:
    """The latents that fire, and those of the m largest expected codes."""
    return torch.cat([indices, (expected * usual).topk(m, dim=1).indices], dim=1) if m else indices


def _residual(expected: Tensor, indices: Tensor, sizes: Tensor) -> Tensor:
    """[c, d_sae]: codes in units of usual sizes, less those expected."""
    return torch.zeros_like(expected).scatter_(1, indices, sizes).sub_(expected)


def _share(error: Tensor, variance: Tensor) -> Tensor:
    return torch.where(variance > 0, error / variance.clamp_min(1e-12), torch.zeros_like(error))
