"""Sequences of unlike lengths: how to batch them with little padding, and their activations without any."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError

BATCH_COST = 32
"""What a forward pass costs beside its tokens, in tokens. Measured on one CPU thread: 12 (GPT-2 small) to 45 (the
embedded LM)."""


def length_buckets(lengths: Tensor, tokens_per_batch: int, *, batch_cost: int = BATCH_COST) -> list[Tensor]:
    """Which sequences to run together: indices [b] int64 of each batch, longest sequences first.

    A batch costs its number of sequences times the longest of them, at most `tokens_per_batch` (a longer sequence is
    a batch of its own), and `batch_cost` tokens more. Of all ways to cut the sequences sorted by length, this is the
    cheapest. Sequences of one length keep their order. A pure function of its arguments.

    Args:
        lengths: [n] integers, at least 1.

    Raises:
        ConfigError: `tokens_per_batch` is not positive.
        DataError: a length is below 1.
    """
    if tokens_per_batch < 1:
        raise ConfigError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}.")
    n = lengths.shape[0]
    if n == 0:
        return []
    if int(lengths.min()) < 1:
        empty = int((lengths < 1).nonzero()[0])
        raise DataError(f"Sequence {empty} has no token: leave empty texts out.")
    order = torch.sort(lengths, descending=True, stable=True).indices
    longest = lengths[order].tolist()
    # cost[j]: the cheapest way to batch the first j of the sorted sequences; its last batch begins at begins[j].
    cost = np.full(n + 1, np.inf)
    cost[0] = 0.0
    begins = np.zeros(n + 1, dtype=np.int64)
    sizes = np.arange(1, n + 1)
    for i, length in enumerate(longest):
        most = min(max(1, tokens_per_batch // length), n - i)
        through = cost[i] + batch_cost + sizes[:most] * length
        ends = slice(i + 1, i + 1 + most)
        better = through < cost[ends]
        cost[ends][better] = through[better]
        begins[ends][better] = i
    cuts = [n]
    while cuts[-1] > 0:
        cuts.append(int(begins[cuts[-1]]))
    cuts.reverse()
    return [order[start:stop] for start, stop in itertools.pairwise(cuts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedBatch:
    """Some of the sequences, padded on the right to the longest of them, with their activations."""

    index: Tensor
    """[b] int64, on the CPU: which of the sequences."""
    tokens: Tensor
    """[b, s] int64; 0 at padding."""
    mask: Tensor
    """[b, s] bool: False at padding."""
    activations: Mapping[str, Tensor]
    """Hookpoint -> [b, s, d] float32, zero at padding."""


class RaggedActivations(Sequence[Tensor]):
    """Activations of n sequences of unlike lengths, in one tensor: item i is [length of sequence i, d]."""

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        self.values = values
        """[sum of lengths, d] float32: the sequences' rows, one sequence after the other."""
        self.offsets = offsets
        """[n + 1] int64: the rows of sequence i are offsets[i] to offsets[i + 1]."""

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"There are {n} sequences, no number {index}.")
        return self.values[int(self.offsets[index % n]) : int(self.offsets[index % n + 1])]

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def lengths(self) -> Tensor:
        """[n] int64."""
        return self.offsets.diff()

    def padded(self) -> tuple[Tensor, Tensor]:
        """Activations [n, longest, d], zero at padding, and mask [n, longest] bool, False there."""
        lengths = self.lengths
        mask = torch.arange(int(lengths.max()) if len(self) else 0) < lengths[:, None]
        padded = self.values.new_zeros(*mask.shape, self.values.shape[-1])
        padded[mask.to(padded.device)] = self.values
        return padded, mask


def pad_right(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens [b, s] int64, 0 at padding, and mask [b, s] bool, False there, of sequences [length] each.

    A causal LM computes nothing of a token from what follows it, and its positions count from the left: with padding
    on the right no attention mask is needed.
    """
    tokens = torch.nn.utils.rnn.pad_sequence([s.to(torch.int64) for s in sequences], batch_first=True)
    lengths = torch.tensor([s.shape[0] for s in sequences])
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def gather_ragged(
    batches: Iterator[RaggedBatch], lengths: Tensor, hookpoints: Sequence[str]
) -> dict[str, RaggedActivations]:
    """The activations of all sequences in their own order, on the CPU, from batches in any order."""
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    gathered: dict[str, Tensor] = {}
    for batch in batches:
        rows = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in batch.index.tolist()])
        for name in hookpoints:
            values = batch.activations[name][batch.mask.to(batch.activations[name].device)].cpu()
            if name not in gathered:
                gathered[name] = torch.empty(int(offsets[-1]), values.shape[-1])
            gathered[name].index_copy_(0, rows, values)
    return {name: RaggedActivations(gathered[name], offsets) for name in hookpoints}
