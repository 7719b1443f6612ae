"""One side of a comparison: all records of one method under one protocol, as curves over measured L0."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecordError
from ..interfaces.specs import Option
from .frontier import Frontier
from .record import MetricEntry, Protocol, Record

L0 = "l0"
"""The metric that sparsity is matched on."""

NAMES = frozenset({"suite", "lm"})
"""Protocol fields that only name things: what they name is held in the other fields, by hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A protocol field in which two sides differ."""

    field: str
    candidate: object
    baseline: object

    def describe(self) -> str:
        """The field and both values, hashes cut short."""
        return f"{self.field}: {_short(self.candidate)} (candidate) vs {_short(self.baseline)} (baseline)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Records of one method and preset under one protocol, checked by `side_of`."""

    label: str
    """`method` or `method@preset`."""
    role: str
    """`candidate`, `baseline`, or the label where there is no such role."""
    records: tuple[Record, ...]
    allow_tainted: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds present, in order."""
        return tuple(sorted({r.training.seed for r in self.records}))

    @property
    def control(self) -> bool:
        """Whether the method must come out as known."""
        return self.records[0].method.control

    @property
    def faulty(self) -> bool:
        """Whether the preset reproduces a published mistake."""
        return self.records[0].method.faulty

    @property
    def imported(self) -> bool:
        """Whether these are others' results."""
        return bool(self.records[0].provenance.source)

    def is_tainted(self, metric: str) -> bool:
        """Whether a record's value of the metric is from a tainted evaluation."""
        return any(
            not t.evaluator or (metric in r.metrics and t.evaluator == r.metrics[metric].evaluator)
            for r in self.records
            for t in r.taints
        )

    def entries(self, metric: str) -> list[MetricEntry]:
        """The usable measurements of a metric."""
        return [e for r in self.records if (e := self._entry(r, metric)) is not None]

    def evaluator_options(self, evaluator: str) -> set[str]:
        """The options an evaluator ran with, in words; one where all records agree."""
        return {
            ", ".join(f"{k}={v}" for k, v in sorted(record.evaluations[evaluator].options.items())) or "none"
            for record in self.records
            if evaluator in record.evaluations
        }

    def curves(self, metric: str) -> dict[int, Frontier]:
        """Seed -> the metric over measured L0; a seed without a point is left out."""
        measured: dict[int, list[tuple[float, float]]] = {}
        for record in self.records:
            entry, l0 = self._entry(record, metric), self._entry(record, L0)
            if entry is not None and l0 is not None and l0.value > 0.0:
                measured.setdefault(record.training.seed, []).append((l0.value, entry.value))
        return {seed: Frontier.of(points) for seed, points in sorted(measured.items())}

    def missing(self, metric: str, evaluator: str = "") -> str:
        """Why this side has no usable value of a metric; `evaluator` is the one that measured it elsewhere."""
        name = self.role if self.role == self.label else f"the {self.role}"
        held = next((r.metrics[metric] for r in self.records if metric in r.metrics), None)
        if held is not None:
            taint = next(t for r in self.records for t in r.taints if t.evaluator == held.evaluator)
            return f"tainted in {name}: {taint.rule}: {taint.reason}"
        for record in self.records:
            entry = record.evaluations.get(evaluator)
            if entry is not None and entry.status != "done":
                return f"{evaluator} {entry.status} in {name}: {entry.reason}"
        return f"not in {name}"

    def notes(self) -> list[str]:
        """What a reader must know about these records besides their numbers."""
        notes: list[str] = []
        n = len(self.records)
        if self.faulty:
            notes.append(f"{self.label} reproduces a published mistake: it is never ranked")
        if self.control:
            notes.append(f"{self.label} is a control: it is never ranked")
        ended = Counter(
            (name, e.status, e.reason) for r in self.records for name, e in r.evaluations.items() if e.status != "done"
        )
        for (name, status, reason), count in sorted(ended.items()):
            notes.append(f"{self.label}: {name} {status} in {count} of {n} records: {reason}")
        off_target = sum(r.training.l0_reached is False for r in self.records)
        if off_target:
            notes.append(
                f"{self.label}: {off_target} of {n} records ended more than 5 % from their target L0; "
                "L0 is matched on the measured value"
            )
        silent = sum(L0 in r.metrics and r.metrics[L0].value <= 0.0 for r in self.records)
        if silent:
            notes.append(f"{self.label}: {silent} of {n} records have L0 0 (no latent fires) and stand on no curve")
        taints = Counter((t.evaluator or "whole record", t.rule, t.reason) for r in self.records for t in r.taints)
        for (what, rule, reason), count in sorted(taints.items()):
            verb = "used although tainted" if self.allow_tainted else "left out, tainted"
            notes.append(f"{self.label}: {what} in {count} of {n} records {verb}: {rule}: {reason}")
        if len({r.method.code_sha256 for r in self.records}) > 1:
            notes.append(f"{self.label}: its records were made by different versions of its code")
        return notes

    def settings(self) -> dict[str, Option]:
        """The method's effective options that are equal in all records (`k` changes with the target L0).

        Those of a base trainer stand under their own name: `base.lr` of a method that extends topk is topk's `lr`.
        """
        first = self.records[0].method.options
        fixed = {k: v for k, v in first.items() if all(r.method.options.get(k, _ABSENT) == v for r in self.records)}
        return {k.rpartition("base.")[2]: v for k, v in fixed.items()}

    def _entry(self, record: Record, metric: str) -> MetricEntry | None:
        entry = record.metrics.get(metric)
        if entry is None or self.allow_tainted:
            return entry
        return None if any(t.evaluator == entry.evaluator for t in record.taints) else entry


_ABSENT = object()


def method_label(record: Record) -> str:
    """`method`, or `method@preset` where a preset was chosen."""
    return f"{record.method.name}@{record.method.preset}" if record.method.preset else record.method.name


def side_of(records: Sequence[Record], role: str = "", *, allow_tainted: bool = False) -> Side:
    """The records as one side.

    Raises:
        RecordError: there are none; they are of several methods or protocols; two are of the same seed and
            target L0; or one is tainted as a whole and `allow_tainted` is not given.
    """
    if not records:
        raise RecordError(f"The {role or 'side'} has no records: make them with `sae-harness run METHOD`.")
    labels = sorted({method_label(r) for r in records})
    role = role or labels[0]
    if len(labels) > 1:
        raise RecordError(f"The records of {role} are of several methods: {', '.join(labels)}. Give one method's.")
    label = labels[0]
    seen: dict[tuple[int, int | None], Record] = {}
    for record in records:
        for found in protocol_differences(record.protocol, records[0].protocol):
            raise RecordError(
                f"The records of {label} differ in {found.field}: {_short(found.candidate)} and "
                f"{_short(found.baseline)}. Give records of one protocol."
            )
        place = (record.training.seed, record.training.target_l0)
        if place in seen:
            raise RecordError(
                f"{label} has two records of seed {place[0]} and target L0 {place[1]} "
                f"(keys {seen[place].key[:12]} and {record.key[:12]}). Give one of them."
            )
        seen[place] = record
        whole = next((t for t in record.taints if not t.evaluator), None)
        if whole is not None and not allow_tainted:
            raise RecordError(
                f"The record of {label}, seed {place[0]}, target L0 {place[1]} is tainted: {whole.rule}: "
                f"{whole.reason}. Make it anew, or look at it all the same with --allow-tainted."
            )
    return Side(label=label, role=role, records=tuple(records), allow_tainted=allow_tainted)


def protocol_differences(candidate: Protocol, baseline: Protocol) -> list[FieldDifference]:
    """The fields in which two protocols differ; names of suite and LM aside, all of them forbid a comparison."""
    return [
        FieldDifference(field=f.name, candidate=getattr(candidate, f.name), baseline=getattr(baseline, f.name))
        for f in dataclasses.fields(Protocol)
        if f.name not in NAMES and getattr(candidate, f.name) != getattr(baseline, f.name)
    ]


def _short(value: object) -> str:
    text = str(value)
    is_hash = len(text) >= 40 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_hash else text
