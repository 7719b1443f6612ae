"""F13-F21: was anything trained, and is it what was asked for?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...interfaces.audit import AuditHit
from .evidence import Evaluation, Evidence
from .rule import Rule, each, said
from .tolerances import Tolerances

_LAYER = re.compile(r"layer[_s.]?(\d{1,3})(?!\d)")
_HOOK_LAYER = re.compile(r"(?:blocks|layers?)[._](\d{1,3})(?!\d)")
_CHANCE = 0.5
_NEVER_NEGATIVE = (
    "l0",
    "mse",
    "kl_div_with_sae",
    "kl_div_with_ablation",
    "ce_loss_with_sae",
    "l2_norm_in",
    "l2_norm_out",
)
_AT_MOST_1 = ("explained_variance", "cosine", "cossim", "dead_latent_fraction", "frac_alive")
_ACCURACY = re.compile(r"(sae|llm)_(top_\d+_)?test_accuracy\Z")


def untrained(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F13: no steps, no loss, too few tokens, dead codes, or chance on every probe."""
    training = record.training
    if training is not None and training.trained:
        report = "training" if record.kind == "harness" else "final_info"
        if training.steps == 0:
            yield _hit(record, "training", f"{report}.steps", ("steps", "0"), ("it must be", "more than 0"))
        elif record.kind == "harness" and training.loss is None:
            yield _hit(
                record, "training", f"{report}.final_loss", ("final_loss", "nothing"), ("steps", said(training.steps))
            )
        if training.tokens is not None and training.budget is not None and training.steps:
            short = training.budget - (training.batch_size or 0)
            if training.tokens < short:
                yield _hit(
                    record,
                    "training",
                    f"{report}.tokens",
                    ("tokens", said(training.tokens)),
                    ("budget", said(training.budget)),
                )
    for name, evaluation in record.evaluations.items():
        yield from _dead_codes(record, name, evaluation)


def layer_mix(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F14: layers that do not agree within one record."""
    trained = record.training.layer if record.training is not None else None
    for name, evaluation in record.evaluations.items():
        layers = list(_layers(evaluation))
        if trained is not None:
            layers.insert(0, ("layer of training", trained))
        first = layers[0] if layers else None
        other = next((found for found in layers if first is not None and found[1] != first[1]), None)
        if first is not None and other is not None:
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{evaluation.key}: {other[0]}",
                evidence=((other[0], str(other[1])), (first[0], str(first[1]))),
            )
            if trained is not None:
                yield _hit(record, "training", "layer", (first[0], str(first[1])), (other[0], str(other[1])))


def narrow(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F15: a dictionary that is hardly larger than the space it describes."""
    saes = [("", "d_sae", record.d_sae, record.d_in)]
    saes += [
        (n, f"{e.key}: sae_cfg_dict.d_sae", e.sae.get("d_sae"), e.sae.get("d_in"))
        for n, e in record.evaluations.items()
    ]
    for evaluation, field, d_sae, d_in in saes:
        if not isinstance(d_sae, int) or not isinstance(d_in, int) or record.control:
            continue
        if d_sae < tolerances.min_expansion * d_in:
            yield _hit(record, evaluation, field, ("d_sae", said(d_sae)), ("d_in", said(d_in)))
            return


def idle_auxiliary(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F17: the loss that should revive dead latents never acted."""
    training = record.training
    if training is None or record.control:
        return
    if record.kind == "harness":
        dead = (training.dead or 0) / max(record.d_sae or 1, 1)
        # A method of several levels has a term for each, such as `child_aux`.
        own = [value for name, value in training.terms.items() if name == "aux" or name.endswith("_aux")]
        if "aux" in training.terms and not any(own) and dead >= tolerances.aux_dead_share:
            yield _hit(
                record,
                "training",
                "training.final_terms.aux",
                ("auxiliary loss", "0"),
                ("dead latents", f"{training.dead} of {record.d_sae}"),
            )
        return
    tokens, source = _tokens(record, tolerances)
    if training.trainer == "TrainerTopK" and tokens:
        threshold = training.settings.get("dead_feature_threshold", tolerances.dead_threshold_tokens)
        if isinstance(threshold, (int, float)) and threshold > tokens * tolerances.dead_threshold_share:
            yield _hit(
                record,
                "training",
                "config.dead_feature_threshold",
                ("tokens until a latent counts as dead", said(threshold)),
                (f"tokens trained on ({source})", said(tokens)),
            )


def damaged(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F18: reconstructions worse than the mean, as surgery on the weights leaves them."""
    if record.control:
        return
    for name, evaluation in record.evaluations.items():
        variance = evaluation.metrics.get("explained_variance")
        if variance is not None and variance < 0:
            others = [(k, said(evaluation.metrics[k])) for k in ("l0", "l2_ratio") if k in evaluation.metrics]
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{evaluation.key}: explained_variance",
                evidence=(("explained_variance", said(variance)), ("the mean alone has", "0"), *others),
            )


def sentinels(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F19: values a metric cannot have: -1 for NaN, or beyond its bounds."""
    for name, evaluation in record.evaluations.items():
        for metric, value in evaluation.metrics.items():
            bounds = _impossible(metric, value, record.d_sae)
            if bounds:
                yield _hit(record, name, f"{evaluation.key}: {metric}", (metric, said(value)), ("it must be", bounds))


def off_target(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F20: a declared L0 that was not reached, and not said to be missed."""
    training, found = record.training, record.l0()
    if training is None or found is None or not training.target_l0 or training.reached is False or record.control:
        return
    off = found[1] - training.target_l0
    if record.kind == "harness" and training.reached is None:
        # Nothing drives these to the target: k is the most that TopK can have, others say nothing.
        off = max(off, 0.0) if training.trainer == "topk" else 0.0
    if abs(off) > tolerances.l0_off_target * training.target_l0:
        for part in ("training", found[0]):
            yield _hit(
                record,
                part,
                "target_l0",
                ("measured l0", said(found[1])),
                ("target_l0", said(training.target_l0)),
                severity=None if part == "training" else "warning",
            )


def _hit(record: Evidence, evaluation: str, field: str, *evidence: tuple[str, str], severity=None) -> AuditHit:
    return AuditHit(record=record.name, evaluation=evaluation, field=field, evidence=evidence, severity=severity)


def _dead_codes(record: Evidence, name: str, evaluation: Evaluation) -> Iterator[AuditHit]:
    if record.control:
        return
    accuracies = [v for k, v in evaluation.metrics.items() if (m := _ACCURACY.match(k)) and m.group(1) == "sae"]
    if len(accuracies) >= 2 and all(v == _CHANCE for v in accuracies):
        yield _hit(
            record,
            name,
            f"{evaluation.key}: sae_test_accuracy",
            ("SAE accuracies", f"exactly 0.5, all {len(accuracies)}"),
            ("so the codes are", "all zero"),
        )
    if evaluation.metrics.get("l0") == 0.0:
        yield _hit(record, name, f"{evaluation.key}: l0", ("l0", "0"), ("it must be", "more than 0"))
    if evaluation.metrics.get("dead_latent_fraction") == 1.0:
        yield _hit(
            record, name, f"{evaluation.key}: dead_latent_fraction", ("dead_latent_fraction", "1"), ("alive", "none")
        )


def _layers(evaluation: Evaluation) -> Iterator[tuple[str, int]]:
    layer = evaluation.sae.get("hook_layer")
    if isinstance(layer, int):
        yield "hook_layer", layer
    for field, pattern in (("hook_name", _HOOK_LAYER), ("release", _LAYER), ("id", _LAYER)):
        found = pattern.search(str(evaluation.sae.get(field) or ""))
        if found:
            yield field, int(found.group(1))


def _tokens(record: Evidence, tolerances: Tolerances) -> tuple[int, str]:
    training = record.training
    batch = tolerances.fact(record.name, "batch_tokens")
    if training is None or not training.steps or not isinstance(batch, int):
        return 0, ""
    return training.steps * batch, f"{training.steps} steps of {batch}"


def _impossible(metric: str, value: float, d_sae: int | None) -> str:
    """The bounds a value lies outside of; empty where it is possible."""
    if metric in _NEVER_NEGATIVE and value < 0:
        return "at least 0"
    if metric in _AT_MOST_1 and value > 1 + 1e-6:
        return "at most 1"
    if metric == "l0" and d_sae and value > d_sae:
        return f"at most d_sae = {d_sae}"
    if _ACCURACY.match(metric) and not 0 <= value <= 1:
        return "in 0 to 1"
    return ""


RULES = (
    Rule(
        id="F13",
        family="training",
        severity="blocker",
        title="Never trained",
        meaning="No step was taken, the budget was not used, or every code is zero: the numbers describe no SAE.",
        mend="Check the number of steps and the initial weights, train, and evaluate again.",
        check=each(untrained),
    ),
    Rule(
        id="F14",
        family="training",
        severity="blocker",
        title="Layers mixed in one record",
        meaning="Training and evaluation were of different layers: a loop over layers wrote into one record.",
        mend="One record for each layer.",
        check=each(layer_mix),
    ),
    Rule(
        id="F15",
        family="training",
        severity="warning",
        title="Dictionary hardly larger than its input",
        meaning="Without more latents than dimensions there is nothing a sparse code could gain.",
        mend="Use d_sae of at least 2 d_in, or say that this is meant.",
        check=each(narrow),
        tolerances=("min_expansion",),
    ),
    Rule(
        id="F16",
        family="training",
        severity="blocker",
        title="Code that was never executed",
        meaning="A variant that fails, or that the options never reach, gives the base's numbers under its own name.",
        mend="Run the conformance kit on the variant before any run of it counts.",
        held_by="`sae-harness check`: gradients_reach_every_parameter, only_controls_equal_their_base and "
        "options_are_a_frozen_dataclass_with_defaults (harness/testing/trainer_checks.py); options in a record are "
        "read off the objects.",
    ),
    Rule(
        id="F17",
        family="training",
        severity="warning",
        title="The auxiliary loss never acted",
        meaning="Latents count as dead later than training ends, or the term stayed 0 beside dead latents: the method "
        "as published was not run.",
        mend="Lower the threshold below a quarter of the training tokens; log the auxiliary loss.",
        check=each(idle_auxiliary),
        tolerances=("dead_threshold_share", "dead_threshold_tokens", "aux_dead_share", "facts"),
    ),
    Rule(
        id="F18",
        family="training",
        severity="warning",
        title="Worse than the mean: weights damaged in training",
        meaning="Predicting the mean would reconstruct better: resampling or divergence ruined the weights. The record "
        "can stand as an example of that, for nothing else.",
        mend="Check the surgery on the weights (share of latents replaced, NaN, L0 before and after) and train again.",
        check=each(damaged),
    ),
    Rule(
        id="F19",
        family="training",
        severity="warning",
        title="A value the metric cannot have",
        meaning="It stands for a failure (-1 for NaN) or comes from broken code, and would enter every mean.",
        mend="Report the evaluation as failed, find the NaN, and run it again.",
        check=each(sentinels),
    ),
    Rule(
        id="F20",
        family="training",
        severity="blocker",
        title="The declared target L0 has no effect",
        meaning="The SAE is not the method it is called: what should set its sparsity does not.",
        mend="Check that the L0 term has a gradient, and train again; or report the method under what it does.",
        check=each(off_target),
        tolerances=("l0_off_target",),
    ),
    Rule(
        id="F21",
        family="training",
        severity="warning",
        title="Unit norm on the wrong axis of the decoder",
        meaning="Latents' norms are not 1, so L1 and thresholds do not compare with those of other SAEs.",
        mend="Normalise the rows of W_dec [d_sae, d_in].",
        held_by="`sae-harness check`: unit_norm_decoder_is_as_declared (harness/testing/sae_checks.py).",
    ),
)
