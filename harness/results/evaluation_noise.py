"""Evaluation noise: what the choice of held-out documents does to a number, kept apart from the noise between seeds.

The intervals of a comparison hold training noise alone: both sides are read on the same documents. Another draw of
documents would move both sides together, by up to what is told here. Standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..interfaces.specs import MetricSpec
from .frontier import Frontier, Window, covers
from .record import MetricEntry
from .side import L0, Side

DRAWS = 1000
UNITS = "each"
"""Name of the series of a metric's `detail` that holds its value on each unit, where the metric is their mean."""
_MEAN_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationNoise:
    """Standard errors over held-out documents (or the metric's own units); None where the records do not hold them."""

    baseline: float | None
    """Of the side's mean, at most: the records' own errors averaged as the values are, as if all moved together."""
    candidate: float | None
    difference: float | None
    """Of the difference, by the bootstrap over units that both sides share: what is common cancels."""


def bootstrap_stderr(
    units: Sequence[float],
    statistic: Callable[[Sequence[float]], float] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> float | None:
    """Standard deviation of a statistic (default: the mean) over draws of the units with replacement.

    Scaled by sqrt(n / (n - 1)), without which the bootstrap of a mean is too small by that factor. None for
    fewer than two units. Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 6.
    """
    n = len(units)
    if n < 2:
        return None
    rng = random.Random(seed)
    if statistic is None:
        found = [math.fsum(rng.choices(units, k=n)) / n for _ in range(draws)]
    else:
        found = [statistic(rng.choices(units, k=n)) for _ in range(draws)]
    mean = math.fsum(found) / draws
    return math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (draws - 1) * n / (n - 1))


def evaluation_noise(
    spec: MetricSpec, candidate: Side, baseline: Side, window: Window, seeds: tuple[Sequence[int], Sequence[int]]
) -> EvaluationNoise:
    """The noise of a metric's means over `window`; `seeds` are the candidate's and the baseline's."""
    ours = _units(candidate, spec.name, window, seeds[0])
    theirs = _units(baseline, spec.name, window, seeds[1])
    paired = None
    if ours is not None and theirs is not None and len(ours) == len(theirs):
        paired = bootstrap_stderr([a - b for a, b in zip(ours, theirs, strict=True)])
    return EvaluationNoise(
        baseline=_side_noise(baseline, spec.name, window, seeds[1]),
        candidate=_side_noise(candidate, spec.name, window, seeds[0]),
        difference=paired,
    )


def _side_noise(side: Side, metric: str, window: Window, seeds: Sequence[int]) -> float | None:
    """The mean of the records' standard errors, taken over L0 and seeds as the metric itself is.

    The standard error of a weighted mean is at most the weighted mean of the standard errors.
    """
    return _mean_over(_curves(side, metric, lambda entry: entry.stderr), window, seeds)


def _units(side: Side, metric: str, window: Window, seeds: Sequence[int]) -> list[float] | None:
    """The side's mean on each unit; None where a record lacks the series or the metric is not its mean."""
    series = [_series(entry) for entry in side.entries(metric)]
    lengths = {None if s is None else len(s) for s in series}
    if len(lengths) != 1 or None in lengths:
        return None
    found = []
    for unit in range(lengths.pop() or 0):
        mean = _mean_over(_curves(side, metric, lambda entry, unit=unit: _at(entry, unit)), window, seeds)
        if mean is None:
            return None
        found.append(mean)
    return found


def _series(entry: MetricEntry) -> Sequence[float] | None:
    units = (entry.detail or {}).get(UNITS)
    if not units:
        return None
    mean = math.fsum(units) / len(units)
    return units if math.isclose(mean, entry.value, rel_tol=_MEAN_TOLERANCE, abs_tol=_MEAN_TOLERANCE) else None


def _at(entry: MetricEntry, unit: int) -> float | None:
    return None if entry.detail is None else entry.detail[UNITS][unit]


def _curves(side: Side, metric: str, read: Callable[[MetricEntry], float | None]) -> dict[int, Frontier]:
    """Seed -> what is read off the metric's entries, over measured L0; empty where an entry has nothing to read."""
    points: dict[int, list[tuple[float, float]]] = {}
    usable = set(map(id, (*side.entries(metric), *side.entries(L0))))
    for record in side.records:
        entry, l0 = record.metrics.get(metric), record.metrics.get(L0)
        if entry is None or l0 is None or id(entry) not in usable or id(l0) not in usable or l0.value <= 0.0:
            continue
        value = read(entry)
        if value is None:
            return {}
        points.setdefault(record.training.seed, []).append((l0.value, value))
    return {seed: Frontier.of(measured) for seed, measured in points.items()}


def _mean_over(curves: Mapping[int, Frontier], window: Window, seeds: Sequence[int]) -> float | None:
    chosen = [curves[seed] for seed in seeds if seed in curves]
    inside = [c for c in chosen if covers(c.window, window.low) and covers(c.window, window.high)]
    if not inside or len(inside) < len(seeds):
        return None
    return math.fsum(curve.mean_over(window) for curve in inside) / len(inside)
