"""The operations every sparse step is made of, on the CPU and on the GPU: sums over segments and top-k.

A segment list says which rows of a table each output row combines: slot j of segment s names row `columns[j]` with
weight `weights[j]`, for offsets[s] <= j < offsets[s + 1]. To decode, segments are tokens and columns latents; in both
weight gradients segments are latents and columns tokens. Sums run in the order of the slots and without atomics:
equal inputs give equal bits.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..threads.side_by_side import side_by_side

_GROUP = 4
"""Children of a node in `top_k`'s tree; 2, 3 and 8 were slower at every size measured."""
_WORTH_A_THREAD = 2**19
"""Numbers below which `top_k` is not spread over threads."""
_WORTH_A_LEVEL = 16
"""A level of the tree pays while a row has at least this many times k numbers."""
_LONGEST_NATIVE_ROW = 2**20
"""A row is searched by one thread: a whole batch as one row (batch top-k) is better spread over several."""


def segment_sum(columns: Tensor, offsets: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """[n_segments, d]: for each segment the sum over its slots of weight times the named row of `table`.

    Args:
        columns: [nnz] int32 or int64, rows of `table`.
        offsets: [n_segments + 1] of the same type; an empty segment gives zeros.
        weights: [nnz], of the table's dtype.
        table: [m, d], contiguous.
    """
    if table.is_cuda and (gpu := _triton_ops()):
        return gpu.segment_sum(columns, offsets, weights.contiguous(), table)
    return F.embedding_bag(
        columns, table, offsets, mode="sum", per_sample_weights=weights.contiguous(), include_last_offset=True
    )


def slot_dots(grad: Tensor, slots: SlotsByColumn, offsets: Tensor, table: Tensor) -> Tensor:
    """[nnz]: for each slot the dot product of its segment's row of `grad` [n_segments, d] with its column's row of
    `table` [n_columns, d]: the gradient of `segment_sum` with respect to its weights."""
    grad = grad.contiguous()
    if table.is_cuda and (gpu := _triton_ops()):
        return gpu.segment_dots(grad, slots.columns, offsets, table).to(grad.dtype)
    # By column, so that the table is read once and in order: at 18,432 x 2,304 four times as fast as by segment.
    order, segments, starts = slots.grouped()
    if native := native_ops(grad, table):
        return native.segment_dots(grad, order, segments, starts, table)
    columns = slots.columns[order].int()
    if table.device.type == "cpu" and table.dtype in (torch.float32, torch.float64):
        # embedding_bag's own backward for its weights: a gathered dot product without the gathered block. Private,
        # hence held by a test against the public way below, which is slower.
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(grad, table, columns, segments, segments, 0)
    else:
        dots = dots_by_chunks(grad, columns, segments, table)
    return torch.empty_like(dots).index_copy_(0, order, dots)


def decode_gradients(
    grad: Tensor, values: Tensor, slots: SlotsByColumn, offsets: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the values [nnz] and of the table [n_columns, d] of a `segment_sum` whose gradient is `grad`."""
    if native := native_ops(grad, values, table):
        return native.decode_gradients(grad, values, *slots.grouped(), table)
    return slot_dots(grad, slots, offsets, table), slots.gather(values, grad)


def dots_by_chunks(grad: Tensor, columns: Tensor, segments: Tensor, table: Tensor, chunk: int = 8192) -> Tensor:
    """[nnz]: dot products of rows of `grad` with rows of `table`, in plain torch; chunked, so that the gathered
    [chunk, d] blocks stay small."""
    parts = [
        (grad[rows] * table[names]).sum(-1)
        for rows, names in zip(segments.split(chunk), columns.split(chunk), strict=True)
    ]
    return torch.cat(parts) if parts else grad.new_zeros(0)


class SlotsByColumn:
    """The same slots grouped by column: what both weight gradients sum over. Sorted once, on first use."""

    def __init__(self, columns: Tensor, rows: Tensor | int, n_columns: int) -> None:
        """`rows`: the segment of each slot [nnz], or the number of slots each segment has."""
        self.columns, self.rows, self.n_columns = columns, rows, n_columns
        self._sorted: tuple[Tensor, Tensor, Tensor] | None = None

    def grouped(self) -> tuple[Tensor, Tensor, Tensor]:
        """(order, rows, offsets): slots by column, the segment of each, and where each column's slots begin."""
        if self._sorted is None and (native := native_ops()) and self.columns.device.type == "cpu":
            self._sorted = native.group(self.columns, self.rows, self.n_columns)
        if self._sorted is None:
            # int32 sorts in two thirds of the time, and embedding_bag reads it faster. Stable: sums keep their order.
            order = torch.sort(self.columns.int(), stable=True).indices
            offsets = torch.zeros(self.n_columns + 1, dtype=torch.int32, device=self.columns.device)
            torch.cumsum(torch.bincount(self.columns, minlength=self.n_columns), 0, out=offsets[1:])
            rows = order // self.rows if isinstance(self.rows, int) else self.rows[order]
            self._sorted = (order, rows.int(), offsets)
        return self._sorted

    def gather(self, weights: Tensor, table: Tensor) -> Tensor:
        """[n_columns, d]: for each column the sum over its slots of weight times the segment's row of `table`."""
        return self.gather_totals(weights, table)[0]

    def gather_totals(self, weights: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """`gather`, and `totals` of the same weights."""
        if native := native_ops(weights, table):
            return native.gather(weights, *self.grouped(), table)
        order, rows, offsets = self.grouped()
        return segment_sum(rows, offsets, weights.reshape(-1)[order], table.contiguous()), self.totals(weights)

    def totals(self, weights: Tensor) -> Tensor:
        """[n_columns]: the sum of the weights of each column's slots."""
        total = torch.zeros(self.n_columns, dtype=weights.dtype, device=weights.device)
        if weights.is_cuda:  # index_add_ adds atomically there: order and bits would vary
            order, _, offsets = self.grouped()
            return torch.segment_reduce(weights.reshape(-1)[order], "sum", offsets=offsets.long(), initial=0.0)
        return total.index_add_(0, self.columns, weights.reshape(-1))


def top_k(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of the k largest of each row of `rows` [n, m], in no order. NaN counts as largest.

    Exact. On the CPU a row is searched as a tree: the k largest lie among the children of the k groups with the
    largest maxima, so all but a few numbers are only read by a vectorised maximum. 1.6 to 2.1 times as fast as
    `torch.topk` at m 1,536 to 18,432, and 1.4 to 1.7 times that where numba is installed. Among equal values any may
    be chosen, as with `torch.topk`.
    """
    return top_k_biased(rows, None, k)


def top_k_biased(rows: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """`top_k` of `rows [n, m] + bias [m]`, the sum without a pass of its own where numba is installed; `rows` may be
    overwritten with the sum."""
    if rows.shape[1] <= _LONGEST_NATIVE_ROW and (native := native_ops(rows)):
        found = native.top_k(rows, rows.new_zeros(rows.shape[1]) if bias is None else bias, k)
        if found is not None:
            return found
    if bias is not None:
        rows = rows.add_(bias)
    if rows.device.type != "cpu" or rows.numel() < _WORTH_A_THREAD or torch.get_num_threads() == 1:
        return _top_k(rows, k)
    parts = rows.split(-(-len(rows) // torch.get_num_threads()))
    found = side_by_side(lambda part: _top_k(part, k), parts)
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def pairs_above(rows: Tensor, bias: Tensor, above: float | Tensor, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Columns [nnz] and values [nnz] of the numbers of `rows [n, m] + bias [m]` above a number or one for each column
    [m], row by row, and how many each row has [n]. Where there are more than `most`: None, and `rows` is overwritten
    with the sum; it may be in any case."""
    if native := native_ops(rows, bias):
        least = above.detach().to(rows) if isinstance(above, Tensor) else rows.new_full((), above)
        found = native.pairs_above(rows, bias, least.expand(rows.shape[1]), most)
        if found is None:
            rows.add_(bias)
        return found
    cells = (rows.add_(bias) > above).view(-1)
    if int(cells.count_nonzero()) > most:
        return None
    where = cells.nonzero().view(-1)
    tokens = where // rows.shape[1]
    counts = torch.bincount(tokens, minlength=len(rows))
    return where - tokens * rows.shape[1], rows.view(-1)[where], counts


def _top_k(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n, m = rows.shape
    if rows.device.type != "cpu" or m % _GROUP or m < _WORTH_A_LEVEL * k:
        return torch.topk(rows, k, dim=-1, sorted=False)
    width = m // _GROUP
    _, groups = _top_k(rows.view(n, _GROUP, width).amax(1), k)
    # Children lie `width` apart, so that the maximum runs along contiguous memory.
    steps = torch.arange(0, m, width).view(1, _GROUP, 1)
    candidates = (groups.unsqueeze(1) + steps).view(n, _GROUP * k)
    values, slots = rows.gather(1, candidates).topk(k, dim=-1, sorted=False)
    return values, candidates.gather(1, slots)


def fired(values: Tensor, latents: Tensor, d_sae: int) -> tuple[Tensor, int]:
    """Which latents [d_sae] have a value above 0, and how many values are. `values` and `latents` of one shape."""
    if (native := native_ops(values)) and latents.device.type == "cpu":
        return native.fired(values, latents, d_sae)
    active = values > 0
    found = torch.zeros(d_sae, dtype=torch.bool, device=values.device)
    found[latents[active]] = True
    return found, int(active.count_nonzero())


def native_ops(*tensors: Tensor) -> ModuleType | None:
    """The CPU's compiled kernels; None where numba is not installed or they do not take these tensors. They know no
    gradient: where one is asked for, plain torch does the work."""
    native = _native_ops()
    if native is None or not native.supports(*tensors):
        return None
    return None if torch.is_grad_enabled() and any(t.requires_grad for t in tensors) else native


@cache
def _native_ops() -> ModuleType | None:
    """None where numba is not installed. One that is installed and broken raises."""
    return (
        None if importlib.util.find_spec("numba") is None else importlib.import_module(f"{__package__}.native.compiled")
    )


@cache
def _triton_ops() -> ModuleType | None:
    """The GPU's kernels; None where triton is not installed. One that is installed and broken raises."""
    return None if importlib.util.find_spec("triton") is None else importlib.import_module(f"{__package__}.triton_ops")
