"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness import EvaluatorSpec, MetricSpec, Preset, TrainerSpec, hookimpl

_PAIRS = (
    "over pairs of neighbouring counted tokens (t-1, t) of one held-out sequence in which f_t is not empty; "
    "|.|_1 is the sum of absolute values, a latent is active where it is not 0"
)
_DISTANCE = "d(f, g) = sum_i |f_i - g_i| / (0.5 (|f|_1 + |g|_1))"

STABILITY = EvaluatorSpec(
    name="temporal_stability",
    target="sae_harness_temporal.stability:StabilityEvaluator",
    summary="How far the codes of neighbouring tokens agree, against tokens of other documents.",
    reference="smoothness measures in Bhalla et al. 2025, arXiv:2511.05541",
    metrics=(
        MetricSpec(
            name="temporal_distance",
            better="lower",
            bounds=(0.0, 2.0),
            formula=f"mean of d(f_t, f_t-1), {_DISTANCE}, {_PAIRS}",
        ),
        MetricSpec(
            name="temporal_distance_shuffled",
            better="none",
            bounds=(0.0, 2.0),
            formula=(
                f"mean of d(f_t, f_s), {_DISTANCE}, s a random preceding token of another document (from a pool of at "
                f"most 4096, the same for every SAE), {_PAIRS}; not compared, since it is the null of temporal_distance"
            ),
            compared=False,
        ),
        MetricSpec(
            name="temporal_gain",
            better="higher",
            bounds=(None, 1.0),
            chance=0.0,
            formula="1 - temporal_distance / temporal_distance_shuffled, sums over the same pairs",
        ),
        MetricSpec(
            name="lag1_jaccard",
            better="higher",
            bounds=(0.0, 1.0),
            formula=f"mean of |A_t and A_t-1| / |A_t or A_t-1|, A the set of active latents, {_PAIRS}",
        ),
        MetricSpec(
            name="flip_rate",
            better="lower",
            bounds=(0.0, 1.0),
            formula=f"sum of |A_t without A_t-1| / sum of |A_t|, A the set of active latents, {_PAIRS}",
        ),
    ),
)


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        name="temporal",
        target="sae_harness_temporal.trainer:TemporalTrainer",
        extends=("topk", "relu"),
        needs=frozenset({"pairs"}),
        sparsity="base",
        summary="A base SAE whose latents are drawn to agree on neighbouring tokens of one document.",
        presets={
            "rel_default": Preset(summary="The defaults: relative distance, strength .05, adaptive."),
            "abs": Preset(
                options={"penalty": "abs"}, summary="Absolute distance: can also be lowered by shrinking the codes."
            ),
            "relu": Preset(options={"base": "relu"}, summary="The defaults on ReLU + L1."),
            "relu_abs": Preset(options={"base": "relu", "penalty": "abs"}, summary="Absolute distance on ReLU + L1."),
            "shuffled": Preset(
                options={"partner": "shuffled"},
                control=True,
                summary="The same penalty against a random other token: what is not due to time.",
            ),
            "off": Preset(options={"strength": 0.0}, control=True, summary="Strength 0: the base trainer to the bit."),
        },
    )


@hookimpl
def register_evaluators() -> Iterable[EvaluatorSpec]:
    yield STABILITY
