"""The harness's side, through its plugin interface: a method of the catalogue, built and trained by `fit`."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import numpy as np
import torch
from ours_lm import EvaluationWork, capture, capture_to_store, make_lm, whole_run
from serve import Batches, Channel, Job, Pacer, Stopped, describe, encode_loop, load_weights, serve, synchronise
from torch import Tensor

from harness.interfaces.batch import ActivationBatch
from harness.interfaces.sae import SAE, SparseCodes
from harness.interfaces.trainer import Trainer
from harness.methods import build, resolve_method
from harness.plugins import load_catalogue
from harness.threads.products import product
from harness.training.fit import FitJob, StepReport, fit
from harness.training.kernels import to_dense

N_STEPS = 1_000_000
DEAD_AFTER_TOKENS = 10_000_000
"""As the peers have it: no latent is dead in a benchmark, so no side pays for an auxiliary loss."""
_ROWS_AT_ONCE = 1024


class PoolStream:
    """The pool as a stream of batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._nowhere = torch.zeros(batches.size, dtype=torch.int64, device=batches.rows.device)

    def batch(self, index: int) -> ActivationBatch:
        """The batch of step `index`."""
        return ActivationBatch(activations=self._batches[index], document=self._nowhere, position=self._nowhere)


def preset(trainer: Trainer, weights: dict[str, Tensor]) -> Trainer:
    """The trainer, whose SAE begins with the weights given: what all sides begin with."""
    initialise = trainer.initialise

    @torch.no_grad()
    def from_weights(sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        initialise(sae, sample, target_l0, generator)
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights["threshold"].log() if name == "log_threshold" else weights[name])

    trainer.initialise = from_weights  # type: ignore[method-assign]
    return trainer


def _fit_job(job: Job, seed: int = 0, *, trained: bool = True) -> FitJob:
    method = resolve_method(
        load_catalogue(), job["method"], overrides={"lr": job["lr"], "warmup_fraction": 0.0} if trained else {}
    )
    target = job["k"] if job["kind"] in ("topk", "batch_topk") else job["l0"]
    trainer, sae = build(method, d_in=job["d_in"], d_sae=job["d_sae"], target_l0=target)
    if trained and job["weights"]:
        trainer = preset(trainer, load_weights(job["weights"], job["device"]))
    return FitJob(
        label=job["kind"],
        sae=sae,
        trainer=trainer,
        seed=seed,
        target_l0=target,
        sparsity=method.sparsity,
        trained=trained,
    )


def train(job: Job, channel: Channel) -> None:
    """`fit`, as `sae-harness run` calls it, on `job["n_saes"]` SAEs of `job["kind"]` that differ in their seed."""
    batches = Batches(job["x"], job["batch"], job["device"])
    n_saes = job.get("n_saes", 1)
    fit_jobs = [_fit_job(job, seed) for seed in range(n_saes)]
    sae, options = fit_jobs[0].sae, fit_jobs[0].trainer.options
    sse = float("nan")

    def facts() -> dict[str, Any]:
        config = {name: getattr(options, name) for name in options.__dataclass_fields__}
        return {"config": config, "sse_in_step": sse, **_describe(sae, batches[0])}

    with_weights = initial_sae(job, batches)
    channel.reply(config={}, **_describe(with_weights, batches[0]))
    del with_weights
    pacer = Pacer(channel, job["warm"], facts, job["device"])
    calls = 0

    def progress(report: StepReport) -> None:
        nonlocal calls, sse
        sse = report.terms["sse"]
        calls += 1
        if calls % n_saes == 0:
            pacer.tick()

    try:
        fit(
            fit_jobs,
            PoolStream(batches),
            n_steps=N_STEPS,
            batch_size=job["batch"],
            dead_after_tokens=DEAD_AFTER_TOKENS,
            device=job["device"],
            precision=job.get("precision", "float32"),
            progress=progress,
        )
    except Stopped:
        channel.reply(stopped=True)


def initial_sae(job: Job, batches: Batches) -> SAE:
    """The SAE as training begins: `fit` of a job that is not to be trained."""
    untrained = _fit_job(job, trained=False)
    if job["weights"]:
        preset(untrained.trainer, load_weights(job["weights"], job["device"]))
    (result,) = fit(
        [untrained],
        PoolStream(batches),
        n_steps=N_STEPS,
        batch_size=job["batch"],
        dead_after_tokens=DEAD_AFTER_TOKENS,
        device=job["device"],
    )
    return result.sae


@torch.no_grad()
def weights(job: Job, channel: Channel) -> None:
    """Write the weights that all sides begin with: the method's own initial ones; where L0 is not set by k, shifted so
    that L0 on the pool is `job["l0"]` (ReLU: the encoder's bias, JumpReLU: the threshold)."""
    batches = Batches(job["x"], job["batch"], job["device"])
    sae: Any = initial_sae({**job, "weights": ""}, batches)
    arrays = {name: getattr(sae, name).detach() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if job["kind"] in ("relu", "jumprelu"):
        shift = _quantile(sae, batches.rows, job["l0"])
        if job["kind"] == "relu":
            arrays["b_enc"] = arrays["b_enc"] - shift
        else:
            arrays["threshold"] = torch.full_like(arrays["b_enc"], shift)
    np.savez(job["file"], **{name: array.cpu().numpy() for name, array in arrays.items()})
    channel.reply(file=job["file"])


def _quantile(sae: Any, rows: Tensor, l0: float) -> float:
    """The value that `l0` pre-activations of a row exceed on average; from some thousand rows."""
    pre = torch.cat([sae.pre_activations(part) for part in rows[: 2 * _ROWS_AT_ONCE].split(_ROWS_AT_ONCE)]).flatten()
    return float(pre.kthvalue(pre.numel() - round(l0 * pre.numel() / sae.config.d_sae)).values)


@torch.no_grad()
def _describe(sae: SAE, x: Tensor) -> dict[str, float]:
    codes = sae.encode(x)
    return describe(x, codes, sae.decode(codes))


def encode(job: Job, channel: Channel) -> None:
    """`encode_sparse`, which gives indices and values."""
    batches = Batches(job["x"], job["batch"], job["device"])
    sae = initial_sae({**job, "kind": "topk"}, batches)
    dense = lambda codes: to_dense(SparseCodes(*codes), job["d_sae"])  # noqa: E731
    encode_loop(job, channel, sae.encode_sparse, dense)


def gemm(job: Job, channel: Channel) -> None:
    """Speed of the five matrix products of a dense training step by torch, float32, GFLOP/s: the limits are made of
    it; and of the encoder's as ours makes it."""
    n, d, s, device = job["batch"], job["d_in"], job["d_sae"], job["device"]
    x, codes = torch.randn(n, d, device=device), torch.randn(n, s, device=device)
    by_latent, by_input = torch.randn(s, d, device=device), torch.randn(d, s, device=device)
    products = {
        "encode": lambda: x @ by_latent.t(),
        "decode": lambda: codes @ by_latent,
        "codes' gradient": lambda: x @ by_input,
        "decoder's gradient": lambda: codes.t() @ x,
        "encoder's gradient": lambda: x.t() @ codes,
    }
    speed = lambda make: _gflops(make, 2 * n * d * s, job["seconds"], device)  # noqa: E731
    speeds = {name: speed(make) for name, make in products.items()}
    ours = speed(lambda: product(x, by_latent.t()))
    channel.reply(gflops=speeds, harmonic_mean=len(speeds) / sum(1 / g for g in speeds.values()), ours=ours)


def _gflops(make: Any, flops: int, seconds: float, device: str) -> float:
    make()
    synchronise(device)
    begun, count = time.perf_counter(), 0
    while True:
        make()
        synchronise(device)
        count += 1
        passed = time.perf_counter() - begun
        if passed >= seconds:
            return count * flops / passed / 1e9


if __name__ == "__main__":
    evaluation = EvaluationWork()
    serve(
        {
            "train": train,
            "encode": encode,
            "weights": weights,
            "gemm": gemm,
            "evaluation_setup": evaluation.setup,
            "evaluate": evaluation.run,
            "make_lm": make_lm,
            "run": whole_run,
            "capture": capture,
            "capture_to_store": capture_to_store,
        },
        ["torch", "sae-harness", "transformers", *(["numba"] if importlib.util.find_spec("numba") else [])],
    )
