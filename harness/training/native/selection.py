"""The largest numbers of each row, and those above a threshold, without a pass of its own for the bias."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ...threads.side_by_side import side_by_side
from .pieces import COMPILE, array, even

# Kernels are written for numba's compiler, which type checkers take for Python on arrays.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportOptionalSubscript=false

_GROUPS = 128
"""Groups a row falls into for `top_k`, at least; their maxima stay in the first-level cache."""
_GROUPS_PER_K = 4
"""And at least this many times k, so that most of a row lies in groups without any of its k largest."""
_BISECTIONS = 12
"""Of the range of the maxima, for the bound: enough that few numbers too many pass it."""
_BLOCK = 64
"""Numbers of a row that are counted together, and passed over where none is above its threshold."""


def top_k(rows: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Values and indices [n, k] of the k largest of each row of `rows [n, m] + bias [m]`, in no order; None if there
    is NaN among them.

    A row is cut into groups that interleave. A bound that k of their maxima reach is reached by k numbers at least,
    and only groups whose maximum reaches it hold any: all but a few numbers are read once, by a vectorised maximum.
    """
    n, m = rows.shape
    values, indices = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
    groups = max(_GROUPS, -(-_GROUPS_PER_K * k // 16) * 16)
    if groups * 2 > m:
        groups = 0
    arrays = [array(t) for t in (rows, bias, values, indices)]
    ok = side_by_side(lambda bounds: _top_k_rows(*arrays, groups, *bounds), even(n, rows.numel()))
    return (values, indices) if all(ok) else None


@njit(fastmath={"nsz"}, **COMPILE)
def _group_maxima(row, bias, maxima):
    """Fill `maxima`: group g has columns g, g + len(maxima), …, up to the last whole multiple. False at NaN."""
    n = len(maxima)
    pair = 2 * n
    nan = np.int32(0)
    for j in range(n):
        v = row[j] + bias[j]
        maxima[j] = v
        nan |= v != v
    begin = n
    while begin + pair <= len(row):  # two at a time: the maxima are read and written half as often
        a, b = row[begin : begin + n], row[begin + n : begin + pair]
        shift_a, shift_b = bias[begin : begin + n], bias[begin + n : begin + pair]
        for j in range(n):
            v, w = a[j] + shift_a[j], b[j] + shift_b[j]
            nan |= (v != v) | (w != w)
            larger = v if v > w else w
            maxima[j] = larger if larger > maxima[j] else maxima[j]
        begin += pair
    if begin + n <= len(row):
        a, shift_a = row[begin : begin + n], bias[begin : begin + n]
        for j in range(n):
            v = a[j] + shift_a[j]
            nan |= v != v
            maxima[j] = v if v > maxima[j] else maxima[j]
    return nan == 0


@njit(**COMPILE)
def _partition(keys, names, n, k):
    """Quickselect: afterwards the k largest of keys[:n] are keys[:k], with their names."""
    low, high, last = 0, n - 1, k - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                names[i], names[j] = names[j], names[i]
                i += 1
                j -= 1
        if last <= j:
            high = j
        elif last >= i:
            low = i
        else:
            return


@njit(**COMPILE)
def _bound(maxima, k):
    """A number that at least k of `maxima` reach, and few more: by bisection, whose counting is vectorised."""
    low = high = maxima[0]
    for v in maxima:
        low, high = min(low, v), max(high, v)
    for _ in range(_BISECTIONS):
        middle = (low + high) * np.float32(0.5)
        n = 0
        for v in maxima:
            n += v >= middle
        if n >= k:
            low = middle
        else:
            high = middle
        if n == k:
            break
    return low


@njit(fastmath={"nsz"}, **COMPILE)
def _top_k_rows(rows, bias, values, indices, n_groups, start, stop):
    m, k = rows.shape[1], values.shape[1]
    whole = m - m % n_groups if n_groups else 0
    maxima, groups = np.empty(n_groups, np.float32), np.empty(n_groups + 1, np.int32)
    keys, names = np.empty(m + 1, np.float32), np.empty(m + 1, np.int32)
    for r in range(start, stop):
        row, bound, n, n_open = rows[r], np.float32(-np.inf), 0, 0
        if n_groups:
            if not _group_maxima(row, bias, maxima):
                return False
            bound = _bound(maxima, k)
            for g in range(n_groups):
                groups[n_open] = g
                n_open += maxima[g] >= bound
        for i in range(n_open):
            for c in range(np.uint64(groups[i]), np.uint64(whole), np.uint64(n_groups)):
                v = row[c] + bias[c]
                keys[n], names[n] = v, c
                n += v >= bound
        for c in range(whole, m):
            v = row[c] + bias[c]
            if v != v:
                return False
            keys[n], names[n] = v, c
            n += v >= bound
        _partition(keys, names, n, k)
        for i in range(k):
            values[r, i], indices[r, i] = keys[i], names[i]
    return True


def pairs_above(rows: Tensor, bias: Tensor, above: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Columns and values of the numbers of `rows [n, m] + bias [m]` that exceed `above` [m], row by row, and how many
    each row has; None where there are more than `most`."""
    n, m = rows.shape
    counts = torch.empty(n, dtype=torch.int64)
    blocks = torch.empty(n, -(-m // _BLOCK), dtype=torch.int32)
    arrays = [array(t) for t in (rows, bias, above)]
    parts = even(n, rows.numel())
    side_by_side(lambda bounds: _count_above(*arrays, blocks.numpy(), counts.numpy(), *bounds), parts)
    starts = torch.zeros(n + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=starts[1:])
    nnz = int(starts[-1])
    if nnz > most:
        return None
    columns, values = torch.empty(nnz, dtype=torch.int64), torch.empty(nnz)
    arrays += [array(t) for t in (blocks, starts, columns, values)]
    side_by_side(lambda bounds: _write_above(*arrays, *bounds), parts)
    return columns, values, counts


@njit(fastmath={"nsz"}, **COMPILE)
def _count_above(rows, bias, above, blocks, counts, start, stop):
    m = rows.shape[1]
    for r in range(start, stop):
        total = 0
        for b in range(blocks.shape[1]):
            begin, end = b * _BLOCK, min((b + 1) * _BLOCK, m)
            row, shift, least = rows[r, begin:end], bias[begin:end], above[begin:end]
            n = np.int32(0)
            for c in range(len(row)):
                n += row[c] + shift[c] > least[c]
            blocks[r, b] = n
            total += n
        counts[r] = total


@njit(fastmath={"nsz"}, **COMPILE)
def _write_above(rows, bias, above, blocks, starts, columns, values, start, stop):
    m = rows.shape[1]
    for r in range(start, stop):
        place = starts[r]
        for b in range(blocks.shape[1]):
            if blocks[r, b] > 0:
                for c in range(b * _BLOCK, min((b + 1) * _BLOCK, m)):
                    v = rows[r, c] + bias[c]
                    if v > above[c]:
                        columns[place], values[place] = c, v
                        place += 1
