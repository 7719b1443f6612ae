"""When two records are of one SAE, and when their results are too much alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

from .evidence import Evidence
from .rule import by, natural
from .tolerances import Tolerances

ARCHITECTURES = {
    "TrainerTopK": "TopK",
    "TrainerBatchTopK": "BatchTopK",
    "JumpReLUTrainer": "JumpReLU",
    "TrainerJumpRelu": "JumpReLU",
    "GatedSAETrainer": "Gated",
}
"""Trainer class -> the architecture SAEBench calls its SAEs; classes that are not here say nothing of it."""

_MIN_NUMBERS = 3
"""Fewer different numbers than these can be alike by chance."""


def plain(name: str) -> str:
    """An architecture's name as different programs agree on it."""
    return name.lower().replace("_", "").replace("-", "")


def is_mislabelled(record: Evidence) -> bool:
    """Whether all evaluations agree on one architecture, and the trainer makes another."""
    wanted = ARCHITECTURES.get(record.training.trainer, "") if record.training is not None else ""
    found = {plain(str(e.sae["architecture"])) for e in record.evaluations.values() if e.sae.get("architecture")}
    return bool(wanted) and len(found) == 1 and plain(wanted) not in found


def by_evaluation(records: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    """Evaluation -> the records that have it."""
    found: dict[str, list[Evidence]] = {}
    for record in records:
        for name in record.evaluations:
            found.setdefault(name, []).append(record)
    return found


def duplicates(records: Sequence[Evidence]) -> Iterator[tuple[str, list[Evidence]]]:
    """(evaluation, records) that have equal results of it although their SAEs differ."""
    for name, having in by_evaluation(r for r in records if not r.control).items():
        for same in by(having, lambda r, n=name: digest(r, n)):
            if len({r.identity for r in same}) > 1:
                yield name, same


def digest(record: Evidence, name: str) -> str | None:
    """Hash of what must differ between two SAEs in an evaluation; None where it says too little."""
    found = record.evaluations[name]
    if found.details_sha256:
        return f"rows {found.details_sha256}"
    told = {v for v in found.metrics.values() if not v.is_integer() and v != 0.5}
    if len(told) < _MIN_NUMBERS:
        return None
    return hashlib.sha256(repr(sorted(found.metrics.items())).encode()).hexdigest()


def half(record: Evidence, prefix: str) -> tuple[tuple[str, float], ...] | None:
    """The metrics of sparse probing that begin so; None where they say too little."""
    metrics = record.evaluations["sparse_probing"].metrics
    found = tuple(sorted((k, v) for k, v in metrics.items() if k.startswith(prefix)))
    return found if len({v for _, v in found}) >= _MIN_NUMBERS else None


def copies(records: Sequence[Evidence], tolerances: Tolerances) -> dict[str, Evidence]:
    """Name of a run that ends at the loss of an older run of its study, digit by digit -> that run.

    The same SAE evaluated again, and one run kept in several studies under one name, are no copies.
    """
    found: dict[str, Evidence] = {}
    for same in by(records, lambda r: _loss_key(r, tolerances)):
        first = min(same, key=_age)
        for record in same:
            other = record.identity != first.identity if record.kind == "harness" else record.stem != first.stem
            if record is not first and other:
                found[record.name] = first
    return found


def _loss_key(record: Evidence, tolerances: Tolerances) -> object:
    """Study and loss to as many digits as never agree by chance; None where nothing was trained."""
    training = record.training
    if training is None or not training.loss or not training.trained or record.control:
        return None
    # Ours are means in double precision: among thousands nine digits do agree by chance, all of them never.
    digits = 17 if record.kind == "harness" else max(tolerances.same_digits, 1)
    return record.study, f"{training.loss:.{digits - 1}e}"


def _age(record: Evidence) -> tuple[float, tuple[tuple[int, int, str], ...]]:
    return (math.inf if record.time is None else record.time), natural(record.name)
