"""SAEBench's absorption on given words, activations and codes: run in the peer's own environment, without the harness.

    python peer_absorption.py INPUT.npz OUTPUT.npz

INPUT holds rows [n, d_in], letter [n], test [n] (0 or 1), codes as values, latents and offsets, W_dec [d_sae, d_in],
weight [l, d_in] and bias [l] of the ground-truth probes, and seeds. OUTPUT holds, by seed, the means over letters
`fraction`, `full` and `n_split`, and `probe_f1`: of its own probes, trained with that seed.

Its functions are called as they are; what is replaced is what would need a language model: a stub gives each word its
known activation, and a stub SAE gives each activation its known code.
"""

from __future__ import annotations

import random
import statistics
import string
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

MAX_K, MIN_F1 = 10, 0.6


class KnownCodes:
    """An SAE whose codes are known: by row."""

    device, dtype = "cpu", torch.float32

    def __init__(self, given: dict[str, np.ndarray]) -> None:
        self.W_dec = torch.from_numpy(given["W_dec"])
        self.W_enc = self.W_dec.T.contiguous()
        n, d_sae = len(given["rows"]), len(self.W_dec)
        self.cfg = SimpleNamespace(d_sae=d_sae, hook_layer=0)
        self._codes = torch.zeros(n, d_sae)
        word = np.repeat(np.arange(n), np.diff(given["offsets"]))
        self._codes[word, given["latents"]] = torch.from_numpy(given["values"])
        self._place = {row.tobytes(): place for place, row in enumerate(given["rows"])}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self._codes[[self._place[row.numpy().tobytes()] for row in x]]


class KnownActivations:
    """A model whose activations are known: by the word that ends a prompt."""

    tokenizer = ""  # it is asked for, and not used

    def __init__(self, words: list[str], rows: torch.Tensor) -> None:
        self._row = dict(zip(words, rows, strict=True))

    def to_tokens(self, prompt: str) -> torch.Tensor:
        return torch.zeros(1, 2)

    def run_with_cache(self, prompts: list[str], names_filter: list[str]) -> tuple[None, dict[str, torch.Tensor]]:
        return None, {names_filter[0]: torch.stack([self._row[prompt.strip()] for prompt in prompts])[:, None]}


def absorption(given: dict[str, np.ndarray], seed: int) -> tuple[float, float, float]:
    """Its mean fraction, mean full absorption and mean number of split latents."""
    from sae_bench.evals.absorption import feature_absorption, k_sparse_probing  # pyright: ignore[reportMissingImports]
    from sae_bench.evals.absorption.feature_absorption_calculator import (  # pyright: ignore[reportMissingImports]
        FeatureAbsorptionCalculator,
    )
    from sae_bench.evals.absorption.main import _aggregate_results_df  # pyright: ignore[reportMissingImports]
    from sae_bench.evals.absorption.probing import LinearProbe  # pyright: ignore[reportMissingImports]

    letters = string.ascii_lowercase[: len(given["weight"])]
    k_sparse_probing.LETTERS = feature_absorption.LETTERS = letters
    rows, sae = torch.from_numpy(given["rows"]), KnownCodes(given)
    words = [f"{letters[letter]}{place}" for place, letter in enumerate(given["letter"])]
    labels = list(zip(words, given["letter"].tolist(), strict=True))
    probe = LinearProbe(rows.shape[1], len(letters)).requires_grad_(False)
    probe.fc.weight.copy_(torch.from_numpy(given["weight"]))
    probe.fc.bias.copy_(torch.from_numpy(given["bias"]))
    train, test = ([i for i, on in enumerate(given["test"]) if bool(on) is part] for part in (False, True))
    _seed(seed)
    torch.set_grad_enabled(True)
    sparse = k_sparse_probing.train_k_sparse_probes(
        sae, [labels[i] for i in train], rows[train], ks=list(range(1, MAX_K + 1)), precalc_sae_acts=True
    )
    torch.set_grad_enabled(False)
    raw = k_sparse_probing.eval_probe_and_sae_k_sparse_raw_scores(
        sae, probe, sparse, [labels[i] for i in test], rows[test]
    )
    metadata = k_sparse_probing.sae_k_sparse_metadata(sae, probe, sparse, "sae", 0)
    metrics = k_sparse_probing.build_metrics_df(raw, metadata, MAX_K)
    k_sparse_probing.add_feature_splits_to_metrics_df(metrics, MAX_K)
    likely = {}
    for letter in letters:
        latents = metrics[metrics["letter"] == letter]["split_feats"].iloc[0]
        said = raw[(raw["answer_letter"] == letter) & (raw[f"score_probe_{letter}"] > 0)]["token"].tolist()
        likely[letter] = feature_absorption.StatsAndLikelyFalseNegativeResults(len(said), 0, latents, said)
    calculator = FeatureAbsorptionCalculator(
        model=KnownActivations(words, rows),
        icl_word_list=words,
        max_icl_examples=0,
        base_template="{word}",
        word_token_pos=-1,
    )
    table = feature_absorption.calculate_projection_and_cos_sims(calculator, sae, probe, 0, likely)
    means = _aggregate_results_df(table)
    f1 = dict(zip(metrics["letter"], metrics["f1_probe"], strict=True))
    means = means[[f1[letter] > MIN_F1 for letter in means["letter"]]]
    columns = ("mean_absorption_fraction", "full_absorption_rate", "num_split_feats")
    fraction, full, n_split = (statistics.mean(map(float, means[name])) for name in columns)
    return fraction, full, n_split


def probe_f1(given: dict[str, np.ndarray], seed: int) -> float:
    """Mean F1 on test words of its own ground-truth probes."""
    from sae_bench.evals.absorption.probing import train_multi_probe  # pyright: ignore[reportMissingImports]
    from sklearn.metrics import f1_score  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    rows, test = torch.from_numpy(given["rows"]), torch.from_numpy(given["test"]) > 0
    y = torch.nn.functional.one_hot(torch.from_numpy(given["letter"]), len(given["weight"]))
    _seed(seed)
    torch.set_grad_enabled(True)
    probe = train_multi_probe(
        rows[~test], y[~test], batch_size=64, num_epochs=50, lr=1e-2, weight_decay=1e-4, device=torch.device("cpu")
    )
    torch.set_grad_enabled(False)
    said = probe(rows[test]) > 0
    return statistics.mean(float(f1_score(y[test][:, i], said[:, i])) for i in range(y.shape[1]))


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def main() -> None:
    torch.set_num_threads(1)
    given: dict[str, Any] = dict(np.load(sys.argv[1]))
    found = [absorption(given, int(seed)) for seed in given["seeds"]]
    fraction, full, n_split = zip(*found, strict=True)
    f1 = [probe_f1(given, int(seed)) for seed in given["seeds"]]
    np.savez(sys.argv[2], fraction=fraction, full=full, n_split=n_split, probe_f1=f1)


if __name__ == "__main__":
    main()
