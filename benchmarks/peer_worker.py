"""Trains dictionary_learning's TopK in the peer's own environment: one JSON job a line in, one JSON reply a line out.

Run by quality_vs_peers.py; imports nothing of the harness. The trainer and the SAE are the library's own classes, and
the loop is the library's too: `update(step, activations)` once a batch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

_ROWS_AT_ONCE = 4096


def main() -> None:
    """Answer jobs until stdin ends."""
    # The library prints; what it prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    _reply(replies, {"versions": {name: importlib.metadata.version(name) for name in ("torch", "dictionary-learning")}})
    for line in sys.stdin:
        _reply(replies, _run(json.loads(line)))


def _reply(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """Train one SAE and write its reconstructions of the held-out activations."""
    stream = np.load(job["stream"], mmap_mode="r")
    trainer = TopKTrainer(
        steps=job["n_steps"],
        activation_dim=stream.shape[1],
        dict_size=job["d_sae"],
        k=job["k"],
        layer=0,
        lm_name="benchmark",
        lr=job["lr"],
        warmup_steps=job["warmup_steps"],
        decay_start=job["decay_start"],
        threshold_start_step=job["threshold_start_step"],
        seed=job["seed"],
        device="cpu",
    )
    if job["dead_after_tokens"] is not None:
        trainer.dead_feature_threshold = job["dead_after_tokens"]
    cpu, wall = time.process_time(), time.perf_counter()
    size = job["batch_size"]
    loss = float("nan")
    for step in range(job["n_steps"]):
        # A copy: the file is read-only, and torch wants memory it may write to.
        loss = trainer.update(step, torch.from_numpy(np.array(stream[step * size : (step + 1) * size])))
    seconds = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
    held_out = torch.from_numpy(np.load(job["held_out"]))
    codes = {name: _reconstruct(trainer.ae, held_out, name == "threshold", Path(job["out"])) for name in job["codes"]}
    config = {name: value for name, value in trainer.config.items() if isinstance(value, (str, int, float))}
    config["dead_feature_threshold"] = trainer.dead_feature_threshold
    return {"final_loss": loss, "threshold": float(trainer.ae.threshold), "config": config, "codes": codes, **seconds}


@torch.no_grad()
def _reconstruct(sae: Any, held_out: torch.Tensor, use_threshold: bool, out: Path) -> dict[str, str]:
    """Files of the reconstructions [n, d_in] and the firing counts [d_sae], by the library's encode and decode."""
    x_hat, fired = [], torch.zeros(sae.dict_size, dtype=torch.int64)
    for start in range(0, len(held_out), _ROWS_AT_ONCE):
        codes = sae.encode(held_out[start : start + _ROWS_AT_ONCE], use_threshold=use_threshold)
        x_hat.append(sae.decode(codes))
        fired += (codes != 0).sum(0)
    stem = "threshold" if use_threshold else "top_k"
    files = {"x_hat": str(out / f"{stem}.npy"), "fired": str(out / f"{stem}-fired.npy")}
    np.save(files["x_hat"], torch.cat(x_hat).numpy())
    np.save(files["fired"], fired.numpy())
    return files


if __name__ == "__main__":
    main()
