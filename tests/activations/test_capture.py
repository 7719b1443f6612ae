from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.activations import capture as capture_module
from harness.activations import store as store_module
from harness.activations.capture import capture_stores
from harness.activations.keys import store_inputs
from harness.activations.language_model import LanguageModel, load_language_model
from harness.activations.sources import resolve_lm
from harness.activations.store import capture_activations, capture_many
from harness.artefacts.cache import Cache
from harness.config import LMConfig
from harness.data.text import TokenizedText
from harness.errors import ConfigError, DataError, DiskSpaceError, HookpointError, NonFiniteError

HOOK = "blocks.1.hook_resid_post"
N_SEQ, SEQ_LEN = 11, 8
SEQUENCE_BYTES = SEQ_LEN * 16 * 4
LMOf = Callable[[str], LanguageModel]


def _files(cache: Cache) -> dict[str, bytes]:
    """Every file of every store but its manifest, which holds the time; a path begins with the store's key."""
    root = cache.root / "activations"
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _calls(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """(sequences, hookpoints) of each pass over whole sequences from now on."""
    calls: list[tuple[int, list[str]]] = []
    capture = lm.capture

    def counted(tokens: torch.Tensor, hookpoints: Sequence[str]) -> dict[str, torch.Tensor]:
        if tokens.shape[1] == SEQ_LEN:
            calls.append((tokens.shape[0], sorted(hookpoints)))
        return capture(tokens, hookpoints)

    monkeypatch.setattr(lm, "capture", counted)
    return calls


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.usefixtures("small_shards")
def test_stores_captured_together_equal_those_captured_alone(
    lm_of: LMOf, text: TokenizedText, tmp_path: Path, family: str, dtype: Any
):
    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    hookpoints = [f"blocks.{layer}.hook_{kind}" for layer in range(2) for kind in kinds]
    if family == "llama":
        hookpoints.append("model.layers.1.mlp.gate_proj")  # wider than the residual stream
    together, alone = Cache(tmp_path / "together"), Cache(tmp_path / "alone")
    stores = capture_many(lm_of(family), text, hookpoints, dtype=dtype, cache=together)
    assert list(stores) == hookpoints
    for hookpoint in hookpoints:
        single = capture_activations(lm_of(family), text, hookpoint, dtype=dtype, cache=alone)
        assert stores[hookpoint].index == single.index
        assert torch.equal(stores[hookpoint].sequences(0, N_SEQ), single.sequences(0, N_SEQ))
    assert _files(together) == _files(alone)
    assert together.verify() == []
    assert together.work_bytes() == 0


def test_all_come_from_one_pass_that_ends_at_the_deepest(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("gpt2")
    calls = _calls(lm, monkeypatch)
    layers: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, i=i: layers.append(i))
        for i, layer in enumerate(lm.model.transformer.h)
    ]
    asked = ["blocks.1.hook_attn_out", "blocks.0.hook_resid_post"]
    capture_many(lm, text, asked, cache=cache)
    for handle in handles:
        handle.remove()
    assert calls == [(N_SEQ, sorted(asked))]
    assert layers == [0, 1] * 2, "once for the widths, once for the text"


def test_what_is_stored_is_not_captured_again(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("llama")
    capture_activations(lm, text, HOOK, cache=cache)
    calls = _calls(lm, monkeypatch)
    other = "blocks.0.hook_mlp_out"
    stores = capture_many(lm, text, [HOOK, other, HOOK], cache=cache)
    assert list(stores) == [HOOK, other]
    assert calls == [(N_SEQ, [other])]
    capture_many(lm, text, [other, HOOK], cache=cache)
    assert len(calls) == 1
    assert capture_many(lm, text, [], cache=cache) == {}


def test_a_store_that_another_process_made_meanwhile_is_left_alone(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("llama")
    hookpoints = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)]
    capture_activations(lm, text, hookpoints[1], cache=cache)
    calls = _calls(lm, monkeypatch)
    inputs = {
        name: store_inputs(
            weights_sha256=lm.weights_sha256, lm_dtype="float32", hookpoint=name, tokens=text.inputs, dtype="float32"
        )
        for name in hookpoints
    }
    folders = capture_stores(lm, text, inputs, dtype="float32", cache=cache, shard_bytes=2**20)
    assert folders.keys() == inputs.keys()
    assert [json.loads((folders[name] / "index.json").read_text())["hookpoint"] for name in hookpoints] == hookpoints
    assert calls == [(N_SEQ, [hookpoints[0], hookpoints[2]])]


def test_two_at_once_that_share_hookpoints_do_not_wait_for_each_other(
    model_folder: Callable[[str], Path], text: TokenizedText, cache: Cache
):
    config = LMConfig(source=str(model_folder("llama")))
    hookpoints = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)]
    found: list[list[str]] = []

    def run(asked: list[str]) -> None:
        lm = load_language_model(config, resolve_lm(config, Path("unused")))
        found.append(list(capture_many(lm, text, asked, cache=cache, batch_size=1)))

    threads = [threading.Thread(target=run, args=(asked,), daemon=True) for asked in (hookpoints, hookpoints[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(found) == sorted([hookpoints, hookpoints[::-1]])
    assert cache.verify() == []


@pytest.mark.usefixtures("small_shards")
def test_a_broken_capture_is_never_read_and_goes_on_where_it_stopped(
    lm_of: LMOf, text: TokenizedText, cache: Cache, tmp_path: Path
):
    lm = lm_of("llama")
    _break_at(7, lm, text, [HOOK], cache)
    assert list(cache.entries()) == []
    done: list[int] = []
    capture_activations(lm, text, HOOK, cache=cache, batch_size=1, progress=lambda n, _: done.append(n))
    assert done == [6, 7, 8, 9, 10, 11], "two whole shards are kept, the third is begun anew"
    assert cache.work_bytes() == 0
    undisturbed = Cache(tmp_path / "undisturbed")
    capture_activations(lm, text, HOOK, cache=undisturbed, batch_size=1)
    assert _files(cache) == _files(undisturbed)


@pytest.mark.usefixtures("small_shards")
def test_each_hookpoint_of_a_broken_capture_goes_on_by_itself(
    lm_of: LMOf, text: TokenizedText, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("llama")
    other = "blocks.0.hook_resid_post"
    _break_at(7, lm, text, [HOOK, other], cache)
    capture_activations(lm, text, HOOK, cache=cache, batch_size=1)
    calls = _calls(lm, monkeypatch)
    third = "blocks.0.hook_attn_out"
    capture_many(lm, text, [other, third], cache=cache, batch_size=1)
    assert calls == [(1, [third])] * 6 + [(1, sorted([other, third]))] * 5
    undisturbed = Cache(tmp_path / "undisturbed")
    capture_many(lm, text, [HOOK, other, third], cache=undisturbed, batch_size=1)
    assert _files(cache) == _files(undisturbed)


def _break_at(sequence: int, lm: LanguageModel, text: TokenizedText, hookpoints: list[str], cache: Cache) -> None:
    def stop(done: int, _total: int) -> None:
        if done == sequence:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_many(lm, text, hookpoints, cache=cache, batch_size=1, progress=stop)


@pytest.mark.usefixtures("small_shards")
def test_shards_cut_otherwise_are_captured_again(lm_of: LMOf, text: TokenizedText, cache: Cache, tmp_path: Path):
    lm = lm_of("llama")
    _break_at(7, lm, text, [HOOK], cache)
    capture_activations(lm, text, HOOK, cache=cache, batch_size=2)
    undisturbed = Cache(tmp_path / "undisturbed")
    capture_activations(lm, text, HOOK, cache=undisturbed, batch_size=2)
    assert _files(cache) == _files(undisturbed)


def test_a_large_store_has_larger_shards_and_not_more_of_them(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "SHARD_BYTES", SEQUENCE_BYTES)
    monkeypatch.setattr(capture_module, "MAX_SHARDS", 3)
    store = capture_activations(lm_of("llama"), text, HOOK, cache=cache)
    assert store.index.sequences_per_shard == 4
    expected = lm_of("llama").capture(torch.from_numpy(text.tokens), [HOOK])[HOOK]
    assert torch.allclose(store.sequences(0, N_SEQ), expected, atol=1e-6)


@pytest.mark.usefixtures("small_shards")
def test_progress_tells_every_batch_and_first_where_it_begins(lm_of: LMOf, text: TokenizedText, cache: Cache):
    told: list[tuple[int, int]] = []
    capture_activations(
        lm_of("llama"), text, HOOK, cache=cache, batch_size=4, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(0, 11), (4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize("fits", [True, False])
def test_too_little_disk_for_all_is_told_before_anything_is_written(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch, fits: bool
):
    usage = shutil.disk_usage(".")
    beside = SEQ_LEN * 5 + 8  # tokens, mask and document of a sequence
    free = 2 * N_SEQ * (SEQUENCE_BYTES + beside) - (not fits)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    hookpoints = [HOOK, "blocks.0.hook_resid_post"]
    if fits:
        capture_many(lm_of("llama"), text, hookpoints, cache=cache)
        return
    with pytest.raises(DiskSpaceError, match=r"12\.3 kB"):
        capture_many(lm_of("llama"), text, hookpoints, cache=cache)
    assert cache.work_bytes() == 0
    capture_activations(lm_of("llama"), text, HOOK, cache=cache)


@pytest.mark.usefixtures("small_shards")
def test_shards_that_are_there_need_no_more_disk(
    lm_of: LMOf, text: TokenizedText, cache: Cache, monkeypatch: pytest.MonkeyPatch
):
    lm = lm_of("llama")
    _break_at(7, lm, text, [HOOK], cache)
    usage = shutil.disk_usage(".")
    free = 5 * SEQUENCE_BYTES + N_SEQ * (SEQ_LEN * 5 + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    capture_activations(lm, text, HOOK, cache=cache, batch_size=1)


def test_values_that_are_not_finite_name_their_sequence_and_hookpoint(
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
    with pytest.raises(NonFiniteError, match=rf"sequence 6 at {HOOK} .*float16 ends at 65504"):
        capture_activations(lm, text, HOOK, dtype="float16", cache=cache, batch_size=4)
    assert list(cache.entries()) == []


def test_tokens_of_another_tokenizer_bad_batch_sizes_and_unknown_hookpoints_are_refused(
    lm_of: LMOf, text: TokenizedText, cache: Cache
):
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        capture_activations(lm_of("llama"), text, HOOK, cache=cache, batch_size=0)
    with pytest.raises(HookpointError, match=r"blocks\.9"):
        capture_many(lm_of("llama"), text, [HOOK, "blocks.9.hook_resid_post"], cache=cache)
    text.tokens[3, 3] = 1000
    with pytest.raises(DataError, match="token id 1000, but 'llama0' has 63 ids"):
        capture_activations(lm_of("llama"), text, HOOK, cache=cache)
