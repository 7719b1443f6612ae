"""What an activation store depends on; loads no torch, so that keys can be made before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Dtype, WorldConfig

STORE_VERSION = 1
"""Raised by every change that can move a stored activation or its scale."""
WORLD_VERSION = 1
"""Raised by every change to `data.worlds` and `data.world_structure` that can move a number of a world."""


def store_inputs(
    *, weights_sha256: str, lm_dtype: Dtype, hookpoint: str, tokens: Mapping[str, Any], dtype: Dtype
) -> dict[str, Any]:
    """Inputs of the cache key of a store; `tokens` are the `token_inputs` of the text."""
    return {
        "weights": weights_sha256,
        "lm_dtype": lm_dtype,
        "hookpoint": hookpoint,
        "tokens": dict(tokens),
        "dtype": dtype,
    }


def world_inputs(config: WorldConfig, split: str, dtype: Dtype) -> dict[str, Any]:
    """Inputs of the cache key of a store of a world's documents; the other split's size is not among them."""
    n = config.n_train_sequences if split == "train" else config.n_eval_sequences
    return {
        "world": config.generator_inputs(),
        "generator": WORLD_VERSION,
        "split": split,
        "n_sequences": n,
        "dtype": dtype,
    }
