"""Stores of worlds: the same activations however they are made, with the truth beside the held-out ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.activations import worlds
from harness.activations.keys import world_inputs
from harness.activations.samplers import Sampler
from harness.activations.worlds import WorldStore, truth_of, truth_tensors, world_store
from harness.artefacts.cache import Cache
from harness.config import WorldConfig
from harness.data.worlds import World

CONFIG = WorldConfig(
    n_features=24, d_in=8, seq_len=10, n_train_tokens=195, n_eval_sequences=6, roots=3, branching=2, depth=1,
    sticky_share=0.5, dwell_min=4.0, dwell_max=4.0, forget_subtrees=1, p_max=0.3, p_min=0.05,
)  # fmt: skip


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_a_store_holds_the_documents_of_its_split(cache):
    store = world_store(CONFIG, "train", dtype="float32", cache=cache)
    assert (len(store), store.n_tokens, store.d_in) == (20, 200, 8)
    assert torch.equal(store.sequences(0, 20), World(CONFIG).batch("train", range(20)).activations)
    assert store.document.tolist() == list(range(20))
    norm = store.sequences(0, 20).norm(dim=-1).mean()
    assert store.scale == pytest.approx(float(8**0.5 / norm), rel=1e-5)
    assert len(Sampler(store, batch_size=16, seed=0, kind="pairs").batch(0)) == 16


def test_the_held_out_store_knows_its_truth(cache):
    store = world_store(CONFIG, "eval", dtype="float32", cache=cache)
    assert isinstance(store, WorldStore)
    world = World(CONFIG)
    batch = world.batch("eval", range(6))
    assert torch.equal(store.sequences(0, 6), batch.activations)
    for ours, theirs in zip(store.truth.codes, batch.codes, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(store.truth.features, world.features)
    assert torch.equal(store.truth.probability, world.structure.probability)
    assert store.truth.forget_document.tolist() == [world.is_forget(n) for n in range(6)]
    assert store.truth.n_features == 24


def test_it_is_made_once(cache, monkeypatch):
    first = world_store(CONFIG, "eval", dtype="float32", cache=cache)
    monkeypatch.setattr(worlds, "World", lambda config: pytest.fail("made again"))
    again = world_store(CONFIG, "eval", dtype="float32", cache=cache)
    assert isinstance(first, WorldStore)
    assert isinstance(again, WorldStore)
    assert torch.equal(again.truth.codes.values, first.truth.codes.values)


def test_a_killed_generation_goes_on_after_the_last_whole_shard(cache, monkeypatch):
    monkeypatch.setattr(worlds, "SHARD_BYTES", 4 * 10 * 8 * 4)
    whole = world_store(CONFIG, "train", dtype="float32", cache=Cache(cache.root / "other"))

    def stop(done: int, total: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world_store(CONFIG, "train", dtype="float32", cache=cache, progress=stop)
    drawn: list[int] = []
    codes = World.codes

    def counted(self, split, number):
        drawn.append(number)
        return codes(self, split, number)

    monkeypatch.setattr(World, "codes", counted)
    resumed = world_store(CONFIG, "train", dtype="float32", cache=cache)
    assert drawn == list(range(8, 20))
    assert resumed.index == whole.index
    assert torch.equal(resumed.sequences(0, 20), whole.sequences(0, 20))


def test_half_precision_is_rounding_alone(cache):
    full = world_store(CONFIG, "train", dtype="float32", cache=cache)
    half = world_store(CONFIG, "train", dtype="bfloat16", cache=cache)
    assert torch.equal(half.sequences(0, 20), full.sequences(0, 20).bfloat16().float())


def test_keys_hold_the_whole_world_and_only_their_own_split():
    key = world_inputs(CONFIG, "train", "float32")
    assert world_inputs(dataclasses.replace(CONFIG, n_eval_sequences=7), "train", "float32") == key
    assert world_inputs(dataclasses.replace(CONFIG, n_train_tokens=300), "train", "float32") != key
    assert world_inputs(dataclasses.replace(CONFIG, emission=0.9), "train", "float32") != key
    assert world_inputs(CONFIG, "eval", "float32") != key


def test_truth_survives_storage():
    truth = truth_of(truth_tensors(World(CONFIG)))
    assert len(truth.codes.offsets) == 6 * 10 + 1
    assert truth.parent.tolist()[:9] == [-1, -1, -1, 0, 0, 1, 1, 2, 2]
    assert int(truth.forget.sum()) == 3
