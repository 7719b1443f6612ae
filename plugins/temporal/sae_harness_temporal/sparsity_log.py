"""How sparse codes are along the sequence, for the training log: L0 by position, in octaves.

Octaves, because the first positions differ most from each other, and because a trainer does not know how long sequences
are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness import SparseCodes, TrainingLog
from harness.evaluation.metrics import token_of_slot

from .penalties import Codes

PREFIX = "l0_from_"
"""Of the log's names: `l0_from_8` is the mean L0 of positions 8 to 15."""


def l0_by_octave(codes: Codes, position: Tensor) -> dict[str, float]:
    """Mean active latents of the tokens at positions 0, 1, 2–3, 4–7, …; octaves without a token are left out."""
    if isinstance(codes, Tensor):
        counts = (codes > 0).sum(1)
    elif isinstance(codes, SparseCodes):
        counts = (codes.values > 0).sum(1)
    else:
        counts = torch.bincount(token_of_slot(codes)[codes.values > 0], minlength=len(position))
    octave = octaves(position)
    n = torch.bincount(octave)
    sums = torch.bincount(octave, weights=counts.double(), minlength=len(n))
    found = zip(n.tolist(), sums.tolist(), strict=True)
    return {f"{PREFIX}{_start(number)}": total / count for number, (count, total) in enumerate(found) if count}


def octaves(position: Tensor) -> Tensor:
    """[n] int64: 0 for position 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, …"""
    return torch.frexp(position.double())[1].long()


def _start(octave: int) -> int:
    return 0 if octave == 0 else 1 << (octave - 1)


def logged_octaves(training: TrainingLog) -> list[tuple[str, list[float], list[float]]]:
    """(positions in words, steps, L0) of each octave the log has, by rising position."""
    starts = sorted(int(name.rpartition("_")[2]) for name in training.columns if name.startswith(f"trainer/{PREFIX}"))
    found = []
    for start in starts:
        words = str(start) if start < 2 else f"{start}–{2 * start - 1}"
        found.append((words, *training.column(f"trainer/{PREFIX}{start}")))
    return found
