"""F40-F46: do the numbers mean the same in each row?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ...interfaces.audit import AuditHit
from .coverage import SIZES
from .evidence import Evaluation, Evidence, Setting
from .rule import Rule, by, listed, said
from .sameness import by_evaluation, digest
from .tolerances import Tolerances

_TIED = ("ce_loss_score", "kl_div_score", "explained_variance")
_NOT_IN_THE_RESULT = ("verbose", "dataset", "save_metrics", "lower_vram_usage", *SIZES)
"""Settings that do not move a number, or that another rule holds."""


def batch_units(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F40: `mse` over batches of different size, or SAEBench's beside ours."""
    imported = [r for r in records if r.kind != "harness" and r.metric("core", "mse") is not None]
    for rows in by(imported, lambda r: r.group):
        yield from _not_usual(
            rows, "mse", {r.name: _batch_tokens(r.evaluations["core"]) for r in rows}, "tokens a batch"
        )
    ours = {r.lm: r for r in records if r.kind == "harness" and any("mse" in e.metrics for e in r.evaluations.values())}
    for record in imported:
        other = ours.get(record.lm)
        if other is not None:
            yield _hit(
                record,
                "core",
                f"{record.evaluations['core'].key}: mse",
                (record.name, "squared error of a token / tokens in the batch"),
                (other.name, "squared error of an element"),
                other,
            )


def variance_formula(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F41: `explained_variance` by two formulas."""
    rows = [r for r in records if r.kind != "harness" and r.metric("core", "explained_variance") is not None]
    for group in by(rows, lambda r: r.group):
        formulas = {
            r.name: "uncentred; the legacy one beside it"
            if "explained_variance_legacy" in r.evaluations["core"].metrics
            else "legacy: mean of ratios per token"
            for r in group
        }
        yield from _not_usual(group, "explained_variance", formulas, "formula")


def below_quantum(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F42: scores of different SAEs that are equal, or exactly 1, for want of bits."""
    rounded = [r for r in by_evaluation(records).get("core", ()) if _dtype(r) == "bfloat16"]
    for metric in _TIED:
        tied = by((r for r in rounded if r.metric("core", metric) is not None), lambda r, m=metric: _tie(r, m))
        for rows in tied:
            exact = rows[0].metric("core", metric) == 1.0
            if exact or len({digest(r, "core") for r in rows}) > 1:
                for record in rows:
                    others = [r.name for r in rows[:21] if r is not record]
                    yield AuditHit(
                        record=record.name,
                        evaluation="core",
                        field=f"{record.evaluations['core'].key}: {metric}",
                        evidence=(
                            (record.name, said(record.metric("core", metric))),
                            (listed(others) or "a perfect score", "the same, in bfloat16"),
                        ),
                        scope="comparison",
                        others=tuple(others),
                    )


def letter_sets(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F43: absorption averaged over different letters."""
    for rows in by((r for r in by_evaluation(records).get("absorption", ()) if _letters(r)), lambda r: r.group):
        every = set().union(*(_letters(r) for r in rows))
        for record in rows:
            lacking = sorted(every - set(_letters(record)))
            if lacking:
                found = record.evaluations["absorption"]
                yield AuditHit(
                    record=record.name,
                    evaluation="absorption",
                    field=f"{found.key}: eval_result_details",
                    evidence=(("letters", str(len(_letters(record)))), ("letters others have too", "".join(lacking))),
                    scope="comparison",
                )


def unlike_settings(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F46: one evaluation run with different settings."""
    for name, having in by_evaluation(records).items():
        # What was skipped or failed has no settings that a number was measured with.
        done = [r for r in having if r.evaluations[name].status not in ("skipped", "failed")]
        for rows in by(done, lambda r: r.group):
            told = {r.name: _settings(r.evaluations[name]) for r in rows}
            usual = Counter(told.values()).most_common(1)[0][0]
            reference = next(r for r in rows if told[r.name] == usual)
            for record in rows:
                if told[record.name] != usual:
                    ours, theirs = dict(told[record.name]), dict(usual)
                    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
                    yield AuditHit(
                        record=record.name,
                        evaluation=name,
                        field=f"{record.evaluations[name].key}: {differing[0]}",
                        evidence=tuple(
                            (k, f"{ours.get(k)} here, {theirs.get(k)} in {reference.name}") for k in differing[:4]
                        ),
                        scope="comparison",
                        others=(reference.name,),
                    )


def _hit(
    record: Evidence, evaluation: str, field: str, ours: tuple[str, str], theirs: tuple[str, str], other: Evidence
) -> AuditHit:
    return AuditHit(
        record=record.name,
        evaluation=evaluation,
        field=field,
        evidence=(ours, theirs),
        scope="comparison",
        others=(other.name,),
    )


def _not_usual(rows: Sequence[Evidence], metric: str, told: Mapping[str, Setting], what: str) -> Iterator[AuditHit]:
    """Hits on the rows of `core` of which something else is told than of most."""
    known = [r for r in rows if told[r.name] is not None]
    if len({told[r.name] for r in known}) < 2:
        return
    usual = Counter(told[r.name] for r in known).most_common(1)[0][0]
    reference = next(r for r in known if told[r.name] == usual)
    for record in known:
        if told[record.name] != usual:
            field = f"{record.evaluations['core'].key}: {metric}"
            ours = (f"{what} of {record.name}", said(told[record.name]))
            yield _hit(record, "core", field, ours, (reference.name, said(usual)), reference)


def _batch_tokens(core: Evaluation) -> int | None:
    prompts, length = core.config.get("batch_size_prompts"), core.config.get("context_size")
    return prompts * length if isinstance(prompts, int) and isinstance(length, int) else None


def _dtype(record: Evidence) -> Setting:
    return record.evaluations["core"].config.get("llm_dtype")


def _tie(record: Evidence, metric: str) -> object:
    return record.group, record.metric("core", metric)


def _letters(record: Evidence) -> frozenset[str]:
    return frozenset(record.evaluations["absorption"].letters)


def _settings(evaluation: Evaluation) -> tuple[tuple[str, Setting], ...]:
    skipped = {k for k in evaluation.config if k in _NOT_IN_THE_RESULT or "batch_size" in k}
    return tuple(sorted((k, said(v)) for k, v in evaluation.config.items() if k not in skipped))


RULES = (
    Rule(
        id="F40",
        family="semantics",
        severity="warning",
        title="Mean squared errors in different units",
        meaning="SAEBench divides the squared error of a token by the tokens of the batch: the number depends on the "
        "batch, and is not that of an element.",
        mend="Convert to squared error per token (times tokens in the batch) or per element (then over d_in).",
        check=batch_units,
    ),
    Rule(
        id="F41",
        family="semantics",
        severity="warning",
        title="Explained variance by different formulas",
        meaning="The legacy formula is a mean of ratios per token, the present one is nearly uncentred: 0.91 and 0.98 "
        "on one SAE.",
        mend="Compare the legacy values, or evaluate again with one formula.",
        check=variance_formula,
    ),
    Rule(
        id="F42",
        family="semantics",
        severity="warning",
        title="Scores below the resolution of bfloat16",
        meaning="Losses in bfloat16 come in steps of 1/64: the score does not tell these SAEs apart, and 1 is not "
        "perfect.",
        mend="Compare above the step only, or evaluate in float32.",
        check=below_quantum,
    ),
    Rule(
        id="F43",
        family="semantics",
        severity="warning",
        title="Absorption over different letters",
        meaning="Letters without an error fall out of the mean, so it is taken over others in each row; few letters "
        "dominate it.",
        mend="Average over the letters all rows have, zeros kept, with the error over letters.",
        check=letter_sets,
    ),
    Rule(
        id="F44",
        family="semantics",
        severity="warning",
        title="A metric read in the wrong direction",
        meaning="Larger was called better where smaller is.",
        mend="Take the direction from the metric's spec.",
        held_by="the claims command, which knows each metric's direction; `compare` takes it from MetricSpec.better.",
    ),
    Rule(
        id="F45",
        family="semantics",
        severity="warning",
        title="The language model's accuracy as the baseline of an SAE",
        meaning="The comparison was with another number than it says.",
        mend="Name record and field of both operands.",
        held_by="the claims command: every number in a text names its record and field.",
    ),
    Rule(
        id="F46",
        family="semantics",
        severity="warning",
        title="One evaluation with different settings",
        meaning="A best over another sweep, or on other thresholds, is another metric.",
        mend="Compare rows of equal settings only; store the whole sweep.",
        check=unlike_settings,
    ),
)
