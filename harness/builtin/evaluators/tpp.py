"""The TPP evaluator: does ablating the latents of one class harm that class's probe, and no other?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, NotEvaluatedError, Option
from harness.evaluation.attribute_tasks import ClassTasks, Sizes, classes_of, sha256_of
from harness.evaluation.concept_ablation import (
    PooledCodes,
    accuracy,
    correct,
    decoder_products,
    effects_of,
    fit_probes,
    fit_published_probes,
    logits_after,
    padded_codes,
    published_choice,
    strongest,
)

from .ablating import (
    RELIABLE,
    codes_at_zero,
    mean_metric,
    pooled_activations,
    pooled_codes,
    standard_error,
)
from .options import chosen_options
from .scr_tpp_specs import NS

_DEFAULTS: dict[str, int | str] = {
    "table": "class-sets",
    "set_column": "set",
    "class_column": "class",
    "n_train": 192,
    "n_selection": 96,
    "n_test": 192,
    "max_tokens": 32,
}


class TppEvaluator(Evaluator):
    """Targeted probe perturbation on sets of classes.

    Options: `table` of texts with the column `class_column`, and `set_column` that parts it into sets (empty: one
    set); `n_train`, `n_selection`, `n_test` texts of a class's probe, half of them of the class; a text is its last
    `max_tokens` tokens. Draws follow from the evaluation seed.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        chosen = chosen_options("tpp", _DEFAULTS, self.options)
        self._table, self._sets, self._classes = (str(chosen[n]) for n in ("table", "set_column", "class_column"))
        train, selection, test, self._max_tokens = (
            int(chosen[name]) for name in ("n_train", "n_selection", "n_test", "max_tokens")
        )
        self._sizes = Sizes(train=train // 2, validation=selection // 2, test=test // 2)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the table is not there or too small, the LM's activations carry too few classes, or the SAE's
                decode is not linear.
            NonFiniteError: codes are not finite.
        """
        tasks = classes_of(
            context.table(self._table),
            set_column=self._sets,
            class_column=self._classes,
            sizes=self._sizes,
            seed=context.seed,
        )
        key = {"texts": _sha256(tasks), "max_tokens": self._max_tokens}
        raw = context.shared("probes", key, lambda: self._raw(context, tasks))
        raw = {name: series.cpu() for name, series in raw.items()}
        counted, found = _counted(raw, tasks)
        pooled = pooled_codes(sae, context, tasks.texts, self._max_tokens)
        drops = _drops(pooled, tasks, raw["test"], decoder_products(sae, raw["weights"]))
        padding = (codes_at_zero(sae, context), raw["n_tokens"], self._max_tokens)
        products = decoder_products(sae, raw["published_weights"])
        published = _drops(pooled, tasks, raw["published_test"], products, padding)
        metrics = {"tpp_classes": _classes_metric(tasks, counted, found, raw)}
        return {**metrics, **_metrics(drops, tasks, counted), **_published_metrics(published, tasks)}

    def _raw(self, context: EvalContext, tasks: ClassTasks) -> dict[str, Tensor]:
        """Probes [t, d] and what they say of their own texts [t, n]. Nothing here depends on the SAE."""
        activations, n_tokens = pooled_activations(context, tasks.texts, self._max_tokens)

        def stacked(part: str) -> tuple[Tensor, Tensor]:
            own = [getattr(task, part) for task in tasks.tasks]
            return activations[torch.stack([texts.texts for texts in own])], torch.stack([t.labels for t in own])

        training, selection, test = (stacked(part) for part in ("training", "selection", "test"))
        rows, labels = (torch.cat(two, dim=1) for two in zip(training, selection, strict=True))
        ours = fit_probes(*training, *selection)
        published = fit_published_probes(rows, labels, *test, context.generator("published probes"))
        return {
            "weights": ours.weights,
            "selection": ours.logits(selection[0]),
            "test": ours.logits(test[0]),
            "published_weights": published.weights,
            "published_test": published.logits(test[0]),
            "n_tokens": n_tokens,
        }


def _sha256(tasks: ClassTasks) -> str:
    parts = [part for task in tasks.tasks for part in (task.training, task.selection, task.test)]
    return sha256_of(tasks.texts, (own for part in parts for own in part))


def _sets(tasks: ClassTasks) -> Iterator[list[int]]:
    """The tasks of each set."""
    for name in dict.fromkeys(task.set for task in tasks.tasks):
        yield [index for index, task in enumerate(tasks.tasks) if task.set == name]


def _counted(raw: Mapping[str, Tensor], tasks: ClassTasks) -> tuple[Tensor, Tensor]:
    """[t] bool: the classes that the LM's activations carry, judged on selection texts, in sets of at least two; and
    [t, 2]: that accuracy and its standard error.

    Raises:
        DataError: there is none.
    """
    labels = torch.stack([task.selection.labels for task in tasks.tasks])
    right = correct(raw["selection"], labels).mean(1)
    error = (right * (1 - right) / labels.shape[1]).sqrt()
    counted = right - 0.5 > RELIABLE * error
    for own in _sets(tasks):
        if int(counted[own].sum()) < 2:
            counted[own] = False
    if not bool(counted.any()):
        best = int(right.argmax())
        raise NotEvaluatedError(
            f"Not evaluated: no set has two classes whose probe is above chance by more than {RELIABLE:g} standard "
            f"errors on selection texts; the most accurate of {len(right)} is {float(right[best]):.3f} ± "
            f"{float(error[best]):.3f} ({tasks.tasks[best].set}: {tasks.tasks[best].name}). Use a larger LM or more "
            "texts."
        )
    return counted, torch.stack([right, error], dim=1)


def _drops(
    pooled: PooledCodes,
    tasks: ClassTasks,
    logits: Tensor,
    products: Tensor,
    padding: tuple[Tensor, Tensor, int] | None = None,
) -> Tensor:
    """[t, t, N] float64: how much the accuracy of probe j falls on its test texts when the latents of class i are
    ablated, for i and j of one set; 0 elsewhere.

    `logits` [t, n] before it, `products` [d_sae, t]; `padding` (codes at zero, tokens of each text, length) makes it
    the published one.
    """
    n = len(tasks.tasks)
    drops = torch.zeros(n, n, len(NS), dtype=torch.float64)
    for own in _sets(tasks):
        tested = {j: pooled.features(tasks.tasks[j].test.texts) for j in own}
        for i in own:
            task = tasks.tasks[i]
            codes = pooled.features(torch.cat([task.training.texts, task.selection.texts]))
            labels = torch.cat([task.training.labels, task.selection.labels])
            effects = effects_of(codes, labels, products[:, i], positive_only=True)
            order = strongest(effects, NS[-1]) if padding is None else published_choice(effects, NS[-1])
            for j in own:
                test = tasks.tasks[j].test
                here = tested[j][:, order]
                if padding is not None:
                    at_zero, n_tokens, length = padding
                    here = padded_codes(here, at_zero[order], n_tokens[test.texts], length)
                after = logits_after(logits[j], here, products[order, j], NS)
                drops[i, j] = accuracy(logits[j], test.labels) - accuracy(after, test.labels)
    return drops


def _intended(drops: Tensor, own: list[int]) -> tuple[Tensor, Tensor]:
    """[c, N] each: of the classes of a set, the drop of their own probe and the mean drop of the others."""
    square = drops[own][:, own]
    diagonal = square.diagonal().T
    return diagonal, (square.sum(1) - diagonal) / (len(own) - 1)


def _classes_metric(tasks: ClassTasks, counted: Tensor, found: Tensor, raw: Mapping[str, Tensor]) -> MetricValue:
    labels = torch.stack([task.test.labels for task in tasks.tasks])
    columns = torch.cat([counted.double()[:, None], found, accuracy(raw["test"], labels)[:, None]], dim=1)
    names = [f"{task.set}: {task.name}" for task in tasks.tasks]
    detail = {name: tuple(row) for name, row in zip(names, columns.tolist(), strict=True)}
    return MetricValue(value=float(counted.sum()), n=len(names), detail=detail)


def _metrics(drops: Tensor, tasks: ClassTasks, counted: Tensor) -> dict[str, MetricValue]:
    kept = [[index for index in own if bool(counted[index])] for own in _sets(tasks)]
    parts = [_intended(drops, own) for own in kept if own]
    intended, unintended = (torch.cat(column) for column in zip(*parts, strict=True))
    metrics = {}
    for index, n in enumerate(NS):
        metrics[f"tpp_n{n}"] = mean_metric((intended - unintended)[:, index])
        metrics[f"tpp_intended_n{n}"] = mean_metric(intended[:, index])
        metrics[f"tpp_unintended_n{n}"] = mean_metric(unintended[:, index])
    return metrics


def _published_metrics(drops: Tensor, tasks: ClassTasks) -> dict[str, MetricValue]:
    """The mean over sets of the mean over classes; its standard error is that over sets, or over classes of one."""
    scores = [intended - unintended for intended, unintended in (_intended(drops, own) for own in _sets(tasks))]
    means = torch.stack([own.mean(0) for own in scores])
    metrics = {}
    for index, n in enumerate(NS):
        over = means[:, index] if len(means) > 1 else scores[0][:, index]
        each = torch.cat([own[:, index] for own in scores])
        metrics[f"saebench_tpp_n{n}"] = MetricValue(
            value=float(means[:, index].mean()),
            n=len(over),
            stderr=standard_error(over),
            detail={"each": tuple(each.tolist())},
        )
    return metrics
