"""F01-F12, identity and staleness: whose numbers are these, and were they measured on it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from ...interfaces.audit import AuditHit
from .evidence import Evaluation, Evidence
from .foreign import foreign, mislabelled
from .rebuilt import rebuilt_loss, rebuilt_scores
from .rule import Rule, by, each, listed, said
from .sameness import by_evaluation, copies, duplicates, half, is_mislabelled
from .tolerances import Tolerances

GROUPS = {
    "core": ("model_behavior_preservation", "model_performance_preservation", "reconstruction_quality"),
    "absorption": ("mean",),
    "scr": ("scr_metrics",),
    "tpp": ("tpp_metrics",),
    "sparse_probing": ("llm", "sae"),
    "unlearning": ("unlearning",),
}
"""Evaluation -> groups its metrics are sorted into by SAEBench."""

_WORDS = {"absorption": "absorption", "core": "core", "scr": "scr", "tpp": "tpp", "unlearning": "unlearning"}
_WHAT_WAS_USED = ("suite", "lm", "lm_sha256", "hookpoint", "train_data", "eval_data")


def stale(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F01: equal results of one evaluation in records of different SAEs."""
    copied = copies(records, tolerances)
    for name, same in duplicates(records):
        own = [r for r in same if r.name not in copied and not is_mislabelled(r)]
        if len({r.identity for r in own}) < 2:
            continue  # F05 or F08 says it: but for what is mislabelled or copied, this is one SAE
        for record in same:
            metric, value = next(iter(record.evaluations[name].metrics.items()), ("nothing", None))
            others = tuple(r.name for r in same[:21] if r is not record)
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{record.evaluations[name].key}: details",
                evidence=((record.name, f"{metric} {said(value)}"), (listed(others), "the same to the last digit")),
                others=others,
                note=f"{len(same)} records share it.",
            )


def stale_zero(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F02: an absorption score of exactly 0 that rests on too few letters."""
    found = record.evaluations.get("absorption")
    if found is None or not found.letters or len(found.letters) >= tolerances.min_letters:
        return
    scores = {k: v for k, v in found.metrics.items() if k.startswith("mean_") and "absorption" in k}
    if scores and all(v == 0.0 for v in scores.values()):
        name = next(iter(scores))
        yield AuditHit(
            record=record.name,
            evaluation="absorption",
            field=f"{found.key}: {name}",
            evidence=((name, "0"), ("letters it rests on", f"{len(found.letters)} ({''.join(sorted(found.letters))})")),
        )


def spliced(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F03: the training loss cannot be rebuilt from the evaluation's metrics, or a score from its own parts."""
    rebuilt = rebuilt_loss(record)
    if rebuilt is not None:
        evaluation, what, expected, found = rebuilt
        ratio = found / expected if expected > 0 else float("inf")
        if not tolerances.loss_ratio_low <= ratio <= tolerances.loss_ratio_high:
            yield AuditHit(
                record=record.name,
                evaluation=evaluation,
                field=what,
                evidence=(
                    (what, said(found)),
                    (f"rebuilt from {evaluation}", f"{expected:.6g}, a ratio of {ratio:.3g}"),
                ),
            )
    for name, evaluation in record.evaluations.items():
        for metric, parts, expected in rebuilt_scores(evaluation):
            found = evaluation.metrics[metric]
            if abs(found - expected) > tolerances.score_slack:
                yield AuditHit(
                    record=record.name,
                    evaluation=name,
                    field=f"{evaluation.key}: {metric}",
                    evidence=((metric, said(found)), (parts, said(expected))),
                )


def half_copied(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F06: the SAE's half of probing is equal to the last bit while the language model's half differs."""
    for same in by(by_evaluation(records).get("sparse_probing", ()), lambda r: half(r, "sae_")):
        lms = {half(r, "llm_"): r for r in reversed(same)}
        if len(lms) < 2:
            continue
        guilty = {r.name for r in same if is_mislabelled(r)} or {r.name for r in same}
        for record in same:
            other = next(r for lm, r in lms.items() if lm != half(record, "llm_"))
            accuracy = [said(r.metric("sparse_probing", "llm_test_accuracy")) for r in (record, other)]
            yield AuditHit(
                record=record.name,
                evaluation="sparse_probing",
                field=f"{record.evaluations['sparse_probing'].key}: sae",
                evidence=(
                    ("sae_test_accuracy", f"{said(record.metric('sparse_probing', 'sae_test_accuracy'))} in both"),
                    (f"llm_test_accuracy of {record.name}", accuracy[0]),
                    (f"llm_test_accuracy of {other.name}", accuracy[1]),
                ),
                others=(other.name,),
                severity=None if record.name in guilty else "warning",
                note="" if record.name in guilty else "The other is mislabelled (F05), so this one may be the source.",
            )


def replayed(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F07: an evaluation that ended sooner after the one before than it can take."""
    for record in records:
        if record.kind == "combined":
            timed = sorted((e.time, e.name) for e in record.evaluations.values() if e.time is not None)
            for (before, earlier), (end, name) in pairwise(timed):
                least = tolerances.saebench_minutes.get(name, 0.0) * 60 * tolerances.fast_share
                if end - before < least:
                    yield AuditHit(
                        record=record.name,
                        evaluation=name,
                        field=f"{record.evaluations[name].key}: datetime_epoch_millis",
                        evidence=(
                            (f"seconds after {earlier}", f"{end - before:.1f}"),
                            ("seconds it takes", f"at least {least:.0f}"),
                        ),
                    )
    yield from _far_too_fast(records, tolerances)


def copied_run(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F08: two runs of one study end at the same loss, digit by digit."""
    first_of = copies(records, tolerances)
    for record in records:
        first = first_of.get(record.name)
        if first is not None and record.training is not None and first.training is not None:
            shared = record.evaluations.keys() & first.evaluations.keys()
            equal = sorted(n for n in shared if record.evaluations[n].metrics == first.evaluations[n].metrics)
            yield AuditHit(
                record=record.name,
                field="final_loss",
                evidence=((record.name, said(record.training.loss)), (first.name, said(first.training.loss))),
                others=(first.name,),
                note=f"Equal too: all metrics of {listed(equal)}." if equal else "",
            )


def misfiled(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F09: a key that promises another evaluation than it holds."""
    for found in record.evaluations.values():
        if record.kind == "combined":
            promised = {name for word, name in _WORDS.items() if word in found.key.lower().split()}
            promised |= {"sparse_probing"} if "sparse probing" in found.key.lower() else set()
            for lost in sorted(promised - set(record.evaluations)):
                yield AuditHit(
                    record=record.name,
                    evaluation=lost,
                    field=f"{found.key}: eval_type_id",
                    evidence=((found.key, f"holds {found.name}"), (lost, "not in the record")),
                )
        elif record.kind == "harness" and found.status == "not listed":
            yield AuditHit(
                record=record.name,
                evaluation=found.name,
                field="metrics",
                evidence=(("evaluator of its metrics", found.name), ("evaluations", "does not list it")),
            )
        wanted = GROUPS.get(found.name, ()) if record.kind != "harness" else ()
        if wanted and found.groups and not set(wanted) & set(found.groups):
            others = [name for name, groups in GROUPS.items() if set(groups) & set(found.groups)]
            if others:
                yield AuditHit(
                    record=record.name,
                    evaluation=found.name,
                    field=f"{found.key}: eval_result_metrics",
                    evidence=(("eval_type_id", found.name), ("its metrics are those of", listed(others))),
                    severity="blocker",
                )


def pasted(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F10: one evaluation, by its id and numbers, in several records."""
    found: dict[object, list[tuple[Evidence, Evaluation]]] = {}
    for record in records:
        for evaluation in record.evaluations.values():
            if evaluation.eval_id:
                # SAEBench gives all SAEs of a call one id, and coarse scores agree by chance: a copy has its time too.
                key = (evaluation.eval_id, evaluation.name, evaluation.time, tuple(sorted(evaluation.metrics.items())))
                found.setdefault(key, []).append((record, evaluation))
    for same in found.values():
        for record, evaluation in same[1:]:
            yield AuditHit(
                record=record.name,
                evaluation=evaluation.name,
                field=f"{evaluation.key}: eval_id",
                evidence=((record.name, evaluation.eval_id), (same[0][0].name, evaluation.eval_id)),
                others=(same[0][0].name,),
            )


def mixed_versions(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F11: results of one evaluation made by different versions of its code."""
    for name, having in by_evaluation(records).items():
        for rows in by(having, lambda r: r.group):
            for versions in _versions(rows, name).values():
                usual = max(versions, key=lambda v: len(versions[v]))
                for version, found in versions.items():
                    for record in found if version != usual else ():
                        yield AuditHit(
                            record=record.name,
                            evaluation=name,
                            field="version",
                            evidence=((record.name, version), (f"{len(versions[usual])} others", usual)),
                            scope="comparison",
                            others=tuple(r.name for r in versions[usual][:20]),
                        )


def placeholders(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F12: fields that say nothing where they should say what was evaluated."""
    for found in record.evaluations.values():
        empty = [name for name in ("device", "dtype", "hook_name", "architecture") if found.sae.get(name) == ""]
        tokens = found.sae.get("training_tokens")
        if isinstance(tokens, (int, float)) and tokens < 0:
            empty.append("training_tokens")
        if empty:
            yield AuditHit(
                record=record.name,
                evaluation=found.name,
                field=f"{found.key}: sae_cfg_dict",
                evidence=tuple((name, said(found.sae[name])) for name in empty),
            )
    if record.kind == "harness":
        world = record.hookpoint == "as generated"
        for name in (*_WHAT_WAS_USED, *(() if world else ("tokenizer_sha256",))):
            if not record.protocol.get(name):
                yield AuditHit(
                    record=record.name,
                    field=f"protocol.{name}",
                    evidence=((f"protocol.{name}", said(record.protocol.get(name))), ("it must be", "what was used")),
                )


def _versions(rows: Sequence[Evidence], name: str) -> dict[str, dict[str, list[Evidence]]]:
    """What has a version -> version -> the records made with it; what all were made with alike is left out."""
    found: dict[str, dict[str, list[Evidence]]] = {}
    for record in rows:
        evaluation = record.evaluations[name]
        told: dict[str, str] = {metric: f"version {v} of {metric}" for metric, v in evaluation.versions.items()}
        if evaluation.commit not in ("", "Unknown"):
            told["commit"] = f"commit {evaluation.commit}"
        for what, version in told.items():
            found.setdefault(what, {}).setdefault(version, []).append(record)
    return {what: versions for what, versions in found.items() if len(versions) > 1}


def _far_too_fast(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """Evaluations of our own records against their like on the same machine."""
    ours = [r for r in records if r.kind == "harness" and not r.control]
    for name, rows in by_evaluation(ours).items():
        for like in by(rows, lambda r: (r.study, r.machine)):
            # 0 is what records of the first schema say where the time was counted elsewhere.
            seconds = {r.name: w for r in like if (w := r.evaluations[name].wall_seconds)}
            usual = median(seconds.values()) if len(seconds) >= 3 else 0.0
            for record, taken in seconds.items():
                if usual >= 1.0 and taken < usual * tolerances.fast_share:
                    yield AuditHit(
                        record=record,
                        evaluation=name,
                        field=f"evaluations.{name}.wall_seconds",
                        evidence=((record, f"{taken:g} s"), (f"median of {len(seconds)} like it", f"{usual:g} s")),
                        severity="warning",
                    )


RULES = (
    Rule(
        id="F01",
        family="identity",
        severity="blocker",
        title="Stale: the same details under different SAEs",
        meaning="It was read from a cache that goes by name: it is of one of these SAEs at most, which cannot be told.",
        mend="Clear the cache and evaluate each SAE again; key the cache by the hash of the weights.",
        check=stale,
        tolerances=("same_digits",),
    ),
    Rule(
        id="F02",
        family="identity",
        severity="blocker",
        title="Not evaluated: a score of exactly 0 on too few letters",
        meaning="Hardly any letter was probed, so 0 says `not measured`, not `no absorption`.",
        mend="Evaluate again until at least 20 letters have a probe, or report it as not measured.",
        check=each(stale_zero),
        tolerances=("min_letters",),
    ),
    Rule(
        id="F03",
        family="identity",
        severity="blocker",
        title="Spliced: the numbers do not follow from each other",
        meaning="These metrics are not those of the SAE whose loss or parts stand beside them: a block was replaced.",
        mend="Evaluate the trained SAE again; store one immutable file for each pair of weights and evaluation.",
        check=each(spliced),
        tolerances=("loss_ratio_low", "loss_ratio_high", "score_slack"),
    ),
    Rule(
        id="F04",
        family="identity",
        severity="blocker",
        title="Foreign: an evaluation of another SAE inside the record",
        meaning="It was left over from an earlier SAE and says nothing about this one.",
        mend="Remove it and evaluate this SAE; write one file for each SAE instead of updating a shared one.",
        check=foreign,
    ),
    Rule(
        id="F05",
        family="identity",
        severity="blocker",
        title="Mislabelled: the record's name is not the SAE's architecture",
        meaning="All numbers belong to another method than the record says.",
        mend="File them under the method they were measured on, and evaluate the one named here.",
        check=mislabelled,
    ),
    Rule(
        id="F06",
        family="identity",
        severity="blocker",
        title="Half copied: equal SAE accuracies beside different LM accuracies",
        meaning="Probing again moves both halves: the SAE's half was copied from another run.",
        mend="Probe again, both halves in one run.",
        check=half_copied,
    ),
    Rule(
        id="F07",
        family="identity",
        severity="blocker",
        title="Replayed: the evaluation took far less time than it needs",
        meaning="It was not computed but read from a cache, whose key may not know this SAE.",
        mend="Clear the cache of this evaluation and run it again; let cache hits be declared in the record.",
        check=replayed,
        tolerances=("fast_share", "saebench_minutes"),
    ),
    Rule(
        id="F08",
        family="identity",
        severity="blocker",
        title="Copied run: the same final loss to the last digit",
        meaning="It is not a run of its own: nothing in it was changed, whatever its notes say.",
        mend="Leave it out, or run it with the change it claims.",
        check=copied_run,
        tolerances=("same_digits",),
    ),
    Rule(
        id="F09",
        family="identity",
        severity="warning",
        title="Misfiled: a key does not hold the evaluation it names",
        meaning="One result overwrote another, or stands where it will be read as another.",
        mend="One key for each evaluation, equal to its eval_type_id; run again the one that is lost.",
        check=each(misfiled),
    ),
    Rule(
        id="F10",
        family="identity",
        severity="warning",
        title="Pasted twice: one evaluation in several records",
        meaning="The id of an evaluation and all its numbers stand in two records: one of them did not make it.",
        mend="Remove the copy.",
        check=pasted,
    ),
    Rule(
        id="F11",
        family="identity",
        severity="warning",
        title="Mixed versions of the evaluation's code",
        meaning="A difference between these rows may be one between versions of the code.",
        mend="Evaluate all rows with one version.",
        check=mixed_versions,
    ),
    Rule(
        id="F12",
        family="identity",
        severity="warning",
        title="Placeholders where the record should say what was used",
        meaning="The configuration was not read from the checkpoint: it cannot be held against the SAE.",
        mend="Fill the configuration from the saved SAE.",
        check=each(placeholders),
    ),
)
