"""The optimiser's two passes over a matrix and its gradient, row by row."""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from .pieces import COMPILE, SUMS, array, own

# Kernels are written for numba's compiler, which type checkers take for Python on arrays.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false


@njit(fastmath=SUMS, **COMPILE)
def dot(a, b):
    total = np.float32(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


def gradient_squares(grad: Tensor, unit_rows: Tensor | None = None) -> float:
    """Sum of squares of `grad [m, d]`; with `unit_rows [m, d]`, of norm 1, after taking from each row of `grad` its
    part along theirs, in place."""
    if unit_rows is None:
        return _sum_of_squares(array(grad))
    return _remove_parallel(array(unit_rows), own(grad))


@njit(fastmath=SUMS, **COMPILE)
def _sum_of_squares(grad):
    total = 0.0
    for r in range(len(grad)):
        total += dot(grad[r], grad[r])
    return total


@njit(fastmath=SUMS, **COMPILE)
def _remove_parallel(rows, grad):
    total = 0.0
    for r in range(len(grad)):
        row, g = rows[r], grad[r]
        along = dot(row, g)
        square = np.float32(0)
        for j in range(len(g)):
            v = g[j] - along * row[j]
            g[j] = v
            square += v * v
        total += square
    return total


def adam(
    parameter: Tensor,
    grad: Tensor,
    average: Tensor,
    square: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    scale: float,
    unit_rows: bool,
) -> None:
    """One step of Adam on [m, d] tensors, in place, with the gradient multiplied by `scale`; with `unit_rows` the
    parameter's rows are then scaled to norm 1."""
    arrays = (own(parameter), array(grad), own(average), own(square))
    root = (1.0 - beta2**step) ** 0.5
    _adam_rows(*arrays, lr / (1.0 - beta1**step), 1.0 - beta1, beta2, 1.0 / root, eps, scale, unit_rows)


@njit(fastmath=SUMS, **COMPILE)
def _adam_rows(parameter, grad, average, square, step_size, weight, decay, inverse_root, eps, scale, unit_rows):
    step_size, weight, inverse_root = np.float32(step_size), np.float32(weight), np.float32(inverse_root)
    rest, decay = np.float32(1.0 - decay), np.float32(decay)
    eps, scale, one = np.float32(eps), np.float32(scale), np.float32(1)
    for r in range(len(parameter)):
        p, g, a, s = parameter[r], grad[r], average[r], square[r]
        norm = np.float32(0)
        for j in range(len(p)):
            v = g[j] * scale
            a[j] += weight * (v - a[j])
            s[j] = decay * s[j] + rest * v * v
            p[j] -= step_size * a[j] / (np.sqrt(s[j]) * inverse_root + eps)
            norm += p[j] * p[j]
        if unit_rows:
            inverse = one / max(np.sqrt(norm), np.float32(1e-12))
            for j in range(len(p)):
                p[j] *= inverse
