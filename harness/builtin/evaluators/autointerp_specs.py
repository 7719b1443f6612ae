"""What the autointerp evaluator measures: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

_BILLS = "Bills et al. 2023; Paulo et al. 2024, arXiv:2410.13928 (detection)"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"

_SHOWN = (
    "a judge explains a latent from up to 15 windows of 17 words that it fires on (10 of the largest activations, 5 "
    "drawn by squared activation), then names those of 14 windows of other texts that it fires on (2 of the largest "
    "activations, 2 drawn by squared activation, 10 drawn at random)"
)
_LATENTS = (
    "mean over latents drawn at random from those that fire on 5 texts to explain by, 4 to detect and at most half of "
    "those to detect"
)

AUTOINTERP = EvaluatorSpec(
    name="autointerp",
    target="harness.builtin.evaluators.autointerp:AutointerpEvaluator",
    summary="Whether a judge's explanations of latents say where they fire. Needs a judge, and may cost money.",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    texts=("sae-probes",),
    metrics=(
        MetricSpec(
            name="autointerp_score",
            better="higher",
            bounds=(0.0, 1.0),
            chance=0.5,
            formula=(
                f"balanced accuracy of detection, {_LATENTS}; {_SHOWN}. Whether a window makes the latent fire is "
                "measured, and not taken from how it was drawn; a reply that cannot be read scores 1/2 and is not left "
                "out; naming none, or all, scores 1/2. Detail: latents, their scores, and the first 48 bits of the "
                "judge's sha256 as a number: other judges are not comparable"
            ),
            reference=_BILLS,
        ),
        MetricSpec(
            name="autointerp_null_score",
            better="none",
            bounds=(0.0, 1.0),
            formula="autointerp_score with the explanation of another of the latents (a random cyclic shift)",
            compared=False,
        ),
        MetricSpec(
            name="autointerp_gain",
            better="higher",
            bounds=(-1.0, 1.0),
            chance=0.0,
            formula="mean over latents of score less null score, of the same windows",
        ),
        MetricSpec(
            name="saebench_autointerp_score",
            better="higher",
            bounds=(0.0, 1.0),
            chance=10 / 14,
            formula=(
                f"share of the 14 windows rightly named or not, {_LATENTS}; SAEBench's definition: windows drawn at "
                "random count as inactive whatever the latent does there, and latents whose reply cannot be read are "
                f"left out, so that naming none scores 10/14; {_SHOWN}. Differs in that windows are of words where "
                "SAEBench has 21 tokens, and rare and dense latents are left out"
            ),
            reference=_SAEBENCH,
            compared=False,
        ),
        MetricSpec(
            name="autointerp_latents",
            better="none",
            unit="latents",
            bounds=(0.0, None),
            formula=(
                "latents judged; detail: how many fire at all, and of these can be judged, fire on too few texts, on "
                "too many"
            ),
            compared=False,
        ),
        MetricSpec(
            name="autointerp_unreadable",
            better="none",
            bounds=(0.0, 1.0),
            formula="share of detection replies that are neither numbers nor None",
            compared=False,
        ),
        MetricSpec(
            name="autointerp_judge_tokens",
            better="none",
            unit="tokens",
            bounds=(0.0, None),
            formula="read and written by the judge for this SAE, replies kept from earlier runs too",
            compared=False,
        ),
    ),
)
