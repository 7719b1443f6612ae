"""ActivationStore: the activations of one hookpoint, captured once in shards and read back memory-mapped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..config import Dtype
from ..data.text import TokenizedText
from ..errors import DataError, ShapeError
from .capture import Progress, capture_stores, mean_norm_of
from .keys import STORE_VERSION, store_inputs
from .language_model import LanguageModel
from .shards import DTYPES, MemoryRows, Rows, StoreIndex, open_rows, token_norms

SHARD_BYTES = 64 * 2**20
MEMORY_BYTES = 2**30
"""Stores smaller than this are read into memory, larger ones are memory-mapped."""


class ActivationStore:
    """Activations [n_seq, seq_len, d_in] of one hookpoint with their tokens, documents and mask.

    Read-only. Values come back as float32, unscaled.
    """

    def __init__(self, index: StoreIndex, rows: Rows, *, tokens: Tensor, document: Tensor, mask: Tensor) -> None:
        self.index = index
        self.tokens = tokens
        """[n_seq, seq_len] int64."""
        self.document = document
        """[n_seq] int64."""
        self.mask = mask
        """[n_seq, seq_len] bool: False at special tokens."""
        self._rows = rows

    @classmethod
    def open(cls, folder: Path) -> ActivationStore:
        """Open a finished store.

        Raises:
            DataError: the folder is no store.
        """
        try:
            index = StoreIndex(**json.loads((folder / "index.json").read_text()))
            arrays = {
                name: torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("tokens", "document", "mask")
            }
            rows = open_rows(folder, index, memory_bytes=MEMORY_BYTES)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder} is no activation store: {error}. Capture it again.") from error
        return cls(index, rows, tokens=arrays["tokens"].long(), document=arrays["document"], mask=arrays["mask"])

    @classmethod
    def from_tensors(
        cls,
        activations: Tensor,
        *,
        tokens: Tensor | None = None,
        document: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ActivationStore:
        """A store in memory from activations [n_seq, seq_len, d_in], such as those of a synthetic world.

        Without `document` each sequence is its own; without `mask` every token counts; without `tokens` all are 0.
        """
        if activations.ndim != 3:
            raise ShapeError(f"Activations must be [n_seq, seq_len, d_in], got {tuple(activations.shape)}.")
        n, s, d = activations.shape
        counted = torch.ones(n, s, dtype=torch.bool) if mask is None else mask
        values = activations.detach().to(torch.float32)
        norms = token_norms(values, 0, "float32")
        n_tokens = int(counted.sum())
        mean_norm = mean_norm_of(float(norms[counted].sum()), n_tokens)
        index = StoreIndex(
            hookpoint="",
            dtype="float32",
            d_in=d,
            seq_len=s,
            n_sequences=n,
            n_tokens=n_tokens,
            mean_norm=mean_norm,
            scale=math.sqrt(d) / mean_norm,
            sequences_per_shard=n,
            tokens_fingerprint="",
        )
        return cls(
            index,
            MemoryRows(values.reshape(n * s, d)),
            tokens=torch.zeros(n, s, dtype=torch.int64) if tokens is None else tokens,
            document=torch.arange(n) if document is None else document,
            mask=counted,
        )

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.index.d_in

    @property
    def seq_len(self) -> int:
        """Tokens in a sequence, special ones included."""
        return self.index.seq_len

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are not special."""
        return self.index.n_tokens

    @property
    def scale(self) -> float:
        """sqrt(d_in) / mean norm over the tokens that are not special."""
        return self.index.scale

    def __len__(self) -> int:
        """Number of sequences."""
        return self.index.n_sequences

    @property
    def is_mapped(self) -> bool:
        """Whether reading may have to wait for the disk."""
        return self._rows.is_mapped

    def sequences(self, start: int, stop: int) -> Tensor:
        """Activations [stop - start, seq_len, d_in] float32 of a range of sequences."""
        stop = min(stop, len(self))
        rows = self._rows.slice(start * self.seq_len, stop * self.seq_len)
        return rows.to(torch.float32, copy=True).view(stop - start, self.seq_len, self.d_in)

    def rows(self, index: Tensor) -> Tensor:
        """Activations [n, d_in] float32 of tokens [n], each numbered `sequence * seq_len + position`."""
        return self._rows.take(index).float()

    def raw_rows(self, index: Tensor, *, pin_memory: bool = False) -> Tensor:
        """As `rows`, in the stored dtype: half the bytes where that is half precision. `pin_memory` puts them where a
        GPU can fetch them by itself."""
        if not pin_memory:
            return self._rows.take(index)
        pinned = torch.empty(index.shape[0], self.d_in, dtype=DTYPES[self.index.dtype], pin_memory=True)
        return self._rows.take(index, out=pinned)


def capture_activations(
    lm: LanguageModel,
    tokenized: TokenizedText,
    hookpoint: str,
    *,
    dtype: Dtype = "float32",
    cache: Cache,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> ActivationStore:
    """The activations of a text at a hookpoint, from the cache or captured now. The LM is loaded only for the latter.

    Raises:
        DiskSpaceError: they would not fit on the disk.
        NonFiniteError: an activation is NaN or infinite, or too large for `dtype`.
        HookpointError: the LM has no such hookpoint.
        DataError: the text's tokens do not fit the LM.
    """
    stores = capture_many(
        lm, tokenized, [hookpoint], dtype=dtype, cache=cache, batch_size=batch_size, progress=progress
    )
    return stores[hookpoint]


def capture_many(
    lm: LanguageModel,
    tokenized: TokenizedText,
    hookpoints: Sequence[str],
    *,
    dtype: Dtype = "float32",
    cache: Cache,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, ActivationStore]:
    """The activations of a text at several hookpoints, each a store of its own as `capture_activations` makes it.

    What is not in the cache is captured in one pass of the LM, which ends at the deepest of the missing hookpoints. A
    pass that is killed goes on after the last whole shard, whichever of its hookpoints are asked for then.

    Raises:
        As `capture_activations`.
    """
    inputs = {
        hookpoint: store_inputs(
            weights_sha256=lm.weights_sha256,
            lm_dtype=lm.config.dtype,
            hookpoint=hookpoint,
            tokens=tokenized.inputs,
            dtype=dtype,
        )
        for hookpoint in hookpoints
    }
    found = {hookpoint: find_store(cache, keyed) for hookpoint, keyed in inputs.items()}
    missing = {hookpoint: inputs[hookpoint] for hookpoint, store in found.items() if store is None}
    folders = capture_stores(
        lm, tokenized, missing, dtype=dtype, cache=cache, shard_bytes=SHARD_BYTES, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    return {
        hookpoint: ActivationStore.open(folders[hookpoint]) if store is None else store
        for hookpoint, store in found.items()
    }


def find_store(cache: Cache, inputs: Mapping[str, Any]) -> ActivationStore | None:
    """The finished store of these `store_inputs`, or None."""
    folder = cache.find("activations", inputs, STORE_VERSION)
    return None if folder is None else ActivationStore.open(folder)
