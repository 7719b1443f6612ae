"""SCR and TPP by SAEBench's own functions on given activations: run in its own environment, without the harness.

    python peer_scr_tpp.py INPUT.npz OUTPUT.json

INPUT holds W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, k (a TopK SAE), ns, seeds, and activations padded
with zeros: `scr/PAIR/PART/KEY` and `tpp/SET/PART/CLASS` [n, length, d_in] with PART train or test and KEY a combination
of attributes (see `_KEYS`). OUTPUT holds, of each metric, the value of each seed; and of the first seed and SCR, by
pair, the probes (weights, then bias) of the target, the spurious attribute and both, and by N the accuracies of the
last after the ablation of direction 1 and of direction 2.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_bench.evals.scr_and_tpp import main as peer  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing import probe_training  # pyright: ignore[reportMissingImports]
from sae_bench.sae_bench_utils import activation_collection  # pyright: ignore[reportMissingImports]
from sae_bench.sae_bench_utils.dataset_info import PAIRED_CLASS_KEYS  # pyright: ignore[reportMissingImports]

_KEYS = {
    "spurious1": "male / female",
    "spurious0": "female_data_only",
    "target1": "professor / nurse",
    "target0": "nurse_data_only",
    "both": "male_professor / female_nurse",
    "neither": "female_nurse_data_only",
}
"""What SAEBench calls the attributes' combinations, whatever the data."""
_BATCH = 125

Parts = dict[str, dict[str, torch.Tensor]]


class TopK:
    """As much of an SAE as SAEBench's functions use."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = (
            torch.nn.Parameter(torch.from_numpy(given[name])) for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        )
        self.k = int(given["k"])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        values, latents = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu().topk(self.k, dim=-1)
        return torch.zeros(*x.shape[:-1], len(self.W_dec)).scatter_(-1, latents, values)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec + self.b_dec


def results(parts: Parts, sae: TopK, ns: list[int], *, scr: bool, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """What `run_eval_single_dataset` does after it has collected the activations, and the scores of that."""
    random.seed(seed)
    torch.manual_seed(seed)
    classes = list(PAIRED_CLASS_KEYS) if scr else list(parts["train"])
    train, test = (activation_collection.create_meaned_model_activations(parts[part]) for part in ("train", "test"))
    torch.set_grad_enabled(True)
    probes, _ = probe_training.train_probe_on_activations(
        train,
        test,
        select_top_k=None,
        use_sklearn=False,
        batch_size=16,
        epochs=20,
        lr=1e-3,
        perform_scr=scr,
        early_stopping_patience=20,
        l1_penalty=1e-3,
    )
    torch.set_grad_enabled(False)
    clean = peer.get_probe_test_accuracy(probes, classes, test, 500, scr)
    effects = peer.get_all_node_effects_for_one_sae(sae, probes, classes, scr, parts["train"], _BATCH)
    after = peer.perform_feature_ablations(probes, sae, _BATCH, parts["test"], effects, ns, classes, 500, scr)
    if scr:
        target, spurious, both = (_KEYS[key] for key in ("target1", "spurious1", "both"))
        rows = {
            "probes": [
                [*probes[key].net.weight[0].tolist(), float(probes[key].net.bias)] for key in (target, spurious, both)
            ],
            "after": [
                [
                    after[spurious][n][f"{both} probe on {target} data"],
                    after[target][n][f"{both} probe on {spurious} data"],
                ]
                for n in ns
            ],
        }
        return peer.get_scr_plotting_dict(after, clean), rows
    return peer.create_tpp_plotting_dict(after, clean)[0], {}


def main(source: Path, destination: Path) -> None:
    given = dict(np.load(source))
    sae, ns = TopK(given), given["ns"].tolist()
    groups: dict[str, dict[str, Parts]] = {"scr": {}, "tpp": {}}
    for name in given:
        if name.count("/") == 3:
            kind, group, part, key = name.split("/")
            parts = groups[kind].setdefault(group, {"train": {}, "test": {}})
            parts[part][_KEYS.get(key, key)] = torch.from_numpy(given[name])
    found: dict[str, list[float]] = {}
    detail: dict[str, Any] = {}
    for seed in given["seeds"].tolist():
        for kind, of_kind in groups.items():
            both = {group: results(parts, sae, ns, scr=kind == "scr", seed=seed) for group, parts in of_kind.items()}
            own = [scores for scores, _ in both.values()]
            if kind == "scr" and not detail:
                detail = {group: rows for group, (_, rows) in both.items()}
            for metric in sorted({name for result in own for name in result}):
                values = [result[metric] for result in own if metric in result]
                found.setdefault(metric, []).append(sum(values) / len(values))
    destination.write_text(json.dumps({**found, "detail": detail}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
