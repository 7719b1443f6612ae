"""F22-F30: are these rows alike in all but what they are compared for?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from ...interfaces.audit import AuditHit
from .compared import (
    by_method,
    config_key,
    factor,
    far_from_all,
    l0_ranges,
    label,
    replicates_key,
    runs_of_one_trainer,
    unusual,
)
from .evidence import Evidence, Setting
from .rule import Rule, by, each, listed, said
from .tolerances import Tolerances

_LLM_ONLY = ("ce_loss_without_sae", "ce_loss_with_ablation", "kl_div_with_ablation")
_ALIASES = {"lr": "learning_rate", "steps": "training_steps"}
"""Name in a configuration -> name in the report at the end."""


def unmatched_l0(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F22: methods of one study whose ranges of measured L0 do not meet."""
    for study in by((r for r in records if not r.control and r.l0() is not None), lambda r: r.study):
        ranges = l0_ranges(study)
        lowest = sorted(ranges, key=lambda r: r.high)[:7]
        highest = sorted(ranges, key=lambda r: -r.low)[:7]
        near = 1 + tolerances.l0_match
        for own in ranges:
            above = [r for r in highest if r.low > own.high * near]
            below = [r for r in lowest if own.low > r.high * near]
            if above or below:
                yield AuditHit(
                    record=own.record.name,
                    evaluation=own.evaluation,
                    field="l0",
                    evidence=((own.method, str(own)), ("others", listed(f"{r.method} {r}" for r in (*above, *below)))),
                    scope="comparison",
                )


def confounded(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F23: no other run of the study differs from this one in a single factor."""
    for runs in runs_of_one_trainer(records):
        for record, other, factors in far_from_all(runs):
            if "lr" in factors:
                continue  # F24 says it of the learning rate
            yield AuditHit(
                record=record.name,
                field="config",
                evidence=tuple(
                    (name, f"{said(factor(record, name))} here, {said(factor(other, name))} in {other.name}")
                    for name in factors
                ),
                scope="comparison",
                others=(other.name,),
            )


def no_control_at_lr(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F24: a method whose learning rate no run of another method of the same kind shares."""
    for runs in runs_of_one_trainer(records):
        methods: dict[float, set[str]] = {}
        for record in runs:
            if record.training is not None and record.training.lr is not None:
                methods.setdefault(record.training.lr, set()).add(label(record))
        first, several = label(runs[0]), len(set().union(*methods.values())) > 1
        for record in runs:
            lr = record.training.lr if record.training is not None else None
            if lr is not None and several and label(record) != first and methods[lr] == {label(record)}:
                yield AuditHit(
                    record=record.name,
                    field="lr",
                    evidence=(
                        (f"lr of {label(record)}", said(lr)),
                        (
                            "lr of other methods",
                            listed(said(r) for r in sorted(methods) if methods[r] - {label(record)}),
                        ),
                    ),
                    scope="comparison",
                )


def other_corpus(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F25: what depends on the language model and the corpus alone differs between rows."""
    for group in by((r for r in records if r.kind != "harness"), lambda r: r.group):
        measured = [r for r in group if "core" in r.evaluations]
        yield from _differing_rows(measured, tolerances)
    for suite in by((r for r in records if r.kind == "harness"), lambda r: r.study):
        for record, usual in unusual(suite, "eval_data"):
            yield AuditHit(
                record=record.name,
                field="protocol.eval_data",
                evidence=(
                    (record.name, said(record.protocol["eval_data"])),
                    (usual.name, said(usual.protocol["eval_data"])),
                ),
                scope="comparison",
                others=(usual.name,),
            )


def trained_on_it(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F26: evaluated on the text it was trained on."""
    if record.kind == "harness":
        train, evaluate = record.protocol.get("train_data"), record.protocol.get("eval_data")
        if train and train == evaluate:
            yield AuditHit(
                record=record.name,
                field="protocol.eval_data",
                evidence=(("protocol.train_data", said(train)), ("protocol.eval_data", said(evaluate))),
                scope="comparison",
            )
        return
    known = tolerances.fact(record.name, "train_dataset")
    for name, evaluation in record.evaluations.items():
        train = known or evaluation.sae.get("dataset_path")
        dataset = evaluation.config.get("dataset")
        if train and train == dataset:
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{evaluation.key}: dataset",
                evidence=(("trained on", said(train)), ("evaluated on", said(dataset))),
                scope="comparison",
                severity=None if known else "warning",
                note="" if known else "Whether the documents differ is not recorded.",
            )


def incomplete_config(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F28: equal configurations with different results."""
    trained = [r for r in records if r.training is not None and r.training.loss is not None and r.training.trained]
    for same in by(trained, config_key):
        yield from _unlike(same, "training", "key" if same[0].kind == "harness" else "config", _outcome)
    for same in by((r for r in records if r.kind == "saebench"), _evaluation_key):
        name = next(iter(same[0].evaluations))
        metrics = same[0].evaluations[name].metrics
        telling = next((k for k in metrics if len({r.metric(name, k) for r in same}) > 1), "")
        yield from _unlike(same, name, f"eval_result_metrics.{telling}", lambda r, n=name, k=telling: r.metric(n, k))


def contradicting(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F29: a setting that the report at the end, or the record's own options, say otherwise."""
    training = record.training
    if training is None:
        return
    for name, told in training.settings.items():
        final = training.final.get(_ALIASES.get(name, name))
        if _is_number(told) and _is_number(final) and name != "layer" and not _close(told, final):
            yield AuditHit(
                record=record.name,
                evaluation="training",
                field=f"config.{name}",
                evidence=((f"config.{name}", said(told)), (f"final_info.{_ALIASES.get(name, name)}", said(final))),
            )
    k = training.settings.get("sae.k")
    if record.kind == "harness" and _is_number(k) and training.target_l0 and not _close(k, training.target_l0):
        yield AuditHit(
            record=record.name,
            evaluation="training",
            field="method.options.sae.k",
            evidence=(("method.options.sae.k", said(k)), ("training.target_l0", said(training.target_l0))),
        )


def few_seeds(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F30: methods set beside each other on too few seeds."""
    counted = [r for r in records if r.kind != "saebench" and r.training is not None and not r.control]
    for study in by(counted, lambda r: r.study):
        groups = list(by_method(study).values()) if study[0].kind == "harness" else by(study, replicates_key)
        if len(study) < 2 or len(groups) < 2:
            continue
        if study[0].kind == "combined":
            groups = [study] if max(len(_seeds(rows)) for rows in groups) < tolerances.min_seeds else []
        for rows in groups:
            if len(_seeds(rows)) < tolerances.min_seeds or study[0].kind == "combined":
                known = sorted(s for s in _seeds(rows) if s is not None)
                yield AuditHit(
                    record=rows[0].name,
                    field="seed",
                    evidence=(
                        (f"seeds of {len(rows)} records", listed(map(said, known)) or "not recorded"),
                        ("a claim needs", f"{tolerances.min_seeds} of each method"),
                    ),
                    scope="comparison",
                    others=tuple(r.name for r in rows[1:21]),
                )


def _seeds(rows: Sequence[Evidence]) -> set[int | None]:
    return {r.training.seed for r in rows if r.training is not None}


def _differing_rows(rows: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    for metric in _LLM_ONLY:
        having = [r for r in rows if metric in r.evaluations["core"].metrics]
        if not having:
            continue
        values = [r.evaluations["core"].metrics[metric] for r in having]
        usual = Counter(values).most_common(1)[0][0]
        reference = having[values.index(usual)]
        for record, value in zip(having, values, strict=True):
            if abs(value - usual) > tolerances.llm_relative * max(abs(usual), abs(value)):
                datasets = [said(r.evaluations["core"].config.get("dataset")) for r in (record, reference)]
                yield AuditHit(
                    record=record.name,
                    evaluation="core",
                    field=f"{record.evaluations['core'].key}: {metric}",
                    evidence=(
                        (f"{record.name} on {datasets[0]}", said(value)),
                        (f"{reference.name} on {datasets[1]}", said(usual)),
                    ),
                    scope="comparison",
                    others=(reference.name,),
                )


def _unlike(
    same: Sequence[Evidence], evaluation: str, field: str, outcome: Callable[[Evidence], Setting]
) -> Iterator[AuditHit]:
    """Hits on records that should have one outcome and have several."""
    found = {outcome(r): r for r in reversed(same)}
    if len(found) < 2:
        return
    for record in same:
        other = next(r for value, r in found.items() if value != outcome(record))
        yield AuditHit(
            record=record.name,
            evaluation=evaluation,
            field=field,
            evidence=((record.name, said(outcome(record))), (other.name, said(outcome(other)))),
            others=(other.name,),
            note=f"{len(same)} records have this configuration.",
        )


def _outcome(record: Evidence) -> Setting:
    return (
        record.identity if record.kind == "harness" else record.training.loss if record.training is not None else None
    )


def _evaluation_key(record: Evidence) -> object:
    evaluation = next(iter(record.evaluations.values()))
    return record.identity, evaluation.name, tuple(sorted(evaluation.config.items())), evaluation.commit


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _close(a: object, b: object) -> bool:
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return False
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


RULES = (
    Rule(
        id="F22",
        family="confounds",
        severity="blocker",
        title="Compared at different L0",
        meaning="An SAE with more active latents reconstructs better whatever its idea: the difference is that of L0.",
        mend="Compare at the same measured L0, or along frontiers that overlap.",
        check=unmatched_l0,
        tolerances=("l0_match",),
    ),
    Rule(
        id="F23",
        family="confounds",
        severity="blocker",
        title="Several factors changed at once",
        meaning="A difference from the other runs cannot be laid to any one of the changes.",
        mend="Add runs in which one factor changes.",
        check=confounded,
    ),
    Rule(
        id="F24",
        family="confounds",
        severity="blocker",
        title="The learning rate changed with the method",
        meaning="The difference may be that of the learning rate: no run without the idea has this one.",
        mend="Add a control at the same learning rate with the idea's weight at 0.",
        check=no_control_at_lr,
    ),
    Rule(
        id="F25",
        family="confounds",
        severity="blocker",
        title="Evaluated on another corpus",
        meaning="What depends on the language model and text alone differs: the rows were not measured on one text.",
        mend="Compare among rows on one text only, or evaluate again.",
        check=other_corpus,
        tolerances=("llm_relative",),
    ),
    Rule(
        id="F26",
        family="confounds",
        severity="blocker",
        title="Evaluated on the training text",
        meaning="The numbers say how well the SAE does on what it has seen, not on text in general.",
        mend="Evaluate on held-out documents, split by their hashes.",
        check=each(trained_on_it),
        tolerances=("facts",),
    ),
    Rule(
        id="F27",
        family="confounds",
        severity="warning",
        title="Changes carried over from earlier runs",
        meaning="Notes tell one change, the code has more.",
        mend="Let the difference of the configurations be the list of changes.",
        held_by="a record's method.options and code_sha256 (harness/results/record.py), read off the objects: the list "
        "of changes is their difference.",
    ),
    Rule(
        id="F28",
        family="confounds",
        severity="warning",
        title="The configuration does not tell the runs apart",
        meaning="Equal settings gave different results: what really changed is not in the record.",
        mend="Record every hyperparameter as the trainer has it.",
        check=incomplete_config,
    ),
    Rule(
        id="F29",
        family="confounds",
        severity="warning",
        title="Two values for one setting",
        meaning="Which of them was used cannot be told from the record.",
        mend="Report effective values, from the objects that used them.",
        check=each(contradicting),
    ),
    Rule(
        id="F30",
        family="confounds",
        severity="warning",
        title="Too few seeds",
        meaning="Without replicates no difference between these methods can be told from noise.",
        mend="Train at least three seeds of each.",
        check=few_seeds,
        tolerances=("min_seeds",),
    ),
)
