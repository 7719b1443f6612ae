"""Training streams over an ActivationStore: shuffled tokens, with their true previous token, or in order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..interfaces.batch import ActivationBatch
from .store import ActivationStore

Kind = Literal["iid", "pairs", "contiguous"]
_KINDS = ("iid", "pairs", "contiguous")
_EPOCH_STRIDE = 1_000_003
"""Seeds of successive epochs lie this far apart, so that (seed, epoch) and (seed + 1, epoch - 1) differ."""


class Sampler:
    """An endless stream of batches of tokens that are not special, scaled by `store.scale`.

    Each epoch takes every token once, in an order that depends on (seed, epoch) alone; a batch may span two
    epochs. `iid` and `pairs` with one seed give the same rows in the same order; `pairs` adds the true previous
    token. `contiguous` shuffles sequences and keeps the order of the tokens in each. A batch is a pure function of
    (store, seed, batch_size, kind, index): `seek` and `batch` need no replay.

    Raises:
        ConfigError: `kind` or `batch_size` is not allowed.
        DataError: the store has no token that is not special.
    """

    def __init__(
        self,
        store: ActivationStore,
        *,
        batch_size: int,
        seed: int,
        kind: Kind = "iid",
        device: torch.device | str = "cpu",
    ) -> None:
        if kind not in _KINDS:
            raise ConfigError(f"Unknown sampler kind {kind!r}: allowed are {', '.join(_KINDS)}.")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if store.n_tokens < 1:
            raise DataError("The activation store has no token to train on: capture more text.")
        self.store = store
        self.batch_size = batch_size
        self.seed = seed
        self.kind: Kind = kind
        self.device = torch.device(device)
        self.cursor = 0
        """Number of batches drawn: all that is needed to resume."""
        self._orders: dict[int, Tensor] = {}

    def __iter__(self) -> Sampler:
        return self

    def __next__(self) -> ActivationBatch:
        batch = self.batch(self.cursor)
        self.cursor += 1
        return batch

    def seek(self, cursor: int) -> None:
        """Go on as if `cursor` batches had been drawn."""
        if cursor < 0:
            raise ConfigError(f"A sampler's cursor must be at least 0, got {cursor}.")
        self.cursor = cursor

    def batch(self, index: int) -> ActivationBatch:
        """The batch of that index, whatever was drawn before."""
        store = self.store
        rows = self._rows(index * self.batch_size, (index + 1) * self.batch_size)
        sequence = rows // store.seq_len
        position = rows % store.seq_len
        previous, has_previous = self._previous(rows, position) if self.kind == "pairs" else (None, None)
        batch = ActivationBatch(
            activations=self._scaled(rows),
            document=store.document[sequence],
            position=position,
            previous=previous,
            has_previous=has_previous,
        )
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def _rows(self, start: int, stop: int) -> Tensor:
        """Row numbers at places [start, stop) of the stream of all epochs, one after the other."""
        n = self.store.n_tokens
        parts = []
        while start < stop:
            epoch, offset = divmod(start, n)
            taken = min(stop - start, n - offset)
            parts.append(self._order(epoch)[offset : offset + taken])
            start += taken
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _order(self, epoch: int) -> Tensor:
        """[n_tokens] int64: the rows of an epoch in the order they are drawn."""
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed((self.seed + epoch * _EPOCH_STRIDE) % 2**63)
            if self.kind == "contiguous":
                sequences = torch.randperm(len(self.store), generator=generator)
                grid = sequences[:, None] * self.store.seq_len + torch.arange(self.store.seq_len)
                order = grid[self.store.mask[sequences]]
            else:
                rows = self.store.mask.flatten().nonzero().squeeze(1)
                order = rows[torch.randperm(rows.shape[0], generator=generator)]
            # Batches go forward: only this epoch and the one before it can still be asked for.
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]

    def _scaled(self, rows: Tensor) -> Tensor:
        """[n, d_in] float32 on the device: rows of the store times its scale.

        To a GPU they go as they are stored, from pinned memory, and become float32 and scaled there, to the same bits.
        """
        if self.device.type == "cpu":
            return self.store.rows(rows).mul_(self.store.scale)
        raw = self.store.raw_rows(rows, pin_memory=self.device.type == "cuda")
        return raw.to(self.device, non_blocking=True).float().mul_(self.store.scale)

    def _previous(self, rows: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """[n, d_in] the token before each row in its sequence (zeros where there is none); [n] whether there is one."""
        before = (rows - 1).clamp_min(0)
        has_previous = (position > 0) & self.store.mask.flatten()[before]
        # All are read and the few without one are cleared, which is faster than to put the others in their places.
        previous = self._scaled(before)
        previous.index_fill_(0, (~has_previous).nonzero().squeeze(1).to(self.device), 0.0)
        return previous, has_previous
