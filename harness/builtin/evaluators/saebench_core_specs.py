"""What the saebench_core evaluator measures: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"
_DEFINITION = (
    "SAEBench's definition, on the suite's held-out data: a batch is 16 sequences, counted are all tokens but special "
    "ones"
)
_WHOLE = (
    "zero and SAE replace every position, special ones too; a prediction counts by the token it is made at, whatever "
    "the token it is of"
)
_FIRES = "a latent fires where it is above 0"

FIELDS: dict[str, tuple[str, tuple[float | None, float | None]]] = {
    "kl_div_score": (f"(KL_zero - KL_sae) / KL_zero, means over tokens; {_WHOLE}", (None, 1.0)),
    "kl_div_with_ablation": (f"mean KL(clean || zero), nats; {_WHOLE}", (0.0, None)),
    "kl_div_with_sae": (f"mean KL(clean || SAE), nats; {_WHOLE}", (0.0, None)),
    "ce_loss_score": (f"(CE_zero - CE_sae) / (CE_zero - CE_clean), means over tokens; {_WHOLE}", (None, None)),
    "ce_loss_with_ablation": (f"mean CE with activations of 0, nats; {_WHOLE}", (0.0, None)),
    "ce_loss_with_sae": (f"mean CE with the SAE's output, nats; {_WHOLE}", (0.0, None)),
    "ce_loss_without_sae": (f"mean CE of the LM, nats; {_WHOLE}", (0.0, None)),
    "explained_variance": (
        "1 - (mean over batches of the mean |x - x_hat|^2) / (mean over batches of the mean |x|^2 - m^2), m the mean "
        "of x^2 over batches, tokens and dimensions: m^2 stands where the square of each dimension's mean of x is "
        "meant, so that it is neither about the mean nor free of the activations' unit",
        (None, None),
    ),
    "explained_variance_legacy": (
        "mean over tokens of 1 - |x - x_hat|^2 / |x - mean of the batch|^2: a mean of ratios",
        (None, 1.0),
    ),
    "mse": (
        "mean over tokens of |x - x_hat|^2 / (tokens of the batch): falls with the size of the batch",
        (0.0, None),
    ),
    "l2_norm_in": ("mean |x|", (0.0, None)),
    "l2_norm_out": ("mean |x_hat|", (0.0, None)),
    "relative_reconstruction_bias": ("mean over batches of (mean |x_hat|^2 / mean x.x_hat)", (None, None)),
    "l1": ("mean over tokens of the sum of codes", (None, None)),
    "total_tokens": ("tokens of the held-out data, special ones too", (0.0, None)),
    "freq_over_1_percent": (f"share of the latents that fire on over 1 % of tokens; {_FIRES}", (0.0, 1.0)),
    "freq_over_10_percent": (f"share of the latents that fire on over 10 % of tokens; {_FIRES}", (0.0, 1.0)),
    "normalized_freq_over_1_percent": (
        f"share of all firings that are of latents that fire on over 1 % of tokens; {_FIRES}",
        (0.0, 1.0),
    ),
    "normalized_freq_over_10_percent": (
        f"share of all firings that are of latents that fire on over 10 % of tokens; {_FIRES}",
        (0.0, 1.0),
    ),
    "average_max_encoder_cosine_sim": (
        "mean over latents of the largest cosine with another's encoder column, dead latents too; of an SAE without "
        "W_enc, the gradient of the latent's code at its own direction",
        (-1.0, 1.0),
    ),
    "average_max_decoder_cosine_sim": (
        "mean over latents of the largest cosine with another's decoder row, dead latents too",
        (-1.0, 1.0),
    ),
    "frac_alive": (f"share of the latents that fire on a token; {_FIRES}", (0.0, 1.0)),
}
"""SAEBench's field -> formula, bounds. Its l0, cossim and l2_ratio are `core`'s own l0, cosine and l2_ratio."""

SAEBENCH_CORE = EvaluatorSpec(
    name="saebench_core",
    target="harness.builtin.evaluators.saebench_core:SAEBenchCoreEvaluator",
    summary="SAEBench's core numbers by its definitions, faults included: for comparison with published files.",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    metrics=tuple(
        MetricSpec(
            name=f"saebench_core_{field}",
            better="none",
            bounds=bounds,
            formula=f"{formula}. {_DEFINITION}",
            reference=_SAEBENCH,
            compared=False,
        )
        for field, (formula, bounds) in FIELDS.items()
    ),
)
