"""Activation stores of synthetic worlds: documents generated in shards, and the truth about the held-out ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..artefacts.cache import Cache
from ..config import Dtype, WorldConfig
from ..data.worlds import Split, World
from ..errors import DataError
from ..interfaces.sae import RaggedCodes
from ..interfaces.truth import WorldTruth
from .capture import mean_norm_of
from .keys import STORE_VERSION, world_inputs
from .shards import DTYPES, StoreIndex, shard_name, token_norms, write_rows
from .store import SHARD_BYTES, ActivationStore, find_store

TRUTH_VERSION = 1
"""Raised by every change to what is stored of a truth."""

Progress = Callable[[int, int], None]


class WorldStore(ActivationStore):
    """The held-out activations of a world, with the truth about them."""

    def __init__(self, store: ActivationStore, truth: WorldTruth) -> None:
        super().__init__(store.index, store._rows, tokens=store.tokens, document=store.document, mask=store.mask)
        self.truth = truth


def world_store(
    config: WorldConfig, split: Split, *, dtype: Dtype, cache: Cache, progress: Progress | None = None
) -> ActivationStore:
    """The documents of one split, from the cache or generated now; those of `eval` come with their truth.

    A generation that is killed goes on after the last whole shard.

    Raises:
        DiskSpaceError: they would not fit on the disk.
        NonFiniteError: an activation is too large for `dtype`.
    """
    inputs = world_inputs(config, split, dtype)
    world = _Lazy(config, cache)
    store = find_store(cache, inputs)
    if store is None:
        folder = cache.get_or_make(
            "activations",
            inputs,
            STORE_VERSION,
            lambda folder: _generate(world, split, inputs, folder, cache, progress),
            estimate_bytes=n_sequences(config, split) * config.seq_len * (config.d_in * DTYPES[dtype].itemsize + 5),
        )
        cache.discard_working_folder("activations", inputs, STORE_VERSION)
        store = ActivationStore.open(folder)
    if split == "train":
        return store
    return WorldStore(store, _truth(world, inputs, cache))


def n_sequences(config: WorldConfig, split: Split) -> int:
    """Documents of a split, each one sequence."""
    return config.n_train_sequences if split == "train" else config.n_eval_sequences


class _Lazy:
    """The world, built when something has to be generated, with its features from the cache."""

    def __init__(self, config: WorldConfig, cache: Cache) -> None:
        self.config, self._cache = config, cache
        self._world: World | None = None

    def get(self) -> World:
        if self._world is None:
            world = World(self.config)
            inputs = {"world": self.config.generator_inputs()}

            def write(folder: Path) -> None:
                np.save(folder / "features.npy", world.features.numpy())

            folder = self._cache.get_or_make("world", inputs, TRUTH_VERSION, write)
            world.features = torch.from_numpy(np.load(folder / "features.npy"))
            self._world = world
        return self._world


def _generate(
    lazy: _Lazy, split: Split, inputs: Mapping[str, Any], folder: Path, cache: Cache, progress: Progress | None
) -> None:
    """Write the shards in a working folder that outlives a killed run, then move them into `folder`."""
    world, config = lazy.get(), lazy.config
    dtype: Dtype = inputs["dtype"]
    n, sequence_bytes = n_sequences(config, split), config.seq_len * config.d_in * DTYPES[dtype].itemsize
    per_shard = max(1, SHARD_BYTES // sequence_bytes)
    work = cache.working_folder("activations", inputs, STORE_VERSION)
    norm_sum = 0.0
    for number, start in enumerate(range(0, n, per_shard)):
        stop = min(start + per_shard, n)
        path, norms = work / shard_name(number), work / f"{shard_name(number)}.norm"
        # The sum of norms is written first: a shard that is there has one. An earlier release may have cut others.
        if not path.is_file() or path.stat().st_size != (stop - start) * sequence_bytes:
            norm = _write_shard(world, split, range(start, stop), dtype, path)
            norms.write_text(repr(norm))
            os.replace(path.with_suffix(".partial"), path)
        norm_sum += float(norms.read_text())
        if progress is not None:
            progress(stop, n)
    for number in range(math.ceil(n / per_shard)):
        os.rename(work / shard_name(number), folder / shard_name(number))
    _write_index(config, n, dtype, per_shard, norm_sum, folder)


def _write_shard(world: World, split: Split, numbers: range, dtype: Dtype, path: Path) -> float:
    """Write some documents beside `path`; returns the sum of their tokens' norms."""
    norm_sum = 0.0
    with path.with_suffix(".partial").open("wb") as file:
        for number in numbers:
            values = world.activations(world.codes(split, number))[None].to(DTYPES[dtype])
            norm_sum += float(token_norms(values, number, dtype).sum())
            write_rows(file, values)
        file.flush()
        os.fsync(file.fileno())
    return norm_sum


def _write_index(config: WorldConfig, n: int, dtype: Dtype, per_shard: int, norm_sum: float, folder: Path) -> None:
    n_tokens = n * config.seq_len
    mean_norm = mean_norm_of(norm_sum, n_tokens)
    arrays = {
        "tokens": np.zeros((n, config.seq_len), dtype=np.int32),
        "document": np.arange(n, dtype=np.int64),
        "mask": np.ones((n, config.seq_len), dtype=bool),
    }
    index = StoreIndex(
        hookpoint="",
        dtype=dtype,
        d_in=config.d_in,
        seq_len=config.seq_len,
        n_sequences=n,
        n_tokens=n_tokens,
        mean_norm=mean_norm,
        scale=math.sqrt(config.d_in) / mean_norm,
        sequences_per_shard=per_shard,
        tokens_fingerprint=hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest(),
    )
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "index.json").write_text(json.dumps(dataclasses.asdict(index), indent=1))


def _truth(lazy: _Lazy, store: Mapping[str, Any], cache: Cache) -> WorldTruth:
    """The truth about the held-out documents, beside their activations as an artefact of its own."""
    from safetensors.torch import load_file, save_file

    def write(folder: Path) -> None:
        save_file(truth_tensors(lazy.get()), folder / "truth.safetensors")

    folder = cache.get_or_make("truth", {"store": dict(store)}, TRUTH_VERSION, write)
    try:
        tensors = load_file(folder / "truth.safetensors")
    except OSError as error:
        raise DataError(f"{folder} holds no truth ({error}): run `sae-harness cache verify`.") from error
    return truth_of(tensors)


def truth_tensors(world: World) -> dict[str, Tensor]:
    """The truth about all held-out documents of a world, as it is stored."""
    config, structure = world.config, world.structure
    codes = [world.codes("eval", number) for number in range(config.n_eval_sequences)]
    counts = torch.cat([found.offsets.diff() for found in codes])
    return {
        "features": world.features,
        "bias": world.bias,
        "latents": torch.cat([found.latents for found in codes]).int(),
        "offsets": F.pad(counts.cumsum(0), (1, 0)),
        "values": torch.cat([found.values for found in codes]),
        "probability": structure.probability,
        "autocorrelation": structure.autocorrelation(config),
        "parent": structure.parent,
        "forget": structure.forget,
        "forget_document": torch.tensor([world.is_forget(number) for number in range(config.n_eval_sequences)]),
    }


def truth_of(tensors: Mapping[str, Tensor]) -> WorldTruth:
    """The truth from what was stored of it."""
    codes = RaggedCodes(tensors["latents"].long(), tensors["offsets"], tensors["values"])
    named = {f.name: tensors[f.name] for f in dataclasses.fields(WorldTruth) if f.name != "codes"}
    return WorldTruth(codes=codes, **named)
