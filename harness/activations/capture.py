"""Running a language model over a text once, and writing what it computes at some hookpoints into stores."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..artefacts.key import artefact_key
from ..config import Dtype
from ..data.text import TokenizedText
from ..errors import ConfigError, DataError
from .keys import STORE_VERSION
from .language_model import LanguageModel
from .shards import DTYPES, StoreIndex, read_rows, shard_name, token_norms, write_rows

Progress = Callable[[int, int], None]
"""Called with (sequences done, sequences in all). The first call tells what an earlier run had done already."""

MAX_SHARDS = 128
"""The most shards of a store; those of a large one are larger. Each that is memory-mapped takes a file descriptor, and
macOS gives 256."""


def capture_stores(
    lm: LanguageModel,
    tokenized: TokenizedText,
    inputs: Mapping[str, Mapping[str, Any]],
    *,
    dtype: Dtype,
    cache: Cache,
    shard_bytes: int,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """The folders of the stores of several hookpoints (hookpoint -> its `store_inputs`), all made in one pass.

    Holds one batch of each hookpoint in memory. Sequences are run in batches that depend on the LM and the text
    alone, and a shard holds whole batches: a store is the same to the bit whatever is captured beside it.

    Raises:
        DiskSpaceError: together they would not fit on the disk.
        NonFiniteError, HookpointError, DataError: as `capture_activations`.
    """
    if not inputs:
        return {}
    _check_fit(lm, tokenized, batch_size)
    batch = batch_size or _batch(lm, tokenized.tokens.shape[1], shard_bytes)
    stores = [
        _Store(
            cache, tokenized, hookpoint, inputs[hookpoint], dtype=dtype, d_in=d_in, batch=batch, shard_bytes=shard_bytes
        )
        for hookpoint, d_in in lm.hook_dims(list(inputs)).items()
    ]
    # In the order of their keys, so that two processes that capture some of the same cannot wait for each other.
    stores.sort(key=lambda store: artefact_key("activations", store.inputs, STORE_VERSION))
    folders: dict[str, Path] = {}
    _make(
        stores,
        [],
        folders,
        cache,
        lambda making: _run(lm, torch.from_numpy(tokenized.tokens), making, batch, progress),
    )
    for store in stores:
        cache.discard_working_folder("activations", store.inputs, STORE_VERSION)
    return folders


def mean_norm_of(norm_sum: float, n_tokens: int) -> float:
    """The mean norm of the tokens that count.

    Raises:
        DataError: there is none, or all are zero.
    """
    if n_tokens == 0:
        raise DataError("The text has no token that is not special: give other text.")
    if norm_sum == 0.0:
        raise DataError("All activations are zero: choose another hookpoint.")
    return norm_sum / n_tokens


def _check_fit(lm: LanguageModel, tokenized: TokenizedText, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    highest = int(tokenized.tokens.max())
    if highest >= lm.vocab_size:
        raise DataError(
            f"The text has token id {highest}, but {lm.name!r} has {lm.vocab_size} ids: "
            "the text was made with another tokenizer."
        )


def _batch(lm: LanguageModel, seq_len: int, shard_bytes: int) -> int:
    """Sequences run at once: as suits the LM, and no more than a shard of the residual stream holds."""
    return max(1, min(lm.tokens_per_batch // seq_len, shard_bytes // (seq_len * lm.d_model * 4)))


class _Store:
    """A store in the making: its shards in the working folder, one being written at a time."""

    def __init__(
        self,
        cache: Cache,
        text: TokenizedText,
        hookpoint: str,
        inputs: Mapping[str, Any],
        *,
        dtype: Dtype,
        d_in: int,
        batch: int,
        shard_bytes: int,
    ) -> None:
        self.cache, self.text, self.hookpoint, self.inputs = cache, text, hookpoint, inputs
        self.dtype, self.d_in, self.batch = dtype, d_in, batch
        self.n, self.seq_len = text.tokens.shape
        self.sequence_bytes = self.seq_len * d_in * DTYPES[dtype].itemsize
        fewest = -(-self.n // (MAX_SHARDS * batch))
        self.per_shard = max(fewest, shard_bytes // self.sequence_bytes // batch) * batch
        self._mask = torch.from_numpy(text.mask)
        self._file: BinaryIO | None = None
        self._norm_sums: dict[int, list[float]] = {}
        """Shard -> sum of the counted tokens' norms in each of its batches. Summed exactly in the end, so that neither
        the number of threads nor where shards end moves the scale."""
        self.find_finished()

    def find_finished(self) -> None:
        """See which shards are whole. Called once more when the store's lock is held: another run may have gone on."""
        self.work = self.cache.working_folder("activations", self.inputs, STORE_VERSION)
        self._done = {
            number
            for number, start in enumerate(range(0, self.n, self.per_shard))
            # An earlier release, or another batch size, may have cut the text into other shards.
            if _size(self.work / shard_name(number)) == self._sequences_in(start) * self.sequence_bytes
        }

    @property
    def bytes_to_write(self) -> int:
        """What is not yet on the disk: missing shards, tokens, mask and documents."""
        written = sum(self._sequences_in(number * self.per_shard) for number in self._done)
        return (self.n - written) * self.sequence_bytes + self.n * (self.seq_len * (4 + 1) + 8)

    def lacks(self, first: int) -> bool:
        """Whether the batch that begins at a sequence is still to be written."""
        return first // self.per_shard not in self._done

    def write(self, first: int, values: Tensor) -> None:
        """Append a batch [b, seq_len, d_in]; with the last of its shard, the shard becomes a whole one."""
        number, offset = divmod(first, self.per_shard)
        path = self.work / shard_name(number)
        if offset == 0:
            self._file = path.with_suffix(".partial").open("wb")
            self._norm_sums[number] = []
        assert self._file is not None, "batches come in order"
        last = first + values.shape[0]
        stored = values.to(DTYPES[self.dtype])
        self._norm_sums[number].append(self._counted_norms(first, stored))
        write_rows(self._file, stored.cpu())
        if last == min(first - offset + self.per_shard, self.n):
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            os.replace(path.with_suffix(".partial"), path)
            self._done.add(number)

    def close(self) -> None:
        """Let go of the shard that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def assemble(self, folder: Path) -> None:
        """Move the shards into `folder` and write what is known of them beside."""
        norm_sums: list[float] = []
        for number, start in enumerate(range(0, self.n, self.per_shard)):
            path = folder / shard_name(number)
            os.rename(self.work / path.name, path)
            norm_sums += self._norm_sums[number] if number in self._norm_sums else self._read_norm_sums(path, start)
        mean_norm = mean_norm_of(math.fsum(norm_sums), self.text.n_tokens)
        index = StoreIndex(
            hookpoint=self.hookpoint, dtype=self.dtype, d_in=self.d_in, seq_len=self.seq_len, n_sequences=self.n,
            n_tokens=self.text.n_tokens, mean_norm=mean_norm, scale=math.sqrt(self.d_in) / mean_norm,
            sequences_per_shard=self.per_shard, tokens_fingerprint=self.text.fingerprint,
        )  # fmt: skip
        for name in ("tokens", "document", "mask"):
            np.save(folder / f"{name}.npy", getattr(self.text, name))
        (folder / "index.json").write_text(json.dumps(dataclasses.asdict(index), indent=1))

    def _read_norm_sums(self, path: Path, start: int) -> list[float]:
        """As `write` notes them, of a shard that an earlier run wrote."""
        norm_sums: list[float] = []
        for offset in range(0, self._sequences_in(start), self.batch):
            count = min(self.batch, self._sequences_in(start) - offset)
            numbers = self.seq_len * self.d_in
            values = read_rows(path, self.dtype, offset * numbers, count * numbers)
            norm_sums.append(self._counted_norms(start + offset, values.view(count, self.seq_len, self.d_in)))
        return norm_sums

    def _counted_norms(self, first: int, stored: Tensor) -> float:
        """Sum of the norms of a batch's tokens that are not special."""
        norms = token_norms(stored, first, self.dtype, self.hookpoint).cpu()
        return float(norms[self._mask[first : first + stored.shape[0]]].sum())

    def _sequences_in(self, start: int) -> int:
        """Number of sequences in the shard that begins at a sequence."""
        return min(self.per_shard, self.n - start)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _make(
    stores: Sequence[_Store],
    making: Sequence[_Store],
    folders: dict[str, Path],
    cache: Cache,
    run: Callable[[Sequence[_Store]], None],
) -> None:
    """Make all stores under the locks of all: each is made inside the one before it, and the innermost runs the LM.

    A store that another process has made meanwhile is left out.
    """
    if not stores:
        if making:
            run(making)
        return
    first, rest = stores[0], stores[1:]
    made = False

    def make(folder: Path) -> None:
        nonlocal made
        made = True
        _make(rest, [*making, first], folders, cache, run)
        first.assemble(folder)

    estimate = sum(store.bytes_to_write for store in stores)
    folder = cache.get_or_make("activations", first.inputs, STORE_VERSION, make, estimate_bytes=estimate)
    folders[first.hookpoint] = folder
    if not made:
        _make(rest, making, folders, cache, run)


def _run(lm: LanguageModel, tokens: Tensor, stores: Sequence[_Store], batch: int, progress: Progress | None) -> None:
    """Run the LM over all batches that a store lacks, down to the deepest hookpoint that lacks them."""
    n = tokens.shape[0]
    begun = False
    for store in stores:
        store.find_finished()
    try:
        for first in range(0, n, batch):
            lacking = [store for store in stores if store.lacks(first)]
            if not lacking:
                continue
            if progress is not None and not begun:
                progress(first, n)
            begun = True
            last = min(first + batch, n)
            found = lm.capture(tokens[first:last], [store.hookpoint for store in lacking])
            for store in lacking:
                store.write(first, found.pop(store.hookpoint))
            if progress is not None:
                progress(last, n)
    finally:
        for store in stores:
            store.close()
    if progress is not None and not begun:
        progress(n, n)
