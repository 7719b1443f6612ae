"""sae_bench's side: the encode of its TopK SAE, its core evaluation, its sparse probing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import datasets
import hooked
import numpy as np
import torch
from sae_bench.custom_saes.topk_sae import TopKSAE  # pyright: ignore[reportMissingImports]
from sae_bench.evals.core.eval_config import CoreEvalConfig  # pyright: ignore[reportMissingImports]
from sae_bench.evals.core.main import run_evals  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing.eval_config import (  # pyright: ignore[reportMissingImports]
    SparseProbingEvalConfig,
)
from sae_bench.evals.sparse_probing.main import run_eval_single_sae  # pyright: ignore[reportMissingImports]
from sae_bench.sae_bench_utils import dataset_info, dataset_utils  # pyright: ignore[reportMissingImports]
from sae_lens.training.activations_store import ActivationsStore  # pyright: ignore[reportMissingImports]
from serve import Channel, Job, encode_loop, load_weights, serve

LOCAL = "local"


def encode(job: Job, channel: Channel) -> None:
    """Its TopK SAE's `encode`, which gives dense codes."""
    encode_loop(job, channel, topk_sae(job).encode, lambda codes: codes)


@torch.no_grad()
def topk_sae(job: Job) -> Any:
    """Its TopK SAE with the weights given."""
    sae = TopKSAE(
        job["d_in"],
        job["d_sae"],
        job["k"],
        job.get("lm", "benchmark"),
        job.get("layer", 0),
        torch.device(job["device"]),
        torch.float32,
    )
    for name, value in load_weights(job["weights"], job["device"]).items():
        getattr(sae, name).copy_(value)
    return sae


class CoreWork:
    """The LM and the text, kept between jobs."""

    def __init__(self) -> None:
        self._model: Any = None
        self._store: Any = None
        self._config: Any = None

    def setup(self, job: Job, channel: Channel) -> None:
        """Load the LM, and make its own store of the sequences that our side evaluates on."""
        self._model = hooked.load(job["lm"], job["device"])
        tokens = np.load(job["tokens"])
        size = job["batch_sequences"]
        n_batches = len(tokens) // size
        self._store = ActivationsStore(
            model=self._model,
            dataset=datasets.Dataset.from_dict({"tokens": tokens.tolist()}),
            streaming=False,
            hook_name=job["hookpoint"],
            hook_head_index=None,
            context_size=tokens.shape[1],
            d_in=job["d_in"],
            n_batches_in_buffer=1,
            total_training_tokens=len(tokens),
            store_batch_size_prompts=size,
            train_batch_size_tokens=tokens.shape[1],
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device(job["device"]),
            dtype="float32",
        )
        # Both of its passes over the same sequences: the store begins again when it has given all.
        self._config = CoreEvalConfig(
            batch_size_prompts=size,
            n_eval_reconstruction_batches=n_batches,
            n_eval_sparsity_variance_batches=n_batches,
            context_size=tokens.shape[1],
            compute_kl=True,
            compute_ce_loss=True,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
            exclude_special_tokens_from_reconstruction=True,
        )
        channel.reply(batches=n_batches)

    def run(self, job: Job, channel: Channel) -> None:
        """Evaluate one SAE."""
        sae, tokenizer = topk_sae(job), self._model.tokenizer
        ignored = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
        wall, cpu = time.perf_counter(), time.process_time()
        scalars, latents = run_evals(sae, self._store, self._model, self._config, ignore_tokens=ignored)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        flat = {name: value for group in scalars.values() for name, value in group.items()}
        flat["dead_latent_fraction"] = float(np.mean(np.array(latents["feature_density"]) == 0))
        channel.reply(seconds=wall, cpu_seconds=cpu, metrics=flat)


class ProbingWork:
    """Its sparse probing on labelled texts of ours: only where the texts come from is another."""

    def __init__(self) -> None:
        self._model: Any = None
        self._config: Any = None
        self._artifacts = ""

    def setup(self, job: Job, channel: Channel) -> None:
        """Load the LM, and let its data set of that name be the texts given."""
        self._model = hooked.load(job["lm"], job["device"])
        self._artifacts = job["artifacts"]
        texts = json.loads(Path(job["texts"]).read_text())
        dataset_info.chosen_classes_per_dataset[LOCAL] = list(texts["train"])
        dataset_utils.get_multi_label_train_test_data = lambda *_: (texts["train"], texts["test"])
        self._config = SparseProbingEvalConfig(
            dataset_names=[LOCAL],
            context_length=job["seq_len"],
            llm_batch_size=16,
            llm_dtype="float32",
            model_name=job["lm"],
        )
        channel.reply(classes=len(texts["train"]))

    def run(self, job: Job, channel: Channel) -> None:
        """Probe one SAE. The first also runs the LM and probes its activations; the others find that done."""
        sae = topk_sae(job)
        wall, cpu = time.perf_counter(), time.process_time()
        found, _ = run_eval_single_sae(self._config, sae, self._model, job["device"], self._artifacts)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        metrics = {name: value for name, value in found.items() if isinstance(value, float)}
        channel.reply(seconds=wall, cpu_seconds=cpu, metrics=metrics)


if __name__ == "__main__":
    core, probing = CoreWork(), ProbingWork()
    serve(
        {
            "encode": encode,
            "core_setup": core.setup,
            "core": core.run,
            "probing_setup": probing.setup,
            "probing": probing.run,
        },
        ["torch", "sae-bench", "sae-lens", "transformer-lens", "transformers"],
    )
