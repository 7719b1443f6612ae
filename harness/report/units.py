"""What the `n` of a metric counts. A metric's spec does not say; here it is said of the evaluators that are known."""

from __future__ import annotations

_EVALUATORS = {
    "core": "documents",
    "behaviour": "documents",
    "temporal_stability": "documents",
    "geometry": "latents",
    "seed_stability": "latents",
    "ground_truth": "latents",
    "sparse_probing": "tasks",
    "absorption": "letters",
    "scr": "pairs of attributes",
    "tpp": "classes",
    "ravel": "entities",
    "saebench_ravel": "entities",
    "autointerp": "latents",
    "unlearning_text": "texts",
}
_METRICS = {
    "dead_latent_fraction": "latents",
    "latent_density": "latents",
    "recovered": "features",
    "recovered_frequent": "features",
    "recovered_middle": "features",
    "recovered_rare": "features",
    "hierarchy_recall": "features with a parent",
    "true_absorption": "features with a parent",
    "absorbed_pairs": "features with a parent",
    "absorption_rate_pooled": "words",
    "ravel_pairs": "pairs asked",
}
_PUBLISHED = "saebench_"
"""Published definitions average over sets, or over what is in them where there is one set: no one unit."""


def unit_of(evaluator: str, metric: str) -> str:
    """What an evaluator counts for a metric: documents, latents, tasks; `-` where that is not known here."""
    if metric in _METRICS:
        return _METRICS[metric]
    if metric.startswith(_PUBLISHED) and evaluator in ("tpp", "scr"):
        return "-"
    return _EVALUATORS.get(evaluator, "-")
