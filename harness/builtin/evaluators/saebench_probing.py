"""Sparse probing under SAEBench's definition, beside our own in `sparse_probing`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.probing import PooledCodes, mean_rows
from harness.evaluation.probing_published import Task, draw_sets, full_accuracies, sparse_accuracies, tasks_of

from .options import chosen_options
from .probing_specs import PUBLISHED_KS

_DEFAULTS: dict[str, int | str] = {
    "collection": "class-sets",
    "set_column": "set",
    "class_column": "class",
    "n_train": 4000,
    "n_test": 1000,
    "max_tokens": 127,
}


class SAEBenchProbingEvaluator(Evaluator):
    """Probes on k latents, on all, and the same on the LM's activations.

    Options: `collection`, a table of texts with `class_column` and `set_column`: class-sets by default,
    saebench-probing for the published eight; `n_train` and `n_test` texts of a class's probe, half of them of the
    class; a text is its first `max_tokens` tokens (SAEBench's 128 with BOS). Draws follow from the evaluation seed.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        chosen = chosen_options("saebench_sparse_probing", _DEFAULTS, self.options)
        self._collection, self._set, self._class = (
            str(chosen[name]) for name in ("collection", "set_column", "class_column")
        )
        self._n_train, self._n_test, self._max_tokens = (
            int(chosen[name]) for name in ("n_train", "n_test", "max_tokens")
        )

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the table is not there, or too small.
            NonFiniteError: codes are not finite.
        """
        sets = draw_sets(
            context.table(self._collection),
            set_column=self._set,
            class_column=self._class,
            n_train=self._n_train,
            n_test=self._n_test,
            seed=context.seed,
        )
        texts, tasks = tasks_of(sets, context.generator("negatives"))
        key = {"texts": _sha256(texts, tasks), "max_tokens": self._max_tokens}
        raw = context.shared("llm", key, lambda: self._llm(context, texts, tasks))
        ours = self._sae(sae, context, texts, tasks)
        sizes = torch.tensor([[len(task.training), len(task.test)] for task in tasks], dtype=torch.float64)
        detail = {f"{t.set}: {t.name}": tuple(row) for t, row in zip(tasks, sizes.tolist(), strict=True)}
        return {
            "probing_classes": MetricValue(value=float(len(tasks)), n=len(sets), detail=detail),
            **{
                f"saebench_probing_{who}_{name}accuracy": _mean(values.cpu(), tasks)
                for who, found in (("llm", raw), ("sae", ours))
                for name, values in found.items()
            },
        }

    def _llm(self, context: EvalContext, texts: Sequence[str], tasks: Sequence[Task]) -> dict[str, Tensor]:
        """Accuracies of the classes by probe. Nothing here depends on the SAE."""
        parts = []
        for batch in context.prompt_batches([(text,) for text in texts], max_tokens=self._max_tokens):
            counted = batch.part >= 0
            parts.append((batch.activations[counted], batch.index.repeat_interleave(counted.sum(1).cpu())))
        pooled = mean_rows(parts, len(texts))
        generator = context.generator("probes of the LM")
        sparse = sparse_accuracies(lambda own: pooled[own], tasks, PUBLISHED_KS)
        return {"": full_accuracies(lambda own: pooled[own], tasks, generator), **_named(sparse)}

    def _sae(self, sae: SAE, context: EvalContext, texts: Sequence[str], tasks: Sequence[Task]) -> dict[str, Tensor]:
        pooled = PooledCodes(sae.config.d_sae)
        place = torch.zeros(len(texts), dtype=torch.int64)
        start = 0
        for batch in context.prompt_batches([(text,) for text in texts], max_tokens=self._max_tokens):
            counted = batch.part >= 0
            # Batches come in the order of their lengths: texts are numbered as they come.
            place[batch.index] = torch.arange(start, start + len(batch.index))
            text = torch.arange(start, start + len(batch.index), device=counted.device)
            start += len(batch.index)
            pooled.add(context.encode(sae, batch.activations[counted]), text.repeat_interleave(counted.sum(1)))
        generator = context.generator("probes of the SAE")
        sparse = sparse_accuracies(lambda own: pooled.features(place[own]), tasks, PUBLISHED_KS)
        return {"": full_accuracies(lambda own: pooled.features(place[own]), tasks, generator), **_named(sparse)}


def _named(sparse: Mapping[int, Tensor]) -> dict[str, Tensor]:
    return {f"top{k}_": values for k, values in sparse.items()}


def _sha256(texts: Sequence[str], tasks: Sequence[Task]) -> str:
    """Of everything that probes see."""
    digest = hashlib.sha256(json.dumps([list(texts), [(task.set, task.name) for task in tasks]]).encode("ascii"))
    for task in tasks:
        for tensor in (task.training, task.training_labels, task.test, task.test_labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _mean(values: Tensor, tasks: Sequence[Task]) -> MetricValue:
    """The mean over sets of the mean over classes; its standard error is that over sets, or over classes of one."""
    names = list(dict.fromkeys(task.set for task in tasks))
    each = [values[[number for number, task in enumerate(tasks) if task.set == name]] for name in names]
    means = torch.stack([own.mean() for own in each])
    over = means if len(means) > 1 else each[0]
    return MetricValue(
        value=float(means.mean()),
        n=len(over),
        stderr=float(over.std()) / len(over) ** 0.5,
        detail={name: tuple(own.tolist()) for name, own in zip(names, each, strict=True)},
    )
