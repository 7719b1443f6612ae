"""Which way is good: of our metrics by their specs, of SAEBench's by its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ...interfaces.specs import Better, MetricSpec

SAEBENCH: Mapping[str, Better] = {
    "kl_div_score": "higher",
    "kl_div_with_sae": "lower",
    "ce_loss_score": "higher",
    "ce_loss_with_sae": "lower",
    "explained_variance": "higher",
    "mse": "lower",
    "cossim": "higher",
    "mean_absorption_score": "lower",
    "mean_full_absorption_score": "lower",
    "mean_absorption_fraction_score": "lower",
    "sae_test_accuracy": "higher",
    "sae_top_*_test_accuracy": "higher",
    "scr_metric_threshold_*": "higher",
    "scr_dir*_threshold_*": "higher",
    "tpp_threshold_*_total_metric": "higher",
    "tpp_threshold_*_intended_diff_only": "higher",
    "tpp_threshold_*_unintended_diff_only": "lower",
    "unlearning_score": "higher",
    "disentanglement_score": "higher",
}
"""Of metrics in SAEBench's files. What is left out (l0, l1, norms and their ratio, counts) has no direction: a smaller
L1 or L0 is another operating point, not a better SAE. Source: SAEBench's README and evals/*/README.md."""


def direction(metric: str, specs: Mapping[str, MetricSpec], *, harness: bool) -> Better:
    """`higher`, `lower`, or `none`."""
    if harness:
        return specs[metric].better if metric in specs else "none"
    for pattern, better in SAEBENCH.items():
        if fnmatchcase(metric, pattern):
            return better
    return "none"
