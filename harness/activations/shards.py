"""The files of an activation store: raw rows in shards, what `index.json` says of them, and reading rows back."""

from __future__ import annotations

import itertools
import math
import mmap
import os
import weakref
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import NonFiniteError

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
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


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.bin"


def write_rows(file: BinaryIO, values: Tensor) -> None:
    """Append values, of any shape, to a shard."""
    bits = values.contiguous().view(torch.int16) if values.dtype == torch.bfloat16 else values.contiguous()
    bits.numpy().tofile(file)


def read_rows(path: Path, dtype: str, start: int, count: int) -> Tensor:
    """`count` numbers of a shard from number `start` on, as [count] in the stored dtype."""
    file_dtype = np.dtype(_FILE_DTYPES[dtype])
    bits = np.fromfile(path, dtype=file_dtype, count=count, offset=start * file_dtype.itemsize)
    return torch.from_numpy(bits).view(DTYPES[dtype])


def token_norms(values: Tensor, first_sequence: int, dtype: str, hookpoint: str = "") -> Tensor:
    """Euclidean norms [b, s] float64 of activations [b, s, d] as they are stored.

    Raises:
        NonFiniteError: an activation is NaN or infinite; names its sequence.
    """
    # A norm in float64 is finite just where all its float32 are, so one pass serves both.
    norms = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
    finite = torch.isfinite(norms).all(dim=1)
    if not bool(finite.all()):
        bad = first_sequence + int((~finite).nonzero()[0])
        hint = " float16 ends at 65504: use bfloat16 or float32." if dtype == "float16" else ""
        where = f" at {hookpoint}" if hookpoint else ""
        raise NonFiniteError(
            f"The activations of sequence {bad}{where} hold NaN or infinity (stored as {dtype}).{hint}"
        )
    return norms


class Rows(Protocol):
    """All rows of a store, in the order of its sequences."""

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows [n, d_in] of numbers [n] int64, a copy in the stored dtype; in `out` where it is given."""
        ...

    def slice(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, d_in] in the stored dtype; they may be the store's own memory."""
        ...

    @property
    def is_mapped(self) -> bool:
        """Whether reading may have to wait for the disk."""
        ...


class MemoryRows:
    """Rows [n_rows, d_in] in memory."""

    is_mapped = False

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.index_select(self._rows, 0, index, out=out)

    def slice(self, start: int, stop: int) -> Tensor:
        return self._rows[start:stop]


class MappedRows:
    """Rows in memory-mapped files, each of `rows_per_shard` rows but the last.

    Where the files are larger than the memory that can hold them (`exceeds_memory`), the kernel's read-ahead is
    switched off: it would read up to megabytes for each row of a random batch, only to drop them again. The rows of a
    batch are then announced all at once and in their order on the disk, so that it works on many at a time. Where the
    files fit, the kernel's read-ahead soon has all of them in memory, which is better still.
    """

    is_mapped = True

    def __init__(self, paths: list[Path], index: StoreIndex, *, exceeds_memory: bool) -> None:
        self._dtype = index.dtype
        self._d_in = index.d_in
        self._rows_per_shard = index.sequences_per_shard * index.seq_len
        self._n_rows = index.n_sequences * index.seq_len
        self._row_bytes = index.d_in * np.dtype(_FILE_DTYPES[index.dtype]).itemsize
        self._files = [_map(path) for path in paths]
        self._shards = [np.frombuffer(f, _FILE_DTYPES[index.dtype]).reshape(-1, index.d_in) for f in self._files]
        self._announces = exceeds_memory and hasattr(mmap, "MADV_RANDOM")  # Windows has no such call
        self._handles = [path.open("rb", buffering=0) for path in paths] if self._announces else []
        weakref.finalize(self, _close_all, self._handles)
        if self._announces:
            for file in self._files:
                file.madvise(mmap.MADV_RANDOM)

    def take(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        # Sorted, so that each shard is asked once and the disk reads forward; put in place by the copy to `out`.
        order = torch.argsort(index)
        rows = index[order].numpy()
        if rows.size and not 0 <= rows[0] <= rows[-1] < self._n_rows:
            raise IndexError(f"Rows {rows[0]} to {rows[-1]} were asked for; there are {self._n_rows}.")
        buffer = np.empty((rows.size, self._d_in), _FILE_DTYPES[self._dtype])
        numbers, starts = np.unique(rows // self._rows_per_shard, return_index=True)
        edges = itertools.pairwise([*starts.tolist(), rows.size])
        parts = list(zip(numbers.tolist(), edges, strict=True))
        for number, (start, stop) in parts if self._announces else ():
            self._announce(number, rows[start:stop] - number * self._rows_per_shard)
        for number, (start, stop) in parts:
            local = rows[start:stop] - number * self._rows_per_shard
            # The mode is one that copies straight into the buffer: all rows were found to be in range.
            np.take(self._shards[number], local, axis=0, out=buffer[start:stop], mode="clip")
        places = torch.empty_like(order)
        places[order] = torch.arange(order.shape[0])
        return torch.index_select(self._tensor(buffer), 0, places, out=out)

    def slice(self, start: int, stop: int) -> Tensor:
        buffer = np.empty((stop - start, self._d_in), _FILE_DTYPES[self._dtype])
        done = 0
        while done < stop - start:
            number, local = divmod(start + done, self._rows_per_shard)
            count = min(stop - start - done, self._rows_per_shard - local)
            if self._announces:
                self._will_need(number, local * self._row_bytes, (local + count) * self._row_bytes)
            buffer[done : done + count] = self._shards[number][local : local + count]
            done += count
        return self._tensor(buffer)

    def _announce(self, number: int, local: np.ndarray) -> None:
        """Tell the kernel that rows of a shard, numbered in it and sorted, are about to be read."""
        begin, end = local * self._row_bytes, (local + 1) * self._row_bytes
        # One call for rows that touch or share a page; the reads go on while the next are announced.
        first = np.flatnonzero(np.concatenate([[True], begin[1:] // mmap.PAGESIZE > end[:-1] // mmap.PAGESIZE]))
        last = np.concatenate([first[1:] - 1, [local.size - 1]])
        for a, b in zip(begin[first].tolist(), end[last].tolist(), strict=True):
            self._will_need(number, a, b)

    def _will_need(self, number: int, begin: int, end: int) -> None:
        """Tell the kernel that bytes of a shard are about to be read."""
        start = begin // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(os, "posix_fadvise"):
            # Unlike Python's madvise it lets other threads run, where this one reads ahead of them.
            handle = self._handles[number].fileno()
            os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_WILLNEED)
        else:
            self._files[number].madvise(mmap.MADV_WILLNEED, start, end - start)

    def _tensor(self, bits: np.ndarray) -> Tensor:
        return torch.from_numpy(bits).view(DTYPES[self._dtype])


def open_rows(folder: Path, index: StoreIndex, *, memory_bytes: int) -> Rows:
    """The rows of a finished store: in memory where they are smaller than `memory_bytes`, else memory-mapped.

    Raises:
        ValueError: the shards' size differs from the index.
        OSError: a shard is missing.
    """
    n_shards = math.ceil(index.n_sequences / index.sequences_per_shard)
    paths = [folder / shard_name(number) for number in range(n_shards)]
    file_dtype = np.dtype(_FILE_DTYPES[index.dtype])
    numbers = index.n_sequences * index.seq_len * index.d_in
    if sum(path.stat().st_size for path in paths) != numbers * file_dtype.itemsize:
        raise ValueError("the shards' size differs from index.json")
    if numbers * file_dtype.itemsize >= memory_bytes:
        exceeds_memory = numbers * file_dtype.itemsize > _available_bytes() // 2
        return MappedRows(paths, index, exceeds_memory=exceeds_memory)
    whole = np.empty(numbers, dtype=file_dtype)
    to_fill = whole.data.cast("B")
    for path in paths:
        with path.open("rb") as file:
            to_fill = to_fill[file.readinto(to_fill) :]
    return MemoryRows(torch.from_numpy(whole).view(DTYPES[index.dtype]).view(-1, index.d_in))


def _close_all(handles: list[FileIO]) -> None:
    for handle in handles:
        handle.close()


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _available_bytes() -> int:
    """Memory that the kernel could give to files it has read: on Linux what it says, within the limit of a container;
    elsewhere all there is, or 0 where that is not told."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE if "SC_PHYS_PAGES" in names else 0
    limits = [int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups of version 2 and 1
        path = Path("/sys/fs/cgroup") / name
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():  # else "max"
            limits.append(int(text))
    return min(limits)
