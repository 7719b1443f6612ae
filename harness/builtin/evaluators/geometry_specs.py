"""What the geometry and seed_stability evaluators measure: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

_LIVE = "over the latents that fire on held-out data"
_LEASK = "Leask et al. 2025, arXiv:2502.04878 (meta-SAEs)"
_PAULO = "Paulo & Belrose 2025, arXiv:2501.16615"

GEOMETRY = EvaluatorSpec(
    name="geometry",
    target="harness.builtin.evaluators.geometry:GeometryEvaluator",
    summary="How decoder rows lie to one another and to the encoder, and whether they are sums of common parts.",
    metrics=(
        MetricSpec(
            name="decoder_nearest_cosine",
            better="none",
            bounds=(-1.0, 1.0),
            formula=(
                f"mean largest cosine of a decoder row with another one, {_LIVE}; detail: histogram. No better or "
                "worse: a method that is trained on it moves it without finding more"
            ),
            compared=False,
        ),
        MetricSpec(
            name="decoder_max_cosine",
            better="none",
            bounds=(-1.0, 1.0),
            formula=f"largest cosine of any two decoder rows, {_LIVE}",
            compared=False,
        ),
        MetricSpec(
            name="decoder_mean_cosine",
            better="none",
            bounds=(0.0, 1.0),
            formula=f"mean of |cosine| over all pairs of decoder rows, {_LIVE}",
            compared=False,
        ),
        MetricSpec(
            name="encoder_decoder_cosine",
            better="none",
            bounds=(-1.0, 1.0),
            formula=(
                "mean cosine of a latent's decoder row with the gradient of its code at the held-out token where it is "
                "largest (its encoder column, where the code is a rectified linear function; cosine 0 where it has "
                f"none), {_LIVE}; detail: histogram"
            ),
            compared=False,
        ),
        MetricSpec(
            name="composition",
            better="lower",
            bounds=(None, 1.0),
            formula=(
                "share of the variance of a fifth of the unit decoder rows, about the mean, that a TopK SAE with k = 4 "
                f"and a quarter as many latents explains, trained on the others, {_LIVE}; read it beside "
                "composition_by_chance"
            ),
            reference=_LEASK,
        ),
        MetricSpec(
            name="composition_by_chance",
            better="none",
            bounds=(None, 1.0),
            formula="composition of as many random directions with the same mean and covariance",
            reference=_LEASK,
            compared=False,
        ),
    ),
)

SEED_STABILITY = EvaluatorSpec(
    name="seed_stability",
    target="harness.builtin.evaluators.geometry:SeedStabilityEvaluator",
    summary="Whether the same method finds the same directions again from another seed.",
    reference=_PAULO,
    needs=frozenset({"twin"}),
    metrics=(
        MetricSpec(
            name="twin_share",
            better="higher",
            bounds=(0.0, 1.0),
            formula=(
                "share of the latents that fire on held-out data whose partner in the SAE of the suite's next seed has "
                "a decoder row of cosine at least 0.7; partners by the one-to-one matching of largest total cosine"
            ),
            reference=_PAULO,
        ),
        MetricSpec(
            name="twin_cosine",
            better="higher",
            bounds=(-1.0, 1.0),
            formula="mean cosine of the pairs of that matching; detail: histogram",
            reference=_PAULO,
            compared=False,
        ),
    ),
)
