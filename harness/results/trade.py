"""What a candidate wins in one metric for each unit it gives up in another, at matched L0. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError, RecordError
from ..interfaces.specs import MetricSpec
from .frontier import Window, overlap
from .record import Record
from .side import Side, protocol_differences, side_of
from .statistics import CONFIDENCE, Difference, difference, t_critical


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """Differences of two metrics, both turned so that more is more, and their ratio."""

    candidate: str
    baseline: str
    metrics: tuple[str, str]
    """What is won, and what is paid."""
    won: Difference
    """How much better the candidate is in the first metric; negative where it is worse."""
    paid: Difference
    """How much worse it is in the second; negative where it is better."""
    ratio: float | None
    """Won per unit paid; None where the interval of what is paid holds 0: a ratio to nothing is no number."""
    low: float | None
    high: float | None
    """95 % interval of the ratio by Fieller's theorem (Fieller 1954); None where the ratio is."""
    l0: Window
    """The stretch that both metrics of both sides are read off."""
    n: int
    """Pairs of seeds."""


def trade(
    candidate: Sequence[Record],
    baseline: Sequence[Record],
    metrics: tuple[MetricSpec, MetricSpec],
    *,
    allow_tainted: bool = False,
) -> Trade:
    """What is won in the first metric per unit paid in the second, paired by seed.

    Raises:
        ConfigError: a metric has no direction, or both are the same.
        RecordError: the protocols, seeds or L0s do not allow it, or a side lacks a metric.
    """
    for spec in metrics:
        if spec.better == "none":
            raise ConfigError(f"{spec.name} has no direction, so that nothing can be won or paid in it.")
    if metrics[0].name == metrics[1].name:
        raise ConfigError(f"A trade needs two metrics, got {metrics[0].name} twice.")
    for found in protocol_differences(candidate[0].protocol, baseline[0].protocol):
        raise RecordError(f"Nothing can be traded between two protocols: {found.describe()}.")
    ours, theirs = (side_of(own, allow_tainted=allow_tainted) for own in (candidate, baseline))
    window = _window(ours, theirs, metrics)
    deltas: list[dict[int, float]] = []
    pairs = []
    for spec, sign in ((metrics[0], 1.0), (metrics[1], -1.0)):
        a, b = _read(ours, spec, window), _read(theirs, spec, window)
        if set(a) != set(b) or len(a) < 2:
            raise RecordError(
                f"A trade is paired by seed: {ours.label} has {spec.name} of seeds {_listed(a)}, {theirs.label} of "
                f"{_listed(b)}. Give both the same seeds, at least two."
            )
        turn = sign if spec.better == "higher" else -sign
        deltas.append({seed: turn * (a[seed] - b[seed]) for seed in a})
        zero = dict.fromkeys(a, 0.0)
        pairs.append(difference(deltas[-1], zero))
    ratio, low, high = fieller(list(deltas[0].values()), list(deltas[1].values()))
    return Trade(
        candidate=ours.label,
        baseline=theirs.label,
        metrics=(metrics[0].name, metrics[1].name),
        won=pairs[0],
        paid=pairs[1],
        ratio=ratio,
        low=low,
        high=high,
        l0=window,
        n=len(deltas[0]),
    )


def _window(ours: Side, theirs: Side, metrics: Sequence[MetricSpec]) -> Window:
    windows = []
    for side in (ours, theirs):
        for spec in metrics:
            curves = side.curves(spec.name)
            if not curves:
                raise RecordError(f"{spec.name} is {side.missing(spec.name)}: nothing can be traded for it.")
            windows += [curve.window for curve in curves.values()]
    found = overlap(windows)
    if found is None:
        raise RecordError(f"No L0 is reached by all seeds of {ours.label} and {theirs.label}: nothing can be matched.")
    return found


def _read(side: Side, spec: MetricSpec, window: Window) -> dict[int, float]:
    return {seed: curve.mean_over(window) for seed, curve in side.curves(spec.name).items()}


def _listed(values: Mapping[int, float]) -> str:
    return ", ".join(map(str, values)) or "none"


def fieller(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Ratio of the means of pairs (a, b) with its 95 % interval: the ratios r for which mean(a - r b) is not told apart
    from 0. All None where the mean of b is not told apart from 0: the interval then has no bounds.

    Raises:
        ValueError: there are fewer than two pairs, or not as many of both.
    """
    n = len(a)
    if n < 2 or len(b) != n:
        raise ValueError(f"a ratio's interval needs two pairs or more, got {n} and {len(b)} values")
    mean_a, mean_b = math.fsum(a) / n, math.fsum(b) / n
    squared_t = t_critical(CONFIDENCE, n - 1) ** 2

    def covariance(x: Sequence[float], y: Sequence[float], mean_x: float, mean_y: float) -> float:
        return math.fsum((u - mean_x) * (v - mean_y) for u, v in zip(x, y, strict=True)) / (n - 1) / n

    p = mean_b**2 - squared_t * covariance(b, b, mean_b, mean_b)
    if p <= 0.0:
        return None, None, None
    q = mean_a * mean_b - squared_t * covariance(a, b, mean_a, mean_b)
    s = mean_a**2 - squared_t * covariance(a, a, mean_a, mean_a)
    root = math.sqrt(max(0.0, q * q - p * s))
    return mean_a / mean_b, (q - root) / p, (q + root) / p
