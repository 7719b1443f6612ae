"""sae_lens' side: its own `SAETrainer.fit`, dense (its default) or with sparse activations; its `encode`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import hooked
import torch
from sae_lens import (  # pyright: ignore[reportMissingImports]
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]
from serve import Batches, Channel, Job, Pacer, Stopped, capture_loop, describe, encode_loop, load_weights, serve
from torch import Tensor

N_STEPS = 1_000_000


def train(job: Job, channel: Channel) -> None:
    """Its trainer on the SAE of `job["kind"]`, from the weights given, at a constant learning rate."""
    batches = Batches(job["x"], job["batch"], job["device"])
    sae = _sae(job)
    _load(sae, load_weights(job["weights"], job["device"]))

    def facts() -> dict[str, Any]:
        config = {"lr": job["lr"], **{n: v for n, v in vars(sae.cfg).items() if isinstance(v, (str, int, float))}}
        return {"config": config, **_describe(sae, batches[0])}

    channel.reply(**facts())
    pacer = Pacer(channel, job["warm"], facts, job["device"])
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=N_STEPS * job["batch"],
            train_batch_size_samples=job["batch"],
            lr=job["lr"],
            lr_end=job["lr"],
            device=job["device"],
        ),
        sae,
        _provider(batches, pacer),
    )
    try:
        trainer.fit()
    except Stopped:
        channel.reply(stopped=True)


def _provider(batches: Batches, pacer: Pacer) -> Iterator[Tensor]:
    """Asked for a batch at the beginning of a step: the one before is then done."""
    index = 0
    while True:
        yield batches[index]
        index += 1
        pacer.tick()


def _sae(job: Job) -> Any:
    size = {"d_in": job["d_in"], "d_sae": job["d_sae"], "device": job["device"]}
    kind = job["kind"]
    if kind == "topk" and job["sparse"]:
        # The backward pass of its default fails on sparse activations on the CPU: no gradient through the norm then.
        config = TopKTrainingSAEConfig(
            **size, k=job["k"], use_sparse_activations=True, rescale_acts_by_decoder_norm=False
        )
        return TopKTrainingSAE(config)
    if kind == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(**size, k=job["k"]))
    if kind == "batch_topk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**size, k=job["k"]))
    if kind == "relu":
        return StandardTrainingSAE(StandardTrainingSAEConfig(**size))
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**size))


@torch.no_grad()
def _load(sae: Any, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        getattr(sae, name).copy_(value)


@torch.no_grad()
def _describe(sae: Any, x: Tensor) -> dict[str, float]:
    codes = sae.encode(x)
    dense = codes.to_dense() if codes.is_sparse else codes
    return describe(x, dense, sae.decode(codes))


def encode(job: Job, channel: Channel) -> None:
    """The inference SAE's `encode`, which gives dense codes."""
    config = TopKSAEConfig(d_in=job["d_in"], d_sae=job["d_sae"], k=job["k"], device=job["device"])
    sae = TopKSAE(config)
    _load(sae, load_weights(job["weights"], job["device"]))
    encode_loop(job, channel, sae.encode, lambda codes: codes)


def whole_run(job: Job, channel: Channel) -> None:
    """One SAE from text to its saved weights by `LanguageModelSAETrainingRunner`, with its own activation store.

    Its store hands activations on in order, without mixing, from a buffer of one batch: with its defaults it would
    run the LM on half a buffer more than it trains on, which counts in a short run and not in a long one.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=job["d_in"], d_sae=job["d_sae"], k=job["k"], device=job["device"]),
        model_name=job["lm"],
        hook_name=job["hookpoint"],
        dataset_path=job["text"],
        is_dataset_tokenized=False,
        streaming=False,
        context_size=job["seq_len"],
        n_batches_in_buffer=job["batch"] // job["seq_len"],
        activations_mixing_fraction=0.0,
        training_tokens=job["n_tokens"],
        store_batch_size_prompts=job["batch"] // job["seq_len"],
        train_batch_size_tokens=job["batch"],
        prepend_bos=False,
        lr=job["lr"],
        seed=job["seed"],
        device=job["device"],
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=job["out"],
        verbose=False,
    )
    text = datasets.load_dataset("json", data_files=job["text"], split="train")
    torch.manual_seed(job["seed"])
    LanguageModelSAETrainingRunner(config, text, hooked.load(job["lm"], job["device"])).run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    channel.reply(seconds=wall, cpu_seconds=cpu, n_saes=len(list(Path(job["out"]).rglob("*.safetensors"))) // 2)


def capture(job: Job, channel: Channel) -> None:
    """TransformerLens' `run_with_cache` as its activation store calls it: the pass stops after the hookpoint."""
    model, name = hooked.load(job["lm"], job["device"]), job["hookpoint"]

    def run(tokens: Tensor) -> Tensor:
        return model.run_with_cache(tokens, names_filter=[name], stop_at_layer=job["layer"] + 1, prepend_bos=False)[1][
            name
        ]

    capture_loop(job, channel, run)


HANDLERS = {"train": train, "encode": encode, "run": whole_run, "capture": capture}

if __name__ == "__main__":
    serve(HANDLERS, ["torch", "sae-lens", "transformer-lens", "transformers"])
