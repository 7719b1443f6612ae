"""Activations that every side trains on: sums of a few directions, with noise, as an LM's are thought to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .sizes import Size

_ACTIVE = 24
_CHUNK = 512
_ROWS = 8192


def write_pool(size: Size, folder: Path, *, seed: int = 0) -> Path:
    """A file [n, d_in] float32 of at least 8192 rows, a whole number of batches; mean norm sqrt(d_in).

    Each row is a sum of 24 of d_sae / 2 directions, drawn with a Zipf law, of exponential strength, about a mean that
    is not zero, with Gaussian noise.
    """
    path = folder / f"pool-{size.d_in}-{size.d_sae}-{size.batch}.npy"
    if path.exists():
        return path
    random = np.random.default_rng(seed)
    n_batches = max(4, -(-_ROWS // size.batch))
    n, n_directions = n_batches * size.batch, max(_ACTIVE, size.d_sae // 2)
    directions = random.standard_normal((n_directions, size.d_in), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chance = 1.0 / np.arange(1, n_directions + 1)
    chance /= chance.sum()
    rows = np.empty((n, size.d_in), dtype=np.float32)
    for start in range(0, n, _CHUNK):
        count = min(_CHUNK, n - start)
        chosen = random.choice(n_directions, size=(count, _ACTIVE), p=chance)
        strength = random.exponential(size=(count, _ACTIVE)).astype(np.float32) + 0.5
        rows[start : start + count] = np.einsum("nk,nkd->nd", strength, directions[chosen])
    noise = random.standard_normal(rows.shape, dtype=np.float32) / np.sqrt(size.d_in)
    rows += noise + 2.0 * directions[-1]
    rows *= np.sqrt(size.d_in) / np.linalg.norm(rows, axis=1).mean()
    np.save(path, rows)
    return path
