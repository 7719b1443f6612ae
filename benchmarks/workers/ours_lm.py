"""Our side where an LM takes part: one more SAE's core evaluation, capture, whole runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve import Channel, Job, capture_loop, paced

from harness import pipeline
from harness.activations.keys import STORE_VERSION
from harness.activations.language_model import load_language_model
from harness.activations.sources import resolve_lm
from harness.artefacts.cache import Cache
from harness.bench import Bench
from harness.cli.progress import BarProgress
from harness.compute import Compute
from harness.config import LMConfig, SuiteConfig, TextConfig
from harness.data.labelled import LabelledSet, distinct, write_collection
from harness.data.text_source import package_folder
from harness.methods import resolve_method
from harness.plugins import load_catalogue
from harness.training.checkpoint import load_sae


def bench_of(job: Job) -> Bench:
    """A suite for this benchmark, with the cache it names."""
    suite = SuiteConfig(
        name="benchmark",
        summary="Made for a benchmark.",
        claim="a benchmark of speed",
        lm=LMConfig(source=job["lm"]),
        text=TextConfig(
            source=job["text"],
            seq_len=job["seq_len"],
            n_train_tokens=job["n_train_tokens"],
            n_eval_sequences=job["n_eval_sequences"],
            prepend_bos=False,
        ),
        hookpoint=job["hookpoint"],
        d_sae=job["d_sae"],
        l0_grid=tuple(job["l0_grid"]),
        seeds=tuple(range(job["n_seeds"])),
        n_tokens=job["n_tokens"],
        batch_size=job["batch"],
        evaluators=tuple(job["evaluators"]),
        evaluator_options=job.get("evaluator_options", {}),
        controls=(),
    )
    compute = Compute(device=job["device"])
    return Bench(suite, load_catalogue(), Cache(Path(job["cache"])), compute=compute)


class EvaluationWork:
    """SAEs trained briefly, and what their evaluation shares; kept between jobs."""

    def __init__(self) -> None:
        self._bench: Any = None
        self._context: Any = None
        self._saes: list[Any] = []

    def setup(self, job: Job, channel: Channel) -> None:
        """Train the SAEs, evaluate the first (which makes what all share), and write weights and tokens down."""
        bench, folder, progress = bench_of(job), Path(job["folder"]), BarProgress(quiet=True)
        for name, file in job.get("collections", {}).items():
            write_texts_as(bench.collections / name, json.loads(Path(file).read_text()))
        method = resolve_method(bench.catalogue, "topk")
        folders = pipeline.train(bench, bench.jobs(method), progress=progress)
        self._bench = bench
        self._saes = [load_sae(path, lambda name: bench.catalogue.sae(name).load()) for path in folders.values()]
        files = []
        for number, sae in enumerate(self._saes):
            files.append(str(folder / f"sae-{number}.npz"))
            np.savez(files[-1], **{name: value.numpy() for name, value in sae.state_dict().items()})
        self._context = pipeline.eval_context(bench, progress)
        tokens = torch.cat([batch.tokens for batch in self._context.batches()])
        mask = torch.cat([batch.mask for batch in self._context.batches()])
        np.save(folder / "held-out-tokens.npy", tokens.numpy())
        seconds, _ = self._evaluate(job["evaluators"], 0)
        channel.reply(
            lm=str(resolve_lm(LMConfig(source=job["lm"]), bench.cache.root).folder),
            d_in=self._context.d_in,
            weights=files,
            tokens=str(folder / "held-out-tokens.npy"),
            counted=int(mask.sum()),
            sequences=len(tokens),
            first_seconds=seconds,
        )

    def run(self, job: Job, channel: Channel) -> None:
        """One more SAE by the evaluators named."""
        cpu = time.process_time()
        seconds, metrics = self._evaluate(job["evaluators"], job["index"])
        channel.reply(seconds=seconds, cpu_seconds=time.process_time() - cpu, metrics=metrics)

    def _evaluate(self, names: Sequence[str], index: int) -> tuple[float, dict[str, float]]:
        evaluators = [self._bench.catalogue.evaluator(name) for name in names]
        begun = time.perf_counter()
        outcomes = pipeline.measure(self._bench, self._saes[index], evaluators, self._context, BarProgress(quiet=True))
        seconds = time.perf_counter() - begun
        metrics: dict[str, float] = {}
        for name in names:
            if outcomes[name].status != "done":
                raise RuntimeError(f"Evaluator {name!r} {outcomes[name].status}: {outcomes[name].reason}")
            metrics.update({metric: float(value.value) for metric, value in outcomes[name].metrics.items()})
        return seconds, metrics


def write_texts_as(folder: Path, texts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """A collection of one set with a class for each source of passages; `texts`: split -> class -> texts."""
    classes = sorted(texts["train"])
    rows = [(text, n) for n, name in enumerate(classes) for part in texts.values() for text in part[name]]
    kept, labels = distinct([text for text, _ in rows], [label for _, label in rows])
    folder.mkdir(parents=True, exist_ok=True)
    source = "passages of the embedded text"
    labelled = LabelledSet(
        name="source", texts=kept, labels=labels, classes=tuple(classes), licence="as its notices say", source=source
    )
    write_collection(folder, [labelled], {})


def make_lm(job: Job, channel: Channel) -> None:
    """Save an LM of GPT-2's architecture with random weights and the embedded LM's tokenizer, as a local folder."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = Path(job["folder"])
    if not (folder / "model.safetensors").exists():
        tokenizer = AutoTokenizer.from_pretrained(package_folder("harness.builtin.tiny"))
        config = GPT2Config(**job["shape"], bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
        config.n_ctx = config.n_positions  # as the hub's config has it, and TransformerLens reads it
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    channel.reply(folder=str(folder))


def whole_run(job: Job, channel: Channel) -> None:
    """All SAEs of a grid from text to checkpoints, as `sae-harness run` trains them; its cache begins empty."""
    wall, cpu = time.perf_counter(), time.process_time()
    bench = bench_of(job)
    jobs = bench.jobs(resolve_method(bench.catalogue, "topk"))
    folders = pipeline.train(bench, jobs, progress=BarProgress(quiet=True))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    saved = [path / "sae.safetensors" for path in folders.values()]
    channel.reply(seconds=wall, cpu_seconds=cpu, n_saes=sum(path.is_file() for path in saved))


def capture(job: Job, channel: Channel) -> None:
    """`LanguageModel.capture`: the pass ends at the hookpoint."""
    config, hookpoint = LMConfig(source=job["lm"]), job["hookpoint"]
    lm = load_language_model(config, resolve_lm(config, Path(job["cache"])), device=job["device"])
    capture_loop(job, channel, lambda tokens: lm.capture(tokens, [hookpoint])[hookpoint])


def capture_to_store(job: Job, channel: Channel) -> None:
    """A store of activations on the disk, from tokens, as a run captures it; made again and again."""
    bench, progress = bench_of(job), BarProgress(quiet=True)

    def store(_number: int) -> None:
        bench.cache.remove("activations", bench.store_key_inputs("train"), STORE_VERSION)
        bench.store("train", progress)

    store(0)  # the text is then in tokens
    paced(job, channel, store)
