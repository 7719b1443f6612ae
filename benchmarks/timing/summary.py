"""From what each round gave to medians, spreads and ratios. Pure functions of numbers."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median of some rounds, with the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError where there are no values."""
        if not values:
            raise ValueError("A spread needs at least one round.")
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def text(self, digits: int = 3) -> str:
        """`median (low–high)`, or the value alone where all are shown alike."""
        middle, low, high = (significant(v, digits) for v in (self.median, self.low, self.high))
        return middle if low == middle == high else f"{middle} ({low}–{high})"


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Theirs over ours, round by round: what changed from one round to the next has hit both."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without exponent."""
    if value == 0 or value != value:
        return "0" if value == 0 else "-"
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{float(text):.10f}".rstrip("0") if abs(value) < 1 else f"{float(text):.0f}"
    return text


def busy_text(others: Sequence[float | None]) -> str:
    """How busy others were: median and most, in cores."""
    known = [value for value in others if value is not None]
    if not known:
        return "not known"
    return f"{statistics.median(known):.2f} (most {max(known):.2f})"


def paragraph(text: str) -> str:
    """A paragraph of Markdown in lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
