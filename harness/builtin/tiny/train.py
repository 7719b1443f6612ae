"""Train the tiny language model of this folder: corpus, tokenizer, model, log.

    python -m harness.builtin.tiny.train --corpus CORPUS_DIR --out OUT_DIR --minutes 70

A `LlamaForCausalLM` of 2.6 M parameters (d_model 192, 4 layers), trained from scratch with Muon on the matrices and
AdamW on the rest. Every training row begins with `<|endoftext|>`; three steps in four use rows of 128 tokens, the
fourth rows of 512, so that both lengths can be read. The learning rate falls linearly with the time spent, not with
the step, so a run always ends annealed. Interrupted runs go on from `OUT_DIR/checkpoint.pt`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import corpus

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 4096
CONTEXT = 128
LONG_CONTEXT = 512
LONG_EVERY = 4
FINAL_LR_FRACTION = 0.02
WARMUP_STEPS = 20
FINAL_EVAL_TOKENS = 200_000
SAMPLE_NAME = "text.jsonl.gz"


@dataclass(slots=True)
class Progress:
    """What a run has done so far; kept in the checkpoint and written to the log."""

    step: int = 0
    n_tokens: int = 0
    train_seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def train_tokenizer(documents: list[corpus.Document], folder: Path) -> None:
    """Train a byte-level BPE on the training side and save it as a fast tokenizer that adds no special token."""
    bpe = ByteLevelBPETokenizer(add_prefix_space=False)
    texts = (document.text for document in documents if not document.held_out)
    bpe.train_from_iterator(texts, vocab_size=VOCAB_SIZE, special_tokens=[END_OF_TEXT], show_progress=False)
    backend = Tokenizer.from_str(bpe._tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that version 4 does not know.
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def edit_json(path: Path, **values: str) -> None:
    """Set some keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """One stream of token ids, `<|endoftext|>` before each document."""
    end = tokenizer.eos_token_id
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return np.array([token for ids in encoded for token in (end, *ids)], dtype=np.int64)


def byte_lengths(tokenizer: Any) -> Tensor:
    """UTF-8 bytes that each token stands for; zero for `<|endoftext|>`. In a byte-level BPE a character is a byte."""
    lengths = [len(token) for token in tokenizer.convert_ids_to_tokens(range(VOCAB_SIZE))]
    lengths[tokenizer.eos_token_id] = 0
    return torch.tensor(lengths, dtype=torch.long)


def rows_of(stream: np.ndarray, starts: np.ndarray, context: int, end_of_text: int) -> Tensor:
    """Rows of `context` tokens, each `<|endoftext|>` followed by `context - 1` tokens of the stream."""
    rows = stream[starts[:, None] + np.arange(context - 1)[None, :]]
    first = np.full((len(starts), 1), end_of_text, dtype=np.int64)
    return torch.from_numpy(np.concatenate([first, rows], axis=1))


class Loss(NamedTuple):
    """Held-out loss; the two units of one number, since tokens differ in length."""

    nats_per_token: float
    bits_per_byte: float


def build_model(seed: int) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=LONG_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest orthogonal matrix (Keller Jordan 2024, "Muon").

    The orthogonalisation is five quintic Newton-Schulz steps; matrices of one shape go through it together.
    The update is scaled by sqrt(max(1, rows / columns)), so one learning rate serves all shapes.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float = 0.02, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every matrix once from its gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for param in group["params"]:
                by_shape.setdefault(param.shape, []).append(param)
            for shape, params in by_shape.items():
                updates = torch.stack([self._momentum(param, group["momentum"]) for param in params])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for param, update in zip(params, orthogonalise(updates), strict=True):
                    param.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, param: torch.nn.Parameter, momentum: float) -> Tensor:
        if param.grad is None:
            return torch.zeros_like(param)
        state = self.state[param]
        buffer = state.setdefault("momentum_buffer", torch.zeros_like(param))
        buffer.lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(buffer, momentum)  # Nesterov


def orthogonalise(matrices: Tensor, n_steps: int = 5) -> Tensor:
    """Push the singular values of each matrix of a stack towards 1 (Newton-Schulz, coefficients of Jordan 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(n_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


def build_optimizers(model: LlamaForCausalLM, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the tied embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=muon_lr),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def next_token_nll(model: LlamaForCausalLM, rows: Tensor, *, bf16: bool = False) -> Tensor:
    """Negative log-likelihood in nats of every token but the first, shape (rows * (context - 1),)."""
    with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=rows).logits[:, :-1]
    flat = logits.float().reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, rows[:, 1:].reshape(-1), reduction="none")


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, stream: np.ndarray, lengths: Tensor, n_rows: int, context: int = CONTEXT) -> Loss:
    """Loss in nats a token and in bits a byte over `n_rows` rows spread evenly over a held-out stream."""
    device = model.device
    starts = np.linspace(0, len(stream) - context, num=min(n_rows, len(stream) // context)).astype(np.int64)
    nats, n_bytes, n_tokens = 0.0, 0, 0
    for part in np.array_split(starts, max(1, len(starts) * context // 4096)):
        rows = rows_of(stream, part, context, 0).to(device)
        nats += float(next_token_nll(model, rows).sum())
        n_tokens += rows[:, 1:].numel()
        n_bytes += int(lengths[rows[:, 1:].cpu()].sum())
    return Loss(nats / n_tokens, nats / n_bytes / math.log(2))


def batches(stream: np.ndarray, batch_tokens: int, seed: int, first_step: int, device: str) -> Iterator[Tensor]:
    """Random rows, drawn from (seed, step) alone, so that a resumed run sees what an unbroken one would."""
    step = first_step
    while True:
        context = LONG_CONTEXT if step % LONG_EVERY == LONG_EVERY - 1 else CONTEXT
        starts = np.random.default_rng((seed, step)).integers(0, len(stream) - context, size=batch_tokens // context)
        yield rows_of(stream, starts, context, 0).to(device)
        step += 1


def lr_factor(progress: Progress, budget_s: float) -> float:
    """Warm-up over the first steps, then linear in time down to `FINAL_LR_FRACTION`."""
    done = min(1.0, progress.train_seconds / budget_s)
    return min(1.0, (progress.step + 1) / WARMUP_STEPS) * (1 - (1 - FINAL_LR_FRACTION) * done)


def save_checkpoint(
    path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write the whole state beside its final name, then rename, so a cut never leaves half a file."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": [progress.step, progress.n_tokens, progress.train_seconds, progress.curve],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.rename(path)


def load_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Restore a run, or begin a new one when there is no checkpoint. The learning rates stay those of `optimizers`."""
    if not path.exists():
        return Progress()
    state = torch.load(path, map_location=model.device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        peaks = [group["peak_lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(saved)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["peak_lr"] = peak
    return Progress(*state["progress"])


def record(progress: Progress, loss: Loss) -> None:
    """Add a point to the curve and print it."""
    nats, bits = round(loss.nats_per_token, 4), round(loss.bits_per_byte, 4)
    progress.curve.append({"n_tokens": progress.n_tokens, "nats_per_token": nats, "bits_per_byte": bits})
    rate = progress.n_tokens / max(progress.train_seconds, 1e-9)
    clock = f"{progress.train_seconds:7.0f} s  {progress.n_tokens:>10,} tokens  {rate:,.0f} tok/s"
    print(f"{clock}  {nats:.4f} nats  {bits:.4f} bits/byte", flush=True)


def train(
    options: argparse.Namespace, train_stream: np.ndarray, held_out: np.ndarray, lengths: Tensor
) -> tuple[LlamaForCausalLM, Progress]:
    """Train until the time budget is spent; evaluation time is not counted against it."""
    model = build_model(options.seed).to(options.device)
    optimizers = build_optimizers(model, options.muon_lr, options.adam_lr)
    checkpoint = options.out / "checkpoint.pt"
    progress = load_checkpoint(checkpoint, model, optimizers)
    budget_s = options.minutes * 60
    next_eval = progress.train_seconds
    for rows in batches(train_stream, options.batch_tokens, options.seed, progress.step, options.device):
        finished = progress.train_seconds >= budget_s
        if finished or progress.train_seconds >= next_eval:
            record(progress, evaluate(model, held_out, lengths, options.eval_rows))
            save_checkpoint(checkpoint, model, optimizers, progress)
            next_eval = progress.train_seconds + min(options.eval_every_s, 15 + progress.train_seconds / 4)
        if finished:
            return model, progress
        started = time.monotonic()
        factor = lr_factor(progress, budget_s)
        next_token_nll(model, rows, bf16=options.bf16).mean().backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.n_tokens += rows.numel()
        progress.train_seconds += time.monotonic() - started
    raise AssertionError("the batch generator never ends")


def export(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Save as fp16 safetensors with its config, and give back the model as a reader will load it (float32)."""
    model.cpu().half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    edit_json(folder / "config.json", dtype="float32")  # the files are half precision to be small, not to compute in
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def write_log(
    options: argparse.Namespace, progress: Progress, results: dict[str, dict[str, float]], counts: dict[str, int]
) -> None:
    """Write `train_log.json`: what was trained, on what, for how long, and how well it came out."""
    names = ("muon_lr", "adam_lr", "batch_tokens", "bf16")
    log = {
        "model": "LlamaForCausalLM d_model=192 layers=4 heads=6 ffn=512 vocab=4096 tied",
        "seed": options.seed,
        "optimizer": {name: getattr(options, name) for name in names},
        "context": {"short": CONTEXT, "long": LONG_CONTEXT, "long_every": LONG_EVERY},
        "steps": progress.step,
        "n_tokens": progress.n_tokens,
        "train_minutes": round(progress.train_seconds / 60, 1),
        "hardware": options.hardware,
        "torch": torch.__version__,
        "held_out": results,
        "corpus": counts,
        "packages": corpus.manifest(options.corpus),
        "curve": progress.curve,
    }
    (options.out / "train_log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    has_cuda = torch.cuda.is_available()
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the packages; missing ones are fetched")
    parser.add_argument("--out", type=Path, required=True, help="folder for model, tokenizer, text sample and log")
    parser.add_argument("--minutes", type=float, default=70.0, help="training time, evaluation not counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if has_cuda else "cpu")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--eval-rows", type=int, default=400, help="held-out rows of 128 tokens at each evaluation")
    parser.add_argument("--eval-every-s", type=float, default=180.0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=has_cuda, help="bf16 autocast")
    parser.add_argument("--hardware", default="", help="a few words for the log, for example '2 CPU cores'")
    return parser.parse_args()


def main() -> None:
    """Build the corpus, the tokenizer (unless there is one) and the model."""
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    corpus.download(options.corpus)
    documents = corpus.build(options.corpus)
    if not (options.out / "tokenizer.json").exists():
        train_tokenizer(documents, options.out)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    corpus.write_sample(documents, options.out / SAMPLE_NAME)
    train_stream = encode(tokenizer, [d.text for d in documents if not d.held_out])
    held_out = encode(tokenizer, [d.text for d in documents if d.held_out and len(d.text) >= corpus.MIN_SAMPLE_CHARS])
    lengths = byte_lengths(tokenizer)
    print(f"{len(train_stream):,} training tokens, {len(held_out):,} held-out tokens", flush=True)
    model, progress = train(options, train_stream, held_out, lengths)
    loaded = export(model, options.out)
    results: dict[str, dict[str, float]] = {}
    for context in (CONTEXT, LONG_CONTEXT):
        loss = evaluate(loaded, held_out, lengths, FINAL_EVAL_TOKENS // context, context)
        results[f"context_{context}"] = {name: round(value, 4) for name, value in loss._asdict().items()}
    counts = {"train_tokens": len(train_stream), "held_out_tokens": len(held_out), "documents": len(documents)}
    write_log(options, progress, results, counts)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
