"""dictionary_learning's side: its trainers' `update`, once a batch, which is its own loop (`training.trainSAE`)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # pyright: ignore[reportMissingImports]
from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # pyright: ignore[reportMissingImports]
from dictionary_learning.trainers.standard import StandardTrainer  # pyright: ignore[reportMissingImports]
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer  # pyright: ignore[reportMissingImports]
from serve import Batches, Channel, Job, Pacer, Stopped, describe, encode_loop, load_weights, serve
from torch import Tensor

N_STEPS = 1_000_000


def train(job: Job, channel: Channel) -> None:
    """The trainer of `job["kind"]`, from the weights given, at a constant learning rate."""
    device = job["device"]
    batches = Batches(job["x"], job["batch"], device)
    trainer = _trainer(job)
    _load(trainer.ae, load_weights(job["weights"], device), job["kind"])

    def facts() -> dict[str, Any]:
        return {"config": _plain(trainer.config), **_describe(trainer.ae, batches[0], job["kind"])}

    channel.reply(**facts())
    pacer = Pacer(channel, job["warm"], facts, device)
    try:
        # From step 1: at step 0 the library would replace the decoder bias that all sides begin with.
        for step in itertools.count(1):
            trainer.update(step, batches[step - 1])
            pacer.tick()
    except Stopped:
        channel.reply(stopped=True)


def _trainer(job: Job) -> Any:
    common = {
        "steps": N_STEPS,
        "activation_dim": job["d_in"],
        "dict_size": job["d_sae"],
        "layer": 0,
        "lm_name": "benchmark",
        "lr": job["lr"],
        "warmup_steps": 0,
        "device": job["device"],
    }
    kind = job["kind"]
    if kind == "topk":
        return TopKTrainer(**common, k=job["k"])
    if kind == "batch_topk":
        return BatchTopKTrainer(**common, k=job["k"])
    if kind == "relu":
        return StandardTrainer(**common)
    return JumpReluTrainer(**common, target_l0=job["l0"])


@torch.no_grad()
def _load(ae: Any, weights: dict[str, Tensor], kind: str) -> None:
    if kind == "jumprelu":
        ae.W_enc.copy_(weights["W_enc"])
        ae.W_dec.copy_(weights["W_dec"])
        # Its trainer does not subtract the decoder bias from the input: what that adds goes into the encoder's.
        ae.b_enc.copy_(weights["b_enc"] - weights["b_dec"] @ weights["W_enc"])
        ae.b_dec.copy_(weights["b_dec"])
        ae.threshold.copy_(weights["threshold"])
        return
    ae.encoder.weight.copy_(weights["W_enc"].t())
    ae.encoder.bias.copy_(weights["b_enc"])
    ae.decoder.weight.copy_(weights["W_dec"].t())
    (ae.bias if kind == "relu" else ae.b_dec).copy_(weights["b_dec"])


@torch.no_grad()
def _describe(ae: Any, x: Tensor, kind: str) -> dict[str, float]:
    # Its BatchTopK encodes by a threshold, learned later, unless told.
    codes = ae.encode(x, use_threshold=False) if kind == "batch_topk" else ae.encode(x)
    return describe(x, codes, ae.decode(codes))


def encode(job: Job, channel: Channel) -> None:
    """Its TopK autoencoder's `encode`, which gives dense codes."""
    ae = AutoEncoderTopK(job["d_in"], job["d_sae"], job["k"]).to(job["device"])
    _load(ae, load_weights(job["weights"], job["device"]), "topk")
    encode_loop(job, channel, ae.encode, lambda codes: codes)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if isinstance(value, (str, int, float))}


if __name__ == "__main__":
    serve({"train": train, "encode": encode}, ["torch", "dictionary-learning"])
