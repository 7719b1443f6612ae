"""The two sides of quality_vs_peers: one stream of batches, one SAE of either side, one measurement."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_environment import PeerProcess
from quality_report import Peer, Run
from torch import Tensor

from harness.activations.samplers import Sampler
from harness.activations.store import ActivationStore
from harness.bench import Bench
from harness.cli.progress import BarProgress
from harness.config import SuiteConfig
from harness.errors import ConfigError
from harness.evaluation.metrics import fvu
from harness.interfaces.sae import SAE
from harness.methods import Method, build
from harness.training.fit import FitJob, fit

OURS = "sae-harness topk"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What both sides train on and are measured on, as files [n, d_in] float32, scaled as in training."""

    store: ActivationStore
    stream: Path
    held_out: Path


def export(bench: Bench, folder: Path) -> Exported:
    """Write the training stream, batch by batch as the harness's sampler gives it, and the held-out activations.

    Raises:
        ConfigError: they would not fit on the disk.
    """
    suite, progress = bench.suite, BarProgress()
    store, held_out = bench.store("train", progress), bench.store("eval", progress)
    progress.close()
    n_rows = suite.n_steps * suite.batch_size
    needed, free = (n_rows + held_out.n_tokens) * store.d_in * 4, shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        raise ConfigError(
            f"The training stream of suite {suite.name!r} takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are "
            f"free at {folder}: choose a smaller suite, or point TMPDIR to a larger disk."
        )
    stream = np.lib.format.open_memmap(folder / "stream.npy", mode="w+", dtype="f4", shape=(n_rows, store.d_in))
    sampler = make_sampler(suite, store)
    for step in range(suite.n_steps):
        start = step * suite.batch_size
        stream[start : start + suite.batch_size] = sampler.batch(step).activations.numpy()
    stream.flush()
    rows = held_out.rows(held_out.mask.flatten().nonzero().squeeze(1))
    np.save(folder / "held_out.npy", rows.mul_(store.scale).numpy())
    return Exported(store=store, stream=folder / "stream.npy", held_out=folder / "held_out.npy")


def make_sampler(suite: SuiteConfig, store: ActivationStore) -> Sampler:
    """The suite's stream, as `pipeline.train` makes it for TopK."""
    return Sampler(store, batch_size=suite.batch_size, seed=suite.stream_seed, kind="iid")


def train_ours(suite: SuiteConfig, method: Method, data: Exported, l0: int, seed: int) -> Run:
    """One SAE by the harness's own loop, measured."""
    trainer, sae = build(method, d_in=data.store.d_in, d_sae=suite.d_sae, target_l0=l0)
    job = FitJob(
        label=f"{OURS} L0 {l0} seed {seed}",
        sae=sae,
        trainer=trainer,
        seed=seed,
        target_l0=l0,
        sparsity=method.sparsity,
    )
    cpu, wall = time.process_time(), time.perf_counter()
    (result,) = fit(
        [job],
        make_sampler(suite, data.store),
        n_steps=suite.n_steps,
        batch_size=suite.batch_size,
        dead_after_tokens=dead_after_tokens(suite),
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    held_out = torch.from_numpy(np.load(data.held_out))
    return Run(
        label=OURS,
        codes="top_k",
        k=l0,
        seed=seed,
        cpu_seconds_per_step=cpu / suite.n_steps,
        wall_seconds_per_step=wall / suite.n_steps,
        **measure(held_out, *reconstruct(result.sae, held_out)),
    )


def train_peer(process: PeerProcess, suite: SuiteConfig, peer: Peer, data: Exported, l0: int, seed: int) -> list[Run]:
    """One SAE by the peer's trainer, measured once for each way to encode.

    Raises:
        PeerError: the peer failed.
    """
    job = {
        "stream": str(data.stream),
        "held_out": str(data.held_out),
        "out": str(data.stream.parent),
        "d_sae": suite.d_sae,
        "k": l0,
        "seed": seed,
        "lr": peer.lr,
        "n_steps": suite.n_steps,
        "batch_size": suite.batch_size,
        "dead_after_tokens": peer.dead_after_tokens,
        "codes": list(peer.codes),
        **schedule(suite.n_steps),
    }
    reply = process.run(job)
    held_out = torch.from_numpy(np.load(data.held_out))
    return [
        Run(
            label=peer.label,
            codes=codes,
            k=l0,
            seed=seed,
            cpu_seconds_per_step=reply["cpu_seconds"] / suite.n_steps,
            wall_seconds_per_step=reply["wall_seconds"] / suite.n_steps,
            config={**reply["config"], "threshold": reply["threshold"]},
            **measure(held_out, *(torch.from_numpy(np.load(files[name])) for name in ("x_hat", "fired"))),
        )
        for codes, files in reply["codes"].items()
    ]


def dead_after_tokens(suite: SuiteConfig) -> int:
    """After how many tokens without firing a latent is dead, as `pipeline.train` has it."""
    return max(1, int(suite.dead_after_fraction * suite.n_tokens))


def schedule(n_steps: int) -> dict[str, int]:
    """The peer's schedule, in steps: the shares of the harness (5 % warm-up, decay over the last 20 %).

    The peer's default warm-up and threshold start, 1000 steps each, stay where 5 % of the budget is more.
    """
    warmup = min(1000, round(0.05 * n_steps))
    return {"warmup_steps": warmup, "decay_start": round(0.8 * n_steps), "threshold_start_step": warmup}


def reconstruct(sae: SAE, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstructions [n, d_in] and on how many rows each latent fires [d_sae]."""
    x_hat, fired = [], torch.zeros(sae.config.d_sae, dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, len(held_out), _ROWS_AT_ONCE):
            codes = sae.encode(held_out[start : start + _ROWS_AT_ONCE])
            x_hat.append(sae.decode(codes))
            fired += (codes != 0).sum(0)
    return torch.cat(x_hat), fired


def measure(x: Tensor, x_hat: Tensor, fired: Tensor) -> dict[str, Any]:
    """The figures of either side from activations, reconstructions [n, d_in] and firing counts [d_sae] alone."""
    return {
        "explained_variance": 1.0 - float(fvu(x, x_hat)),
        "l0": float(fired.sum()) / len(x),
        "dead_latent_fraction": float((fired == 0).double().mean()),
    }
