from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

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
from harness.errors import DataError, NonFiniteError, ShapeError

HOOK = "blocks.1.hook_resid_post"
N_SEQ, SEQ_LEN = 11, 8
LMOf = Callable[[str], LanguageModel]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.usefixtures("small_shards")
def test_what_is_read_is_what_the_model_computed(
    lm_of: LMOf, text: TokenizedText, cache: Cache, in_memory: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "MEMORY_BYTES", 2**30 if in_memory else 0)
    lm = lm_of("llama")
    expected = lm.capture(torch.from_numpy(text.tokens), [HOOK])[HOOK]
    store = capture_activations(lm, text, HOOK, cache=cache, batch_size=1)
    assert store.is_mapped is not in_memory
    assert store.index.sequences_per_shard == 3
    assert (len(store), store.seq_len, store.d_in, store.n_tokens) == (N_SEQ, SEQ_LEN, 16, text.n_tokens)
    torch.testing.assert_close(store.sequences(0, N_SEQ), expected)
    torch.testing.assert_close(store.sequences(9, 99), expected[9:])
    rows = torch.tensor([87, 0, 30, 31, 5, 30])
    torch.testing.assert_close(store.rows(rows), expected.view(-1, 16)[rows])
    assert torch.equal(store.raw_rows(rows), store.rows(rows))
    assert torch.equal(store.tokens, torch.from_numpy(text.tokens).long())
    assert torch.equal(store.mask, torch.from_numpy(text.mask))
    assert torch.equal(store.document, torch.from_numpy(text.document))


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_what_is_read_is_the_readers_to_edit(
    lm_of: LMOf, text: TokenizedText, cache: Cache, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "MEMORY_BYTES", memory_bytes)
    store = capture_activations(lm_of("llama"), text, HOOK, cache=cache)
    before = store.sequences(0, N_SEQ)
    store.sequences(0, N_SEQ).zero_()
    store.rows(torch.arange(20)).zero_()
    assert torch.equal(store.sequences(0, N_SEQ), before)


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
    assert store.raw_rows(torch.arange(3)).dtype == getattr(torch, dtype)
    shards = [path.stat().st_size for path in cache.root.glob("activations/*/*/shard-*.bin")]
    assert sum(shards) == N_SEQ * SEQ_LEN * 16 * 2
    in_float32 = capture_activations(lm, text, HOOK, cache=cache)
    assert torch.equal(found, in_float32.sequences(0, N_SEQ).to(getattr(torch, dtype)).float())


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
