"""Slots grouped by column, and the gradients that are summed over them."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...errors import ShapeError
from ...threads.side_by_side import side_by_side
from .pieces import COMPILE, SUMS, array, balanced
from .rows import dot

# Kernels are written for numba's compiler, which type checkers take for Python on arrays.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false


def group(columns: Tensor, rows: Tensor | int, n_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """(order, rows, offsets) of `SlotsByColumn.grouped`, by counting."""
    nnz = len(columns)
    order, offsets = torch.empty(nnz, dtype=torch.int64), torch.empty(n_columns + 1, dtype=torch.int32)
    named = torch.empty(nnz, dtype=torch.int32)
    _check(columns, n_columns)
    _count_columns(array(columns), array(offsets))
    if isinstance(rows, int):
        _place_even(array(columns), rows, array(offsets), array(order), array(named))
    else:
        _place(array(columns), array(rows), array(offsets), array(order), array(named))
    return order, named, offsets


@njit(**COMPILE)
def _count_columns(columns, offsets):
    offsets[:] = 0
    for c in columns:
        offsets[c + 1] += 1
    for c in range(1, len(offsets)):
        offsets[c] += offsets[c - 1]


@njit(**COMPILE)
def _place_even(columns, per_row, offsets, order, named):
    place = offsets[:-1].copy()
    slot = 0
    for row in range(len(columns) // max(per_row, 1)):
        for _ in range(per_row):
            c = columns[slot]
            order[place[c]] = slot
            named[place[c]] = row
            place[c] += 1
            slot += 1


@njit(**COMPILE)
def _place(columns, rows, offsets, order, named):
    place = offsets[:-1].copy()
    for slot in range(len(columns)):
        c = columns[slot]
        order[place[c]] = slot
        named[place[c]] = rows[slot]
        place[c] += 1


def decode_gradients(
    grad: Tensor, values: Tensor, order: Tensor, rows: Tensor, offsets: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the values [nnz] and of `table` [n_columns, d] from that of the segment sums, `grad` [n, d]; the
    slots as `group` gave them. Both in one pass over the slots."""
    _check(rows, len(grad))
    grad_values, grad_table = torch.empty(len(order)), torch.empty(table.shape)
    arrays = [array(t) for t in (grad, values.reshape(-1), order, rows, offsets, table, grad_values, grad_table)]
    side_by_side(lambda bounds: _decode_gradients(*arrays, *bounds), balanced(offsets, table.shape[1]))
    return grad_values, grad_table


@njit(fastmath=SUMS, **COMPILE)
def _decode_gradients(grad, values, order, rows, offsets, table, grad_values, grad_table, start, stop):
    zero = np.float32(0)
    for s in range(start, stop):
        row, total = table[s], grad_table[s]
        total[:] = 0
        i = offsets[s]
        while i + 2 <= offsets[s + 1]:
            place_a, place_b = order[i], order[i + 1]
            a, b = grad[rows[i]], grad[rows[i + 1]]
            value_a, value_b = values[place_a], values[place_b]
            dot_a, dot_b = zero, zero
            for j in range(len(row)):
                dot_a += a[j] * row[j]
                dot_b += b[j] * row[j]
                total[j] += value_a * a[j] + value_b * b[j]
            grad_values[place_a], grad_values[place_b] = dot_a, dot_b
            i += 2
        if i < offsets[s + 1]:
            a, value_a, dot_a = grad[rows[i]], values[order[i]], zero
            for j in range(len(row)):
                dot_a += a[j] * row[j]
                total[j] += value_a * a[j]
            grad_values[order[i]] = dot_a


def segment_dots(grad: Tensor, order: Tensor, rows: Tensor, offsets: Tensor, table: Tensor) -> Tensor:
    """The first of `decode_gradients` alone."""
    _check(rows, len(grad))
    out = torch.empty(len(order))
    arrays = [array(t) for t in (grad, order, rows, offsets, table, out)]
    side_by_side(lambda bounds: _dot_segments(*arrays, *bounds), balanced(offsets, table.shape[1]))
    return out


@njit(**COMPILE)
def _dot_segments(grad, order, rows, offsets, table, out, start, stop):
    for s in range(start, stop):
        row = table[s]
        for i in range(offsets[s], offsets[s + 1]):
            out[order[i]] = dot(row, grad[rows[i]])


def gather(weights: Tensor, order: Tensor, rows: Tensor, offsets: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """For each column the sum over its slots of weight times the segment's row of `table` [n, d], and of the weights
    alone: [n_columns, d] and [n_columns]. The slots as `group` gave them."""
    _check(rows, len(table))
    sums, totals = torch.empty(len(offsets) - 1, table.shape[1]), torch.empty(len(offsets) - 1)
    arrays = [array(t) for t in (weights.reshape(-1), order, rows, offsets, table, sums, totals)]
    side_by_side(lambda bounds: _gather(*arrays, *bounds), balanced(offsets, table.shape[1]))
    return sums, totals


@njit(fastmath={"contract", "nsz"}, **COMPILE)
def _gather(weights, order, rows, offsets, table, sums, totals, start, stop):
    for s in range(start, stop):
        total, weight = sums[s], np.float32(0)
        total[:] = 0
        i = offsets[s]
        while i + 4 <= offsets[s + 1]:  # four rows at a time: the total is read and written a fourth as often
            a, b, c, d = weights[order[i]], weights[order[i + 1]], weights[order[i + 2]], weights[order[i + 3]]
            row_a, row_b, row_c, row_d = table[rows[i]], table[rows[i + 1]], table[rows[i + 2]], table[rows[i + 3]]
            weight = weight + a + b + c + d
            for j in range(len(total)):
                total[j] = total[j] + a * row_a[j] + b * row_b[j] + c * row_c[j] + d * row_d[j]
            i += 4
        while i < offsets[s + 1]:
            a, row_a = weights[order[i]], table[rows[i]]
            weight += a
            for j in range(len(total)):
                total[j] += a * row_a[j]
            i += 1
        totals[s] = weight


def fired(values: Tensor, latents: Tensor, d_sae: int) -> tuple[Tensor, int]:
    """Which latents [d_sae] have a value above 0, and how many values are."""
    _check(latents, d_sae)
    found = torch.zeros(d_sae, dtype=torch.bool)
    return found, _mark(array(values.reshape(-1)), array(latents.reshape(-1)), found.numpy())


@njit(**COMPILE)
def _mark(values, latents, found):
    n = 0
    for i in range(len(values)):
        if values[i] > 0:
            found[latents[i]] = True
            n += 1
    return n


def _check(names: Tensor, n: int) -> None:
    """Raises ShapeError where a name is not a row of a table of n: the kernels read and write where it says."""
    if not _all_within(array(names.reshape(-1)), n):
        raise ShapeError(
            f"Latents and tokens must lie in [0, {n}), got {int(names.min())} to {int(names.max())}. "
            "Check the codes' indices."
        )


@njit(**COMPILE)
def _all_within(names, n):
    outside = 0
    for i in range(len(names)):
        outside |= (names[i] < 0) | (names[i] >= n)
    return outside == 0
