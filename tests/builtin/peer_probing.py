"""Sparse probing by SAEBench's own functions on given activations: run in its own environment, without the harness.

    python peer_probing.py INPUT.npz OUTPUT.json

INPUT holds W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, k (a TopK SAE), ks, seeds, n_train, n_test, and
activations padded with zeros: `pool/SET/PART/CLASS` [n, length, d_in], of which each seed draws, and
`task/NUMBER/PART/LABEL`, those of one binary task. OUTPUT holds under `seeds` the metrics of each seed, under `tasks`
the test accuracies of each task by k.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_bench.evals.sparse_probing import main as peer  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing import probe_training  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing.eval_config import (  # pyright: ignore[reportMissingImports]
    SparseProbingEvalConfig,
)
from sae_bench.sae_bench_utils import activation_collection, dataset_utils  # pyright: ignore[reportMissingImports]

_BATCH = 125


class TopK:
    """As much of an SAE as SAEBench's functions use."""

    dtype = torch.float32
    cfg = SimpleNamespace(hook_layer=0, hook_name="blocks.0.hook_resid_post")

    def __init__(self, given: dict[str, Any]) -> None:
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = (
            torch.from_numpy(given[name]) for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        )
        self.k = int(given["k"])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        values, latents = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu().topk(self.k, dim=-1)
        return torch.zeros(*x.shape[:-1], len(self.W_dec)).scatter_(-1, latents, values)


def drawn(pool: dict[str, torch.Tensor], size: int, seed: int) -> dict[str, torch.Tensor]:
    """Of each class half as many texts as a probe has, by SAEBench's own draw."""
    numbers = {name: pd.DataFrame({"label": name, "text": range(len(own))}) for name, own in pool.items()}
    rows = dataset_utils.gather_dataset_from_df(
        pd.concat(numbers.values()), list(pool), size // 2, "label", "text", seed
    )
    return {name: pool[name][torch.tensor(chosen)] for name, chosen in rows.items()}


def one_seed(sae: TopK, pools: dict[str, dict[str, Any]], given: dict[str, Any], seed: int, folder: Path) -> Any:
    """The whole evaluation, its data sets those of the pools."""
    sizes = {"train": int(given["n_train"]), "test": int(given["n_test"])}

    def activations(name: str, *_: Any) -> tuple[dict[str, torch.Tensor], ...]:
        return tuple(drawn(pools[name][part], size, seed) for part, size in sizes.items())

    peer.get_dataset_activations = activations
    config = SparseProbingEvalConfig(
        random_seed=seed, dataset_names=list(pools), k_values=given["ks"].tolist(), llm_batch_size=1
    )
    found, _ = peer.run_eval_single_sae(config, sae, None, "cpu", str(folder), save_activations=False)
    return {name: value for name, value in found.items() if not isinstance(value, dict)}


def one_task(sae: TopK, parts: dict[str, dict[str, torch.Tensor]], ks: list[int]) -> list[float]:
    """Test accuracies by k, of texts that are all given."""
    pooled = {part: activation_collection.get_sae_meaned_activations(own, sae, _BATCH) for part, own in parts.items()}
    x = {part: torch.cat([own["1"], own["0"]]) for part, own in pooled.items()}
    y = {part: torch.cat([torch.ones(len(own["1"])), torch.zeros(len(own["0"]))]).int() for part, own in pooled.items()}
    found = []
    for k in ks:
        mask = probe_training.get_top_k_mean_diff_mask(x["train"], y["train"], k)
        own = {part: probe_training.apply_topk_mask_reduce_dim(rows, mask) for part, rows in x.items()}
        found.append(float(probe_training.train_sklearn_probe(own["train"], y["train"], own["test"], y["test"])[1]))
    return found


def main(source: Path, destination: Path) -> None:
    given = dict(np.load(source))
    sae = TopK(given)
    pools: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for name in given:
        if name.count("/") == 3:
            kind, group, part, key = name.split("/")
            of_kind = pools if kind == "pool" else tasks
            of_kind.setdefault(group, {"train": {}, "test": {}})[part][key] = torch.from_numpy(given[name])
    found = {
        "seeds": [one_seed(sae, pools, given, seed, destination.parent) for seed in given["seeds"].tolist()],
        "tasks": {name: one_task(sae, parts, given["ks"].tolist()) for name, parts in tasks.items()},
    }
    destination.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
