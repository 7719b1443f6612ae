"""Sums, selections and distances of sparse codes, without a dense [n, d_sae] tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ShapeError
from ..interfaces.codes import take, token_of_slot
from ..interfaces.sae import RaggedCodes, SparseCodes


def l1_difference(a: SparseCodes | RaggedCodes, b: SparseCodes | RaggedCodes) -> Tensor:
    """[n]: sum over latents of |a - b| for each token, with the gradient of both.

    `SparseCodes` cost O(n·k²) comparisons, `RaggedCodes` a sort of all slots; no [n, d_sae] tensor either way.

    Raises:
        ShapeError: the two have different numbers of tokens.
    """
    n, m = n_tokens(a), n_tokens(b)
    if n != m:
        raise ShapeError(f"Codes of {n} and {m} tokens cannot be subtracted.")
    if isinstance(a, SparseCodes) and isinstance(b, SparseCodes):
        return _by_comparison(a, b)
    return _by_sort(ragged(a), ragged(b))


def n_tokens(codes: SparseCodes | RaggedCodes) -> int:
    """How many tokens the codes are of."""
    return codes.indices.shape[0] if isinstance(codes, SparseCodes) else len(codes.offsets) - 1


def ragged(codes: SparseCodes | RaggedCodes) -> RaggedCodes:
    """The same codes as `RaggedCodes`; unused slots stay, with value 0."""
    if isinstance(codes, RaggedCodes):
        return codes
    n, k = codes.indices.shape
    offsets = torch.arange(0, n * k + 1, k, device=codes.indices.device)
    return RaggedCodes(codes.indices.reshape(-1), offsets, codes.values.reshape(-1))


def _by_comparison(a: SparseCodes, b: SparseCodes) -> Tensor:
    match = (a.indices.unsqueeze(2) == b.indices.unsqueeze(1)).to(a.values.dtype)
    b_at_a = torch.bmm(match, b.values.unsqueeze(2)).squeeze(2)
    b_shared = match.amax(dim=1)
    return (a.values - b_at_a).abs().sum(1) + (b.values * (1 - b_shared)).abs().sum(1)


def _by_sort(a: RaggedCodes, b: RaggedCodes) -> Tensor:
    token = torch.cat([token_of_slot(c) for c in (a, b)])
    latent = torch.cat([a.latents, b.latents])
    signed = torch.cat([a.values, -b.values])
    cell = token * (int(latent.max()) + 1 if len(latent) else 1) + latent
    cell, order = torch.sort(cell, stable=True)
    # A latent occurs at most once a token in either code: equal cells come in twos.
    twin = torch.zeros_like(cell, dtype=torch.bool)
    twin[1:] = cell[1:] == cell[:-1]
    ordered = signed[order]
    following = torch.cat([(ordered * twin)[1:], ordered.new_zeros(1)]) if len(cell) else ordered
    distance = (ordered + following).abs().masked_fill(twin, 0.0)
    return _sums(distance, a.offsets + b.offsets)


def token_sums(codes: SparseCodes | RaggedCodes | Tensor, of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """[n]: the sum of each token's code values, or of a function of each value that is 0 at 0, with its gradient.

    Takes any form of codes, dense [n, d_sae] too: `token_sums(terms.codes, torch.square)` is the squared L2 norm.
    """
    values = codes if isinstance(codes, Tensor) else codes.values
    found = values if of is None else of(values)
    return _sums(found, codes.offsets) if isinstance(codes, RaggedCodes) else found.sum(-1)


def _sums(values: Tensor, offsets: Tensor) -> Tensor:
    """[n]: sums over segments, in the order of the slots."""
    return torch.segment_reduce(values, "sum", offsets=offsets, initial=0.0)


def select_tokens(codes: SparseCodes | RaggedCodes, rows: Tensor) -> SparseCodes | RaggedCodes:
    """The codes of the tokens where rows [n] bool holds."""
    if isinstance(codes, SparseCodes):
        return SparseCodes(codes.indices[rows], codes.values[rows])
    return take(codes, rows.nonzero().squeeze(1))
