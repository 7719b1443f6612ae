"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness import AnalysisSpec, EvaluatorSpec, MetricSpec, TrainerSpec, hookimpl

from .presets import CONTIGUOUS_PRESETS, PRESETS

BASES = ("topk", "relu", "jumprelu", "batchtopk", "matryoshka")

_AIMS = ("temporal_gain", "temporal_fidelity")

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
        extends=BASES,
        needs=frozenset({"pairs"}),
        sparsity="base",
        summary="A base SAE whose latents are drawn to agree on neighbouring tokens of one document.",
        presets=PRESETS,
        aims=_AIMS,
    )
    yield TrainerSpec(
        name="temporal_contiguous",
        target="sae_harness_temporal.trainer:ContiguousTemporalTrainer",
        extends=BASES,
        needs=frozenset({"contiguous"}),
        sparsity="base",
        summary="temporal on rows in document order: one encoder pass, any lag, random earlier tokens.",
        presets=CONTIGUOUS_PRESETS,
        aims=_AIMS,
    )


@hookimpl
def register_evaluators() -> Iterable[EvaluatorSpec]:
    yield STABILITY


@hookimpl
def register_analyses() -> Iterable[AnalysisSpec]:
    home = "sae_harness_temporal"
    yield AnalysisSpec(
        name="temporal_stability",
        target=f"{home}.stability_analysis:TemporalStability",
        summary="Autocorrelation, Jaccard index, run lengths, flips and spectrum of codes, against two nulls.",
        reference="smoothness measures in Bhalla et al. 2025, arXiv:2511.05541",
    )
    yield AnalysisSpec(
        name="feature_clusters",
        target=f"{home}.clusters:FeatureClusters",
        summary="Latents clustered by when they fire, and whether the clusters return in a bootstrap.",
    )
    yield AnalysisSpec(
        name="position_analysis",
        target=f"{home}.positions:PositionAnalysis",
        summary="Reconstruction error, L0 and rise of the LM's loss by position in the sequence.",
    )
    yield AnalysisSpec(
        name="event_boundaries",
        target=f"{home}.boundaries:EventBoundaries",
        needs=frozenset({"language_model"}),
        summary="How codes respond where the text changes to another document.",
    )
    yield AnalysisSpec(
        name="sparsity_analysis",
        target=f"{home}.positions:SparsityAnalysis",
        summary="L0 and dead latents over training, L0 by position then and at its end, firing rates.",
    )
    yield AnalysisSpec(
        name="strength_traces",
        target=f"{home}.traces:StrengthTraces",
        summary="Strength of the temporal term over training.",
        methods=("temporal", "temporal_contiguous"),
    )
