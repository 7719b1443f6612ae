"""The sparse probing evaluator: how much of what texts are labelled with can be read off a few latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, NotEvaluatedError, Option
from harness.evaluation.probing import PooledCodes, ProbeResults, Scores, Sizes, Tasks, mean_rows, probe, tasks_of

from .options import chosen_options
from .probing_specs import KS, PUBLISHED_KS

_DEFAULTS: dict[str, int | str] = {
    "collection": "sae-probes",
    "n_train": 96,
    "n_validation": 48,
    "n_test": 96,
    "max_tokens": 64,
    "last_tokens": 32,
    "max_tasks": 0,
}
_RELIABLE = 2.0
"""Standard errors by which the raw-activation probe must beat chance on validation texts for a task to count."""
_SCORES = ("accuracy", "auc", "f1")


class SparseProbingEvaluator(Evaluator):
    """k-sparse and full probes on mean-pooled latents, beside probes on the raw activations of the same texts.

    Options: `collection` of labelled sets; `n_train`, `n_validation`, `n_test` texts of a task, half of each class;
    a text is read in the context of its last `max_tokens` tokens, and its last `last_tokens` are pooled; `max_tasks`
    bounds the number of tasks (0: all). Draws and split follow from the evaluation seed.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        chosen = chosen_options("sparse_probing", _DEFAULTS, self.options)
        self._collection = str(chosen["collection"])
        train, validation, test, self._max_tokens, self._last_tokens, self._max_tasks = (
            int(chosen[name]) for name in list(_DEFAULTS)[1:]
        )
        self._sizes = Sizes(train=train // 2, validation=validation // 2, test=test // 2)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the labelled texts are not there, or the LM's activations carry fewer than two tasks.
            NonFiniteError: codes are not finite.
        """
        samples = context.labelled_samples(self._collection, self._sizes)
        tasks = tasks_of(samples[: self._max_tasks] if self._max_tasks else samples)
        raw = context.shared("raw", {"tasks": tasks.sha256, **self._options()}, lambda: self._raw(context, tasks))
        raw = {name: series.cpu() for name, series in raw.items()}
        counted = _counted(raw, tasks)
        pooled = PooledCodes(sae.config.d_sae)
        for part in context.text_activations(tasks.texts, max_tokens=self._max_tokens, last_tokens=self._last_tokens):
            pooled.add(context.encode(sae, part.rows), part.text)
        ours = _flat(probe(pooled.features, tasks, ks=KS, published_ks=PUBLISHED_KS))
        metrics = {"probing_tasks": _tasks_metric(tasks, raw, counted)}
        for k in KS:
            metrics |= _averages(f"sparse_probing_top{k}", f"top{k}", ours, counted)
        metrics |= _averages("probing_full", "full", ours, counted)
        metrics |= _averages("raw_probing", "full", raw, counted)
        for k in PUBLISHED_KS:
            metrics[f"saebench_sparse_probing_top{k}_accuracy"] = _average(ours, f"published{k}.accuracy", counted)
        return metrics

    def _options(self) -> dict[str, int]:
        return {"max_tokens": self._max_tokens, "last_tokens": self._last_tokens}

    def _raw(self, context: EvalContext, tasks: Tasks) -> dict[str, Tensor]:
        """The same probes on the raw activations, and their validation AUC. Nothing here depends on the SAE."""
        parts = context.text_activations(tasks.texts, max_tokens=self._max_tokens, last_tokens=self._last_tokens)
        pooled = mean_rows(((part.rows, part.text) for part in parts), len(tasks.texts))
        features: Callable[[Tensor], Tensor] = lambda texts: pooled[texts]  # noqa: E731
        return _flat(probe(features, tasks, ks=KS, published_ks=PUBLISHED_KS))


def _flat(results: ProbeResults) -> dict[str, Tensor]:
    """Every series of the results by name, [t] each."""
    named: dict[str, Scores] = {"full": results.full}
    named |= {f"top{k}": scores for k, scores in results.top.items()}
    named |= {f"published{k}": scores for k, scores in results.published.items()}
    flat = {f"{name}.{field}": value for name, scores in named.items() for field, value in scores._asdict().items()}
    flat["validation_auc"] = results.full_validation_auc
    flat["validation_auc_stderr"] = results.full_validation_auc_stderr
    return flat


def _counted(raw: Mapping[str, Tensor], tasks: Tasks) -> Tensor:
    """[t] bool: the tasks that the LM's activations carry, judged on validation texts.

    Raises:
        DataError: they are fewer than two.
    """
    counted = raw["validation_auc"] - 0.5 > _RELIABLE * raw["validation_auc_stderr"]
    if int(counted.sum()) < 2:
        best = float(raw["validation_auc"].max())
        raise NotEvaluatedError(
            f"The language model carries {int(counted.sum())} of {len(tasks.names)} probing tasks at this hookpoint; "
            f"two are needed. On the others the probe on raw activations is within {_RELIABLE:g} standard errors of "
            f"chance on validation texts (highest AUC of all tasks: {best:.3f}). Use a larger LM or more texts a task."
        )
    return counted


def _tasks_metric(tasks: Tasks, raw: Mapping[str, Tensor], counted: Tensor) -> MetricValue:
    """How many tasks count, and of each the reason: what the raw probe scored on validation and test texts."""
    columns = torch.stack(
        [
            counted.double(),
            raw["validation_auc"],
            raw["validation_auc_stderr"],
            raw["full.auc"],
            tasks.training.weights.sum(1),
            tasks.validation.weights.sum(1),
            tasks.test.weights.sum(1),
        ],
        dim=1,
    )
    detail = {name: tuple(row) for name, row in zip(tasks.names, columns.tolist(), strict=True)}
    return MetricValue(value=float(counted.sum()), n=len(tasks.names), detail=detail)


def _averages(metric: str, series: str, values: Mapping[str, Tensor], counted: Tensor) -> dict[str, MetricValue]:
    return {f"{metric}_{field}": _average(values, f"{series}.{field}", counted) for field in _SCORES}


def _average(values: Mapping[str, Tensor], series: str, counted: Tensor) -> MetricValue:
    """Mean over the tasks that count, its standard error over tasks, and each task's own value and standard error."""
    own = values[series][counted]
    return MetricValue(
        value=float(own.mean()),
        n=len(own),
        stderr=float(own.std()) / math.sqrt(len(own)),
        detail={"task": tuple(own.tolist()), "task_stderr": tuple(values[f"{series}_stderr"][counted].tolist())},
    )
