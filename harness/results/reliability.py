"""How far a metric can be trusted in a suite: its noise, the differences it can show, and whether it follows the truth.

Measured from records of several methods, training seeds and evaluation seeds, stored beside the suite's baselines, and
shown wherever the metric is. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import BaselineError, RecordError
from ..interfaces.specs import MetricSpec
from .record import Record, write_atomically
from .side import method_label, protocol_differences
from .statistics import t_critical

FILE = "reliability.json"
SCHEMA_VERSION = 2
"""2: several measurements a suite, since evaluators of other cost are measured on other SAEs."""
SEEDS = (1, 3, 5)
"""Numbers of seeds a side for which the smallest difference is told."""
POWER = 0.8
ORACLE, RANDOM = "oracle", "random"
TRUTHS = ("truth_f1", "mcc_signed")
"""Metrics that count an SAE's latents against a world's features, the better first."""
_ROUNDING = 1e-9

Label = Literal["misleading", "blind", "noisy", "usable", "unknown"]
Order = Literal["holds", "a trained SAE above the oracle", "random not below trained", "not measured"]

MEANING: Mapping[str, str] = {
    "misleading": "ranks a trained SAE above the oracle: it is never used to rank",
    "blind": "does not tell trained SAEs from random ones",
    "noisy": "three seeds cannot show the largest difference between the methods it was measured on",
    "usable": "tells methods apart with three seeds",
    "unknown": "too few methods or seeds to say",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricReliability:
    """One metric in one suite. Numbers are None where the records cannot give them."""

    metric: str
    version: int
    label: Label
    n_saes: int
    evaluation_noise: float | None
    """Standard deviation of one SAE's value over evaluation seeds, pooled over SAEs; 0 where nothing is drawn."""
    evaluation_cv: float | None
    """That, over the mean of |value|."""
    seed_noise: float | None
    """Standard deviation over training seeds of one method at one L0, pooled."""
    spread: float | None
    """Largest difference between two trained methods' means at one L0."""
    smallest: Mapping[str, float]
    """Seeds a side -> the difference between two methods that a two-sided 95 % test finds with power 0.8."""
    truth: str
    """The metric that stands for the truth; empty where the suite is of no world."""
    truth_correlation: float | None
    """Spearman's rank correlation with it over trained and random SAEs of one L0, mean over L0s; 1 where the metric
    ranks as the truth does, its direction taken into account."""
    order: Order
    """Whether oracle > trained > random holds at each L0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """All metrics of a suite, and what they were measured on."""

    suite: str
    methods: tuple[str, ...]
    l0: tuple[int, ...]
    training_seeds: tuple[int, ...]
    evaluation_seeds: tuple[int, ...]
    command: str
    harness_version: str
    metrics: tuple[MetricReliability, ...]


def reliability(
    records: Sequence[Record], metrics: Sequence[MetricSpec], *, command: str = "", harness_version: str = ""
) -> Reliability:
    """Judge metrics by records of one suite that differ in method, L0, training seed and evaluation seed.

    Raises:
        RecordError: there are no records, or they differ in more than that.
    """
    if not records:
        raise RecordError("Reliability is measured on records: there are none.")
    for record in records:
        for found in protocol_differences(record.protocol, records[0].protocol):
            if found.field != "evaluation_seed":
                raise RecordError(
                    f"Records of one protocol are needed; {found.field} is {found.candidate} and {found.baseline}."
                )
    measured = [spec for spec in metrics if any(spec.name in r.metrics for r in records)]
    return Reliability(
        suite=records[0].protocol.suite,
        methods=tuple(sorted({method_label(r) for r in records})),
        l0=tuple(sorted({r.training.target_l0 for r in records if r.training.target_l0 is not None})),
        training_seeds=tuple(sorted({r.training.seed for r in records})),
        evaluation_seeds=tuple(sorted({r.protocol.evaluation_seed for r in records})),
        command=command,
        harness_version=harness_version,
        metrics=tuple(_judge(spec, records) for spec in measured),
    )


def _judge(spec: MetricSpec, records: Sequence[Record]) -> MetricReliability:
    held = [r for r in records if spec.name in r.metrics and not r.taints]
    trained = [r for r in held if not r.method.control]
    evaluation = _pooled(held, spec.name, lambda r: r.sae_id)
    # At one evaluation seed, which all SAEs share.
    seeds = _pooled(trained, spec.name, lambda r: (method_label(r), r.training.target_l0, r.protocol.evaluation_seed))
    size = sum(abs(r.metrics[spec.name].value) for r in held) / max(1, len(held))
    spread = _spread(trained, spec.name)
    smallest = {} if seeds is None else {str(n): _smallest(seeds, n) for n in SEEDS}
    truth, correlation = _truth_correlation(spec, held)
    order = _order(spec, held, seeds)
    return MetricReliability(
        metric=spec.name,
        version=max((r.metrics[spec.name].version for r in held), default=spec.version),
        label=_label(spec, order, spread, smallest),
        n_saes=len({r.sae_id for r in held}),
        evaluation_noise=None if evaluation is None else evaluation.sd,
        evaluation_cv=None if evaluation is None or size == 0 else evaluation.sd / size,
        seed_noise=None if seeds is None else seeds.sd,
        spread=spread,
        smallest=smallest,
        truth=truth,
        truth_correlation=correlation,
        order=order,
    )


@dataclass(frozen=True, slots=True)
class _Pooled:
    sd: float
    df: int


def _pooled(records: Iterable[Record], metric: str, group: Callable[[Record], Any]) -> _Pooled | None:
    """Standard deviation within groups; None where no group has two values."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for record in records:
        groups[group(record)].append(record.metrics[metric].value)
    squares, df = 0.0, 0
    for values in groups.values():
        # From the first value, so that equal values have exactly no noise.
        shifted = [value - values[0] for value in values]
        mean = math.fsum(shifted) / len(shifted)
        squares += math.fsum((v - mean) ** 2 for v in shifted)
        df += len(values) - 1
    return _Pooled(math.sqrt(squares / df), df) if df else None


def _smallest(noise: _Pooled, n: int) -> float:
    """(t_0.975 + t_0.8) · s · sqrt(2 / n), with the degrees of freedom that s was measured with."""
    t_test = t_critical(0.95, noise.df)
    t_power = t_critical(2 * POWER - 1, noise.df)
    return (t_test + t_power) * noise.sd * math.sqrt(2 / n)


def _means(records: Iterable[Record], metric: str) -> dict[int | None, dict[str, float]]:
    """Target L0 -> method -> mean value."""
    groups: dict[tuple[int | None, str], list[float]] = defaultdict(list)
    for record in records:
        groups[record.training.target_l0, method_label(record)].append(record.metrics[metric].value)
    found: dict[int | None, dict[str, float]] = defaultdict(dict)
    for (l0, method), values in groups.items():
        found[l0][method] = math.fsum(values) / len(values)
    return dict(found)


def _spread(trained: Sequence[Record], metric: str) -> float | None:
    levels = [own for own in _means(trained, metric).values() if len(own) >= 2]
    return max((max(own.values()) - min(own.values()) for own in levels), default=None)


def _order(spec: MetricSpec, records: Sequence[Record], noise: _Pooled | None) -> Order:
    """Means of methods, held against each other with twice their standard error as tolerance."""
    if spec.better == "none":
        return "not measured"
    sign = 1.0 if spec.better == "higher" else -1.0
    trained = _means([r for r in records if not r.method.control], spec.name)
    controls = _means([r for r in records if r.method.control], spec.name)
    oracle = next((own[ORACLE] for own in controls.values() if ORACLE in own), None)
    seeds = len({r.training.seed for r in records if not r.method.control})
    slack = 0.0 if noise is None else 2 * noise.sd * math.sqrt(1 / max(1, seeds))
    compared = False
    for l0, own in trained.items():
        tolerance = slack + _ROUNDING * max(map(abs, own.values()))
        if oracle is not None:
            compared = True
            if max(sign * value for value in own.values()) > sign * oracle + tolerance:
                return "a trained SAE above the oracle"
        floor = controls.get(l0, {}).get(RANDOM)
        if floor is not None:
            compared = True
            if math.fsum(sign * value for value in own.values()) / len(own) <= sign * floor + tolerance:
                return "random not below trained"
    return "holds" if compared else "not measured"


def _truth_correlation(spec: MetricSpec, records: Sequence[Record]) -> tuple[str, float | None]:
    truth = next((name for name in TRUTHS if any(name in r.metrics for r in records)), "")
    if not truth or truth == spec.name or spec.better == "none":
        return truth, None
    levels: dict[int | None, list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        if truth in record.metrics and (not record.method.control or record.method.name == RANDOM):
            pair = (record.metrics[spec.name].value, record.metrics[truth].value)
            levels[record.training.target_l0].append(pair)
    sign = 1.0 if spec.better == "higher" else -1.0
    found = [c for pairs in levels.values() if len(pairs) >= 4 and (c := spearman(pairs)) is not None]
    return truth, sign * math.fsum(found) / len(found) if found else None


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation of the pairs, equal values sharing the mean of their ranks; None where one side is constant."""
    ranks = [_ranks([pair[side] for pair in pairs]) for side in (0, 1)]
    mean = (len(pairs) + 1) / 2
    centred = [[rank - mean for rank in own] for own in ranks]
    sizes = [math.sqrt(math.fsum(c * c for c in own)) for own in centred]
    if 0.0 in sizes:
        return None
    return math.fsum(a * b for a, b in zip(*centred, strict=True)) / (sizes[0] * sizes[1])


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first: dict[float, int] = {}
    count: dict[float, int] = defaultdict(int)
    for place, value in enumerate(order, 1):
        first.setdefault(value, place)
        count[value] += 1
    return [first[value] + (count[value] - 1) / 2 for value in values]


def _label(spec: MetricSpec, order: Order, spread: float | None, smallest: Mapping[str, float]) -> Label:
    if order == "a trained SAE above the oracle":
        return "misleading"
    if order == "random not below trained":
        return "blind"
    if spec.better == "none" or spread is None or "3" not in smallest:
        return "unknown"
    return "noisy" if smallest["3"] >= spread else "usable"


def save(found: Reliability, root: Path) -> Path:
    """Write it beside the suite's baselines, to `ROOT/<suite>/reliability.json`.

    What earlier measurements say of other metrics is kept; of the same metrics it is replaced.

    Raises:
        BaselineError: what is stored there already is malformed.
        RecordError: it cannot be written.
    """
    folder = root / found.suite
    folder.mkdir(parents=True, exist_ok=True)
    measured = {m.metric for m in found.metrics}
    kept = []
    for old in load(root, found.suite):
        others = tuple(m for m in old.metrics if m.metric not in measured)
        if others:
            kept.append(dataclasses.replace(old, metrics=others))
    data = {"schema_version": SCHEMA_VERSION, "measurements": [dataclasses.asdict(one) for one in [*kept, found]]}
    write_atomically(folder / FILE, json.dumps(data, indent=1, sort_keys=True) + "\n")
    return folder / FILE


def load(root: Path, suite: str) -> tuple[Reliability, ...]:
    """The measurements stored of a suite, each metric in one of them; empty where nothing is.

    Raises:
        BaselineError: the file is malformed or of a newer version.
    """
    path = root / suite / FILE
    if not path.is_file():
        return ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (version := data.pop("schema_version")) > SCHEMA_VERSION:
            raise ValueError(f"it was written by a newer sae-harness; this one reads up to {SCHEMA_VERSION}")
        return tuple(_read(one) for one in ([data] if version == 1 else data["measurements"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BaselineError(
            f"{path} is malformed ({error}). Delete it, then: sae-harness reliability --suite {suite} --store"
        ) from error


def _read(data: dict[str, Any]) -> Reliability:
    metrics = tuple(MetricReliability(**entry) for entry in data.pop("metrics"))
    if any(m.label not in get_args(Label) for m in metrics):
        raise ValueError("a label is unknown")
    lists = ("methods", "l0", "training_seeds", "evaluation_seeds")
    return Reliability(**{**data, **{name: tuple(data[name]) for name in lists}}, metrics=metrics)


def entries(measurements: Iterable[Reliability]) -> dict[str, MetricReliability]:
    """Metric -> what was measured of it."""
    return {m.metric: m for one in measurements for m in one.metrics}


def labels(root: Path, suite: str, metrics: Iterable[MetricSpec]) -> dict[str, Label]:
    """Metric -> label in this suite, of the metrics' present versions; one that a world's truth refutes is misleading
    in every suite.

    Raises:
        BaselineError: a stored file is malformed.
    """
    versions = {spec.name: spec.version for spec in metrics}
    found: dict[str, Label] = {}
    stored = sorted(path.parent.name for path in root.glob(f"*/{FILE}")) if root.is_dir() else []
    for name in stored:
        for entry in entries(load(root, name)).values():
            here = versions.get(entry.metric) == entry.version and (name == suite or entry.label == "misleading")
            if here and found.get(entry.metric) != "misleading":
                found[entry.metric] = entry.label
    return found
