"""Many tests at once: p-values corrected so that chance decides any of them with 5 % at most. Standard library only.

References: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's corrected p-values, in the order given: what is below alpha is decided at family-wise level alpha.

    Of m tests the smallest p is multiplied by m, the next by m - 1, …; none may fall below one before it, nor
    rise above 1. Valid however the tests depend on each other, as metrics of the same SAEs do.

    Raises:
        ValueError: a p-value lies outside [0, 1].
    """
    for p in p_values:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"a p-value must lie in [0, 1], got {p}")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return tuple(corrected)
