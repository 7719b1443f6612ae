"""Distances between the codes of two tokens: pure functions, sparse and dense."""

from __future__ import annotations

from torch import Tensor

from harness import SparseCodes
from harness.training.kernels import l1_difference

EPS = 1e-8
"""Keeps 0/0 at 0 where both codes are empty; far below any code's sum in inputs of mean norm sqrt(d_in)."""

Codes = SparseCodes | Tensor


def absolute_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| of each token. Sparse codes cost O(n·k²), over the union of both supports."""
    if isinstance(a, SparseCodes) and isinstance(b, SparseCodes):
        return l1_difference(a, b)
    if isinstance(a, SparseCodes) or isinstance(b, SparseCodes):
        raise TypeError("the codes of both tokens come from one encoder: both sparse or both dense")
    return (a - b).abs().sum(-1)


def relative_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| / (0.5 (||a||_1 + ||b||_1) + eps) of each token, in [0, 2].

    0 for equal codes and for two empty ones, 2 for disjoint ones. Scaling both codes does not change it, so that it
    cannot be lowered by shrinking them.
    """
    return absolute_distance(a, b) / (0.5 * (l1_norm(a) + l1_norm(b)) + EPS)


def l1_norm(codes: Codes) -> Tensor:
    """[n]: sum of the code values of each token (they are not negative)."""
    return codes.values.sum(-1) if isinstance(codes, SparseCodes) else codes.sum(-1)


def distance_to_nothing(codes: Codes, *, relative: bool) -> Tensor:
    """[n]: the distance to the empty code: ||f||_1, or 2 ||f||_1 / (||f||_1 + 2 eps) where relative."""
    norm = l1_norm(codes)
    return norm / (0.5 * norm + EPS) if relative else norm


def select(codes: Codes, rows: Tensor) -> Codes:
    """The codes of the tokens where rows [n] bool holds."""
    if bool(rows.all()):
        return codes  # the usual batch: no copy, and no scatter in the backward pass
    if isinstance(codes, SparseCodes):
        return SparseCodes(codes.indices[rows], codes.values[rows])
    return codes[rows]
