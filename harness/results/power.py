"""How many seeds a difference needs to be seen, given the noise between seeds. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from ..errors import ConfigError, RecordError
from .comparison import MIN_SEEDS
from .frontier import Frontier, Window, overlap
from .record import Record
from .reliability import MetricReliability, Reliability
from .side import Side, side_of
from .statistics import CONFIDENCE, t_critical

POWER = 0.8
MOST_SEEDS = 100_000
UPPER = 0.9
"""Confidence that the noise is below its upper limit."""

Design = Literal["paired", "unpaired"]
_STEPS = 2000
_PHI = NormalDist().cdf


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much a metric moves between training seeds."""

    sd: float
    """Paired: of a difference between two methods of one seed. Unpaired: of one method."""
    df: int | None
    """Degrees of freedom it was measured with; None where it is taken as given."""
    design: Design
    source: str
    """Where it comes from, in words."""

    def upper(self, confidence: float = UPPER) -> float | None:
        """The upper confidence limit of the standard deviation (chi-square); None where it is taken as given."""
        if not self.df:
            return None
        return self.sd * math.sqrt(self.df / chi_square_quantile(1.0 - confidence, self.df))


def power(effect: float, sd: float, n: int, *, design: Design = "paired", alpha: float = 1.0 - CONFIDENCE) -> float:
    """Probability that a two-sided t test with n seeds a side decides, where the true difference is `effect`.

    Exact, by the noncentral t distribution; for the unpaired design with equal noise on both sides.

    Raises:
        ConfigError: n is below 2, sd is negative, or alpha lies outside (0, 1).
    """
    if n < 2:
        raise ConfigError(f"A test needs at least 2 seeds a side, got {n}.")
    if not (sd >= 0.0 and math.isfinite(sd) and math.isfinite(effect)):
        raise ConfigError(f"Noise must be finite and not negative, and the effect finite; got {sd} and {effect}.")
    if sd == 0.0:
        return 1.0 if effect else alpha
    df = n - 1 if design == "paired" else 2 * (n - 1)
    stderr = sd * math.sqrt((1.0 if design == "paired" else 2.0) / n)
    return _beyond(t_critical(1.0 - alpha, df), df, abs(effect) / stderr)


def seeds_needed(
    effect: float,
    sd: float,
    *,
    design: Design = "paired",
    target: float = POWER,
    alpha: float = 1.0 - CONFIDENCE,
) -> int | None:
    """The fewest seeds a side, at least the three a verdict needs, with which the power reaches `target`.

    None where more than 100,000 would be needed.

    Raises:
        ConfigError: the effect is 0, or target or alpha lies outside (0, 1).
    """
    if not effect or not math.isfinite(effect):
        raise ConfigError(f"The effect must be a finite difference other than 0, got {effect}.")
    for name, value in (("power", target), ("alpha", alpha)):
        if not 0.0 < value < 1.0:
            raise ConfigError(f"The {name} must lie between 0 and 1, got {value}.")

    def enough(n: int) -> bool:
        return power(effect, sd, n, design=design, alpha=alpha) >= target

    low, high = MIN_SEEDS - 1, MIN_SEEDS
    while not enough(high):
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= MOST_SEEDS else None


def noise_in_records(records: Mapping[str, Sequence[Record]], metric: str) -> Noise:
    """What `compare` sees as noise: of each method's mean over log L0, in the stretch that most methods share.

    With several methods of the same seeds: the standard deviation of a difference between two of one seed, from the
    residuals of value ~ method + seed, pooled over all of them. With one method: its own over seeds.
    Controls, faulty presets and tainted records do not count.

    Raises:
        RecordError: no method has the metric at two seeds.
    """
    sides = [side_of(own, label, allow_tainted=True) for label, own in sorted(records.items())]
    held = [(s, s.curves(metric)) for s in sides if _counts(s)]
    curves = {side.label: own for side, own in held if len(own) >= 2}
    chosen, window = _sharing(curves)
    if window is None:
        raise RecordError(
            f"The stored records cannot tell the noise of {metric}: no trained method has it at two seeds. "
            "Give the standard deviation over seeds with --sd."
        )
    values = {m: {seed: c.mean_over(window) for seed, c in curves[m].items()} for m in chosen}
    sd, df, design = _residual(values)
    n_seeds = len(next(iter(values.values())))
    told = f"{', '.join(values)}; {n_seeds} seeds; mean over log L0 in {window.describe()}"
    return Noise(sd=sd, df=df, design=design, source=f"stored records of {told}")


def noise_in_reliability(measurements: Sequence[Reliability], metric: str) -> Noise | None:
    """The noise that `sae-harness reliability` stored: of one method at one L0; None where it could not measure it."""
    for found in measurements:
        entry: MetricReliability | None = next((m for m in found.metrics if m.metric == metric), None)
        if entry is not None and entry.seed_noise is not None:
            seeds, l0 = len(found.training_seeds), ", ".join(map(str, found.l0))
            told = f"{', '.join(found.methods)}; {seeds} seeds; L0 {l0}"
            return Noise(sd=entry.seed_noise, df=None, design="unpaired", source=f"reliability.json of {told}")
    return None


@lru_cache(maxsize=256)
def chi_square_quantile(p: float, df: float) -> float:
    """The x for which P(chi-square with `df` degrees of freedom <= x) = p, by bisection to 12 digits.

    Raises:
        ConfigError: p lies outside (0, 1) or df is not positive.
    """
    if not (0.0 < p < 1.0 and df > 0.0):
        raise ConfigError(f"A quantile needs 0 < p < 1 and df > 0, got p = {p}, df = {df}.")
    low, high = 0.0, max(1.0, df)
    while _lower_gamma(df / 2, high / 2) < p:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _lower_gamma(df / 2, middle / 2) < p else (low, middle)
    return 0.5 * (low + high)


def _beyond(t: float, df: int, shift: float) -> float:
    """P(|T| > t), T being noncentral t: the normal tail at s·t, averaged over s = sqrt(chi-square / df) by Simpson."""
    reach = 14.0 / math.sqrt(2.0 * df)
    low, high = max(0.0, 1.0 - reach), 1.0 + reach
    step = (high - low) / _STEPS
    log_norm = math.log(2.0) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    total = 0.0
    for i in range(_STEPS + 1):
        s = low + i * step
        if s == 0.0:
            density = math.exp(log_norm) if df == 1 else 0.0
        else:
            density = math.exp(log_norm + (df - 1) * math.log(s) - df * s * s / 2)
        weight = 1 if i in (0, _STEPS) else (4 if i % 2 else 2)
        total += weight * density * (_PHI(shift - t * s) + _PHI(-shift - t * s))
    return min(1.0, total * step / 3)


def _lower_gamma(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(a, x), by its series."""
    if x <= 0.0:
        return 0.0
    if x > a + 60.0 * math.sqrt(a) + 700.0:
        return 1.0
    term = total = 1.0 / a
    for k in range(1, 1_000_000):
        term *= x / (a + k)
        total += term
        if term < total * 1e-16:
            break
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a)))


def _counts(side: Side) -> bool:
    return not (side.control or side.faulty or any(r.taints for r in side.records))


def _sharing(curves: Mapping[str, Mapping[int, Frontier]]) -> tuple[list[str], Window | None]:
    """The largest group of methods with the same seeds and a stretch of L0 in common."""
    best: tuple[list[str], Window | None] = ([], None)
    for first in curves:
        group: list[str] = []
        window: Window | None = None
        for name in (first, *(m for m in curves if m != first)):
            if set(curves[name]) != set(curves[first]):
                continue
            own = [c.window for c in curves[name].values()]
            common = overlap([*own, *([window] if window is not None else [])])
            if common is not None:
                group, window = [*group, name], common
        if len(group) > len(best[0]):
            best = (sorted(group), window)
    return best


def _residual(values: Mapping[str, Mapping[int, float]]) -> tuple[float, int, Design]:
    rows = [[own[seed] for seed in sorted(own)] for own in values.values()]
    m, n = len(rows), len(rows[0])
    of_method = [math.fsum(row) / n for row in rows]
    if m == 1:
        return math.sqrt(math.fsum((v - of_method[0]) ** 2 for v in rows[0]) / (n - 1)), n - 1, "unpaired"
    of_seed = [math.fsum(row[j] for row in rows) / m for j in range(n)]
    grand = math.fsum(of_method) / m
    squares = math.fsum((rows[i][j] - of_method[i] - of_seed[j] + grand) ** 2 for i in range(m) for j in range(n))
    df = (m - 1) * (n - 1)
    return math.sqrt(2.0 * squares / df), df, "paired"
