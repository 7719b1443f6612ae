"""One seed's metric as a curve over measured L0, and the stretch of L0 that curves have in common.

Sparsity is matched here: values are read off at equal measured L0, by linear interpolation over log L0 between
trained points, and never beyond them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

TOLERANCE = 0.01
"""L0s that differ by at most this share count as equal: a top-k SAE fires k latents on almost all tokens, so two
runs at k = 32 measure 32.00 and 31.97. Within it a curve's end point is used as it is; no slope is continued."""

_LOG_TOLERANCE = math.log1p(TOLERANCE)
_POINT_WIDTH = 1e-9
"""Width in log L0 below which a window is a single point."""


class Point(NamedTuple):
    """A measured SAE."""

    log_l0: float
    value: float


class Window(NamedTuple):
    """A stretch of L0."""

    low: float
    high: float

    def describe(self) -> str:
        """The stretch in words: `8.02–63.9`, or one number."""
        if self.high / self.low <= 1.0 + TOLERANCE:
            return describe_l0(math.sqrt(self.low * self.high))
        return f"{describe_l0(self.low)}–{describe_l0(self.high)}"


@dataclass(frozen=True, slots=True)
class Frontier:
    """A metric of one seed at several L0s."""

    points: tuple[Point, ...]
    """By rising log L0, each L0 once."""

    @classmethod
    def of(cls, measured: Iterable[tuple[float, float]]) -> Frontier:
        """From pairs (measured L0 > 0, value); values at one and the same L0 are averaged.

        Raises:
            ValueError: there is no point, or an L0 is not positive.
        """
        by_l0: dict[float, list[float]] = {}
        for l0, value in measured:
            by_l0.setdefault(math.log(l0), []).append(value)
        if not by_l0:
            raise ValueError("a frontier needs at least one point")
        return cls(tuple(Point(x, math.fsum(v) / len(v)) for x, v in sorted(by_l0.items())))

    @property
    def window(self) -> Window:
        """The L0s this curve covers."""
        return Window(math.exp(self.points[0].log_l0), math.exp(self.points[-1].log_l0))

    def at(self, log_l0: float) -> float:
        """The value at a log L0 inside the curve, or within the tolerance of its ends.

        Raises:
            ValueError: the L0 lies outside: curves are never extrapolated.
        """
        first, last = self.points[0], self.points[-1]
        if not first.log_l0 - _LOG_TOLERANCE - _POINT_WIDTH <= log_l0 <= last.log_l0 + _LOG_TOLERANCE + _POINT_WIDTH:
            raise ValueError(f"L0 {math.exp(log_l0):.4g} lies outside the curve {self.window.describe()}")
        if log_l0 <= first.log_l0:
            return first.value
        if log_l0 >= last.log_l0:
            return last.value
        right = bisect.bisect_right([p.log_l0 for p in self.points], log_l0)
        a, b = self.points[right - 1], self.points[right]
        return a.value + (b.value - a.value) * (log_l0 - a.log_l0) / (b.log_l0 - a.log_l0)

    def mean_over(self, window: Window) -> float:
        """Mean of the piecewise linear curve over log L0 in the window (exact integral over width).

        Raises:
            ValueError: the window reaches beyond the curve.
        """
        low, high = math.log(window.low), math.log(window.high)
        if high - low <= _POINT_WIDTH:
            return self.at(0.5 * (low + high))
        knots = [low, *(p.log_l0 for p in self.points if low < p.log_l0 < high), high]
        values = [self.at(x) for x in knots]
        area = math.fsum(0.5 * (values[i] + values[i + 1]) * (knots[i + 1] - knots[i]) for i in range(len(knots) - 1))
        return area / (high - low)


def describe_l0(l0: float) -> str:
    """An L0 with three digits, or all whole ones."""
    return f"{l0:.0f}" if l0 >= 99.95 else f"{l0:.3g}"


def covers(window: Window, l0: float) -> bool:
    """Whether an L0 lies in the window or within the tolerance of its ends."""
    slack = 1.0 + TOLERANCE
    return window.low / slack <= l0 <= window.high * slack


def overlap(windows: Iterable[Window]) -> Window | None:
    """The L0s that all windows cover; None where there are none.

    Windows that miss each other by no more than the tolerance meet in the geometric mean of the gap.
    """
    listed = list(windows)
    low, high = max(w.low for w in listed), min(w.high for w in listed)
    if low <= high:
        return Window(low, high)
    if low <= high * (1.0 + TOLERANCE):
        middle = math.sqrt(low * high)
        return Window(middle, middle)
    return None
