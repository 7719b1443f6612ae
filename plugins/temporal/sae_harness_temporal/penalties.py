"""Distances between the codes of two tokens: pure functions, sparse and dense."""

from __future__ import annotations

from torch import Tensor

from harness import RaggedCodes, SparseCodes
from harness.training.code_distance import l1_difference, select_tokens, token_sums

EPS = 1e-8
"""Keeps 0/0 at 0 where both codes are empty; far below any code's sum in inputs of mean norm sqrt(d_in)."""

Codes = SparseCodes | RaggedCodes | Tensor


def absolute_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| of each token; of sparse codes over the union of both supports."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a - b).abs().sum(-1)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        raise TypeError("the codes of both tokens come from one encoder: both sparse or both dense")
    return l1_difference(a, b)


def relative_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| / (0.5 (||a||_1 + ||b||_1) + eps) of each token, in [0, 2].

    0 for equal codes and for two empty ones, 2 for disjoint ones. Scaling both codes does not change it, so that it
    cannot be lowered by shrinking them.
    """
    return absolute_distance(a, b) / (0.5 * (l1_norm(a) + l1_norm(b)) + EPS)


def l1_norm(codes: Codes) -> Tensor:
    """[n]: sum of the code values of each token (they are not negative)."""
    return token_sums(codes)


def distance_to_nothing(codes: Codes, *, relative: bool) -> Tensor:
    """[n]: the distance to the empty code: ||f||_1, or 2 ||f||_1 / (||f||_1 + 2 eps) where relative."""
    norm = l1_norm(codes)
    return norm / (0.5 * norm + EPS) if relative else norm


def select(codes: Codes, rows: Tensor) -> Codes:
    """The codes of the tokens where rows [n] bool holds."""
    if bool(rows.all()):
        return codes  # the usual batch: no copy, and no scatter in the backward pass
    return codes[rows] if isinstance(codes, Tensor) else select_tokens(codes, rows)
