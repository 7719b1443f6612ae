"""A record held against the same run made again: bit for bit in the same environment, else within the noise stated.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Literal

from ..errors import RecordError
from .record import MetricEntry, Record
from .reliability import MetricReliability
from .side import method_label
from .statistics import t_critical

TOLERANCE = 1e-3
"""Relative difference that is allowed in another environment where no noise is stated."""
_Z = 1.959964
"""Of a two-sided 95 % interval."""

Verdict = Literal["identical", "within", "outside", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """One metric of a record and of the run made again."""

    metric: str
    evaluator: str
    stored: float
    again: float | None
    """None where it was not measured again."""
    allowed: float
    """Largest difference that counts as the same; 0 in the same environment."""
    by: str
    """What allows it."""
    verdict: Verdict
    reason: str = ""
    """Why it was not measured again."""

    @property
    def difference(self) -> float | None:
        """Again minus stored."""
        return None if self.again is None else self.again - self.stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """All metrics of a record, and in what the two environments differ."""

    record: Record
    environment: Mapping[str, tuple[str, str]]
    """What differs -> (stored, here); empty where the environment is the same."""
    same_sae: bool
    """Whether the SAE is the same to the last bit."""
    rows: tuple[Again, ...]

    @property
    def holds(self) -> bool:
        """Whether every metric came out as it must."""
        return all(row.verdict in ("identical", "within") for row in self.rows)


def check_reproducible(record: Record) -> None:
    """Refuse a record that no run of this harness made, or whose metrics are none.

    Raises:
        RecordError: it is imported, or holds no metric.
    """
    if record.provenance.source:
        raise RecordError(
            f"{method_label(record)} is imported from {record.provenance.source}: its SAE, data and code are not here, "
            "so it cannot be made again. Train the method on a suite of this harness instead."
        )
    if not record.metrics:
        raise RecordError(f"Record {record.key[:12]} of {method_label(record)} holds no metric to reproduce.")


def environment_differences(stored: Record, here: Record, key: str) -> dict[str, tuple[str, str]]:
    """In what two runs differ that could change a number: machine and versions; where `key`, the hash of all inputs as
    they are here, is not the record's, code and settings too."""
    old, new = _machine(stored), _machine(here)
    if key != stored.key:
        # The key sees the code itself; what is told of it serves to find what changed.
        told = {"inputs": (stored.key[:12], key[:12])}
        old, new = {**_code(stored), **old}, {**_code(here), **new}
    else:
        told = {}
    differing = {name: (old.get(name, "none"), new.get(name, "none")) for name in dict.fromkeys([*old, *new])}
    return told | {name: values for name, values in differing.items() if values[0] != values[1]}


def _code(record: Record) -> dict[str, str]:
    told = record.provenance
    return {
        "harness": told.harness_version,
        "commit": told.commit[:12] or "none",
        "method's code": record.method.code_sha256[:12],
    }


def _machine(record: Record) -> dict[str, str]:
    told = record.provenance
    return {
        **dict(sorted(told.distributions.items())),
        "python": told.python,
        "platform": told.platform,
        "device": told.device,
        "threads": str(told.threads),
        "precision": record.training.precision,
    }


def compare(
    stored: Record,
    here: Record,
    key: str,
    *,
    reliability: Mapping[str, MetricReliability] | None = None,
    siblings: Sequence[Record] = (),
    tolerance: float = TOLERANCE,
) -> Reproduction:
    """The record against the one made again; `key` is the hash of its inputs as they are here.

    In another environment a difference is allowed up to what 95 % of repetitions stay within, by the largest noise that
    is stated: the metric's own standard error, that over evaluation seeds and training seeds in `reliability`, or else
    that over the stored training seeds of the same method and L0 (`siblings`; training that rounds otherwise ends as
    far away as another seed does). In any case up to `tolerance`, relative.
    """
    differing = environment_differences(stored, here, key)
    rows = []
    for name, entry in sorted(stored.metrics.items(), key=lambda item: (item[1].evaluator, item[0])):
        allowed, by = 0.0, "same bits"
        if differing:
            values = _values(name, entry, stored, siblings)
            allowed, by = _allowed(entry, (reliability or {}).get(name), values, tolerance)
        rows.append(_row(name, entry, here, allowed, by))
    return Reproduction(record=stored, environment=differing, same_sae=stored.sae_id == here.sae_id, rows=tuple(rows))


def _row(name: str, entry: MetricEntry, here: Record, allowed: float, by: str) -> Again:
    found = here.metrics.get(name)
    if found is not None and found.version != entry.version:
        reason = f"its definition is version {found.version} here, {entry.version} in the record"
        return _missing(name, entry, allowed, by, reason)
    if found is None:
        told = here.evaluations.get(entry.evaluator)
        reason = f"{entry.evaluator} was {told.status}: {told.reason}" if told else f"{entry.evaluator} did not run"
        return _missing(name, entry, allowed, by, reason)
    identical = (found.value, found.n, found.stderr) == (entry.value, entry.n, entry.stderr)
    within = abs(found.value - entry.value) <= allowed and by != "same bits"
    return Again(
        metric=name,
        evaluator=entry.evaluator,
        stored=entry.value,
        again=found.value,
        allowed=allowed,
        by=by,
        verdict="identical" if identical else "within" if within else "outside",
    )


def _missing(name: str, entry: MetricEntry, allowed: float, by: str, reason: str) -> Again:
    return Again(
        metric=name,
        evaluator=entry.evaluator,
        stored=entry.value,
        again=None,
        allowed=allowed,
        by=by,
        verdict="not measured",
        reason=reason,
    )


def _values(name: str, entry: MetricEntry, stored: Record, siblings: Sequence[Record]) -> list[float]:
    """The metric in the stored records that differ in their training seed alone."""
    alike = (r for r in siblings if method_label(r) == method_label(stored) and r.protocol == stored.protocol)
    level = (r for r in alike if r.training.target_l0 == stored.training.target_l0 and not r.taints)
    return [r.metrics[name].value for r in level if name in r.metrics and r.metrics[name].version == entry.version]


def _allowed(
    entry: MetricEntry, known: MetricReliability | None, seeds: Sequence[float], tolerance: float
) -> tuple[float, str]:
    """The largest difference, and what allows it."""
    noises: list[tuple[float, str]] = [(tolerance * abs(entry.value), f"{100 * tolerance:g} %")]
    spread = _Z * math.sqrt(2)
    if entry.stderr is not None:
        noises.append((spread * entry.stderr, "standard error"))
    if known is not None and known.version == entry.version:
        stated = (
            (known.evaluation_noise, "noise over evaluation seeds"),
            (known.seed_noise, "noise over training seeds"),
        )
        noises += [(spread * sd, what) for sd, what in stated if sd is not None]
    elif len(seeds) > 1:
        wide = t_critical(0.95, len(seeds) - 1) * math.sqrt(2)
        noises.append((wide * stdev(seeds), f"noise over {len(seeds)} stored seeds"))
    return max(noises)
