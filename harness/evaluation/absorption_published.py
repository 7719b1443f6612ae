"""SAEBench's absorption (0.6.0): its probes, its choice of split latents, its score. What ours mends is kept as it is.

- Probes are stopped after 50 epochs of Adam and depend on a seed; ours are the optimum.
- Letters, split latents and absorption are chosen and measured on the same words; ours choose on others.
- A word's projection holds the decoder's bias; ours leaves it out.
- An SAE without latents for a letter scores 0 on it, the best value; ours counts 1.

SAEBench draws a word's prompt anew to measure absorption, so that the activation is another than the one by which the
word was chosen; here it is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interfaces.sae import SAE, RaggedCodes
from .absorption import (
    MAX_SPLIT_LATENTS,
    MIN_F1_GAIN,
    MIN_PROBE_F1,
    Letters,
    Measured,
    SplitLatents,
    balanced,
    decoded,
    f1,
    measure,
    said_words,
)
from .absorption_words import TEST
from .code_matrix import CodeMatrix
from .probes import fit_logistic

_EPOCHS = 50
_LR, _END_LR = 1e-2, 1e-5
_PROBE_BATCH, _PROBE_DECAY = 64, 1e-4
_CODE_BATCH, _CODE_DECAY, _CODE_L1 = 4096, 1e-6, 1e-2


class PublishedProbe(NamedTuple):
    """SAEBench's ground-truth probes of l letters."""

    weight: Tensor
    """[l, d_in] float32."""
    bias: Tensor
    """[l] float32."""


def published_probe(known: Letters, generator: torch.Generator) -> PublishedProbe:
    """Probes on the raw activations of all words but the test ones."""
    kept = known.part != TEST
    x, y = known.rows[kept].float(), known.labels[:, kept].T.float()
    trainer = _Trainer(x.shape[1], y, _PROBE_DECAY, generator)
    for batch in trainer.batches(_PROBE_BATCH):
        slope = trainer.slope(x[batch] @ trainer.weight + trainer.bias, y[batch])
        trainer.step(x[batch].T @ slope, slope.sum(0))
    return PublishedProbe(trainer.weight.T.contiguous(), trainer.bias.clone())


def published_ranking(
    codes: RaggedCodes, d_sae: int, labels: Tensor, part: Tensor, generator: torch.Generator
) -> Tensor:
    """[l, MAX_SPLIT_LATENTS] int64: the latents of largest weight in a probe with an L1 penalty, in that order."""
    kept = (part != TEST).nonzero().flatten()
    y = labels[:, kept].T.float()
    trainer = _Trainer(d_sae, y, _CODE_DECAY, generator)
    whole = CodeMatrix(codes, d_sae, kept)
    for batch in trainer.batches(_CODE_BATCH):
        # A batch of all words is the same in any order.
        own, truth = (whole, y) if len(batch) == len(kept) else (CodeMatrix(codes, d_sae, kept[batch]), y[batch])
        slope = trainer.slope(own.times(trainer.weight) + trainer.bias, truth)
        penalty = _CODE_L1 / y.shape[1] * trainer.weight.sign()
        trainer.step(own.transposed_times(slope) + penalty, slope.sum(0))
    return trainer.weight.T.topk(min(MAX_SPLIT_LATENTS, d_sae), dim=1).indices


class _Trainer:
    """Adam on the mean over letters of class-balanced cross-entropies, from where torch's Linear starts."""

    def __init__(self, d: int, y: Tensor, decay: float, generator: torch.Generator) -> None:
        """Labels y [n, l] of all words."""
        n_letters, bound = y.shape[1], 1 / math.sqrt(d)
        weight = torch.empty(n_letters, d).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(n_letters).uniform_(-bound, bound, generator=generator)
        self.weight = torch.nn.Parameter(weight.T.contiguous(), requires_grad=False)
        """[d, l]."""
        self.bias = torch.nn.Parameter(bias, requires_grad=False)
        self._n, self._generator = len(y), generator
        positive = y.sum(0)
        self._positive_weight = (len(y) - positive) / positive
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=_LR, weight_decay=decay)

    def batches(self, size: int) -> Iterator[Tensor]:
        """The words [b] of each step; the learning rate falls after each epoch."""
        factor = math.exp(math.log(_END_LR / _LR) / _EPOCHS)
        for _ in range(_EPOCHS):
            yield from torch.randperm(self._n, generator=self._generator).split(size)
            for group in self._adam.param_groups:
                group["lr"] *= factor

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[b, l]: the loss's gradient by the logits."""
        said = logits.sigmoid()
        return ((1 - labels) * said - self._positive_weight * labels * (1 - said)) / labels.numel()

    def step(self, weight: Tensor, bias: Tensor) -> None:
        """One step down these gradients."""
        self.weight.grad, self.bias.grad = weight, bias
        self._adam.step()


def published_split(codes: RaggedCodes, d_sae: int, ranking: Tensor, labels: Tensor, part: Tensor) -> SplitLatents:
    """The first k latents of the ranking [l, k], k growing while the F1 on test words rises by more than 0.03."""
    training, test = part != TEST, part == TEST
    codes_of = CodeMatrix(codes, d_sae, torch.arange(len(part)))
    chosen = torch.full((len(labels), MAX_SPLIT_LATENTS), -1)
    best = torch.full((len(labels),), -math.inf, dtype=torch.float64)
    active = torch.arange(len(labels))
    for k in range(ranking.shape[1]):
        used, place = ranking[active, : k + 1].unique(return_inverse=True)
        x = codes_of.columns(used)[:, place].transpose(0, 1)
        y = labels[active][:, training]
        fitted = fit_logistic(x[:, training], y.double(), balanced(y), torch.ones(len(y), dtype=torch.float64))
        found = f1(fitted.logits(x)[:, test], labels[active][:, test])
        risen = found > best[active] + MIN_F1_GAIN
        active = active[risen]
        if not len(active):
            break
        best[active] = found[risen]
        chosen[active, k] = ranking[active, k]
    return SplitLatents(chosen, best, best)


class Published(NamedTuple):
    """Of l letters."""

    counted: Tensor
    """[l] bool: its probe's F1 on test words is above 0.6, and the probe says a test word of it."""
    measured: Measured
    n_split: Tensor
    """[l] int64."""


def published_absorption(
    codes: RaggedCodes, sae: SAE, known: Letters, probe: PublishedProbe, generator: torch.Generator
) -> Published:
    """SAEBench's score of the codes of all words."""
    labels, part = known.labels, known.part
    logits = (known.rows.float() @ probe.weight.T + probe.bias).T
    ranking = published_ranking(codes, sae.config.d_sae, labels, part, generator)
    split = published_split(codes, sae.config.d_sae, ranking, labels, part)
    directions = F.normalize(probe.weight.double(), dim=1)
    decode = decoded(sae, directions)
    # It takes decoder rows to have norm 1, and the bias for a part of what latents write.
    decode = decode._replace(writes=decode.cosine, bias=torch.zeros_like(decode.bias))
    measured = measure(codes, known.rows, said_words(labels, logits, part), directions, decode, split.latents)
    test = part == TEST
    counted = (f1(logits[:, test], labels[:, test]) > MIN_PROBE_F1) & (measured.n > 0)
    return Published(counted, measured, split.n)
