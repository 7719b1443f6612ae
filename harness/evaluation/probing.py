"""Probing tasks: labelled samples as stacks, codes pooled over the tokens of a text, and the probes on any features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..interfaces.labelled import Sample, Sizes
from ..interfaces.sae import RaggedCodes
from .probes import (
    C_GRID,
    Scores,
    auc,
    choose,
    fit_logistic,
    log_loss,
    mean_difference,
    ranked,
    reduce,
    score,
)

__all__ = [
    "Features",
    "Part",
    "PooledCodes",
    "ProbeResults",
    "Scores",
    "Sizes",
    "Tasks",
    "mean_rows",
    "probe",
    "tasks_of",
]

Features = Callable[[Tensor], Tensor]
"""Features [n, d] float32 of the texts [n] int64."""

_TEXTS_AT_ONCE = 64


class Part(NamedTuple):
    """One part (training, validation or test) of all tasks."""

    texts: Tensor
    """[t, n] int64: which text; padding repeats one."""
    labels: Tensor
    """[t, n] float64: 0 or 1."""
    weights: Tensor
    """[t, n] float64: 0 for padding, else 1."""


class Tasks(NamedTuple):
    """Binary tasks over one list of texts."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    """Each once, though tasks may share it."""
    training: Part
    validation: Part
    test: Part

    @property
    def sha256(self) -> str:
        """Of everything probes see of the tasks."""
        digest = hashlib.sha256(json.dumps([self.names, self.texts]).encode("ascii"))
        for part in (self.training, self.validation, self.test):
            for tensor in part:
                digest.update(str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def both(self) -> Part:
        """Training and validation texts together."""
        return Part(*(torch.cat(pair, dim=1) for pair in zip(self.training, self.validation, strict=True)))


def tasks_of(samples: Sequence[Sample]) -> Tasks:
    """Samples as stacks.

    Raises:
        DataError: there is no sample.
    """
    if not samples:
        raise DataError("There is no task to probe: the collection has no labelled set.")
    texts = tuple(sorted({text for sample in samples for text in sample.texts}))
    place = {text: index for index, text in enumerate(texts)}
    cut = [sample.parts(list(zip(sample.texts, sample.labels, strict=True))) for sample in samples]
    parts = [_stack([task[number] for task in cut], place) for number in range(3)]
    return Tasks(tuple(sample.name for sample in samples), texts, *parts)


def _stack(tasks: Sequence[Sequence[tuple[str, int]]], place: dict[str, int]) -> Part:
    longest = max(map(len, tasks))
    texts = torch.tensor([[place[x] for x, _ in t] + [place[t[0][0]]] * (longest - len(t)) for t in tasks])
    labels = torch.tensor([[y for _, y in t] + [0] * (longest - len(t)) for t in tasks], dtype=torch.float64)
    weights = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in tasks], dtype=torch.float64)
    return Part(texts, labels, weights)


class PooledCodes:
    """The mean code of each text over its tokens, active latents alone, on the CPU: probes are small."""

    def __init__(self, d_sae: int) -> None:
        self.d_sae = d_sae
        self._latents: list[Tensor] = []
        self._values: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._starts: Tensor | None = None

    def add(self, codes: RaggedCodes, text: Tensor) -> None:
        """Codes of n tokens and the text [n] of each; each text comes whole and after those before it."""
        lengths = codes.offsets[1:] - codes.offsets[:-1]
        for first in range(int(text[0]), int(text[-1]) + 1, _TEXTS_AT_ONCE):
            last = min(first + _TEXTS_AT_ONCE, int(text[-1]) + 1)
            a, b = (int(torch.searchsorted(text, bound)) for bound in (first, last))
            n_tokens = torch.bincount(text[a:b] - first, minlength=last - first)
            low, high = int(codes.offsets[a]), int(codes.offsets[b])
            row = (text[a:b] - first).repeat_interleave(lengths[a:b])
            sums = codes.values.new_zeros(last - first, self.d_sae, dtype=torch.float64)
            sums.view(-1).index_add_(0, row * self.d_sae + codes.latents[low:high], codes.values[low:high].double())
            means = (sums / n_tokens[:, None]).float()
            found = means.nonzero()
            self._latents.append(found[:, 1].int().cpu())
            self._values.append(means[found[:, 0], found[:, 1]].cpu())
            self._counts.append(torch.bincount(found[:, 0], minlength=last - first).cpu())
        self._starts = None

    def features(self, texts: Tensor) -> Tensor:
        """[n, d_sae] of the texts [n]."""
        if self._starts is None:
            self._latents = [torch.cat(self._latents)]
            self._values = [torch.cat(self._values)]
            self._counts = [torch.cat(self._counts)]
            self._starts = torch.cat([self._counts[0].new_zeros(1), self._counts[0].cumsum(0)])
        dense = torch.zeros(len(texts), self.d_sae)
        for row, text in zip(dense, texts.tolist(), strict=True):
            here = slice(int(self._starts[text]), int(self._starts[text + 1]))
            row[self._latents[0][here].long()] = self._values[0][here]
        return dense


def mean_rows(parts: Iterable[tuple[Tensor, Tensor]], n_texts: int) -> Tensor:
    """[n_texts, d] float32: the mean over each text's rows, given rows [n, d] and the text [n] of each."""
    sums: Tensor | None = None
    counts = torch.zeros(n_texts, dtype=torch.float64)
    for rows, text in parts:
        if sums is None:
            sums = torch.zeros(n_texts, rows.shape[1], dtype=torch.float64)
        sums.index_add_(0, text.cpu(), rows.double().cpu())
        counts += torch.bincount(text.cpu(), minlength=n_texts)
    if sums is None or bool((counts == 0).any()):
        raise DataError("A text has no activations: leave it out.")
    return (sums / counts[:, None]).float()


class ProbeResults(NamedTuple):
    """Scores of all tasks."""

    top: dict[int, Scores]
    """By number of latents k."""
    full: Scores
    """On all features."""
    full_validation_auc: Tensor
    """[t]."""
    full_validation_auc_stderr: Tensor
    published: dict[int, Scores]
    """By k, under SAEBench's definition."""


def probe(features: Features, tasks: Tasks, *, ks: Sequence[int], published_ks: Sequence[int]) -> ProbeResults:
    """All probes on all tasks. Features and C are chosen on training and validation texts; test texts are scored once,
    with the chosen probe.

    - Our k-sparse probe: the k features with the largest |difference of class means|, or with the largest such
      difference over its standard deviation (both tried), each standardised; ranking and C by validation log-loss.
    - The full probe: all features, in their own units or standardised (both tried); units and C by validation log-loss.
    - SAEBench's: the k features with the largest |difference of class means|, in their own units, C = 1, trained on
      training and validation texts.
    """
    best, whole, published = [], [], []
    most = max(*ks, *published_ks)
    for task in range(len(tasks.names)):
        parts = [_features_of(features, part, task) for part in (tasks.training, tasks.validation, tasks.test)]
        labels = [_labels_of(part, task) for part in (tasks.training, tasks.validation)]
        best.append(_best(parts, labels[0], min(most, parts[0].shape[1])))
        whole.append(_whole(parts))
        published.append(_published(parts, torch.cat(labels), min(max(published_ks), parts[0].shape[1])))
    full, validation = _full(whole, tasks)
    area, area_stderr = validation
    return ProbeResults(
        top=_top(best, tasks, ks),
        full=full,
        full_validation_auc=area,
        full_validation_auc_stderr=area_stderr,
        published=_published_scores(published, tasks, published_ks),
    )


def _features_of(features: Features, part: Part, task: int) -> Tensor:
    """[n, d]: of one task's texts, without padding."""
    return features(part.texts[task][part.weights[task] > 0])


def _labels_of(part: Part, task: int) -> Tensor:
    return part.labels[task][part.weights[task] > 0]


def _best(parts: Sequence[Tensor], labels: Tensor, k: int) -> list[Tensor]:
    """The k best columns by two rankings, [2, n, k] of each part, standardised on the training texts."""
    training = parts[0].double()
    difference = mean_difference(training, labels)
    deviation = training.std(0, correction=0)
    inverse = torch.where(deviation > 0, 1 / deviation.clamp(min=1e-300), 0.0)
    columns = torch.stack([ranked(difference, k), ranked(difference * inverse, k)])
    shift, scale = training.mean(0)[columns][:, None], inverse[columns][:, None]
    return [(part.double()[:, columns].permute(1, 0, 2) - shift) * scale for part in parts]


def _whole(parts: Sequence[Tensor]) -> list[Tensor]:
    """All columns, in their own units and standardised, as coordinates [2, n, n_training] of each part; both of total
    variance 1 on the training texts."""
    training = parts[0].double()
    mean, variance = training.mean(0), training.var(0, correction=0)
    n, n_varying = len(training), max(1, int((variance > 0).sum()))
    inverse = torch.where(variance > 0, 1 / variance.clamp(min=1e-300), 0.0)
    units = (torch.full_like(variance, _inverse(float(variance.sum()))).sqrt(), (inverse / n_varying).sqrt())
    found: list[list[Tensor]] = [[], [], []]
    for unit in units:
        centred = [(part.double() - mean) * unit for part in parts]
        reduced = reduce(centred[0], torch.cat(centred[1:]))
        cut = [reduced.training, *reduced.others.split([len(part) for part in parts[1:]])]
        for own, part in zip(found, cut, strict=True):
            own.append(torch.nn.functional.pad(part, (0, n - part.shape[-1])))
    return [torch.stack(own) for own in found]


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else 0.0


def _published(parts: Sequence[Tensor], labels: Tensor, k: int) -> list[Tensor]:
    """The k columns with the largest difference of class means, in their own units: [n, k] to train on, and to test."""
    training = torch.cat([parts[0], parts[1]]).double()
    columns = ranked(mean_difference(training, labels), k)
    return [training[:, columns], parts[2].double()[:, columns]]


def _padded(tensors: Sequence[Tensor], n: int, p: int) -> Tensor:
    """[t, …, n, p]: tensors [..., m, q] with m <= n and q <= p, filled up with zeros."""
    return torch.stack([torch.nn.functional.pad(x, (0, p - x.shape[-1], 0, n - x.shape[-2])) for x in tensors])


def _top(best: Sequence[Sequence[Tensor]], tasks: Tasks, ks: Sequence[int]) -> dict[int, Scores]:
    width = best[0][0].shape[-1]
    parts = (tasks.training, tasks.validation, tasks.test)
    training, validation, test = (
        _padded([task[number] for task in best], part.labels.shape[1], width) for number, part in enumerate(parts)
    )
    return {
        k: _chosen(
            training[..., :k],
            validation[..., :k],
            test[..., :k],
            tasks,
        )[0]
        for k in ks
    }


def _full(whole: Sequence[Sequence[Tensor]], tasks: Tasks) -> tuple[Scores, tuple[Tensor, Tensor]]:
    width = max(task[0].shape[-1] for task in whole)
    parts = (tasks.training, tasks.validation, tasks.test)
    stacks = [
        _padded([task[number] for task in whole], part.labels.shape[1], width) for number, part in enumerate(parts)
    ]
    scores, logits = _chosen(stacks[0], stacks[1], stacks[2], tasks)
    return scores, auc(logits, tasks.validation.labels, tasks.validation.weights)


def _chosen(training: Tensor, validation: Tensor, test: Tensor, tasks: Tasks) -> tuple[Scores, Tensor]:
    """Test scores, and validation logits, of the candidate of lowest validation loss: features [t, r, n, p] of r
    ways to choose or scale features, each with every C of the grid."""
    n_tasks, n_ways = training.shape[:2]
    n_candidates = n_ways * len(C_GRID)

    def each(x: Tensor) -> Tensor:
        return x.repeat_interleave(n_candidates, dim=0)

    def candidates(x: Tensor) -> Tensor:
        return x[:, :, None].expand(-1, -1, len(C_GRID), -1, -1).reshape(n_tasks * n_candidates, *x.shape[2:])

    c = torch.tensor(C_GRID, dtype=torch.float64).repeat(n_tasks * n_ways)
    part = tasks.training
    probes = fit_logistic(candidates(training), each(part.labels), each(part.weights), c)
    logits = probes.logits(candidates(validation))
    losses = log_loss(logits, each(tasks.validation.labels), each(tasks.validation.weights))
    best = choose(losses.view(n_tasks, n_candidates)) + n_candidates * torch.arange(n_tasks)
    kept = type(probes)(probes.coefficients[best], probes.intercept[best])
    tested = kept.logits(test[torch.arange(n_tasks), (best % n_candidates) // len(C_GRID)])
    return score(tested, tasks.test.labels, tasks.test.weights), logits[best]


def _published_scores(published: Sequence[Sequence[Tensor]], tasks: Tasks, ks: Sequence[int]) -> dict[int, Scores]:
    width = published[0][0].shape[-1]
    longest = max(len(task[0]) for task in published)
    both = tasks.both()
    labels = _padded([both.labels[t][both.weights[t] > 0][:, None] for t in range(len(published))], longest, 1)[..., 0]
    weights = _padded([torch.ones(len(task[0]), 1) for task in published], longest, 1)[..., 0].double()
    training = _padded([task[0] for task in published], longest, width)
    test = _padded([task[1] for task in published], tasks.test.labels.shape[1], width)
    one = torch.ones(len(published), dtype=torch.float64)
    return {
        k: score(
            fit_logistic(training[..., :k], labels, weights, one).logits(test[..., :k]),
            tasks.test.labels,
            tasks.test.weights,
        )
        for k in ks
    }
