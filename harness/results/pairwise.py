"""All pairs of several groups at once: p-values corrected so that chance parts any two equal ones with 5 % at most.

Holm's procedure (`multiple.py`) with Shaffer's refinement: of the pairs of k means not every number can be equal. Where
one pair differs, at least one of the two differs from each third group too, so that after the first pair is decided
the correction is for k - 1 groups' pairs alone. Standard library only.

Reference: Shaffer 1986, "Modified sequentially rejective multiple test procedures", JASA 81 (procedure S1).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TypeVar

Group = TypeVar("Group", bound=Hashable)


def shaffer(p_values: Mapping[tuple[Group, Group], float]) -> dict[tuple[Group, Group], float]:
    """Pair of groups -> corrected p-value; each pair is given once, in one order, and need not be there at all.

    The smallest p of k groups' pairs is multiplied by k (k - 1) / 2, as by Holm; the one after i smaller ones by the
    largest number of pairs that can still be equal when i differ. None may fall below one before it, nor rise above 1.
    The p-values must test equal means of each pair; they may depend on each other.

    Raises:
        ValueError: a p-value lies outside [0, 1], or a group is paired with itself.
    """
    for (a, b), p in p_values.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"a p-value must lie in [0, 1], got {p}")
        if a == b:
            raise ValueError(f"{a!r} is paired with itself")
    k = len({group for pair in p_values for group in pair})
    pairs = k * (k - 1) // 2
    corrected: dict[tuple[Group, Group], float] = {}
    largest = 0.0
    for rank, pair in enumerate(sorted(p_values, key=p_values.__getitem__)):
        can_be_equal = max(n for n in equal_pairs(k) if n <= pairs - rank)
        factor = min(can_be_equal, len(p_values) - rank)
        largest = max(largest, min(1.0, factor * p_values[pair]))
        corrected[pair] = largest
    return {pair: corrected[pair] for pair in p_values}


@lru_cache(maxsize=256)
def equal_pairs(k: int) -> frozenset[int]:
    """The numbers of pairs that can be equal among k means: 3 means have 0, 1 or 3, never 2."""
    if k < 2:
        return frozenset({0})
    return frozenset(j * (j - 1) // 2 + rest for j in range(1, k + 1) for rest in equal_pairs(k - j))
