"""A penalty on pairs of rows (of a decoder, an encoder, or of codes): its gradient reaches those rows and no other.

`harness.training.pairs` finds the pairs. Products are made in blocks, so that nothing of size [P, d] is ever held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ConfigError
from ..interfaces.codes import token_of_slot
from ..interfaces.sae import RaggedCodes, SparseCodes
from .sparse_ops import SlotsByColumn, dots_by_chunks

PENALTIES = ("abs", "sq", "hinge", "relu2")

_CHUNK_BYTES = 1 << 24
"""Bound of the gathered blocks of rows."""


def pair_cosines(table: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[P]: cosines of rows `first` and `second` of table [m, d], with the gradient of the rows; chunked, so that
    neither way holds a [P, d] block. Rows of zeros have cosine 0."""
    return _PairProducts.apply(table, first, second, True)  # type: ignore[return-value]


def pair_dots(table: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[P]: dot products of the rows, as `pair_cosines`."""
    return _PairProducts.apply(table, first, second, False)  # type: ignore[return-value]


class _PairProducts(torch.autograd.Function):
    """d cos / d d_i = (d̂_j - cos · d̂_i) / ||d_i||: only rows that are in a pair move."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, first: Tensor, second: Tensor, normalise: bool) -> Tensor:
        chunk = max(1, _CHUNK_BYTES // (4 * max(1, table.shape[1])))
        products = dots_by_chunks(table, second, first, table, chunk)
        inverse = None
        if normalise:
            norm = table.norm(dim=1)
            inverse = torch.where(norm > 0, 1 / norm, torch.zeros_like(norm))
            products = products * inverse[first] * inverse[second]
        ctx.save_for_backward(table, first, second, products, inverse)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        table, first, second, products, inverse = ctx.saved_tensors
        slots = SlotsByColumn(torch.cat([first, second]), torch.cat([second, first]), len(table))
        weight = grad if inverse is None else grad * inverse[first] * inverse[second]
        found = slots.gather(torch.cat([weight, weight]), table)
        if inverse is not None:
            along = slots.totals((grad * products).repeat(2)) * inverse.square()
            found.addcmul_(table, along.unsqueeze(1), value=-1.0)
        return found, None, None, None


def penalty(cosines: Tensor, kind: str, *, margin: float = 0.1) -> Tensor:
    """g(c) of each: abs |c| · sq c² · hinge max(0, |c| - margin)² · relu2 max(0, c)²."""
    if kind == "abs":
        return cosines.abs()
    if kind == "sq":
        return cosines.square()
    if kind == "hinge":
        return (cosines.abs() - margin).relu().square()
    if kind == "relu2":
        return cosines.relu().square()
    raise ConfigError(f"Unknown penalty {kind!r}; allowed are {', '.join(PENALTIES)}.")


def code_columns(codes: SparseCodes | RaggedCodes | Tensor, latents: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """The codes of some latents [u] as rows [u, n], with their gradient, and where each latent's row is, [d_sae]
    int64 (-1 where it has none): for a penalty on codes instead of directions."""
    place = torch.full((d_sae,), -1, dtype=torch.int64, device=latents.device)
    place[latents] = torch.arange(len(latents), device=latents.device)
    if isinstance(codes, Tensor):
        return codes[:, latents].t().contiguous(), place
    if isinstance(codes, SparseCodes):
        n, k = codes.indices.shape
        token = torch.arange(n, device=latents.device).repeat_interleave(k)
        ids, values = codes.indices.reshape(-1), codes.values.reshape(-1)
    else:
        n, token, ids, values = len(codes.offsets) - 1, token_of_slot(codes), codes.latents, codes.values
    wanted = place[ids] >= 0
    cells = place[ids[wanted]] * n + token[wanted]
    return values.new_zeros(len(latents) * n).scatter(0, cells, values[wanted]).view(-1, n), place


class PairMemory(NamedTuple):
    """Bytes that pairs take, at most, while a step is made."""

    statistics: int
    """Listing, sorting and scoring pairs."""
    table: int
    """A `PairTable`, and its copy while it takes in a batch."""
    penalty: int
    """The penalty on the chosen pairs."""
    gradient: int
    """Of the penalised table [d_sae, d_in], and its copy while it is added to another."""

    @property
    def peak(self) -> int:
        """The most that is held at once: statistics are gone when the penalty is taken."""
        return self.table + max(self.statistics, self.penalty + self.gradient)


def memory_estimate(
    *, n_tokens: int, per_token: int, d_sae: int, d_in: int, max_pairs: int, capacity: int = 0
) -> PairMemory:
    """What `pair_statistics`, a `PairTable` (with a capacity above 0), a selection and a penalty on rows of a
    [d_sae, d_in] table take: nothing grows with d_sae².

    100 bytes a listed pair, n_tokens · per_token · (per_token - 1) / 2 of them: keys before and after sorting, the
    order, what is held of a pair, both latents and their counts while it is scored (measured 70 to 90: what freed
    memory the process keeps varies).
    """
    width = min(per_token, d_sae)
    listed = n_tokens * width * (width - 1) // 2
    return PairMemory(
        statistics=100 * listed + 2 * _CHUNK_BYTES + 24 * d_sae,
        table=48 * (listed + capacity) + 16 * d_sae if capacity else 0,
        penalty=96 * max_pairs + 4 * _CHUNK_BYTES + 16 * d_sae,
        gradient=2 * 4 * d_sae * d_in,
    )
