"""ActivationStore: the activations of one hookpoint, captured once in shards and read back memory-mapped."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..config import Dtype
from ..data.text import TokenizedText
from ..errors import ConfigError, DataError, NonFiniteError, ShapeError
from .keys import STORE_VERSION, store_inputs
from .language_model import LanguageModel

Progress = Callable[[int, int], None]
"""Called with (sequences done, sequences in all)."""

SHARD_BYTES = 64 * 2**20
MEMORY_BYTES = 2**30
"""Stores smaller than this are read into memory, larger ones are memory-mapped."""
_TOKENS_PER_BATCH = 2048
_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# numpy has no bfloat16: its bits travel as int16.
_FILE_DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.int16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreIndex:
    """What a store says about itself (`index.json`)."""

    hookpoint: str
    dtype: str
    d_in: int
    seq_len: int
    n_sequences: int
    n_tokens: int
    """Tokens that are not special."""
    mean_norm: float
    """Mean Euclidean norm of the activations of those tokens."""
    scale: float
    """sqrt(d_in) / mean_norm: what training multiplies activations by."""
    sequences_per_shard: int
    tokens_fingerprint: str


class ActivationStore:
    """Activations [n_seq, seq_len, d_in] of one hookpoint with their tokens, documents and mask.

    Read-only. Values come back as float32, unscaled.
    """

    def __init__(
        self, index: StoreIndex, shards: list[Tensor], *, tokens: Tensor, document: Tensor, mask: Tensor
    ) -> None:
        self.index = index
        self.tokens = tokens
        """[n_seq, seq_len] int64."""
        self.document = document
        """[n_seq] int64."""
        self.mask = mask
        """[n_seq, seq_len] bool: False at special tokens."""
        self._shards = shards
        self._rows_per_shard = index.sequences_per_shard * index.seq_len

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
            shards = _open_shards(folder, index)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{folder} is no activation store: {error}. Capture it again.") from error
        return cls(index, shards, tokens=arrays["tokens"].long(), document=arrays["document"], mask=arrays["mask"])

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
        _require_finite(values, 0, "float32")
        n_tokens = int(counted.sum())
        mean_norm = _mean_norm(_norm_sum(values, counted), n_tokens)
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
            [values.reshape(n * s, d)],
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

    def sequences(self, start: int, stop: int) -> Tensor:
        """Activations [stop - start, seq_len, d_in] float32 of a range of sequences."""
        stop = min(stop, len(self))
        rows = torch.arange(start * self.seq_len, stop * self.seq_len)
        return self.rows(rows).view(stop - start, self.seq_len, self.d_in)

    def rows(self, index: Tensor) -> Tensor:
        """Activations [n, d_in] float32 of tokens [n], each numbered `sequence * seq_len + position`."""
        if len(self._shards) == 1:
            return self._shards[0].index_select(0, index).float()
        out = torch.empty(index.shape[0], self.d_in)
        shard_of = index // self._rows_per_shard
        for number in torch.unique(shard_of).tolist():
            where = (shard_of == number).nonzero().squeeze(1)
            out[where] = self._shards[number].index_select(0, index[where] - number * self._rows_per_shard).float()
        return out


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
    inputs = store_inputs(
        weights_sha256=lm.weights_sha256,
        lm_dtype=lm.config.dtype,
        hookpoint=hookpoint,
        tokens=tokenized.inputs,
        dtype=dtype,
    )
    if found := find_store(cache, inputs):
        return found
    _check_fit(lm, tokenized, batch_size)
    n, seq_len = tokenized.tokens.shape
    d_in = lm.hook_dim(hookpoint)
    per_sequence = seq_len * d_in * _DTYPES[dtype].itemsize
    plan = _Plan(
        tokens=torch.from_numpy(tokenized.tokens).long(),
        hookpoint=hookpoint,
        dtype=dtype,
        d_in=d_in,
        per_shard=max(1, SHARD_BYTES // per_sequence),
        batch=batch_size or max(1, _TOKENS_PER_BATCH // seq_len),
    )

    def make(folder: Path) -> None:
        work = cache.working_folder("activations", inputs, STORE_VERSION)
        for number, start in enumerate(range(0, n, plan.per_shard)):
            _capture_shard(lm, plan, work / _shard_name(number), start, progress)
        _assemble(plan, tokenized, work, folder)

    estimate = n * (per_sequence + seq_len * (4 + 1) + 8)
    folder = cache.get_or_make("activations", inputs, STORE_VERSION, make, estimate_bytes=estimate)
    cache.discard_working_folder("activations", inputs, STORE_VERSION)
    return ActivationStore.open(folder)


def find_store(cache: Cache, inputs: Mapping[str, Any]) -> ActivationStore | None:
    """The finished store of these `store_inputs`, or None."""
    folder = cache.find("activations", inputs, STORE_VERSION)
    return None if folder is None else ActivationStore.open(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a capture writes."""

    tokens: Tensor
    hookpoint: str
    dtype: Dtype
    d_in: int
    per_shard: int
    batch: int


def _check_fit(lm: LanguageModel, tokenized: TokenizedText, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    highest = int(tokenized.tokens.max())
    if highest >= lm.vocab_size:
        raise DataError(
            f"The text has token id {highest}, but {lm.name!r} has {lm.vocab_size} ids: "
            "the text was made with another tokenizer."
        )


def _capture_shard(lm: LanguageModel, plan: _Plan, path: Path, start: int, progress: Progress | None) -> None:
    """Run the LM over one shard's sequences, unless a run that was killed has done so."""
    n = plan.tokens.shape[0]
    stop = min(start + plan.per_shard, n)
    if not path.exists():
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            for first in range(start, stop, plan.batch):
                last = min(first + plan.batch, stop)
                values = lm.capture(plan.tokens[first:last], [plan.hookpoint])[plan.hookpoint]
                values = values.cpu().to(_DTYPES[plan.dtype])
                _require_finite(values, first, plan.dtype)
                _write(file, values)
                if progress is not None:
                    progress(last, n)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    elif progress is not None:
        progress(stop, n)


def _assemble(plan: _Plan, tokenized: TokenizedText, work: Path, folder: Path) -> None:
    """Move the shards into `folder` and write what is known of them beside."""
    n, seq_len = plan.tokens.shape
    mask = torch.from_numpy(tokenized.mask)
    norm_sum = 0.0
    for number, start in enumerate(range(0, n, plan.per_shard)):
        path = folder / _shard_name(number)
        os.rename(work / path.name, path)
        in_shard = mask[start : start + plan.per_shard]
        values = torch.from_numpy(np.memmap(path, dtype=_FILE_DTYPES[plan.dtype], mode="c")).view(_DTYPES[plan.dtype])
        norm_sum += _norm_sum(values.view(in_shard.shape[0], seq_len, plan.d_in), in_shard)
    mean_norm = _mean_norm(norm_sum, tokenized.n_tokens)
    index = StoreIndex(
        hookpoint=plan.hookpoint, dtype=plan.dtype, d_in=plan.d_in, seq_len=seq_len, n_sequences=n,
        n_tokens=tokenized.n_tokens, mean_norm=mean_norm, scale=math.sqrt(plan.d_in) / mean_norm,
        sequences_per_shard=plan.per_shard, tokens_fingerprint=tokenized.fingerprint,
    )  # fmt: skip
    for name in ("tokens", "document", "mask"):
        np.save(folder / f"{name}.npy", getattr(tokenized, name))
    (folder / "index.json").write_text(json.dumps(dataclasses.asdict(index), indent=1))


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


def _write(file: BinaryIO, values: Tensor) -> None:
    bits = values.contiguous().view(torch.int16) if values.dtype == torch.bfloat16 else values.contiguous()
    bits.numpy().tofile(file)


def _open_shards(folder: Path, index: StoreIndex) -> list[Tensor]:
    """Each shard as [rows, d_in] in the stored dtype; one tensor where all fit in memory."""
    n_shards = math.ceil(index.n_sequences / index.sequences_per_shard)
    file_dtype = np.dtype(_FILE_DTYPES[index.dtype])
    total = index.n_sequences * index.seq_len * index.d_in
    paths = [folder / _shard_name(number) for number in range(n_shards)]
    if sum(path.stat().st_size for path in paths) != total * file_dtype.itemsize:
        raise ValueError("the shards' size differs from index.json")
    if total * file_dtype.itemsize < MEMORY_BYTES:
        whole = np.empty(total, dtype=file_dtype)
        done = 0
        for path in paths:
            part = np.fromfile(path, dtype=file_dtype)
            whole[done : done + part.size] = part
            done += part.size
        arrays: list[np.ndarray] = [whole]
    else:
        # Mode "c" (copy on write): torch wants a writable array, and the file must not be written.
        arrays = [np.memmap(path, dtype=file_dtype, mode="c") for path in paths]
    return [torch.from_numpy(array).view(_DTYPES[index.dtype]).view(-1, index.d_in) for array in arrays]


def _require_finite(values: Tensor, first_sequence: int, dtype: str) -> None:
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = first_sequence + int((~finite).nonzero()[0])
        hint = " float16 ends at 65504: use bfloat16 or float32." if dtype == "float16" else ""
        raise NonFiniteError(f"The activations of sequence {bad} hold NaN or infinity (stored as {dtype}).{hint}")


def _norm_sum(values: Tensor, mask: Tensor) -> float:
    return float(values[mask].double().norm(dim=-1).sum())


def _mean_norm(norm_sum: float, n_tokens: int) -> float:
    if n_tokens == 0:
        raise DataError("The text has no token that is not special: give other text.")
    if norm_sum == 0.0:
        raise DataError("All activations are zero: choose another hookpoint.")
    return norm_sum / n_tokens
