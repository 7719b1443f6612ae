"""What the built-in evaluators measure: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

from .absorption_specs import ABSORPTION
from .autointerp_specs import AUTOINTERP
from .geometry_specs import GEOMETRY, SEED_STABILITY
from .ground_truth_specs import GROUND_TRUTH
from .probing_specs import SAEBENCH_SPARSE_PROBING, SPARSE_PROBING
from .ravel_specs import RAVEL, SAEBENCH_RAVEL
from .saebench_core_specs import SAEBENCH_CORE
from .scr_tpp_specs import SCR, TPP
from .unlearning_specs import UNLEARNING, UNLEARNING_TEXT

_GAO = "Gao et al. 2024, arXiv:2406.04093"
_GATED = "Rajamanoharan et al. 2024, arXiv:2404.16014"

_COUNTED = "over all held-out tokens but special ones"
_INTERVENTION = (
    "zero and SAE replace exactly the non-special positions; counted are predictions made at a non-special position "
    "of a non-special token"
)

CORE = EvaluatorSpec(
    name="core",
    target="harness.builtin.evaluators.core:CoreEvaluator",
    summary="Sparsity, reconstruction, and how often latents fire.",
    default=True,
    metrics=(
        MetricSpec(
            name="l0",
            better="none",
            unit="latents/token",
            bounds=(0.0, None),
            formula=f"mean number of latents that are not 0, {_COUNTED}",
            compared=False,
        ),
        MetricSpec(
            name="fvu",
            better="lower",
            bounds=(0.0, None),
            chance=1.0,
            formula=f"sum |x - x_hat|^2 / sum |x - mean|^2, mean per dimension, {_COUNTED}",
            reference=_GAO,
        ),
        MetricSpec(
            name="explained_variance",
            better="higher",
            bounds=(None, 1.0),
            chance=0.0,
            formula="1 - fvu, about the per-dimension mean; not compared, since fvu gives the same verdict",
            compared=False,
        ),
        MetricSpec(
            name="mse",
            better="lower",
            unit="activation^2",
            bounds=(0.0, None),
            formula=f"mean of (x - x_hat)^2 per element, {_COUNTED}; not compared, since it is fvu in other units",
            compared=False,
        ),
        MetricSpec(
            name="cosine",
            better="higher",
            bounds=(-1.0, 1.0),
            chance=0.0,
            formula=f"mean of x.x_hat / (|x| |x_hat|), 0 where x_hat is 0, {_COUNTED} and those with x = 0",
        ),
        MetricSpec(
            name="l2_ratio",
            better="none",
            bounds=(0.0, None),
            formula=f"mean of |x_hat| / |x|, ideal 1, {_COUNTED} and those with x = 0",
        ),
        MetricSpec(
            name="relative_reconstruction_bias",
            better="none",
            formula=f"sum |x_hat|^2 / sum x.x_hat, ideal 1, 0 where x_hat is 0 everywhere, {_COUNTED}",
            reference=_GATED,
        ),
        MetricSpec(
            name="dead_latent_fraction",
            better="lower",
            bounds=(0.0, 1.0),
            formula="share of the latents that are 0 on every held-out token but special ones",
        ),
        MetricSpec(
            name="latent_density",
            better="none",
            bounds=(0.0, 1.0),
            formula=(
                "share of the latents that are not 0 on more than 1 % of the held-out tokens but special ones; "
                "detail: histogram of log10 firing frequency of live latents"
            ),
        ),
    ),
)

BEHAVIOUR = EvaluatorSpec(
    name="behaviour",
    target="harness.builtin.evaluators.behaviour:BehaviourEvaluator",
    summary="How much of the LM's loss and output distribution survives the SAE.",
    needs=frozenset({"language_model"}),
    default=True,
    metrics=(
        MetricSpec(
            name="ce_loss_recovered",
            better="higher",
            chance=0.0,
            formula=f"(CE_zero - CE_sae) / (CE_zero - CE_clean), sums over tokens; {_INTERVENTION}",
            reference=_GATED,
        ),
        MetricSpec(
            name="kl_div_recovered",
            better="higher",
            bounds=(None, 1.0),
            chance=0.0,
            formula=f"(KL_zero - KL_sae) / KL_zero, KL(clean || replaced), sums over tokens; {_INTERVENTION}",
            reference="Karvonen et al. 2025, arXiv:2503.09532 (SAEBench)",
        ),
    ),
)

EVALUATORS: tuple[EvaluatorSpec, ...] = (
    CORE,
    BEHAVIOUR,
    GROUND_TRUTH,
    SPARSE_PROBING,
    ABSORPTION,
    GEOMETRY,
    SEED_STABILITY,
    SCR,
    TPP,
    RAVEL,
    SAEBENCH_RAVEL,
    AUTOINTERP,
    UNLEARNING,
    UNLEARNING_TEXT,
    SAEBENCH_CORE,
    SAEBENCH_SPARSE_PROBING,
)
"""All built-in evaluators."""
