"""What is done with ragged codes everywhere: counting, selecting, making dense. Gradients flow through the values."""

from __future__ import annotations

import torch
from torch import Tensor

from .sae import RaggedCodes


def n_active(codes: RaggedCodes) -> Tensor:
    """[n] int64: how many latents are active on each token."""
    return codes.offsets[1:] - codes.offsets[:-1]


def token_of_slot(codes: RaggedCodes) -> Tensor:
    """[nnz] int64: the token each active latent belongs to."""
    lengths = n_active(codes)
    tokens = torch.arange(len(lengths), device=lengths.device)
    return tokens.repeat_interleave(lengths, output_size=len(codes.latents))


def dense(codes: RaggedCodes, d_sae: int) -> Tensor:
    """[n, d_sae]: the codes with their zeros."""
    n = len(codes.offsets) - 1
    cells = token_of_slot(codes) * d_sae + codes.latents
    return codes.values.new_zeros(n * d_sae).scatter(0, cells, codes.values).view(n, d_sae)


def take(codes: RaggedCodes, tokens: Tensor) -> RaggedCodes:
    """The codes of the tokens [m] int64, in that order; a token may be named more than once."""
    lengths = n_active(codes)[tokens]
    offsets = offsets_of(lengths)
    slots = torch.arange(int(offsets[-1]), device=lengths.device)
    slots += (codes.offsets[tokens] - offsets[:-1]).repeat_interleave(lengths, output_size=len(slots))
    return RaggedCodes(codes.latents[slots], offsets, codes.values[slots])


def offsets_of(lengths: Tensor) -> Tensor:
    """[n + 1] int64: where each token's slots begin, of the numbers of slots [n]."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
