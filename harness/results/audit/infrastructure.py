"""F47-F50: data, configuration and cost of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...interfaces.audit import AuditHit
from .compared import unusual
from .evidence import Evidence
from .rule import Rule, by, each, said
from .tolerances import Tolerances

_OF_THE_SUITE = (
    "lm_sha256",
    "tokenizer_sha256",
    "hookpoint",
    "d_in",
    "d_sae",
    "n_tokens",
    "batch_size",
    "seq_len",
    "store_dtype",
    "stream_seed",
    "evaluation_seed",
)


def other_training_text(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F47: training text that is not that of the suite, or not named."""
    for suite in by((r for r in records if r.kind == "harness"), lambda r: r.study):
        for record, usual in unusual(suite, "train_data"):
            yield AuditHit(
                record=record.name,
                field="protocol.train_data",
                evidence=(
                    (record.name, said(record.protocol["train_data"])),
                    (usual.name, said(usual.protocol["train_data"])),
                ),
                scope="comparison",
                others=(usual.name,),
            )
    for record in records:
        for name, evaluation in record.evaluations.items():
            if (
                record.kind != "harness"
                and evaluation.config.get("dataset") in ("", None)
                and "dataset" in evaluation.config
            ):
                yield AuditHit(
                    record=record.name,
                    evaluation=name,
                    field=f"{evaluation.key}: dataset",
                    evidence=(("dataset", "nothing"), ("it must be", "the corpus that was read")),
                )


def other_snapshot(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F48: the configuration went to and fro within one series, or differs within one suite."""
    for suite in by((r for r in records if r.kind == "harness"), lambda r: r.study):
        for field in _OF_THE_SUITE:
            for record, usual in unusual(suite, field):
                yield AuditHit(
                    record=record.name,
                    field=f"protocol.{field}",
                    evidence=((record.name, said(record.protocol[field])), (usual.name, said(usual.protocol[field]))),
                    scope="comparison",
                    others=(usual.name,),
                )
    cores = [r for r in records if r.kind != "harness" and "core" in r.evaluations and r.time is not None]
    for series in by(cores, lambda r: r.study if r.kind == "combined" else (r.group, r.key)):
        ordered = sorted(series, key=lambda r: r.time or 0.0)
        yield from _toggles(ordered)


def hard_coded_steps(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F49: steps that do not follow from the budget."""
    training = record.training
    if training is None or not training.steps or training.tokens is None or not training.batch_size:
        return
    if abs(training.steps * training.batch_size - training.tokens) >= training.batch_size:
        yield AuditHit(
            record=record.name,
            evaluation="training",
            field="training.steps",
            evidence=(
                ("steps", f"{training.steps} of {training.batch_size} tokens"),
                ("tokens", said(training.tokens)),
            ),
        )


def no_cost(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F50: a trained SAE without its time and memory."""
    training = record.training
    if training is None or record.kind != "harness" or not training.trained or not training.steps:
        return
    for name, value in (("wall_seconds", training.wall_seconds), ("peak_memory_mib", training.peak_memory_mib)):
        if not value or value < 0:
            yield AuditHit(
                record=record.name,
                evaluation="training",
                field=f"training.{name}",
                evidence=((name, said(value)), ("steps", said(training.steps))),
            )


def _toggles(series: Sequence[Evidence]) -> Iterator[AuditHit]:
    """Where a data set comes back after another took its place."""
    seen: list[object] = []
    for record in series:
        dataset = record.evaluations["core"].config.get("dataset")
        if dataset in seen and dataset != seen[-1]:
            yield AuditHit(
                record=record.name,
                evaluation="core",
                field=f"{record.evaluations['core'].key}: dataset",
                evidence=(("dataset", said(dataset)), ("just before", said(seen[-1])), ("earlier", said(dataset))),
                scope="comparison",
            )
        if not seen or dataset != seen[-1]:
            seen.append(dataset)


RULES = (
    Rule(
        id="F47",
        family="infrastructure",
        severity="warning",
        title="The corpus is not the one it should be, or not named",
        meaning="A fallback may have trained or evaluated on another text without a word.",
        mend="Fetch and hash the data before training; no silent fallback.",
        check=other_training_text,
    ),
    Rule(
        id="F48",
        family="infrastructure",
        severity="warning",
        title="The configuration is not the same throughout",
        meaning="Settings were edited between runs that are meant to be alike: what was run is not what was intended.",
        mend="Run all from one configuration that is stored with each record.",
        check=other_snapshot,
    ),
    Rule(
        id="F49",
        family="infrastructure",
        severity="warning",
        title="Steps that do not follow from the budget",
        meaning="A number of steps is written into the code: schedules end too early or too late.",
        mend="Let schedules take the total number of steps.",
        check=each(hard_coded_steps),
        held_by="also harness/training/schedules.py, whose functions take the total steps, and the kit's "
        "training_improves_the_reconstruction (harness/testing/trainer_checks.py), a run of 60 steps.",
    ),
    Rule(
        id="F50",
        family="infrastructure",
        severity="warning",
        title="No time and memory on record",
        meaning="Claims about cost cannot be held against anything.",
        mend="Record wall time and peak memory, and cite them.",
        check=each(no_cost),
    ),
)
