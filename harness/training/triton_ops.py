"""The two operations of a sparse step as Triton kernels, for CUDA tensors.

Importing this module imports triton: only code that holds a CUDA tensor should.

A CSR list is `columns [nnz]` cut into segments by `offsets [n_segments + 1]` (first 0, last nnz): segment s owns the
slots offsets[s] … offsets[s + 1] - 1, and each slot names a row of a table. Decoding has tokens as segments and
latents as columns; a weight gradient has latents as segments and tokens as columns.

Order of sums. A segment is cut into pieces of `PIECE` slots from its first slot on. A piece is summed slot by slot,
then the pieces in turn, in float32 (float64 for float64 inputs). There are no atomics and no tuner: equal inputs give
equal bits, and a segment's result does not depend on what else is in the list. `PIECE` is part of that order; `BLOCK`,
the number of warps and the alignment of the tensors are part of that of dot products. To change one moves bits.

Parallelism. A popular latent owns thousands of slots, most own a few. So one program sums the first piece of each
segment and a program of its own each later piece, which it finds without a plan: cut the list into chunks of `PIECE`
slots. In a chunk at most one later piece begins, and it belongs to the segment that owns the chunk's first slot, since
a later piece begins at least `PIECE` slots after its segment. Piece j >= 1 of a segment whose slots begin at b begins
in chunk b // PIECE + j. Grids therefore depend on shapes alone: nothing waits for the device, and the launches can be
captured in a CUDA graph.

Sizes. All this gathers rows of 1 to 9 KB and does two operations a number: it is bound by memory. A program is one
warp over `BLOCK` columns, which loads 16 bytes a thread and keeps `ROWS` rows in flight: ptxas gives it 64 registers,
since 32 programs of one warp fit a multiprocessor anyway, where for two warps it takes 32 and waits for each second
row (read off the machine code for sm_80 and sm_90). 32 programs x 4 rows x 1 KB are 128 KB in flight, several times
the bandwidth x latency of a multiprocessor. The column block is the slow axis of the grid, so that all segments pass
over one slice [m, BLOCK] of the table before the next: 18432 x 256 float32 are 19 MB and stay in the L2 cache of an
A100 or H100 (40 and 50 MB), where the whole table of 170 MB would not.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..errors import ShapeError

# Kernels are written in Triton's language, which type checkers take for Python; and triton may be absent.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

PIECE = 128
"""Slots summed by one program. A code of k <= 128 is one piece; a latent that fires on each of 16384 tokens is 128
pieces, so that neither of the two stages is longer than 128 rows."""

BLOCK = 256
"""Columns of the table that a program reads: divides the usual d (512, 768, 2304, 4096)."""

ROWS = 4
"""Rows of the table in flight in a program."""

_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_INTEGERS = (torch.int32, torch.int64)
# No pipelining: it would send the rows through shared memory. Fusing is named because Triton 3.10 changes its default.
_LAUNCH = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _later_piece(offsets, chunk, n_segments, PIECE: tl.constexpr):
    """(segment, first slot, end) of the later piece that begins in this chunk of the list; none if end <= first."""
    slot = chunk.to(tl.int64) * PIECE
    low = chunk * 0
    high = low + n_segments
    while high - low > 1:  # offsets[low] <= slot < offsets[high]; empty segments are never the last `low`
        middle = low + (high - low) // 2
        before = tl.load(offsets + middle) <= slot
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    begin = tl.load(offsets + low).to(tl.int64)
    end = tl.load(offsets + low + 1).to(tl.int64)
    first = begin + (slot - begin + PIECE - 1) // PIECE * PIECE
    # The segment's first piece (the chunk begins with it) belongs to another program.
    last = tl.where(first > begin, tl.minimum(first + PIECE, end), first)
    return low, first, last


@triton.jit
def _sum_slots(
    columns, weights, table, first, last, d, dims,
    ACC: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """[BLOCK]: sum over slots first … last - 1 of weight times row, one after the other."""
    total = tl.zeros((BLOCK,), dtype=ACC)
    for start in range(first, last, ROWS):
        for u in tl.static_range(ROWS):
            slot = start + u
            live = slot < last
            column = tl.load(columns + slot, mask=live, other=0).to(tl.int64)
            weight = tl.load(weights + slot, mask=live, other=0.0).to(ACC)
            inside = dims < tl.where(live, d, 0)  # `(dims < d) & live` is no mask to the interpreter of Triton 3.9
            row = tl.load(table + column * d + dims, mask=inside, other=0.0).to(ACC)
            total = tl.fma(weight, row, total)  # fused in every kernel: the same bits
    return total


@triton.jit
def _later_pieces_kernel(
    columns, offsets, weights, table, partial, n_segments, d,
    ACC: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """partial[c - 1] = sum of the later piece that begins in chunk c, for the chunks from the second on."""
    row = tl.program_id(0)
    _, first, last = _later_piece(offsets, row + 1, n_segments, PIECE)
    if first < last:
        dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = _sum_slots(columns, weights, table, first, last, d, dims, ACC, BLOCK, ROWS)
        tl.store(partial + row.to(tl.int64) * d + dims, total, mask=dims < d)


@triton.jit
def _segment_sum_kernel(
    columns, offsets, weights, table, partial, out, d,
    SPLIT: tl.constexpr, ACC: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out[s] = first piece + later pieces in turn: read from `partial` if SPLIT, else summed here."""
    segment = tl.program_id(0)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(offsets + segment).to(tl.int64)
    end = tl.load(offsets + segment + 1).to(tl.int64)
    last = tl.minimum(begin + PIECE, end)
    total = _sum_slots(columns, weights, table, begin, last, d, dims, ACC, BLOCK, ROWS)
    if SPLIT:
        row = begin // PIECE  # of the second piece: see `_later_pieces_kernel`
        later = (end - begin - 1) // PIECE  # none for an empty segment
        for start in range(0, later, ROWS):
            for u in tl.static_range(ROWS):
                inside = dims < tl.where(start + u < later, d, 0)
                total += tl.load(partial + (row + start + u) * d + dims, mask=inside, other=0.0)
    else:
        for first in range(begin + PIECE, end, PIECE):
            last = tl.minimum(first + PIECE, end)
            total += _sum_slots(columns, weights, table, first, last, d, dims, ACC, BLOCK, ROWS)
    tl.store(out + segment.to(tl.int64) * d + dims, total.to(out.dtype.element_ty), mask=dims < d)


@triton.jit
def _segment_dots_kernel(
    grad, columns, offsets, table, out, n_segments, nnz, d,
    SPLIT: tl.constexpr, ACC: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out[b, j] = dot product over column block b of slot j's row with its segment's row of `grad`."""
    program = tl.program_id(0)
    if program < n_segments:
        segment = program
        first = tl.load(offsets + program).to(tl.int64)
        last = tl.load(offsets + program + 1).to(tl.int64)
        if SPLIT:
            last = tl.minimum(first + PIECE, last)
    else:
        segment, first, last = _later_piece(offsets, program - n_segments + 1, n_segments, PIECE)
    if first < last:
        block = tl.program_id(1)
        dims = block * BLOCK + tl.arange(0, BLOCK)
        inside = dims < d
        grads = tl.load(grad + segment.to(tl.int64) * d + dims, mask=inside, other=0.0).to(ACC)
        target = out + block.to(tl.int64) * nnz
        for start in range(first, last, ROWS):
            slots = start + tl.arange(0, ROWS)
            live = slots < last
            column = tl.load(columns + slots, mask=live, other=0).to(tl.int64)
            rows = tl.load(
                table + column[:, None] * d + dims[None, :], mask=live[:, None] & inside[None, :], other=0.0
            ).to(ACC)
            tl.store(target + slots, tl.sum(rows * grads[None, :], axis=1), mask=live)


def segment_sum(
    columns: Tensor,
    offsets: Tensor,
    weights: Tensor,
    table: Tensor,
    *,
    out_dtype: torch.dtype | None = None,
    longest: int | None = None,
) -> Tensor:
    """[n_segments, d]: for each segment the sum over its slots of weight times the row of `table` the slot names.

    Not differentiable: it is what the autograd functions of a sparse step are made of.

    Args:
        columns: [nnz], int32 or int64, each in [0, m).
        offsets: [n_segments + 1], int32 or int64: where each segment's slots begin; the last entry is nnz.
        weights: [nnz].
        table: [m, d].
        out_dtype: of the result, that of `table` by default. Sums run in float32 (float64 for float64 inputs) and
            are rounded once.
        longest: an upper bound of the segments' lengths, where it is known without asking the device (the k of a
            top-k): up to `PIECE` it spares a launch. A bound that is too low costs time, never a bit of the result.

    A segment without slots gives a zero row. The entries of `columns` and `offsets` are not checked: that would wait
    for the device.

    Raises:
        ShapeError: shapes, dtypes or devices do not fit, or a tensor is not contiguous.
    """
    _check_list(columns, offsets, table)
    _check_floats(weights=weights, table=table)
    if weights.shape != columns.shape:
        raise ShapeError(f"weights must be [nnz] as columns: got {tuple(weights.shape)} and {tuple(columns.shape)}.")
    out_dtype = table.dtype if out_dtype is None else out_dtype
    if out_dtype not in _FLOATS:
        raise ShapeError(f"out_dtype must be one of {', '.join(map(str, _FLOATS))}; got {out_dtype}.")
    n_segments, nnz, d = len(offsets) - 1, len(columns), table.shape[1]
    if n_segments == 0 or nnz == 0 or d == 0:
        return table.new_zeros((n_segments, d), dtype=out_dtype)
    accumulator = _accumulator(weights, table)
    out = table.new_empty((n_segments, d), dtype=out_dtype)
    block, n_blocks = _column_blocks(d)
    n_later = _later_programs(nnz, longest)
    partial = table.new_empty((n_later, d), dtype=accumulator)
    order = {"ACC": _TRITON[accumulator], "PIECE": PIECE, "BLOCK": block, "ROWS": ROWS, **_LAUNCH}
    with _on_device(table):
        if n_later:
            _later_pieces_kernel[(n_later, n_blocks)](columns, offsets, weights, table, partial, n_segments, d, **order)
        _segment_sum_kernel[(n_segments, n_blocks)](
            columns, offsets, weights, table, partial, out, d, SPLIT=n_later > 0, **order
        )
    return out


def segment_dots(
    grad: Tensor, columns: Tensor, offsets: Tensor, table: Tensor, *, longest: int | None = None
) -> Tensor:
    """[nnz]: for each slot the dot product of its segment's row of `grad` with the row of `table` it names.

    float32; float64 where an input is. Not differentiable. `columns`, `offsets` and `longest` as in `segment_sum`.

    Args:
        grad: [n_segments, d].
        table: [m, d].

    Raises:
        ShapeError: shapes, dtypes or devices do not fit, or a tensor is not contiguous.
    """
    _check_list(columns, offsets, table)
    _check_floats(grad=grad, table=table)
    n_segments, nnz, d = len(offsets) - 1, len(columns), table.shape[1]
    if grad.shape != (n_segments, d):
        raise ShapeError(
            f"grad must be [n_segments, d] = {(n_segments, d)} (from offsets and table), got {tuple(grad.shape)}."
        )
    accumulator = _accumulator(grad, table)
    if nnz == 0 or n_segments == 0 or d == 0:
        return table.new_zeros(nnz, dtype=accumulator)
    block, n_blocks = _column_blocks(d)
    n_later = _later_programs(nnz, longest)
    by_block = table.new_empty((n_blocks, nnz), dtype=accumulator)
    with _on_device(table):
        _segment_dots_kernel[(n_segments + n_later, n_blocks)](
            grad, columns, offsets, table, by_block, n_segments, nnz, d,
            SPLIT=n_later > 0, ACC=_TRITON[accumulator], PIECE=PIECE, BLOCK=block, ROWS=ROWS,
            **_LAUNCH,
        )  # fmt: skip
    return by_block.sum(0) if n_blocks > 1 else by_block[0]


# What triton decided when it was imported: interpreted kernels (TRITON_INTERPRET=1) run on any device.
_COMPILED = isinstance(_segment_sum_kernel, triton.runtime.JITFunction)


def _accumulator(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _column_blocks(d: int) -> tuple[int, int]:
    """Columns a program reads (a power of two, at least one 32-byte sector of bf16), and how many such blocks d has."""
    block = min(BLOCK, max(16, 1 << (d - 1).bit_length()))
    return block, -(-d // block)


def _later_programs(nnz: int, longest: int | None) -> int:
    """Chunks of the list in which a later piece may begin; the first chunk never holds one."""
    return 0 if longest is not None and longest <= PIECE else (nnz - 1) // PIECE


def _on_device(tensor: Tensor) -> AbstractContextManager:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _check_list(columns: Tensor, offsets: Tensor, table: Tensor) -> None:
    if columns.ndim != 1 or offsets.ndim != 1 or len(offsets) == 0 or table.ndim != 2:
        raise ShapeError(
            f"Shapes do not fit: columns {tuple(columns.shape)}, offsets {tuple(offsets.shape)}, "
            f"table {tuple(table.shape)}; expected [nnz], [n_segments + 1], [m, d]."
        )
    for name, tensor in (("columns", columns), ("offsets", offsets)):
        if tensor.dtype not in _INTEGERS:
            raise ShapeError(f"{name} must be int32 or int64, got {tensor.dtype}: use {name}.to(torch.int64).")
        _check_layout(name, tensor, table)
    if len(columns) and not len(table):
        raise ShapeError(f"A list of {len(columns)} slots needs a table with rows, got {tuple(table.shape)}.")


def _check_floats(*, table: Tensor, **others: Tensor) -> None:
    for name, tensor in {**others, "table": table}.items():
        if tensor.dtype not in _FLOATS:
            raise ShapeError(f"{name} must be one of {', '.join(map(str, _FLOATS))}; got {tensor.dtype}.")
        _check_layout(name, tensor, table)


def _check_layout(name: str, tensor: Tensor, table: Tensor) -> None:
    if tensor.device != table.device:
        raise ShapeError(f"{name} is on {tensor.device}, table on {table.device}: move them to one device.")
    if _COMPILED and not tensor.is_cuda:
        raise ShapeError(f"{name} is on {tensor.device}: these kernels take CUDA tensors; on a CPU use the torch path.")
    if not tensor.is_contiguous():
        raise ShapeError(
            f"{name} {tuple(tensor.shape)} has strides {tensor.stride()}, contiguous ones are needed: "
            f"pass {name}.contiguous()."
        )
