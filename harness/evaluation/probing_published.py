"""Sparse probing as SAEBench does it (sae-bench 0.6.0, `evals/sparse_probing`), faults included.

Each class of a set against the others, which give equally many negatives, drawn anew for training and for testing; the
k features of largest |difference of class means| in their own units, logistic regression with C = 1; and a probe on all
features by AdamW, whose epoch is chosen on the *test* texts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import DataError, NotEvaluatedError
from ..interfaces.labelled import normal_form
from .probes import fit_logistic, mean_difference, ranked

__all__ = ["ClassSet", "Task", "draw_sets", "full_accuracies", "sparse_accuracies", "tasks_of"]

Features = Callable[[Tensor], Tensor]
"""Features [n, d] float32 of the texts [n] int64."""

_PARTS = ("train", "test")
_TRAIN_SHARE = 0.8
"""Of texts that come in no split: 4000 to train and 1000 to test, as SAEBench has."""
_LEAST = 8
"""Texts of a class in a part that a probe needs."""
_EPOCHS, _BATCH, _PATIENCE = 100, 250, 10
_RATE, _DECAY, _BETAS, _EPSILON = 1e-2, 0.01, (0.9, 0.999), 1e-8
"""AdamW with torch's defaults but for the rate."""
_ELEMENTS = 1 << 26
"""Probes are trained together as far as their features take this many numbers (256 MiB in float32)."""


class ClassSet(NamedTuple):
    """Texts of the classes of one set."""

    name: str
    classes: tuple[str, ...]
    training: tuple[tuple[str, ...], ...]
    """Of each class, equally many."""
    test: tuple[tuple[str, ...], ...]


def draw_sets(
    rows: Sequence[Mapping[str, Any]], *, set_column: str, class_column: str, n_train: int, n_test: int, seed: int
) -> tuple[ClassSet, ...]:
    """Of each class n_train / 2 and n_test / 2 texts, drawn by hash with the seed; fewer where a class has fewer, and
    then of all classes of the set. With the columns `split` and `attribute`, texts stay in their split and a class has
    as many of one attribute as of another.

    Raises:
        DataError: a row lacks a column, or no set has two classes with enough texts.
    """
    cells: dict[str, dict[str, dict[tuple[str, str], list[tuple[str, str]]]]] = {}
    for row in rows:
        missing = [column for column in ("text", set_column, class_column) if column not in row]
        if missing:
            raise DataError(f"A row has no {', '.join(missing)}: its columns are {', '.join(sorted(row))}.")
        digest = hashlib.sha256(f"{seed}:{normal_form(row['text'])}".encode("utf-8", "surrogatepass")).hexdigest()
        part = row.get("split") or _PARTS[int(digest[:16], 16) / 2**64 >= _TRAIN_SHARE]
        own = cells.setdefault(str(row[set_column]), {}).setdefault(str(row[class_column]), {})
        own.setdefault((part, str(row.get("attribute", ""))), []).append((digest[16:], row["text"]))
    found = []
    for name, classes in sorted(cells.items()):
        drawn = [_drawn(classes, part, n // 2) for part, n in zip(_PARTS, (n_train, n_test), strict=True)]
        if len(classes) > 1 and min(len(texts[0]) for texts in drawn) >= _LEAST:
            found.append(ClassSet(name, tuple(sorted(classes)), drawn[0], drawn[1]))
    if not found:
        raise NotEvaluatedError(
            f"not evaluated: none of {len(cells)} sets has two classes with {_LEAST} texts each to train and to test."
        )
    return tuple(found)


def _drawn(
    classes: Mapping[str, Mapping[tuple[str, str], list[tuple[str, str]]]], part: str, n: int
) -> tuple[tuple[str, ...], ...]:
    """The texts of one part, by class."""
    attributes = sorted({attribute for cells in classes.values() for _, attribute in cells})
    corners = [[sorted(classes[name].get((part, own), [])) for own in attributes] for name in sorted(classes)]
    each = min(n // len(attributes), *(len(texts) for own in corners for texts in own))
    return tuple(tuple(text for texts in own for _, text in texts[:each]) for own in corners)


class Task(NamedTuple):
    """One class of a set against the others: which texts, and 1 for those of the class."""

    set: str
    name: str
    training: Tensor
    """[n] int64."""
    training_labels: Tensor
    """[n] float64."""
    test: Tensor
    test_labels: Tensor


def tasks_of(sets: Sequence[ClassSet], generator: torch.Generator) -> tuple[tuple[str, ...], tuple[Task, ...]]:
    """All texts, each once, and the tasks of all classes, negatives drawn with the generator."""
    texts = tuple(sorted({text for own in sets for part in (own.training, own.test) for c in part for text in c}))
    place = {text: index for index, text in enumerate(texts)}
    tasks = []
    for own in sets:
        parts = [[torch.tensor([place[text] for text in c]) for c in part] for part in (own.training, own.test)]
        for label, name in enumerate(own.classes):
            sides = [_one_against_others(part, label, generator) for part in parts]
            tasks.append(Task(own.name, name, *sides[0], *sides[1]))
    return texts, tuple(tasks)


def _one_against_others(classes: Sequence[Tensor], label: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All texts of a class, then as many of the others; their labels."""
    own, others = classes[label], [texts for number, texts in enumerate(classes) if number != label]
    each = math.ceil(len(own) / len(others))
    drawn = torch.cat([texts[torch.randperm(len(texts), generator=generator)[:each]] for texts in others])
    drawn = drawn[torch.randperm(len(drawn), generator=generator)[: len(own)]]
    labels = torch.cat([torch.ones(len(own)), torch.zeros(len(drawn))]).double()
    return torch.cat([own, drawn]), labels


def sparse_accuracies(features: Features, tasks: Sequence[Task], ks: Sequence[int]) -> dict[int, Tensor]:
    """By k: test accuracy [t] float64 of the probes on k features."""
    found: dict[int, list[float]] = {k: [] for k in ks}
    for task in tasks:
        training, test = features(task.training).double(), features(task.test).double()
        columns = ranked(mean_difference(training, task.training_labels), min(max(ks), training.shape[1]))
        # A stack of one problem for each k: what a smaller k leaves out is 0, which an L2 penalty keeps unused.
        kept = torch.arange(len(columns)) < torch.tensor(list(ks))[:, None]
        stacks = [part[:, columns] * kept[:, None] for part in (training, test)]
        labels = task.training_labels.expand(len(ks), -1)
        probes = fit_logistic(stacks[0], labels, torch.ones_like(labels), torch.ones(len(ks), dtype=torch.float64))
        right = ((probes.logits(stacks[1]) > 0) == (task.test_labels > 0.5)).double().mean(1)
        for k, accuracy in zip(ks, right.tolist(), strict=True):
            found[k].append(accuracy)
    return {k: torch.tensor(values, dtype=torch.float64) for k, values in found.items()}


def full_accuracies(features: Features, tasks: Sequence[Task], generator: torch.Generator) -> Tensor:
    """Test accuracy [t] float64 of the probes on all features: the best of their epochs, judged on the test texts."""
    width = features(tasks[0].training[:1]).shape[1]
    alike: dict[tuple[int, int], list[int]] = {}
    for number, task in enumerate(tasks):
        alike.setdefault((len(task.training), len(task.test)), []).append(number)
    found = torch.zeros(len(tasks), dtype=torch.float64)
    for (n_train, n_test), numbers in sorted(alike.items()):
        size = max(1, _ELEMENTS // ((n_train + n_test) * width))
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            own = [tasks[number] for number in chosen]
            found[chosen] = _trained(
                torch.stack([features(task.training) for task in own]).float(),
                torch.stack([task.training_labels for task in own]).float(),
                torch.stack([features(task.test) for task in own]).float(),
                torch.stack([task.test_labels for task in own]) > 0.5,
                generator,
            )
    return found


def _trained(x: Tensor, y: Tensor, tested: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """[p]: highest test accuracy of the epochs of probes on x [p, n, d], until ten in turn bring none of them on."""
    p, n, d = x.shape
    w = (torch.rand(p, d + 1, generator=generator) * 2 - 1) * d**-0.5
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    best, waited = torch.zeros(p, dtype=torch.float64), torch.zeros(p, dtype=torch.int64)
    steps, each = 0, torch.arange(p)[:, None]
    for _ in range(_EPOCHS):
        order = torch.rand(p, n, generator=generator).argsort(1)
        for index in order.split(_BATCH, dim=1):
            batch = x if index.shape[1] == n else x[each, index]
            labels = y if index.shape[1] == n else y[each, index]
            steps += 1
            residual = (torch.einsum("pbd,pd->pb", batch, w[:, :-1]) + w[:, -1:]).sigmoid() - labels
            residual = residual / index.shape[1]
            gradient = nn.functional.pad(torch.einsum("pbd,pb->pd", batch, residual), (0, 1))
            gradient[:, -1] = residual.sum(1)
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            root = square.sqrt() / (1 - _BETAS[1] ** steps) ** 0.5 + _EPSILON
            w.mul_(1 - _RATE * _DECAY)
            w.addcdiv_(mean, root, value=-_RATE / (1 - _BETAS[0] ** steps))
        said = torch.einsum("pmd,pd->pm", tested, w[:, :-1]) + w[:, -1:] > 0
        right = (said == wanted).double().mean(1)
        running = waited < _PATIENCE
        better = running & (right > best)
        best = torch.where(better, right, best)
        waited = torch.where(better, 0, waited + running.long())
        if not bool((waited < _PATIENCE).any()):
            break
    return best
