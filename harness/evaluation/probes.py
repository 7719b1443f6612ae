"""Linear probes, batched: many logistic regressions in one Newton iteration, latents and C chosen on validation data.

A stack of b problems is features [b, n, p], labels [b, n] (0 or 1) and weights [b, n] (0 for padding), so tasks of
unlike sizes are one stack. Everything is float64: the optimum is found to rounding, so a probe has no epochs, no
learning rate and no seed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError, ShapeError

C_GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths that validation chooses from."""

_GRADIENT = 1e-10
"""A fit has converged where no component of the gradient is larger, relative to 1 + C times the sum of weights."""
_MAX_STEPS = 100
_ELEMENTS = 1 << 25
"""A stack is solved in pieces of about this many numbers."""


class Probe(NamedTuple):
    """Logistic regressions: logit = x · coefficients + intercept."""

    coefficients: Tensor
    """[b, p] float64."""
    intercept: Tensor
    """[b] float64."""

    def logits(self, features: Tensor) -> Tensor:
        """[b, n] of features [b, n, p]."""
        return torch.einsum("bnp,bp->bn", features.double(), self.coefficients) + self.intercept[:, None]


def fit_logistic(features: Tensor, labels: Tensor, weights: Tensor, c: Tensor) -> Probe:
    """The minimum of ½|w|² + C Σ weight · log-loss for each problem of a stack, the intercept not penalised: what
    scikit-learn's `LogisticRegression(C=c)` minimises, by Newton steps with a line search.

    Args:
        features: [b, n, p].
        labels: [b, n], 0 or 1.
        weights: [b, n] >= 0; padding has 0.
        c: [b] > 0.

    Raises:
        ShapeError: the shapes do not fit together.
        DataError: a problem has examples of one class alone.
        NonFiniteError: features are NaN or infinite, or a fit does not converge.
    """
    b, n, p = features.shape
    if labels.shape != (b, n) or weights.shape != (b, n) or c.shape != (b,):
        raise ShapeError(
            f"Probes need features [b, n, p], labels and weights [b, n] and c [b]; got {tuple(features.shape)}, "
            f"{tuple(labels.shape)}, {tuple(weights.shape)} and {tuple(c.shape)}."
        )
    if not bool(torch.isfinite(features).all()):
        raise NonFiniteError("NaN or infinite values in a probe's features.")
    positive = (weights * labels).sum(1)
    if bool(((positive == 0) | (positive == weights.sum(1))).any()):
        raise DataError("A probe was given examples of one class alone: it needs both.")
    step = max(1, _ELEMENTS // max(1, n * (p + 1) + (p + 1) ** 2))
    parts = [_fit(*(t[start : start + step] for t in (features, labels, weights, c))) for start in range(0, b, step)]
    return Probe(torch.cat([part.coefficients for part in parts]), torch.cat([part.intercept for part in parts]))


def _fit(features: Tensor, labels: Tensor, weights: Tensor, c: Tensor) -> Probe:
    x = torch.nn.functional.pad(features.double(), (0, 1), value=1.0)
    y, s, c = labels.double(), weights.double(), c.double()
    penalty = torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)
    penalty[-1] = 0.0
    scale = 1.0 + c * s.sum(1)
    w = x.new_zeros(x.shape[0], x.shape[-1])
    active = torch.arange(len(w), device=w.device)
    for _ in range(_MAX_STEPS):
        xa, ya, ca, wa = x[active], y[active], c[active], w[active]
        sa = s[active]
        z = torch.einsum("bnp,bp->bn", xa, wa)
        prob = z.sigmoid()
        gradient = penalty * wa + ca[:, None] * torch.einsum("bn,bnp->bp", sa * (prob - ya), xa)
        open_ = gradient.abs().amax(1) > _GRADIENT * scale[active]
        if not bool(open_.any()):
            break
        active, xa, ya, sa, ca, wa = (t[open_] for t in (active, xa, ya, sa, ca, wa))
        z, prob, gradient = z[open_], prob[open_], gradient[open_]
        curvature = ca[:, None] * sa * prob * (1 - prob)
        hessian = torch.einsum("bnp,bn,bnq->bpq", xa, curvature, xa)
        hessian.diagonal(dim1=1, dim2=2).add_(penalty + 1e-12)
        direction = -_solve(hessian, gradient)
        w[active] = wa + _step_length(xa, ya, sa, ca, wa, z, direction, gradient, penalty)[:, None] * direction
    else:
        raise NonFiniteError(f"A probe did not converge in {_MAX_STEPS} Newton steps: its features are degenerate.")
    return Probe(w[:, :-1], w[:, -1])


def _solve(matrices: Tensor, right: Tensor) -> Tensor:
    """[b, p]: the solutions for positive definite matrices [b, p, p], and right sides [b, p], each checked.

    One matrix at a time: with torch 2.13 and two threads, batched LU (`torch.linalg.solve`) of well-conditioned
    matrices failed now and then (oneMKL: a wrong parameter of DLASWP), and printed that more often than it raised.
    """
    found = torch.empty_like(right)
    for matrix, side, solution in zip(matrices, right, found, strict=True):
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            # Numerically singular: an intercept without curvature, where all predictions are certain.
            factor = torch.linalg.cholesky(matrix + 1e-9 * matrix.diagonal().mean() * torch.eye(len(matrix)).to(matrix))
        solution.copy_(torch.cholesky_solve(side[:, None], factor)[:, 0])
    off = (torch.einsum("bpq,bq->bp", matrices, found) - right).abs().amax(1)
    if bool((off > 1e-6 * (1 + right.abs().amax(1))).any()):
        raise NonFiniteError(
            f"A probe's linear system was solved with an error of {float(off.max()):.2g}: its features are degenerate."
        )
    return found


def _step_length(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    c: Tensor,
    w: Tensor,
    z: Tensor,
    direction: Tensor,
    gradient: Tensor,
    penalty: Tensor,
) -> Tensor:
    """[b]: 1, ½, ¼, … : the first that lowers the loss enough (Armijo)."""
    dz = torch.einsum("bnp,bp->bn", x, direction)
    slope = (gradient * direction).sum(1)

    def loss(length: Tensor) -> Tensor:
        at, wt = z + length[:, None] * dz, w + length[:, None] * direction
        return 0.5 * (penalty * wt * wt).sum(1) + c * (s * (torch.nn.functional.softplus(at) - y * at)).sum(1)

    start = loss(torch.zeros_like(c))
    length = torch.ones_like(c)
    for _ in range(30):
        high = loss(length) > start + 1e-4 * length * slope + 1e-12 * (1 + start.abs())
        if not bool(high.any()):
            break
        length = torch.where(high, length / 2, length)
    return length


def log_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """[b]: mean log-loss in nats of logits [b, n]."""
    losses = torch.nn.functional.softplus(logits) - labels.double() * logits
    return (weights * losses).sum(1) / weights.sum(1)


class Scores(NamedTuple):
    """What probes score on their test texts, each with its standard error over texts. All [b] float64."""

    accuracy: Tensor
    accuracy_stderr: Tensor
    """Binomial: sqrt(a (1 - a) / n)."""
    auc: Tensor
    auc_stderr: Tensor
    """DeLong, DeLong and Clarke-Pearson 1988; 0 where the classes are parted without error."""
    f1: Tensor
    f1_stderr: Tensor
    """Of the ratio 2 TP / (2 TP + FP + FN), by the delta method."""


def score(logits: Tensor, labels: Tensor, weights: Tensor) -> Scores:
    """Accuracy and F1 at probability ½ (of class 1, a logit of 0 counts as class 0), and AUC, of logits [b, n]."""
    s, y = weights.double(), labels.double()
    n = s.sum(1)
    said = (logits > 0).double()
    accuracy = (s * (said == y)).sum(1) / n
    top, bottom = 2 * said * y, said + y
    f1 = (s * top).sum(1) / (s * bottom).sum(1)
    residual = s * (top - f1[:, None] * bottom)
    f1_stderr = (n / (n - 1)).sqrt() * residual.square().sum(1).sqrt() / (s * bottom).sum(1)
    area, area_stderr = auc(logits, labels, weights)
    return Scores(accuracy, (accuracy * (1 - accuracy) / n).sqrt(), area, area_stderr, f1, f1_stderr)


def auc(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Area under the ROC curve [b], ties counted half, and its standard error [b] by DeLong's method.

    Raises:
        DataError: a problem has examples of one class alone.
    """
    values, errors = [], []
    for z, y, s in zip(logits, labels, weights, strict=True):
        positive, negative = z[(s > 0) & (y > 0.5)], z[(s > 0) & (y <= 0.5)]
        m, n = len(positive), len(negative)
        if m == 0 or n == 0:
            raise DataError(f"AUC needs texts of both classes: got {m} of class 1 and {n} of class 0.")
        wins = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
        values.append(wins.mean())
        spread = wins.mean(1).var(correction=min(1, m - 1)) / m + wins.mean(0).var(correction=min(1, n - 1)) / n
        errors.append(spread.sqrt())
    return torch.stack(values), torch.stack(errors)


class Reduced(NamedTuple):
    """Features in the span of the training examples: a regression with an L2 penalty needs no others."""

    training: Tensor
    """[n, r] float64, r <= n."""
    others: Tensor
    """[m, r] float64: of the other examples."""


def reduce(training: Tensor, others: Tensor) -> Reduced:
    """Features [n, d] and [m, d] as r <= n coordinates, with the same inner products with the training examples.

    The optimum of a regression with an L2 penalty lies in the span of its training examples, so the fit on the r
    coordinates gives the logits of the fit on the d features, at a cost that does not grow with d.
    """
    x = training.double()
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > values[-1].clamp(min=0) * 1e-12
    kept[-1] = True  # a feature matrix of zeros keeps one coordinate, of zeros
    roots = values[kept].clamp(min=0).sqrt()
    vectors = vectors[:, kept]
    inverse = torch.where(roots > 0, 1 / roots.clamp(min=1e-300), 0.0)
    return Reduced(vectors * roots, (others.double() @ x.T) @ vectors * inverse)


def choose(losses: Tensor) -> Tensor:
    """[b]: which of the candidates [b, c] has the lowest validation loss; of equal ones the first."""
    return losses.argmin(1)


def mean_difference(features: Tensor, labels: Tensor) -> Tensor:
    """[p]: |mean over class 1 - mean over class 0| of features [n, p]: the published score of latents."""
    return (features[labels > 0.5].mean(0) - features[labels <= 0.5].mean(0)).abs()


def ranked(values: Tensor, k: int) -> Tensor:
    """[k] int64: the places of the k largest, descending; of equal ones the first."""
    return values.sort(descending=True, stable=True).indices[:k]
