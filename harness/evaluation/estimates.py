"""Sums per document and ratios of them, each with its standard error over documents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError, ShapeError
from ..interfaces.specs import MetricValue


def ratio_estimate(numerator: Tensor, denominator: Tensor, what: str = "ratio") -> MetricValue:
    """Σ numerator / Σ denominator over groups, with its standard error over the groups.

    Both are [n_groups]. The standard error is the delta method's (the linearised jackknife):
    sqrt(G/(G-1) Σ (num_g - ratio·den_g)²) / |Σ den|; None with a single group.

    Raises:
        ShapeError: the shapes differ or are not [n_groups].
        DataError: there is no group, or the denominators sum to zero.
        NonFiniteError: a sum is NaN or infinite.
    """
    if numerator.ndim != 1 or numerator.shape != denominator.shape:
        raise ShapeError(
            f"{what}: numerator and denominator must be [n_groups], got {tuple(numerator.shape)} and "
            f"{tuple(denominator.shape)}."
        )
    n = len(numerator)
    if n == 0:
        raise DataError(f"{what}: there is no data to measure it on.")
    num, den = numerator.double(), denominator.double()
    top, bottom = float(num.sum()), float(den.sum())
    if not (math.isfinite(top) and math.isfinite(bottom)):
        raise NonFiniteError(f"{what}: the sums are {top} / {bottom}; activations or logits are not finite.")
    if bottom == 0.0:
        raise DataError(f"{what} is undefined on this data: {top:.6g} / {bottom:.6g}.")
    ratio = top / bottom
    stderr = None
    if n > 1:
        stderr = math.sqrt(n / (n - 1) * float((num - ratio * den).square().sum())) / abs(bottom)
    return MetricValue(value=ratio, n=n, stderr=stderr)


def one_minus(estimate: MetricValue) -> MetricValue:
    """1 - value, with the same standard error and n."""
    return MetricValue(value=1.0 - estimate.value, n=estimate.n, stderr=estimate.stderr)


class GroupedSums:
    """Sums of named columns per group (document), in float64."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._sums: dict[int, Tensor] = {}

    def add(self, group: Tensor, **columns: Tensor) -> None:
        """Add one value a row to each column: `group` [n] int64, each column [n].

        Raises:
            ShapeError: a column is missing, unknown, or not [n].
        """
        if set(columns) != set(self.names) or any(c.shape != group.shape or c.ndim != 1 for c in columns.values()):
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ShapeError(f"Expected the columns {self.names}, each {tuple(group.shape)}; got {shapes}.")
        stacked = torch.stack([columns[name].double() for name in self.names], dim=1)
        ids, sums, _ = group_sums(group, stacked)
        for i, row in zip(ids.tolist(), sums.cpu(), strict=True):
            self._sums[i] = self._sums[i] + row if i in self._sums else row

    @property
    def groups(self) -> Tensor:
        """[n_groups] int64: the groups seen, ascending."""
        return torch.tensor(sorted(self._sums), dtype=torch.int64)

    def column(self, name: str) -> Tensor:
        """[n_groups] float64: the sums of one column, in the order of `groups`."""
        at = self.names.index(name)
        return torch.tensor([float(self._sums[i][at]) for i in sorted(self._sums)], dtype=torch.float64)

    def ratio(self, numerator: str, denominator: str, what: str) -> MetricValue:
        """`ratio_estimate` of two columns."""
        return ratio_estimate(self.column(numerator), self.column(denominator), what)


def group_sums(group: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct groups [g], sums of rows [n, k] within each [g, k], and the slot [n] of each row."""
    ids, inverse = group.unique(return_inverse=True)
    sums = torch.zeros(len(ids), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, inverse, rows)
    return ids, sums, inverse
