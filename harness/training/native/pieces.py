"""What the compiled kernels share: how they are compiled, their arrays, and the parts that threads take."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...errors import ShapeError

WORTH_A_THREAD = 2**19
"""Numbers read below which waking a second thread costs more than it saves."""
COMPILE = {"nogil": True, "cache": True, "error_model": "numpy"}
SUMS = {"contract", "nsz", "reassoc"}
"""Fast-math flags of dot products: the order of a sum may change, NaN and infinity may not be assumed away."""


def supports(*tensors: Tensor) -> bool:
    """Whether all are float32 on the CPU."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory in C order, which the kernels are compiled for; a copy where it is in another."""
    return tensor.detach().contiguous().numpy()


def own(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory, to be written to.

    Raises:
        ShapeError: it is not contiguous.
    """
    if not tensor.is_contiguous():
        raise ShapeError(f"The compiled kernels write to contiguous tensors only, got strides {tensor.stride()}.")
    return tensor.detach().numpy()


def even(n: int, work: int) -> list[tuple[int, int]]:
    """Bounds of equal parts of n rows, one for each thread; one in all where there is little to do."""
    count = max(1, min(n, torch.get_num_threads())) if work >= WORTH_A_THREAD else 1
    return [(n * i // count, n * (i + 1) // count) for i in range(count)]


def balanced(offsets: Tensor, d: int) -> list[tuple[int, int]]:
    """Bounds of parts of the segments with about as many slots each, one for each thread."""
    n, nnz = len(offsets) - 1, int(offsets[-1])
    threads = torch.get_num_threads()
    if threads == 1 or n < threads or (nnz + n) * d < WORTH_A_THREAD:
        return [(0, n)]
    # An empty segment costs a row of zeros, about as much as a slot.
    cost = array(offsets) + np.arange(n + 1)
    cuts = np.searchsorted(cost, [(nnz + n) * i // threads for i in range(1, threads)])
    bounds = [0, *(int(cut) for cut in cuts), n]
    return list(pairwise(bounds))
