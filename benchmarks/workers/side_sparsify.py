"""sparsify's side: its own `Trainer.fit`, over an LM whose one module passes activations on.

Its trainer knows no batches of activations: it hooks a module of an LM. So it is given one that looks rows up in the
pool, which costs a copy of the batch (below 2 % of its step at size A).
"""

from __future__ import annotations

import time
import types
from pathlib import Path
from typing import Any

import datasets
import torch
from serve import Batches, Channel, Job, Pacer, Stopped, capture_loop, describe, encode_loop, load_weights, serve
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer  # pyright: ignore[reportMissingImports]
from sparsify.data import chunk_and_tokenize  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

N_STEPS = 1_000_000


class Lookup(nn.Module):
    """What sparsify takes for an LM: token ids are numbers of rows, and `act` is the module it hooks."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.act = nn.Identity()
        self.rows = rows
        self.config = types.SimpleNamespace(num_hidden_layers=1)
        self.device = rows.device
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
        self.on_call: Any = None

    @property
    def base_model(self) -> nn.Module:
        """The model without its head: all of it."""
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.on_call is not None:
            self.on_call()
        return self.act(self.rows[input_ids])


def train(job: Job, channel: Channel) -> None:
    """Its trainer with the optimiser named in `job["optimiser"]`, from the weights given."""
    batches = Batches(job["x"], job["batch"], job["device"])
    model = Lookup(batches.rows)
    trainer = Trainer(_config(job), Sequences(batches), model)
    weights = load_weights(job["weights"], job["device"])
    for sae in trainer.saes.values():
        _load(sae, weights)
    sae = next(iter(trainer.saes.values()))

    def facts() -> dict[str, Any]:
        config = {"optimiser": job["optimiser"], "lr": job["lr"], "loss": "fvu"}
        return {"config": config, **_describe(sae, batches[0])}

    channel.reply(**facts())
    # At its first step it sets the decoder bias to the batch's mean; all sides begin with the same one instead.
    trainer.global_step = 1
    pacer = Pacer(channel, job["warm"], facts, job["device"])
    begun = False

    def on_call() -> None:
        # The LM is called at the beginning of a step: the one before is then done.
        nonlocal begun
        if begun:
            pacer.tick()
        begun = True

    model.on_call = on_call
    try:
        trainer.fit()
    except Stopped:
        channel.reply(stopped=True)


class Sequences:
    """Batches as sequences of row numbers: what its DataLoader reads. Slices begin where the trainer says."""

    def __init__(self, batches: Batches, start: int = 0) -> None:
        self._batches, self._start = batches, start

    def __len__(self) -> int:
        return N_STEPS

    def select(self, chosen: range) -> Sequences:
        """The part a resumed run still has to see: all of it here, from its beginning."""
        return self

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        first = index % self._batches.count * self._batches.size
        return {"input_ids": torch.arange(first, first + self._batches.size)}


def _config(job: Job) -> TrainConfig:
    return TrainConfig(
        SparseCoderConfig(num_latents=job["d_sae"], k=job["k"]),
        batch_size=1,
        optimizer=job["optimiser"],
        lr=job["lr"],
        lr_warmup_steps=0,
        hookpoints=["act"],
        init_seeds=list(range(job.get("n_saes", 1))),
        save_every=10 * N_STEPS,
        log_to_wandb=False,
    )


@torch.no_grad()
def _load(sae: Any, weights: dict[str, Tensor]) -> None:
    sae.encoder.weight.copy_(weights["W_enc"].t())
    sae.encoder.bias.copy_(weights["b_enc"])
    sae.W_dec.copy_(weights["W_dec"])
    sae.b_dec.copy_(weights["b_dec"])


def _dense(output: Any, d_sae: int) -> Tensor:
    dense = torch.zeros(len(output.top_acts), d_sae, device=output.top_acts.device)
    return dense.scatter(1, output.top_indices, output.top_acts)


@torch.no_grad()
def _describe(sae: Any, x: Tensor) -> dict[str, float]:
    codes = sae.encode(x)
    return describe(x, codes.top_acts, sae.decode(codes.top_acts, codes.top_indices))


def encode(job: Job, channel: Channel) -> None:
    """Its `encode`, which gives values, indices and all pre-activations."""
    config = SparseCoderConfig(num_latents=job["d_sae"], k=job["k"])
    sae = SparseCoder(job["d_in"], config, device=job["device"])
    _load(sae, load_weights(job["weights"], job["device"]))
    encode_loop(job, channel, sae.encode, lambda output: _dense(output, job["d_sae"]))


def whole_run(job: Job, channel: Channel) -> None:
    """All seeds of one k from text to checkpoints, on one pass of the LM, as its command line runs `Trainer`."""
    wall, cpu = time.perf_counter(), time.process_time()
    config = TrainConfig(
        SparseCoderConfig(num_latents=job["d_sae"], k=job["k"]),
        batch_size=job["batch"] // job["seq_len"],
        optimizer="adam",
        lr=job["lr"],
        lr_warmup_steps=0,
        hookpoints=[f"h.{job['layer']}"],
        init_seeds=list(range(job["n_seeds"])),
        save_dir=job["out"],
        log_to_wandb=False,
    )
    text = datasets.load_dataset("json", data_files=job["text"], split="train")
    tokenizer = AutoTokenizer.from_pretrained(job["lm"])
    sequences = chunk_and_tokenize(text, tokenizer, max_seq_len=job["seq_len"], num_proc=1)
    sequences = sequences.shuffle(42).with_format("torch").select(range(job["n_tokens"] // job["seq_len"]))
    model = AutoModel.from_pretrained(job["lm"], dtype=torch.float32).to(job["device"])
    Trainer(config, sequences, model).fit()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    channel.reply(seconds=wall, cpu_seconds=cpu, n_saes=len(list(Path(job["out"]).rglob("sae.safetensors"))))


def capture(job: Job, channel: Channel) -> None:
    """The LM without its head, all blocks, with a hook on one: what its trainer runs whatever the hookpoint."""
    model: Any = AutoModel.from_pretrained(job["lm"], dtype=torch.float32).to(job["device"]).eval()
    found: list[Tensor] = []
    module = model.get_submodule(f"h.{job['layer']}")
    module.register_forward_hook(lambda _m, _i, out: found.append(out[0] if isinstance(out, tuple) else out))

    def run(tokens: Tensor) -> Tensor:
        model(tokens)
        return found.pop()

    capture_loop(job, channel, run)


if __name__ == "__main__":
    serve(
        {"train": train, "encode": encode, "run": whole_run, "capture": capture},
        ["torch", "eai-sparsify", "transformers"],
    )
