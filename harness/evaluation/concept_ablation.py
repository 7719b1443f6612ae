"""Ablating the latents that carry a concept, and what probes of the LM's activations say afterwards: SCR and TPP.

Published in Karvonen et al. 2025 (arXiv:2503.09532, SAEBench); the idea of SCR is from Marks et al. 2024
(arXiv:2403.19647). A probe reads a text's activations pooled as the mean over its tokens. Setting the latents S to 0
takes sum_S f_i W_i from a token's activation, the error of the SAE being kept; the mean over tokens takes
sum_S mean(f_i) W_i from the pooled one, and sum_S mean(f_i) (W_i . w) from the logit of a probe w. So no token is
decoded: the contributions of the latents in the order of their choice, added up, give the logits for every N at once.
That is exact where `decode` is linear in the codes, which `require_linear` holds an SAE to.

The published code pads texts with rows of zeros, encodes those too, and takes what the chosen latents write there from
the sum over tokens, though it divides by the number of tokens: a shift that grows with the padding. `padded_codes`
gives the pooled codes that this amounts to; they are used for the published metrics alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import NotEvaluatedError, ShapeError
from ..interfaces.sae import SAE
from .probes import C_GRID, choose, fit_logistic, log_loss, ranked, reduce
from .probing import PooledCodes, mean_rows

__all__ = [
    "PooledCodes",
    "Probes",
    "accuracy",
    "correct",
    "decoder_products",
    "effects_of",
    "fit_probes",
    "fit_published_probes",
    "logits_after",
    "mean_rows",
    "padded_codes",
    "published_choice",
    "require_linear",
    "strongest",
]

_EPOCHS, _BATCH, _RATE, _L1 = 20, 16, 1e-3, 1e-3
"""How the published probes are trained."""
_TRIED_ROWS = 16
_TOLERANCE = 1e-4
"""Relative to the largest value: what float32 products in another order may differ by."""
_LATENTS_AT_ONCE = 8192


class Probes(NamedTuple):
    """Linear probes of pooled activations: logit = x . weights + bias."""

    weights: Tensor
    """[p, d] float64."""
    bias: Tensor
    """[p] float64."""

    def logits(self, features: Tensor) -> Tensor:
        """[p, n] of features [p, n, d]."""
        return torch.einsum("pnd,pd->pn", features.double(), self.weights) + self.bias[:, None]


def fit_probes(training: Tensor, labels: Tensor, selection: Tensor, selection_labels: Tensor) -> Probes:
    """Logistic regressions with an L2 penalty on standardised activations, C by log-loss on the selection texts.

    Args:
        training: [p, n, d], `labels` [p, n].
        selection: [p, m, d], `selection_labels` [p, m].
    """
    p, _, d = training.shape
    x = training.double()
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    varying = (variance > 0).sum(2, keepdim=True).clamp(min=1)
    # Total variance 1, so that C means the same for every width.
    unit = torch.where(variance > 0, 1 / (variance * varying).sqrt().clamp(min=1e-300), 0.0)
    axes = torch.eye(d, dtype=torch.float64)
    reduced = []
    for own, other, middle, scale in zip(x, selection.double(), mean, unit, strict=True):
        reduced.append(reduce((own - middle) * scale, torch.cat([(other - middle) * scale, axes])))
    width = max(found.training.shape[1] for found in reduced)
    padded = [[nn.functional.pad(rows, (0, width - rows.shape[1])) for rows in found] for found in reduced]
    training_rows = torch.stack([rows for rows, _ in padded])
    selection_rows, basis = torch.stack([rows for _, rows in padded]).split([selection.shape[1], d], dim=1)
    c = torch.tensor(C_GRID, dtype=torch.float64)
    fits = [fit_logistic(training_rows, labels, torch.ones_like(labels), own.expand(p)) for own in c]
    losses = [log_loss(fit.logits(selection_rows), selection_labels, torch.ones_like(selection_labels)) for fit in fits]
    best = choose(torch.stack(losses, dim=1)).tolist()
    coefficients = torch.stack([fits[own].coefficients[index] for index, own in enumerate(best)])
    weights = torch.einsum("pdr,pr->pd", basis, coefficients) * unit[:, 0]
    intercept = torch.stack([fits[own].intercept[index] for index, own in enumerate(best)])
    return Probes(weights, intercept - (weights * mean[:, 0]).sum(1))


def fit_published_probes(
    training: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, generator: torch.Generator
) -> Probes:
    """SAEBench's probes: AdamW with an L1 penalty, 20 epochs in batches of 16, and of the epochs the one of highest
    accuracy on the *test* texts, the first of equal ones.

    Args:
        training: [p, n, d], `labels` [p, n].
        test: [p, m, d], `test_labels` [p, m].
    """
    p, n, d = training.shape
    x, tested = (nn.functional.pad(part.float(), (0, 1), value=1.0) for part in (training, test))
    y, wanted, rows = labels.float(), test_labels > 0.5, torch.arange(p)[:, None]
    penalty = torch.full((d + 1,), _L1)
    penalty[-1] = 0.0  # the bias
    w = (torch.rand(p, d + 1, generator=generator) * 2 - 1) * d**-0.5
    optimizer = _AdamW(w)
    kept, best = w.clone(), torch.zeros(p)
    for _ in range(_EPOCHS):
        order = torch.rand(p, n, generator=generator).argsort(1)
        for index in order.split(_BATCH, dim=1):
            batch = x[rows, index]
            residual = (torch.einsum("pbd,pd->pb", batch, w).sigmoid() - y[rows, index]) / index.shape[1]
            optimizer.step(torch.einsum("pbd,pb->pd", batch, residual) + penalty * w.sign())
        found = ((torch.einsum("pmd,pd->pm", tested, w) > 0) == wanted).float().mean(1)
        kept = torch.where((found > best)[:, None], w, kept)
        best = torch.maximum(best, found)
    return Probes(kept[:, :-1].double(), kept[:, -1].double())


class _AdamW:
    """Loshchilov & Hutter 2019 with torch's defaults; torch's own takes seconds to import."""

    beta1, beta2, epsilon, decay = 0.9, 0.999, 1e-8, 0.01

    def __init__(self, w: Tensor) -> None:
        """`w` is edited in place."""
        self._w = w
        self._mean, self._square = torch.zeros_like(w), torch.zeros_like(w)
        self._steps = 0

    def step(self, gradient: Tensor) -> None:
        """One step of rate `_RATE`."""
        self._steps += 1
        self._mean.lerp_(gradient, 1 - self.beta1)
        self._square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = self._square.sqrt() / (1 - self.beta2**self._steps) ** 0.5 + self.epsilon
        self._w.mul_(1 - _RATE * self.decay)
        self._w.addcdiv_(self._mean, root, value=-_RATE / (1 - self.beta1**self._steps))


def require_linear(sae: SAE, rows: Tensor) -> None:
    """Hold an SAE to `decode(codes) - decode(0) = codes . decoder_directions()`, on some rows [n, d] and on 0.

    Raises:
        DataError: it is not so: attribution and ablation by decoder directions would mean nothing.
    """
    step = max(1, len(rows) // _TRIED_ROWS)
    tried = torch.cat([rows[::step][:_TRIED_ROWS], rows.new_zeros(1, rows.shape[1])])
    codes = sae.encode(tried)
    written = (sae.decode(codes) - sae.decode(torch.zeros_like(codes))).double()
    directions = sae.decoder_directions()
    if directions.shape != (codes.shape[1], rows.shape[1]):
        raise ShapeError(f"decoder_directions() must be [d_sae, d_in], got {tuple(directions.shape)}.")
    wanted = codes.double() @ directions.double().to(codes.device)
    if not bool(((written - wanted).abs() <= _TOLERANCE * wanted.abs().max().clamp(min=1e-30)).all()):
        raise NotEvaluatedError(
            "Not evaluated: this SAE's decode is not a sum of its decoder directions (it differs by up to "
            f"{float((written - wanted).abs().max()):.3g} on {len(tried)} rows, where the sum is at most "
            f"{float(wanted.abs().max()):.3g}), so what a latent writes is not defined by itself."
        )


def decoder_products(sae: SAE, weights: Tensor) -> Tensor:
    """[d_sae, p] float64: each decoder direction's inner product with each probe's weights [p, d]."""
    directions = sae.decoder_directions().detach()
    by = weights.double().to(directions.device).T
    return torch.cat([part.double() @ by for part in directions.split(_LATENTS_AT_ONCE)]).cpu()


def effects_of(pooled: Tensor, labels: Tensor, products: Tensor, *, positive_only: bool) -> Tensor:
    """[d_sae] float64: (mean over class 1 - mean over class 0 of pooled codes [n, d_sae]) · (W_dec · w).

    With `positive_only` (TPP), latents that are larger on class 0 have no effect; else (SCR) it is the absolute value.
    """
    difference = _mean(pooled[labels > 0.5]) - _mean(pooled[labels <= 0.5])
    if positive_only:
        return difference.clamp(min=0) * products
    return (difference * products).abs()


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0, dtype=torch.float64)


def strongest(effects: Tensor, most: int) -> Tensor:
    """[k] int64, k <= most: the latents of largest effect above 0, descending; of equal ones the first."""
    order = ranked(effects, most)
    return order[effects[order] > 0]


def published_choice(effects: Tensor, n: int) -> Tensor:
    """[k] int64: SAEBench's choice of n latents: as many of the largest as there are effects that are not 0, at most
    n. Under TPP effects may be negative, and latents of effect 0 are then taken before them."""
    return ranked(effects, min(n, int((effects != 0).sum())))


def padded_codes(pooled: Tensor, at_zero: Tensor, n_tokens: Tensor, length: int) -> Tensor:
    """[n, k]: pooled codes [n, k], with the codes [k] of the zero rows by which the published code fills texts of
    `n_tokens` [n] tokens up to `length`."""
    missing = (length - n_tokens.double()).clamp(min=0) / n_tokens.double()
    return pooled.double() + missing[:, None] * at_zero.double()


def logits_after(logits: Tensor, pooled: Tensor, products: Tensor, ns: Sequence[int]) -> Tensor:
    """[len(ns), n] float64: a probe's logits [n] when the first N latents are set to 0, for each N.

    Args:
        pooled: [n, k]: pooled codes of the latents in the order of their choice.
        products: [k]: their decoder directions' inner products with the probe.
    """
    taken = nn.functional.pad((pooled.double() * products).cumsum(1), (1, 0))
    return torch.stack([logits - taken[:, min(n, pooled.shape[1])] for n in ns])


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """[..., n] float64: 1 where the logit is on the side of the label; a logit of 0 counts as class 0."""
    return ((logits > 0) == (labels > 0.5)).double()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """[...]: the mean over the last dimension of `correct`."""
    return correct(logits, labels).mean(-1)
