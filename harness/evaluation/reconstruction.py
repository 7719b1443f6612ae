"""How well activations are reconstructed: pure functions of two tensors, and streaming sums."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError, ShapeError
from ..interfaces.specs import MetricValue
from .estimates import GroupedSums, group_sums, ratio_estimate

_CHUNK_ELEMENTS = 1 << 16
"""Rows are summed in chunks of about this many numbers, so that their float64 copies stay in a core's cache."""


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Fraction of variance unexplained of x [n, d]: sum |x - x_hat|² / sum |x - mean(x)|², a float64 scalar.

    0 is perfect, 1 is no better than predicting the per-dimension mean, above 1 is worse. The mean is over the rows
    given: for a data set use `RunningReconstruction`, do not average batches.

    Raises:
        ShapeError: the shapes differ or are not [n, d].
        DataError: x is empty or all its rows are equal.

    References: Gao et al. 2024, arXiv:2406.04093 (normalised MSE).
    """
    x, x_hat = _pair(x, x_hat)
    total = (x - x.mean(0)).square().sum()
    if total <= 0:
        raise DataError(f"fvu needs rows that differ: all {len(x)} rows are equal, so there is no variance to explain.")
    return (x - x_hat).square().sum() / total


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared error per element of x [n, d], a float64 scalar. Raises ShapeError, DataError as `fvu`."""
    x, x_hat = _pair(x, x_hat)
    return (x - x_hat).square().mean()


def cosine(x: Tensor, x_hat: Tensor) -> Tensor:
    """Cosine between each row of x [n, d] and its reconstruction, [n] float64; 0 where either is zero.

    Raises:
        ShapeError, DataError: as `fvu`.
    """
    x, x_hat = _pair(x, x_hat)
    norms = x.norm(dim=1) * x_hat.norm(dim=1)
    return torch.where(norms > 0, (x * x_hat).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny), norms)


def l2_ratio(x: Tensor, x_hat: Tensor) -> Tensor:
    """|x_hat| / |x| of each row of x [n, d], [n] float64; NaN where the row of x is zero and has no ratio.

    Raises:
        ShapeError, DataError: as `fvu`.
    """
    x, x_hat = _pair(x, x_hat)
    norms = x.norm(dim=1)
    return torch.where(norms > 0, x_hat.norm(dim=1) / norms, torch.full_like(norms, math.nan))


def relative_reconstruction_bias(x: Tensor, x_hat: Tensor) -> Tensor:
    """sum |x_hat|² / sum x·x_hat over the rows of x [n, d]: below 1 the SAE shrinks, 1 is unbiased.

    0 where x_hat is zero everywhere, the limit of x_hat = εx.

    Raises:
        ShapeError: as `fvu`.
        DataError: x is empty, or x_hat is orthogonal to x over all rows.

    References: Rajamanoharan et al. 2024, arXiv:2404.16014, section 3.
    """
    x, x_hat = _pair(x, x_hat)
    return torch.tensor(_bias(x_hat.square().sum(1), (x * x_hat).sum(1)).value, dtype=torch.float64)


class Variation(NamedTuple):
    """How much the activations of each document vary, for `RunningReconstruction.fvu`."""

    document: Tensor
    """[n_documents] int64, ascending."""
    squares: Tensor
    """[n_documents] float64: sum of |x - mean|², the mean per dimension over the whole data set."""


class RunningVariation:
    """The variation of a data set that arrives in batches of any size and order. It does not depend on an SAE.

    Keeps, per document, the per-dimension mean of x and the squared deviations from it; partial means are merged by
    Chan's update, so that a large common offset costs no precision.
    """

    def __init__(self) -> None:
        self._moments: dict[int, tuple[int, Tensor, Tensor]] = {}

    def update(self, x: Tensor, document: Tensor) -> None:
        """Add rows x [n, d] with the document [n] int64 of each.

        Raises:
            NonFiniteError: x holds NaN or infinity.
        """
        x = x.double()
        ids, sums, inverse = group_sums(document, x)
        if not bool(torch.isfinite(sums).all()):
            raise NonFiniteError("NaN or infinite values in the activations.")
        counts = torch.bincount(inverse, minlength=len(ids))
        means = sums / counts[:, None]
        deviations = (x - means[inverse]).square().sum(1)
        squares = torch.zeros_like(means[:, 0]).index_add_(0, inverse, deviations)
        for i, n, mean, square in zip(ids.tolist(), counts.tolist(), means.cpu(), squares.cpu(), strict=True):
            if i in self._moments:
                n_old, mean_old, square_old = self._moments[i]
                shift, total = mean - mean_old, n_old + n
                square = square_old + square + shift.square().sum() * (n_old * n / total)
                mean, n = mean_old + shift * (n / total), total
            self._moments[i] = (n, mean, square)

    def total(self) -> Variation:
        """The variation of all rows so far. Raises DataError where there are none."""
        if not self._moments:
            raise DataError("There are no activations to measure the reconstruction of: the held-out data is empty.")
        documents = sorted(self._moments)
        moments = [self._moments[i] for i in documents]
        counts = torch.tensor([m[0] for m in moments], dtype=torch.float64)
        means = torch.stack([m[1] for m in moments])
        squares = torch.stack([m[2] for m in moments])
        overall = (counts[:, None] * means).sum(0) / counts.sum()
        return Variation(torch.tensor(documents), squares + counts * (means - overall).square().sum(1))


class RunningReconstruction:
    """Reconstruction metrics of a data set that arrives in batches of any size and order."""

    def __init__(self, variation: Variation | None = None) -> None:
        """`variation`: that of all rows that will be added, where it was measured before; else it is measured."""
        self._sums = GroupedSums("tokens", "residual", "power", "overlap", "cosine", "ratio", "nonzero")
        self._given = variation
        self._variation = RunningVariation()
        self._d_in = 0

    def update(self, x: Tensor, x_hat: Tensor, document: Tensor) -> None:
        """Add rows x [n, d] with their reconstructions x_hat [n, d] and the document [n] int64 of each.

        Raises:
            ShapeError: the shapes do not fit together or differ from those of earlier rows.
            DataError: there are no rows.
            NonFiniteError: x or x_hat holds NaN or infinity.
        """
        _require_pair(x, x_hat)
        if document.shape != x.shape[:1] or (self._d_in and x.shape[1] != self._d_in):
            raise ShapeError(
                f"Expected rows of d_in {self._d_in or x.shape[1]} with one document each; got x {tuple(x.shape)}, "
                f"document {tuple(document.shape)}."
            )
        self._d_in = x.shape[1]
        size = max(1, _CHUNK_ELEMENTS // self._d_in) if x.device.type == "cpu" else len(x)
        parts = [_row_sums(*pair) for pair in zip(x.split(size), x_hat.split(size), strict=True)]
        norms, powers, overlap, residual = (torch.cat(column) for column in zip(*parts, strict=True))
        for what, values in (("activations", norms), ("reconstruction", powers)):
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(f"NaN or infinite values in the {what}.")
        norm, norm_hat = norms.sqrt(), powers.sqrt()
        nonzero = norm > 0
        both = norm * norm_hat
        self._sums.add(
            document,
            tokens=torch.ones_like(norm),
            residual=residual,
            power=powers,
            overlap=overlap,
            cosine=torch.where(both > 0, overlap / both, 0.0),
            ratio=torch.where(nonzero, norm_hat / norm, 0.0),
            nonzero=nonzero,
        )
        if self._given is None:
            self._variation.update(x, document)

    def fvu(self) -> MetricValue:
        """sum |x - x_hat|² / sum |x - mean|², the mean per dimension over the whole data set.

        Raises:
            DataError: there are no rows, or the variation given is of other documents.
        """
        variation = self._variation.total() if self._given is None else self._given
        if not torch.equal(variation.document.cpu(), self._sums.groups):
            raise DataError(
                f"The variation given is of {len(variation.document)} documents, the reconstructions are of "
                f"{len(self._sums.groups)}: they are not of the same data."
            )
        return ratio_estimate(self._sums.column("residual"), variation.squares.cpu(), "fvu")

    def mse(self) -> MetricValue:
        """Mean squared error per element."""
        return ratio_estimate(self._sums.column("residual"), self._sums.column("tokens") * self._d_in, "mse")

    def cosine(self) -> MetricValue:
        """Mean over tokens of the cosine between x and x_hat."""
        return self._sums.ratio("cosine", "nonzero", "cosine")

    def l2_ratio(self) -> MetricValue:
        """Mean over tokens of |x_hat| / |x|."""
        return self._sums.ratio("ratio", "nonzero", "l2_ratio")

    def relative_reconstruction_bias(self) -> MetricValue:
        """sum |x_hat|² / sum x·x_hat; 0 where x_hat is zero everywhere."""
        return _bias(self._sums.column("power"), self._sums.column("overlap"))


def _pair(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    _require_pair(x, x_hat)
    return x.double(), x_hat.double()


def _require_pair(x: Tensor, x_hat: Tensor) -> None:
    if x.ndim != 2 or x.shape != x_hat.shape:
        raise ShapeError(
            f"Activations and reconstruction must both be [n, d], got {tuple(x.shape)} and {tuple(x_hat.shape)}."
        )
    if x.numel() == 0:
        raise DataError(f"There are no activations to measure: x is {tuple(x.shape)}.")


def _row_sums(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[n] float64 each: |x|², |x_hat|², x·x_hat and |x - x_hat|² of rows [n, d]."""
    x, x_hat = x.double(), x_hat.double()
    overlap = (x * x_hat).sum(1)
    return x.square().sum(1), x_hat.square().sum(1), overlap, (x - x_hat).square().sum(1)


def _bias(power: Tensor, overlap: Tensor) -> MetricValue:
    if len(power) and not bool(power.any()):
        return MetricValue(value=0.0, n=len(power))
    return ratio_estimate(power, overlap, "relative_reconstruction_bias")
