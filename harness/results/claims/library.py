"""The records claims are held to: what is in them, what the audit says of it, and how they are chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from ..audit.collect import collect
from ..audit.evidence import LLM_HALF, Evidence
from ..audit.rule import Finding, Rule, natural
from ..audit.runner import RULES, Verdict, audit, verdicts
from ..audit.tolerances import DEFAULT, Tolerances
from ..frontier import TOLERANCE
from ..record import Record
from .grammar import Reference, Side

_TRAINING = ("steps", "tokens", "budget", "batch_size", "loss", "lr", "seed", "layer", "target_l0", "dead")
_TRAINING += ("wall_seconds", "peak_memory_mib", "input_scale")
_OWN = ("d_sae", "d_in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one record says of a field."""

    record: Evidence
    field: str
    """In full, such as `core.mse`."""
    value: float | None
    """None where it says nothing."""
    text: str = ""
    """The value where it is no number."""
    taint: tuple[str, ...] = ()
    """Rules by which the number may not be used."""
    why: str = ""
    """Why there is no value."""
    unknown: bool = False
    """Whether the record has nothing of that name, or several things: then the reference is at fault, not the record.
    """

    @property
    def name(self) -> str:
        """The record as a reference names it: a file's path, or method and place in the suite's grid."""
        return place(self.record)


class Library:
    """Records, audited together, once."""

    def __init__(self, paths: Sequence[Path], tolerances: Tolerances = DEFAULT, rules: Sequence[Rule] = RULES) -> None:
        """Read and audit the records below these paths.

        Raises:
            RecordError: a path does not exist, or there is no JSON file in any of them.
        """
        collected = collect(paths, tolerances)
        self.tolerances = tolerances
        self.evidence = tuple(sorted(collected.evidence, key=lambda e: natural(e.name)))
        self.unreadable = collected.findings
        self._paths = tuple(paths)
        self._rules = tuple(rules)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the audit finds in them."""
        return audit(self.evidence, self.tolerances, self._rules)

    @cached_property
    def verdicts(self) -> Mapping[str, Mapping[str, Verdict]]:
        """Record -> evaluation -> verdict."""
        return verdicts(self.findings, self.evidence)

    def choose(self, side: Side) -> tuple[list[Evidence], str]:
        """The records of a side, and why there are none (or too many to be one); empty where all is well."""
        named = [e for e in self.evidence if _is_named(e, side.record)]
        if not named:
            near = difflib.get_close_matches(
                side.record, {n for e in self.evidence for n in _names(e)}, n=2, cutoff=0.7
            )
            hint = f"; near it: {', '.join(near)}" if near else ""
            return [], f"no record {side.record}{hint}"
        for key, value in side.conditions:
            named = [e for e in named if self._holds(e, key, value)]
        if not named:
            told = ", ".join(f"{k}={v}" for k, v in side.conditions)
            return [], f"no record of {side.record} has {told}"
        kinds = sorted({(e.study, e.method) if e.kind == "harness" else (e.study, e.name) for e in named})
        if len(kinds) > 1 and not _has_wildcard(side.record):
            shown = ", ".join(place(e) for e in named[:4])
            return named, f"{side.record} is not one record: {shown}; name the folder or suite"
        targets = {e.training.target_l0 for e in named if e.training is not None}
        levels = sorted(target for target in targets if target is not None)
        if len(levels) > 1 and len(kinds) == 1 and not _has_wildcard(side.record):
            return named, f"{side.record} has records at L0 {', '.join(f'{v:g}' for v in levels)}: add l0="
        return named, ""

    def read(self, reference: Reference) -> tuple[list[Reading], str]:
        """What the chosen records say of a field, and what is wrong with the choice; empty where nothing is."""
        chosen, problem = self.choose(reference.side)
        if problem:
            return [], problem
        readings = [self.reading(e, reference.field) for e in chosen]
        return (readings, "") if not all(r.unknown for r in readings) else ([], readings[0].why)

    def reading(self, record: Evidence, field: str) -> Reading:
        """What one record says of a field."""
        found = list(_values(record, field))
        if not found:
            why, unknown = self._absent(record, field)
            return Reading(record=record, field=field, value=None, why=why, unknown=unknown)
        if len(found) > 1:
            shown = " and ".join(path for path, *_ in found)
            why = f"{field} is {shown}: name one of them"
            return Reading(record=record, field=field, value=None, why=why, unknown=True)
        path, part, value = found[0]
        verdict = self.verdicts[record.name].get(part)
        taint = verdict.rules if verdict is not None and verdict.status == "tainted" else ()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Reading(record=record, field=path, value=None, text=str(value), taint=taint, why=f"it is {value!r}")
        return Reading(record=record, field=path, value=float(value), taint=taint)

    def not_beside(self, a: Evidence, b: Evidence, part: str) -> list[str]:
        """Rules of the audit by which one of two records may not be set beside the other; `part` is the evaluation."""
        found = {
            f"{f.rule} {f.title.lower()}"
            for f in self.findings
            if f.severity == "blocker"
            and f.scope == "comparison"
            and f.record in (a.name, b.name)
            and f.evaluation in ("", part)
            and (not f.others or {a.name, b.name} <= {f.record, *f.others} or f.rule not in _PAIRWISE)
        }
        return sorted(found)

    def where(self, agrees) -> list[str]:
        """Where numbers stand that agree with what is written, as references: at most four."""
        found: list[str] = []
        for record in self.evidence:
            for name, evaluation in record.evaluations.items():
                for metric, value in evaluation.metrics.items():
                    if agrees(value):
                        found.append(f"{place(record)}/{name}.{metric}")
        return found[:4] if len(found) <= 12 else []

    @cached_property
    def records(self) -> Mapping[str, Record]:
        """Key -> record in full, of the harness's own."""
        from ..audit.read_harness import is_record
        from ..audit.read_json import UnreadableError, parse, read_text

        wanted = {e.key for e in self.evidence if e.kind == "harness"}
        found: dict[str, Record] = {}
        for path in self._files() if wanted else ():
            try:
                text = read_text(path, self.tolerances)
                data = parse(text)
            except UnreadableError:
                continue  # `collect` made a finding of it
            if isinstance(data, dict) and is_record(data) and data.get("key") in wanted:
                record = Record.from_json(text, where=str(path))
                found[record.key] = record
        return found

    def _files(self) -> list[Path]:
        return [f for p in self._paths for f in ([p] if p.is_file() else sorted(p.rglob("*.json"))) if f.is_file()]

    def _holds(self, record: Evidence, key: str, value: str) -> bool:
        try:
            wanted = float(value)
        except ValueError:
            return key == "preset" and record.method.partition("@")[2] == value
        if key == "l0":
            target = None if record.training is None else record.training.target_l0
            if record.kind == "harness" and target is not None:
                return target == wanted
            measured = record.l0()
            return measured is not None and abs(measured[1] / wanted - 1) <= TOLERANCE if wanted else False
        if key == "seed":
            return record.training is not None and record.training.seed == wanted
        return key == "d_sae" and record.d_sae == wanted

    def _absent(self, record: Evidence, field: str) -> tuple[str, bool]:
        """Why a record has no such field, an evaluation that is missing or nothing of that name; and whether no record
        could be expected to have it."""
        evaluation, _, metric = field.rpartition(".")
        verdict = self.verdicts[record.name].get(evaluation)
        name = place(record)
        if verdict is not None and verdict.status in ("missing", "failed", "skipped"):
            rules = f" ({' '.join(verdict.rules)})" if verdict.rules else ""
            return f"{evaluation} is {verdict.status} in {name}{rules}", False
        known = {m for e in record.evaluations.values() for m in e.metrics}
        near = difflib.get_close_matches(metric or field, known, n=2, cutoff=0.75)
        known_of_all = field in _OWN or (evaluation == "training" and metric in _TRAINING)
        return f"{name} has no {field}" + (f"; near it: {', '.join(near)}" if near else ""), not known_of_all


def place(record: Evidence) -> str:
    """How a reference names this one record."""
    if record.kind != "harness" or record.training is None:
        return record.name.removesuffix(".json")
    l0, seed = record.training.target_l0, record.training.seed
    return f"{record.study}/{record.method}" + ("" if l0 is None else f"/l0={l0:g}") + f"/seed={seed}"


_PAIRWISE = ("F22", "F25")
"""Rules that speak of a record beside those they name."""


def _values(record: Evidence, field: str):
    """(field in full, part the verdict is on, value) of all that goes by a name."""
    evaluation, _, metric = field.rpartition(".")
    if evaluation == "training":
        training = record.training
        if training is None:
            return
        if metric in _TRAINING and (value := getattr(training, metric)) is not None:
            yield field, "training", value
        elif metric in training.settings:
            yield field, "training", training.settings[metric]
        elif metric in training.final:
            yield field, "training", training.final[metric]
        return
    for name, found in record.evaluations.items():
        if metric in found.metrics and evaluation in ("", name):
            part = LLM_HALF if metric.startswith("llm_") and name == "sparse_probing" else name
            yield f"{name}.{metric}", part, found.metrics[metric]
    if not evaluation and field in _OWN and getattr(record, field) is not None:
        yield field, "training", getattr(record, field)


def _names(record: Evidence) -> list[str]:
    name = record.name.removesuffix(".json")
    if record.kind != "harness":
        return [name]
    return [name, record.method, f"{record.study}/{record.method}", record.key]


def _is_named(record: Evidence, pattern: str) -> bool:
    return any(fnmatchcase(n, pattern) or fnmatchcase(n, f"*/{pattern}") for n in _names(record))


def _has_wildcard(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")
