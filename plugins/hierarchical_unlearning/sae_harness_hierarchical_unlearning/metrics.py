"""What the evaluator `true_side_effects` measures: specs alone."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

RETAIN_BUDGET = 0.02
"""Largest share of the retain firings that a chosen setting may disturb."""
LEVELS = ("base", "gated", "concept", "coordinated")

_COUNTED = (
    "firings of true features on held-out documents of the report half; the change of the activations is split into "
    "least-squares parts along the features that fire on the token; forget: of a marked subtree (where a world marks "
    "none, of the tree that is there on a share of tokens nearest to 1/8)"
)
_REMOVED = "share of forget firings of which less than half of the magnitude is left"
_DISTURBED = "share of retain firings whose magnitude changes by more than half"
_CHOSEN = (
    f"at the setting that removes most among those that disturb at most {RETAIN_BUDGET:.0%} on the selection half, "
    "else none"
)
_BEST = "clamping latents and concepts together where the SAE has two levels, else latents"
_BASE = "clamping latents alone"
_AREA = (
    "area under straight lines through (0, 0), the settings on the upper hull of the selection half as the report half "
    f"has them, and (1, 1); across: {_DISTURBED}; up: {_REMOVED}"
)
_UNIT = (0.0, 1.0)

TRUE_SIDE_EFFECTS = EvaluatorSpec(
    name="true_side_effects",
    target="sae_harness_hierarchical_unlearning.side_effects:TrueSideEffectsEvaluator",
    summary="How many features that are to be forgotten an intervention removes, and how many others it disturbs.",
    reference="clamping: Farrell et al. 2024, arXiv:2410.19278",
    needs=frozenset({"world"}),
    metrics=(
        MetricSpec(
            name="true_frontier",
            better="higher",
            bounds=_UNIT,
            chance=0.5,
            formula=f"{_AREA}; {_COUNTED}; {_BEST}; detail: every level's sweep, area and standard error",
        ),
        MetricSpec(
            name="true_frontier_base",
            better="higher",
            bounds=_UNIT,
            chance=0.5,
            formula=f"true_frontier of {_BASE}",
        ),
        MetricSpec(
            name="true_forget_removed",
            better="higher",
            bounds=_UNIT,
            chance=0.0,
            formula=f"{_REMOVED}; {_CHOSEN}; {_COUNTED}; {_BEST}",
        ),
        MetricSpec(
            name="true_forget_removed_base",
            better="higher",
            bounds=_UNIT,
            chance=0.0,
            formula=f"true_forget_removed of {_BASE}",
        ),
        MetricSpec(
            name="true_retain_disturbed",
            better="lower",
            bounds=_UNIT,
            formula=f"{_DISTURBED}; {_CHOSEN}; {_COUNTED}; {_BEST}: read it beside true_forget_removed",
            compared=False,
        ),
        MetricSpec(
            name="true_retain_disturbed_base",
            better="lower",
            bounds=_UNIT,
            formula=f"true_retain_disturbed of {_BASE}",
            compared=False,
        ),
        MetricSpec(
            name="true_forget_removed_random",
            better="none",
            bounds=_UNIT,
            formula=(
                "true_forget_removed of as many random latents that fire about as often on tokens without a forget "
                "feature, at the setting of true_forget_removed_base: the null"
            ),
            compared=False,
        ),
    ),
)
