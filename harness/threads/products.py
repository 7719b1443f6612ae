"""Large matrix products on the CPU by the faster of the two libraries at hand: those of encoders and of LM heads.

torch's own product on x86 is Intel's MKL, which leaves a fifth of the speed of other makers' processors unused: on an
AMD EPYC (Zen 4) numpy's OpenBLAS makes the float32 products of an SAE at 85 to 97 GFLOP/s a thread, MKL at 65 to 89.
The two round differently in the last bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .side_by_side import side_by_side

_ROWS = 512
"""Rows that one thread makes at a time, half as many of fewer than two such pieces: with less, packing the other matrix
costs more than is gained. Pieces depend on the number of rows alone, since OpenBLAS may round a row otherwise in a
piece of another size."""
_WORTH = 2**29
"""Multiplications below which torch's product is as fast, as in most layers of a language model."""


def product(x: Tensor, W: Tensor) -> Tensor:
    """[n, m] = x [n, d] W [d, m], of x's dtype also where autocast makes the product in another."""
    rows = _rows_at_once(len(x))
    large = rows > 0 and x.numel() * W.shape[1] >= _WORTH
    if not large or not _plain(x, W) or (openblas := _openblas()) is None:
        return torch.mm(x, W).to(x.dtype)
    out = torch.empty(len(x), W.shape[1])
    left, right, whole = x.detach().numpy(), W.detach().numpy(), out.numpy()

    def make(start: int) -> None:
        np.matmul(left[start : start + rows], right, out=whole[start : start + rows])

    with openblas.on_one_thread():
        side_by_side(make, range(0, len(x), rows))
    return out


def _rows_at_once(n: int) -> int:
    """Rows of a piece; 0 where there would be fewer pieces than threads."""
    rows = _ROWS if n >= 2 * _ROWS else _ROWS // 2
    return rows if n >= rows * torch.get_num_threads() else 0


def _plain(x: Tensor, W: Tensor) -> bool:
    """Whether numpy can take both as they are: float32 on the CPU, in one piece, and nobody asks for a gradient."""
    if torch.is_autocast_enabled("cpu") or (torch.is_grad_enabled() and (x.requires_grad or W.requires_grad)):
        return False
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, W))
    return plain and x.is_contiguous() and (W.is_contiguous() or W.t().is_contiguous())


class _OpenBLAS:
    """numpy's OpenBLAS, kept to the calling thread while a product runs: its own threads would spin beside torch's."""

    def __init__(self, libraries: list[Any]) -> None:
        self._libraries = libraries
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[int] = []

    @contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """While open in any thread, a product runs on the thread that asks for it."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = [library.get_num_threads() for library in self._libraries]
                for library in self._libraries:
                    library.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    for library, before in zip(self._libraries, self._before, strict=True):
                        library.set_num_threads(before)


@cache
def _openblas() -> _OpenBLAS | None:
    """None where torch's own product is the one to take: it is not MKL, or this is a processor MKL is made for, or
    numpy has another library."""
    if not torch.backends.mkl.is_available() or _vendor() in ("GenuineIntel", ""):
        return None
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController().lib_controllers
    libraries = [lib for lib in loaded if lib.internal_api == "openblas" and "numpy.libs" in Path(lib.filepath).parts]
    return _OpenBLAS(libraries) if libraries else None


def _vendor() -> str:
    """The processor's maker as Linux tells it; empty where it is not told."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
