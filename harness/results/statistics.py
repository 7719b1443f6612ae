"""Intervals and differences over training seeds, by Student's t. Standard library only: `compare` must start fast.

The rule of which interval is used is fixed in advance (`difference`), never chosen by looking at the result.
Intervals speak of training noise: the held-out data is the same on both sides and is taken as given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..errors import ConfigError

CONFIDENCE = 0.95
_MOST_DF = 1e6
"""Beyond it the quantile moves by less than 2e-6 of itself."""

DifferenceMethod = Literal["paired", "welch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over seeds with the half-width of its confidence interval."""

    mean: float
    half_width: float | None
    """None for a single value; 0 where all values are equal (a method without randomness)."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An estimated difference a - b with its confidence interval."""

    estimate: float
    low: float | None
    high: float | None
    """The interval; None where a side has fewer than two values."""
    smallest_detectable: float | None
    """Half-width of the interval: a smaller difference than this would have included zero."""
    n: int
    """Pairs, or the smaller side's number of values."""
    method: DifferenceMethod
    constant: bool = False
    """True where nothing varied between seeds: the interval has width 0 because the values are deterministic
    (or too few digits are stored), not because the noise was measured to be small."""
    p_value: float | None = None
    """Two-sided, of no difference at all: below 1 - confidence where the interval excludes zero. None without one."""
    df: float | None = None
    """Degrees of freedom; None where nothing varied, or where there is no interval."""

    def excludes_zero(self, tolerance: float = 0.0) -> bool:
        """Whether the whole interval lies on one side of zero, by more than `tolerance` (rounding)."""
        if self.low is None or self.high is None:
            return False
        return self.low > tolerance or self.high < -tolerance


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of independent values with the half-width of its Student-t interval.

    Raises:
        ValueError: there are no values.
    """
    mean = _mean(values)
    if len(values) < 2:
        return Interval(mean=mean, half_width=None, n=len(values))
    half_width = t_critical(confidence, len(values) - 1) * math.sqrt(_variance(values) / len(values))
    return Interval(mean=mean, half_width=half_width, n=len(values))


def difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE) -> Difference:
    """a - b of values by seed: paired where both sides have the same seeds (at least two), else Welch.

    Equal seeds mean equal initial weights and, in one suite, the same order of the training stream.
    """
    if len(a) >= 2 and set(a) == set(b):
        return paired_difference(a, b, confidence)
    return welch_difference(list(a.values()), list(b.values()), confidence)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE) -> Difference:
    """Mean of a[seed] - b[seed] over the common seeds, with its Student-t interval.

    Raises:
        ValueError: the sides have no seed in common.
    """
    seeds = sorted(set(a) & set(b))
    pairs = [a[seed] - b[seed] for seed in seeds]
    interval = mean_interval(pairs, confidence)
    if len(pairs) < 2:
        return _difference(interval.mean, None, interval.n, "paired")
    constant = _constant([a[s] for s in seeds]) and _constant([b[s] for s in seeds])
    stderr = math.sqrt(_variance(pairs) / len(pairs))
    return _difference(interval.mean, interval.half_width, interval.n, "paired", constant, stderr, len(pairs) - 1)


def welch_difference(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """mean(a) - mean(b) of independent samples, with Welch's interval (Satterthwaite's degrees of freedom).

    Raises:
        ValueError: a side has no values.
    """
    estimate, n = _mean(a) - _mean(b), min(len(a), len(b))
    if n < 2:
        return _difference(estimate, None, n, "welch")
    share_a, share_b = _variance(a) / len(a), _variance(b) / len(b)
    total = share_a + share_b
    if total == 0.0:
        return _difference(estimate, 0.0, n, "welch", True, 0.0)
    # As ratios, because the squares of tiny variances would underflow.
    df = 1.0 / ((share_a / total) ** 2 / (len(a) - 1) + (share_b / total) ** 2 / (len(b) - 1))
    half_width = t_critical(confidence, df) * math.sqrt(total)
    return _difference(estimate, half_width, n, "welch", False, math.sqrt(total), df)


@lru_cache(maxsize=4096)
def t_critical(confidence: float, df: float) -> float:
    """The t for which P(|T| <= t) = confidence, T being Student's with `df` degrees of freedom (need not be whole).

    Raises:
        ConfigError: confidence lies outside (0, 1) or df is not positive.
    """
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"A confidence level must lie between 0 and 1, got {confidence}.")
    if not df > 0.0:
        raise ConfigError(f"Degrees of freedom must be positive, got {df}.")
    df = min(df, _MOST_DF)
    alpha = 1.0 - confidence
    low, high = 0.0, 1.0
    while _two_sided_tail(high, df) > alpha:
        low, high = high, 2.0 * high
    t = 0.5 * (low + high)
    for _ in range(200):
        excess = _two_sided_tail(t, df) - alpha
        if excess > 0.0:
            low = t
        else:
            high = t
        step = excess / (2.0 * _density(t, df))
        new = t + step
        if not low <= new <= high:
            new = 0.5 * (low + high)
        if abs(new - t) <= 1e-14 * t:
            return new
        t = new
    return t


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|), T being Student's with `df` degrees of freedom (need not be whole).

    Raises:
        ConfigError: df is not positive.
    """
    if not df > 0.0:
        raise ConfigError(f"Degrees of freedom must be positive, got {df}.")
    if abs(t) > 1e100:  # its square overflows
        return 0.0
    return min(1.0, _two_sided_tail(abs(t), min(df, _MOST_DF)))


def _difference(
    estimate: float,
    half_width: float | None,
    n: int,
    method: DifferenceMethod,
    constant: bool = False,
    stderr: float = 0.0,
    df: float | None = None,
) -> Difference:
    p_value = None
    if half_width is not None:
        p_value = two_sided_p(estimate / stderr, df) if df and stderr > 0.0 else float(estimate == 0.0)
    return Difference(
        estimate=estimate,
        low=None if half_width is None else estimate - half_width,
        high=None if half_width is None else estimate + half_width,
        smallest_detectable=half_width,
        n=n,
        method=method,
        constant=constant,
        p_value=p_value,
        df=df,
    )


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no values to average")
    return values[0] if _constant(values) else math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def _constant(values: Sequence[float]) -> bool:
    return min(values) == max(values)


def _density(t: float, df: float) -> float:
    log_norm = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return math.exp(log_norm - (df + 1) / 2 * math.log1p(t * t / df))


def _two_sided_tail(t: float, df: float) -> float:
    """P(|T| > t) = I_x(df/2, 1/2) at x = df / (df + t²)."""
    return _regularised_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))


def _regularised_beta(a: float, b: float, x: float, complement: float) -> float:
    """The regularised incomplete beta function I_x(a, b); `complement` is 1 - x without its rounding."""
    if x <= 0.0 or complement <= 0.0:
        return 0.0 if x <= 0.0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, complement) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function by Lentz's method (Numerical Recipes, section 6.4)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 20_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return fraction
