"""F31-F33: was everything measured that should be, and is what is missing said to be missing?"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from ...interfaces.audit import AuditHit
from .evidence import Evidence
from .rule import Rule, by, each, listed, listed_records, natural, said
from .sameness import by_evaluation
from .tolerances import Tolerances

SIZES = (
    "probe_train_set_size",
    "probe_test_set_size",
    "train_set_size",
    "test_set_size",
    "dataset_size",
    "n_latents",
    "n_eval_reconstruction_batches",
    "n_eval_sparsity_variance_batches",
)
"""Settings of SAEBench's evaluations that say how much was measured."""

_MIN_ZEROS = 3


def silently_reduced(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F31: an evaluation that the other records of a study have, and this one has not; or one that is smaller."""
    for study in by((r for r in records if r.kind == "combined"), lambda r: r.study):
        names = by_evaluation(study)
        for record in study:
            for name in sorted(names.keys() - record.evaluations.keys() - _lost(record)):
                yield _missing(record, name, names[name])
    for method in by((r for r in records if r.kind == "harness"), lambda r: (r.study, r.method)):
        yield from _missing_of_ours(method)
    for release in by((r for r in records if r.kind == "saebench"), lambda r: (r.group, _release(r))):
        names = by_evaluation(release)
        for files in by(release, lambda r: r.key):
            have = {name for r in files for name in r.evaluations}
            for name in sorted(names.keys() - have):
                yield _missing(files[0], name, names[name], warning=True)
    yield from _smaller(records)


def missing_run(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F32: a gap in the numbers of the runs of a folder."""
    own = record.stem.removeprefix("run_")
    is_run = record.stem != own and own.isdecimal() and len(own) <= 6  # as `collect` counts the runs of a folder
    if not record.run_numbers or not is_run:
        return
    numbers = record.run_numbers
    before = bisect_left(numbers, int(own))
    missing = range(numbers[before - 1] + 1 if before else 1, int(own))
    if missing:
        yield AuditHit(
            record=record.name,
            field="runs",
            evidence=(
                ("runs in the folder", listed(f"run_{n}" for n in numbers[max(before - 3, 0) : before + 4])),
                ("not there", f"run_{missing[0]}" + (f" to run_{missing[-1]}" if len(missing) > 1 else "")),
            ),
        )


def zeros_for_nothing(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F33: an evaluation whose every number is 0."""
    for name, evaluation in record.evaluations.items():
        values = evaluation.metrics.values()
        if len(values) >= _MIN_ZEROS and not any(values) and not record.control:
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{evaluation.key}: metrics",
                evidence=((f"{len(values)} metrics", "all exactly 0"), ("such as", listed(evaluation.metrics, 3))),
            )


def _release(record: Evidence) -> str:
    return record.key.partition("/")[0]


def _lost(record: Evidence) -> set[str]:
    """Evaluations that a key of the record promises: F09 says that they are lost."""
    words = {word for e in record.evaluations.values() for word in e.key.lower().split()}
    return words & {"absorption", "core", "scr", "tpp", "unlearning"}


def _missing(record: Evidence, name: str, having: Sequence[Evidence], *, warning: bool = False) -> AuditHit:
    return AuditHit(
        record=record.name,
        evaluation=name,
        field=f"{name} evaluation",
        evidence=((record.name, "no such evaluation, and no reason"), (listed_records(having), "have it")),
        others=tuple(r.name for r in having[:20]),
        severity="warning" if warning else None,
    )


def _missing_of_ours(rows: Sequence[Evidence]) -> Iterator[AuditHit]:
    """Records of one method in one suite are evaluated alike; what fails says so in its status."""
    names = by_evaluation(rows)
    metrics = {n: {m for r in having for m in r.evaluations[n].metrics} for n, having in names.items()}
    for record in rows:
        for name in sorted(names.keys() - record.evaluations.keys()):
            yield _missing(record, name, names[name])
        for name, evaluation in record.evaluations.items():
            lost = sorted(metrics[name] - evaluation.metrics.keys())
            if evaluation.status == "done" and (lost or not evaluation.metrics):
                yield AuditHit(
                    record=record.name,
                    evaluation=name,
                    field=f"evaluations.{name}",
                    evidence=(("status", "done"), ("metrics that are missing", listed(lost) or "all")),
                )


def _smaller(records: Sequence[Evidence]) -> Iterator[AuditHit]:
    for name, having in by_evaluation(r for r in records if r.kind != "harness").items():
        for rows in by(having, lambda r: r.group):
            for size in SIZES:
                values = {r.name: v for r in rows if isinstance(v := r.evaluations[name].config.get(size), int)}
                most = max(values, key=lambda n: (values[n], natural(n)), default="")
                for record in rows:
                    value = values.get(record.name)
                    if value is not None and value < values[most]:
                        yield AuditHit(
                            record=record.name,
                            evaluation=name,
                            field=f"{record.evaluations[name].key}: {size}",
                            evidence=((record.name, said(value)), (most, said(values[most]))),
                            scope="comparison",
                            others=(most,),
                        )


RULES = (
    Rule(
        id="F31",
        family="coverage",
        severity="blocker",
        title="Not evaluated, or on less, without a word",
        meaning="An evaluation was switched off or made smaller after an error, and what is missing is not said to be.",
        mend="Run it, or record it as failed with the text of the error; another size is another evaluation.",
        check=silently_reduced,
    ),
    Rule(
        id="F32",
        family="coverage",
        severity="warning",
        title="A run is missing from the series",
        meaning="What was started and did not suit may have been left out.",
        mend="Keep every started run, with a status.",
        check=each(missing_run),
    ),
    Rule(
        id="F33",
        family="coverage",
        severity="warning",
        title="Zeros where nothing was measured",
        meaning="Missing numbers were written as 0 and would enter means and plots as measurements.",
        mend="Leave out what was not measured; a record says `failed` or `skipped`.",
        check=each(zeros_for_nothing),
    ),
)
