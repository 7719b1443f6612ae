from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations import store as store_module
from harness.activations.keys import store_inputs
from harness.activations.language_model import LanguageModel, load_language_model
from harness.activations.sources import resolve_lm
from harness.activations.store import ActivationStore, capture_activations, find_store
from harness.artefacts.cache import Cache
from harness.config import LMConfig
from harness.data.text import TokenizedText
from harness.errors import ConfigError, DataError, DiskSpaceError, NonFiniteError, ShapeError

HOOK = "blocks.1.hook_resid_post"
N_SEQ, SEQ_LEN = 11, 8
LMOf = Callable[[str], LanguageModel]


@pytest.fixture
def text() -> TokenizedText:
    tokens = np.random.default_rng(0).integers(3, 60, (N_SEQ, SEQ_LEN)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[4, 5] = 2
    return TokenizedText(
        tokens=tokens,
        document=np.arange(N_SEQ, dtype=np.int64) // 2,
        mask=tokens > 2,
        document_hashes=tuple("abcdef"),
        fingerprint="f",
        inputs={"text": "t", "split": "train"},
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences a shard: 4 shards."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 3 * SEQ_LEN * 16 * 4)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.usefixtures("small_shards")
def test_what_is_read_is_what_the_model_computed(
    lm_of: LMOf, text: TokenizedText, cache: Cache, in_memory: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "MEMORY_BYTES", 2**30 if in_memory else 0)
    lm = lm_of("llama")
    expected = lm.capture(torch.from_numpy(text.tokens), [HOOK])[HOOK]
    store = capture_activations(lm, text, HOOK, cache=cache, batch_size=2)
    assert len(store._shards) == (1 if in_memory else 4)
    assert (len(store), store.seq_len, store.d_in, store.n_tokens) == (N_SEQ, SEQ_LEN, 16, text.n_tokens)
    torch.testing.assert_close(store.sequences(0, N_SEQ), expected)
    torch.testing.assert_close(store.sequences(9, 99), expected[9:])
    rows = torch.tensor([87, 0, 30, 31, 5, 30])
    torch.testing.assert_close(store.rows(rows), expected.view(-1, 16)[rows])
    assert torch.equal(store.tokens, torch.from_numpy(text.tokens).long())
    assert torch.equal(store.mask, torch.from_numpy(text.mask))
    assert torch.equal(store.document, torch.from_numpy(text.document))


def test_scale_brings_counted_tokens_to_mean_norm_root_d(lm_of: LMOf, text: TokenizedText, cache: Cache):
    store = capture_activations(lm_of("llama"), text, HOOK, cache=cache)
    counted = store.sequences(0, N_SEQ)[store.mask].double()
    assert (store.scale * counted.norm(dim=-1)).mean().item() == pytest.approx(math.sqrt(16), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_half_precision_is_stored_rounded(
    lm_of: LMOf, text: TokenizedText, cache: Cache, dtype, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "MEMORY_BYTES", memory_bytes)
    lm = lm_of("llama")
    exact = lm.capture(torch.from_numpy(text.tokens), [HOOK])[HOOK]
    store = capture_activations(lm, text, HOOK, dtype=dtype, cache=cache)
    found = store.sequences(0, N_SEQ)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.to(getattr(torch, dtype)).float())


def test_the_model_runs_once_and_is_not_loaded_for_a_stored_text(
    lm_of: LMOf, model_folder: Callable[[str], Path], text: TokenizedText, cache: Cache
):
    first = capture_activations(lm_of("llama"), text, HOOK, cache=cache)
    config = LMConfig(source=str(model_folder("llama")))
    lm = load_language_model(config, resolve_lm(config, Path("unused")))
    again = capture_activations(lm, text, HOOK, cache=cache)
    assert "model" not in lm.__dict__
    assert torch.equal(first.sequences(0, N_SEQ), again.sequences(0, N_SEQ))


def test_any_changed_input_misses(lm_of: LMOf, text: TokenizedText, cache: Cache):
    capture_activations(lm_of("llama"), text, HOOK, cache=cache)
    base = {
        "weights_sha256": lm_of("llama").weights_sha256,
        "lm_dtype": "float32",
        "hookpoint": HOOK,
        "tokens": text.inputs,
        "dtype": "float32",
    }
    assert find_store(cache, store_inputs(**base)) is not None
    changes = {
        "weights_sha256": "0",
        "lm_dtype": "bfloat16",
        "hookpoint": "blocks.0.hook_resid_post",
        "tokens": {},
        "dtype": "float16",
    }
    for field, value in changes.items():
        assert find_store(cache, store_inputs(**{**base, field: value})) is None, field


@pytest.mark.usefixtures("small_shards")
def test_a_broken_capture_is_never_read_and_goes_on_where_it_stopped(lm_of: LMOf, text: TokenizedText, cache: Cache):
    lm = lm_of("llama")

    def stop(done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_activations(lm, text, HOOK, cache=cache, batch_size=1, progress=stop)
    assert list(cache.entries()) == []
    done: list[int] = []
    store = capture_activations(lm, text, HOOK, cache=cache, batch_size=1, progress=lambda n, _: done.append(n))
    assert done == [3, 6, 7, 8, 9, 10, 11], "two whole shards are kept, the third is begun anew"
    assert torch.allclose(store.sequences(0, N_SEQ), lm.capture(torch.from_numpy(text.tokens), [HOOK])[HOOK], atol=1e-6)
    assert cache.work_bytes() == 0


def test_too_little_disk_is_told_before_anything_is_written(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    import shutil

    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=N_SEQ * SEQ_LEN * 16 * 4))
    with pytest.raises(DiskSpaceError):
        capture_activations(lm_of("llama"), text, HOOK, cache=cache)


def test_values_that_are_not_finite_name_their_sequence(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("llama")
    capture = lm.capture

    def broken(tokens: torch.Tensor, hookpoints: list[str]) -> dict[str, torch.Tensor]:
        found = capture(tokens, hookpoints)
        if tokens.shape[1] == SEQ_LEN:
            found[HOOK][(tokens == torch.from_numpy(text.tokens[6])).all(dim=1), 3] = 1e6
        return found

    monkeypatch.setattr(lm, "capture", broken)
    with pytest.raises(NonFiniteError, match=r"sequence 6 .*float16 ends at 65504"):
        capture_activations(lm, text, HOOK, dtype="float16", cache=cache, batch_size=4)
    assert list(cache.entries()) == []


def test_tokens_of_another_tokenizer_and_bad_batch_sizes_are_refused(lm_of: LMOf, text: TokenizedText, cache: Cache):
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        capture_activations(lm_of("llama"), text, HOOK, cache=cache, batch_size=0)
    text.tokens[3, 3] = 1000
    with pytest.raises(DataError, match="token id 1000, but 'llama0' has 63 ids"):
        capture_activations(lm_of("llama"), text, HOOK, cache=cache)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no activation store"):
        ActivationStore.open(tmp_path)


def test_a_store_of_tensors_behaves_as_a_captured_one():
    values = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 0] = False
    store = ActivationStore.from_tensors(values, mask=mask)
    assert (store.n_tokens, store.d_in, store.seq_len, len(store)) == (16, 3, 5, 4)
    assert torch.equal(store.sequences(1, 3), values[1:3])
    assert (store.scale * values[mask].norm(dim=-1)).mean().item() == pytest.approx(math.sqrt(3), rel=1e-6)
    with pytest.raises(ShapeError, match="n_seq, seq_len, d_in"):
        ActivationStore.from_tensors(values[0])
    with pytest.raises(DataError, match="no token"):
        ActivationStore.from_tensors(values, mask=torch.zeros_like(mask))
    with pytest.raises(DataError, match="zero"):
        ActivationStore.from_tensors(torch.zeros(4, 5, 3))
    values[2, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="sequence 2"):
        ActivationStore.from_tensors(values)
