"""Reading the next batches of a stream while the current one is computed on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

import torch

from ..errors import ConfigError
from ..interfaces.batch import ActivationBatch
from .samplers import Sampler

DEPTH = 2


class Stream(Protocol):
    """Batches as a pure function of their index."""

    def batch(self, index: int) -> ActivationBatch:
        """The batch of that index, always the same rows."""
        ...


class Prefetch:
    """The batches of a stream, the next `depth` of them read in a thread ahead of time.

    `batch(i)` gives just what the stream gives, at any index: after another one than was expected, what was read ahead
    is dropped and reading goes on from there. What reading a batch raises is raised by `batch` when that batch is asked
    for. At most `depth` batches are held. All reads are made by the one thread, so the stream need not be safe for
    several; the caller must leave it alone until `close`. Nothing is read ahead at or after index `stop`.

    On a CUDA `device` the thread copies batches on a stream of its own, beside the computation; a batch is handed out
    ordered after its copy.

    Use as a context manager, or `close` it.

    Raises:
        ConfigError: `depth` is not positive.
    """

    def __init__(
        self, stream: Stream, *, depth: int = DEPTH, stop: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        if depth < 1:
            raise ConfigError(f"The depth of a prefetch must be at least 1, got {depth}.")
        self.depth, self.stop = depth, stop
        self._stream = stream
        self._device = torch.device(device)
        self._copies: Any = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[tuple[ActivationBatch, Any]]] = {}

    def batch(self, index: int) -> ActivationBatch:
        """The stream's batch of that index."""
        last = index + self.depth if self.stop is None else min(index + self.depth, self.stop - 1)
        wanted = [index, *range(index + 1, last + 1)]
        for other in self._ahead.keys() - set(wanted):
            self._ahead.pop(other).cancel()
        for ahead in wanted:
            if ahead not in self._ahead:
                self._ahead[ahead] = self._reader.submit(self._read, ahead)
        batch, copied = self._ahead.pop(index).result()
        if copied is not None:
            self._take_over(batch, copied)
        return batch

    def close(self) -> None:
        """End the thread, after the read it is at."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, index: int) -> tuple[ActivationBatch, Any]:
        """A batch, and on CUDA the event of its copy."""
        if self._copies is None:
            return self._stream.batch(index), None
        with torch.cuda.stream(self._copies):
            return self._stream.batch(index), self._copies.record_event()

    def _take_over(self, batch: ActivationBatch, copied: Any) -> None:
        """Let the caller's CUDA stream use a batch that was made on another one."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for tensor in (batch.activations, batch.document, batch.position, batch.previous, batch.has_previous):
            if tensor is not None:
                # Or its memory would go to the next copy as soon as the caller drops it, though work on it is queued.
                tensor.record_stream(current)


@contextmanager
def stream_for(sampler: Sampler, *, n_batches: int) -> Iterator[Stream]:
    """The sampler's batches, read ahead where that pays, for a loop over `n_batches`.

    It pays where a batch has to come from a disk or go to a GPU. From memory to the CPU a batch takes about a
    millisecond of memory traffic, which a thread would only take from the computation: then it is the sampler itself.
    """
    if sampler.device.type == "cpu" and not sampler.store.is_mapped:
        yield sampler
        return
    with Prefetch(sampler, stop=n_batches, device=sampler.device) as stream:
        yield stream
