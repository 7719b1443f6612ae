"""SAEBench's core evaluation on a given LM of no layers: run in its own environment, without the harness.

    python peer_core.py INPUT.npz OUTPUT.json

INPUT holds W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, k (a TopK SAE), tokens [n, s], special (the id that
is not counted), activations [n, s, d_in] and head [d_in, vocab]. The logits at a position are head applied to its
activation and a tenth of the mean of those up to it. OUTPUT holds SAEBench's metrics by field.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sae_bench.evals.core import main as peer  # pyright: ignore[reportMissingImports]
from sae_bench.evals.core.eval_config import CoreEvalConfig  # pyright: ignore[reportMissingImports]

HOOK = "blocks.0.hook_resid_post"
_PROMPTS = 16


class TopK:
    """As much of an SAE as SAEBench's functions use."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = (
            torch.nn.Parameter(torch.from_numpy(given[name])) for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        )
        self.k = int(given["k"])
        self.device = torch.device("cpu")
        self.cfg = SimpleNamespace(
            hook_name=HOOK, hook_layer=0, hook_head_index=None, d_sae=len(self.W_dec), architecture_str="topk"
        )

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        values, latents = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu().topk(self.k, dim=-1)
        return torch.zeros(*x.shape[:-1], len(self.W_dec)).scatter_(-1, latents, values)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.W_dec + self.b_dec


class Model:
    """The hooks of TransformerLens that SAEBench calls, on activations that are known."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.activations = {
            tuple(tokens): torch.from_numpy(own)
            for tokens, own in zip(given["tokens"].tolist(), given["activations"], strict=True)
        }
        self.head = torch.from_numpy(given["head"])

    def _activations(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.activations[tuple(row)] for row in tokens.tolist()])

    def run_with_cache(self, tokens: torch.Tensor, **_: Any) -> tuple[None, dict[str, torch.Tensor]]:
        return None, {HOOK: self._activations(tokens)}

    def run_with_hooks(
        self, tokens: torch.Tensor, *, fwd_hooks: list[Any], **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._activations(tokens)
        for _, hook in fwd_hooks:
            x = hook(x, hook=None)
        logits = (x + 0.1 * x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]) @ self.head
        losses = -logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return logits, losses

    def __call__(self, tokens: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.run_with_hooks(tokens, fwd_hooks=[])


class Store:
    """Batches of prompts in order."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.context_size = torch.from_numpy(tokens), tokens.shape[1]
        self.store_batch_size_prompts = _PROMPTS
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self._batches = iter(self.tokens.split(_PROMPTS))

    def get_batch_tokens(self, size: int) -> torch.Tensor:
        return next(self._batches)


def main(source: Path, destination: Path) -> None:
    given = dict(np.load(source))
    n = len(given["tokens"]) // _PROMPTS
    config = CoreEvalConfig(
        batch_size_prompts=_PROMPTS,
        n_eval_reconstruction_batches=n,
        n_eval_sparsity_variance_batches=n,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )
    with torch.no_grad():
        metrics, features = peer.run_evals(
            TopK(given), Store(given["tokens"]), Model(given), config, ignore_tokens={int(given["special"])}
        )
        metrics["misc_metrics"] = peer.calculate_misc_metrics(features)
    destination.write_text(json.dumps({field: v for group in metrics.values() for field, v in group.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
