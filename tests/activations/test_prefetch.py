from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.activations import store as store_module
from harness.activations.language_model import LanguageModel
from harness.activations.prefetch import Prefetch, stream_for
from harness.activations.samplers import Sampler
from harness.activations.store import ActivationStore, capture_activations
from harness.artefacts.cache import Cache
from harness.data.text import TokenizedText
from harness.errors import ConfigError
from harness.interfaces.batch import ActivationBatch

KINDS = ("iid", "pairs", "contiguous")
HOOK = "blocks.1.hook_resid_post"


def _store() -> ActivationStore:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(12, 8, generator=generator) > 0.2
    return ActivationStore.from_tensors(torch.randn(12, 8, 6, generator=generator), mask=mask)


def _same(a: ActivationBatch, b: ActivationBatch) -> bool:
    fields = ("activations", "document", "position", "previous", "has_previous")
    pairs: list[tuple[Any, Any]] = [(getattr(a, name), getattr(b, name)) for name in fields]
    return all(x is y or torch.equal(x.cpu(), y.cpu()) for x, y in pairs)


class _Counted:
    """A stream that notes what it is asked for, and by which thread; fails at some indices."""

    def __init__(self, failing: tuple[int, ...] = (), gate: threading.Event | None = None) -> None:
        self.sampler = Sampler(_store(), batch_size=5, seed=0)
        self.asked: list[int] = []
        self.threads: set[int] = set()
        self.failing, self.gate = failing, gate

    def batch(self, index: int) -> ActivationBatch:
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        if self.gate is not None:
            self.gate.wait(timeout=30)
        if index in self.failing:
            raise OSError(f"batch {index} cannot be read")
        return self.sampler.batch(index)


def _until(done: Callable[[], bool]) -> None:
    for _ in range(3000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 30 s")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_batches_are_those_of_the_stream_at_any_index(kind: Any, depth: int):
    store = _store()
    plain = Sampler(store, batch_size=7, seed=3, kind=kind)
    order = [0, 1, 2, 3, 0, 1, 40, 41, 42, 3, 3, 4, 6, 5]
    with Prefetch(Sampler(store, batch_size=7, seed=3, kind=kind), depth=depth) as stream:
        for index in order:
            assert _same(stream.batch(index), plain.batch(index)), index


def test_the_next_batches_are_read_before_they_are_asked_for_and_no_more():
    source = _Counted()
    with Prefetch(source, depth=2) as stream:
        stream.batch(0)
        _until(lambda: len(source.asked) == 3)
        stream.batch(1)
        _until(lambda: len(source.asked) == 4)
        time.sleep(0.05)
        assert source.asked == [0, 1, 2, 3]
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_what_was_read_ahead_is_dropped_after_a_jump():
    source = _Counted()
    with Prefetch(source, depth=2) as stream:
        stream.batch(0)
        stream.batch(10)
        _until(lambda: 12 in source.asked)
        stream.batch(1)
        _until(lambda: source.asked[-1] == 3)
        assert _same(stream.batch(2), source.sampler.batch(2))


def test_nothing_is_read_at_or_after_the_end_unless_it_is_asked_for():
    source = _Counted()
    with Prefetch(source, depth=4, stop=3) as stream:
        for index in range(3):
            stream.batch(index)
        assert source.asked == [0, 1, 2]
        assert _same(stream.batch(7), source.sampler.batch(7))
        assert source.asked == [0, 1, 2, 7]


def test_an_error_is_raised_when_its_batch_is_asked_for():
    source = _Counted(failing=(2,))
    with Prefetch(source, depth=2) as stream:
        stream.batch(0)
        stream.batch(1)
        for _ in range(2):
            with pytest.raises(OSError, match="batch 2 cannot be read"):
                stream.batch(2)
        assert _same(stream.batch(3), source.sampler.batch(3))


def test_closing_ends_the_thread_and_drops_what_was_not_begun():
    gate = threading.Event()
    source = _Counted(gate=gate)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Prefetch(source, depth=3) as stream:  # noqa: PT012
        stream._ahead[0] = stream._reader.submit(stream._read, 0)
        stream._ahead[1] = stream._reader.submit(stream._read, 1)
        _until(lambda: source.asked == [0])
        threading.Timer(0.05, gate.set).start()
        raise KeyboardInterrupt
    _until(lambda: threading.active_count() == before)
    assert source.asked == [0]
    stream.close()


def test_a_depth_of_nothing_is_told():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Prefetch(_Counted(), depth=0)


def test_a_store_in_memory_is_read_without_a_thread():
    sampler = Sampler(_store(), batch_size=5, seed=0)
    with stream_for(sampler, n_batches=3) as stream:
        assert stream is sampler


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_store_is_read_ahead_to_the_same_bits(
    lm_of: Callable[[str], LanguageModel],
    text: TokenizedText,
    cache: Cache,
    kind: Any,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
):
    in_memory = capture_activations(lm_of("llama"), text, HOOK, dtype="bfloat16", cache=cache, batch_size=1)
    monkeypatch.setattr(store_module, "MEMORY_BYTES", 0)
    mapped = capture_activations(lm_of("llama"), text, HOOK, dtype="bfloat16", cache=cache)
    assert mapped.is_mapped
    expected = Sampler(in_memory, batch_size=9, seed=1, kind=kind)
    with stream_for(Sampler(mapped, batch_size=9, seed=1, kind=kind), n_batches=20) as stream:
        assert isinstance(stream, Prefetch)
        for index in range(20):
            assert _same(stream.batch(index), expected.batch(index))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_scaled_after_the_copy_have_the_same_bits(
    lm_of: Callable[[str], LanguageModel], text: TokenizedText, cache: Cache, dtype: Any
):
    """The CPU twin of the test below: what a GPU does with the rows as they are stored."""
    store = capture_activations(lm_of("llama"), text, HOOK, dtype=dtype, cache=cache)
    batch = Sampler(store, batch_size=30, seed=0).batch(0)
    rows = batch.document  # any numbers in range
    scaled_there = store.raw_rows(rows).float().mul_(store.scale)
    assert torch.equal(scaled_there, store.rows(rows).mul_(store.scale))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_batches_on_a_gpu_have_the_same_bits(
    lm_of: Callable[[str], LanguageModel],
    text: TokenizedText,
    cache: Cache,
    tmp_path: Path,
    kind: Any,
    dtype: Any,
    memory_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(store_module, "MEMORY_BYTES", memory_bytes)
    store = capture_activations(lm_of("llama"), text, HOOK, dtype=dtype, cache=cache)
    on_cpu = Sampler(store, batch_size=64, seed=0, kind=kind)
    kept: list[ActivationBatch] = []
    with stream_for(Sampler(store, batch_size=64, seed=0, kind=kind, device="cuda"), n_batches=50) as stream:
        assert isinstance(stream, Prefetch)
        for index in itertools.chain(range(20), range(5, 50)):
            batch = stream.batch(index)
            assert batch.activations.device.type == "cuda"
            kept.append(batch)
    for index, batch in zip(itertools.chain(range(20), range(5, 50)), kept, strict=True):
        assert _same(batch, on_cpu.batch(index))
