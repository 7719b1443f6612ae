"""Two metrics at once: which points no other beats, and how much of the plane a method's frontier beats.

Each seed has its own frontier, so that dominance and hypervolume have intervals over seeds. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError, RecordError
from ..interfaces.specs import MetricSpec
from .comparison import MIN_SEEDS
from .frontier import TOLERANCE
from .record import Record
from .side import L0, Side, protocol_differences, side_of
from .statistics import CONFIDENCE, Difference, Interval, difference, mean_interval

XY = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoComparison:
    """Two methods' frontiers in two metrics. Shares lie between 0 and 1, more is better."""

    candidate: str
    baseline: str
    metrics: tuple[str, str]
    reference: XY
    """The point that hypervolume is measured from, in the metrics' own units."""
    candidate_volume: Interval
    """Share of the box between the best values and the reference that the frontier dominates."""
    baseline_volume: Interval
    volume_difference: Difference
    candidate_covers: Interval
    """Share of the baseline's points that a point of the candidate equals or beats in both metrics; L0s within 1 %
    of each other are equal."""
    baseline_covers: Interval
    verdict: str
    """`better`, `worse`, `within noise` or `unresolved`: of the hypervolume, over seeds."""


def dominates(a: XY, b: XY) -> bool:
    """Whether a beats b: nowhere larger, somewhere smaller (both coordinates: lower is better)."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def front(points: Sequence[XY]) -> tuple[XY, ...]:
    """The points that no other beats, each once, by rising first coordinate (lower is better)."""
    found: list[XY] = []
    for point in sorted(set(points)):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return tuple(found)


def hypervolume(points: Sequence[XY], reference: XY) -> float:
    """Area that the points beat, up to the reference (lower is better); points beyond it count for nothing."""
    inside = front([p for p in points if p[0] < reference[0] and p[1] < reference[1]])
    if not inside:
        return 0.0
    edges = [*(x for x, _ in inside[1:]), reference[0]]
    return math.fsum((right - x) * (reference[1] - y) for (x, y), right in zip(inside, edges, strict=True))


def coverage(ours: Sequence[XY], theirs: Sequence[XY], slack: XY = (0.0, 0.0)) -> float:
    """Share of `theirs` that some point of `ours` equals or beats (Zitzler and Thiele 1999, the C metric).

    Coordinates that differ by no more than `slack` count as equal.
    """
    beaten = sum(any(a[0] <= b[0] + slack[0] and a[1] <= b[1] + slack[1] for a in ours) for b in theirs)
    return beaten / len(theirs)


def compare_frontiers(
    candidate: Sequence[Record], baseline: Sequence[Record], metrics: tuple[MetricSpec, MetricSpec]
) -> ParetoComparison:
    """Hold two methods' frontiers against each other, seed by seed.

    Lower L0 counts as better, on a log axis. Both axes are scaled so that the best value of either side is 0 and
    the worst 1; hypervolume is measured from 1 + 1 / H on both, H + 1 being the largest number of points of a
    seed, by which the ends of a frontier count as much as its middle (Ishibuchi et al. 2018, "How to specify a
    reference point in hypervolume calculation"). The scale is taken from the records: shares of two comparisons
    cannot be set beside each other.

    Raises:
        ConfigError: a metric has no direction, or both are the same.
        RecordError: a side lacks a metric, or the protocols differ.
    """
    names = (metrics[0].name, metrics[1].name)
    if names[0] == names[1]:
        raise ConfigError(f"A frontier needs two metrics, got {names[0]} twice.")
    ours, theirs = side_of(candidate, "candidate"), side_of(baseline, "baseline")
    for found in protocol_differences(candidate[0].protocol, baseline[0].protocol):
        raise RecordError(f"Frontiers of two protocols cannot be compared: {found.describe()}.")
    points = {"candidate": _points(ours, metrics), "baseline": _points(theirs, metrics)}
    scale = _Scale.of([p for side in points.values() for own in side.values() for p in own])
    a = {seed: [scale(p) for p in own] for seed, own in points["candidate"].items()}
    b = {seed: [scale(p) for p in own] for seed, own in points["baseline"].items()}
    edge = 1.0 + 1.0 / max(1, max(len(own) for own in (*a.values(), *b.values())) - 1)
    volume_a = {seed: hypervolume(own, (edge, edge)) / edge**2 for seed, own in a.items()}
    volume_b = {seed: hypervolume(own, (edge, edge)) / edge**2 for seed, own in b.items()}
    found = difference(volume_a, volume_b)
    slack = tuple(math.log1p(TOLERANCE) / w if n == L0 else 0.0 for n, w in zip(names, scale.width, strict=True))
    return ParetoComparison(
        candidate=ours.label,
        baseline=theirs.label,
        metrics=names,
        reference=_original(scale.back((edge, edge)), metrics),
        candidate_volume=mean_interval(list(volume_a.values())),
        baseline_volume=mean_interval(list(volume_b.values())),
        volume_difference=found,
        candidate_covers=mean_interval(_covered(a, b, (slack[0], slack[1]))),
        baseline_covers=mean_interval(_covered(b, a, (slack[0], slack[1]))),
        verdict=_verdict(found),
    )


def _covered(ours: Mapping[int, Sequence[XY]], theirs: Mapping[int, Sequence[XY]], slack: XY) -> list[float]:
    """By seed where both have it, else each of ours against all of theirs."""
    if set(ours) == set(theirs):
        return [coverage(ours[seed], theirs[seed], slack) for seed in ours]
    return [math.fsum(coverage(own, other, slack) for other in theirs.values()) / len(theirs) for own in ours.values()]


def _verdict(found: Difference) -> str:
    if found.n < MIN_SEEDS or found.p_value is None:
        return "unresolved"
    if found.p_value >= 1.0 - CONFIDENCE:
        return "within noise"
    return "better" if found.estimate > 0.0 else "worse"


@dataclass(frozen=True, slots=True)
class _Scale:
    low: XY
    width: XY

    @classmethod
    def of(cls, points: Sequence[XY]) -> _Scale:
        low = (min(x for x, _ in points), min(y for _, y in points))
        high = (max(x for x, _ in points), max(y for _, y in points))
        return cls(low, ((high[0] - low[0]) or 1.0, (high[1] - low[1]) or 1.0))

    def __call__(self, point: XY) -> XY:
        return ((point[0] - self.low[0]) / self.width[0], (point[1] - self.low[1]) / self.width[1])

    def back(self, point: XY) -> XY:
        return (self.low[0] + point[0] * self.width[0], self.low[1] + point[1] * self.width[1])


def _points(side: Side, metrics: tuple[MetricSpec, MetricSpec]) -> dict[int, list[XY]]:
    """Seed -> points with lower better on both axes; an SAE without active latents stands on no log axis."""
    for spec in metrics:
        if not side.entries(spec.name):
            raise RecordError(f"No frontier of {side.label}: {spec.name} is {side.missing(spec.name)}.")
        if len({e.version for e in side.entries(spec.name)}) > 1:
            raise RecordError(f"No frontier of {side.label}: its records have several versions of {spec.name}.")
    usable = {id(e) for spec in metrics for e in side.entries(spec.name)}
    found: dict[int, list[XY]] = {}
    for record in side.records:
        entries = [record.metrics.get(spec.name) for spec in metrics]
        values = [e.value for e in entries if e is not None and id(e) in usable]
        if len(values) == 2 and not any(s.name == L0 and v <= 0.0 for s, v in zip(metrics, values, strict=True)):
            point = tuple(_lower(v, s) for v, s in zip(values, metrics, strict=True))
            found.setdefault(record.training.seed, []).append((point[0], point[1]))
    if not found:
        raise RecordError(f"No frontier of {side.label}: no record has both {metrics[0].name} and {metrics[1].name}.")
    return found


def _lower(value: float, spec: MetricSpec) -> float:
    if spec.name == L0:
        return math.log(value)
    if spec.better == "none":
        raise ConfigError(f"A frontier needs metrics with a direction; {spec.name} has none.")
    return value if spec.better == "lower" else -value


def _original(point: XY, metrics: tuple[MetricSpec, MetricSpec]) -> XY:
    back = [
        math.exp(v) if s.name == L0 else (v if s.better == "lower" else -v) for v, s in zip(point, metrics, strict=True)
    ]
    return (back[0], back[1])
