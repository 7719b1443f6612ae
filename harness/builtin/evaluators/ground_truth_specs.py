"""What the ground_truth evaluator measures: specs alone."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

_BENCH = "SynthSAEBench, arXiv:2602.14687"
_ALIVE = "latents that fire on some held-out token"
_SIGNED = "matched one to one by largest total cosine of their directions"
_UNIT = (0.0, 1.0)


def _recovered(name: str, which: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        better="higher",
        bounds=_UNIT,
        chance=0.0,
        formula=(
            f"share of {which} that fire on held-out tokens and whose latent ({_SIGNED}) has cosine >= 0.9 "
            "and F1 >= 0.5"
        ),
    )


GROUND_TRUTH = EvaluatorSpec(
    name="ground_truth",
    target="harness.builtin.evaluators.ground_truth:GroundTruthEvaluator",
    summary="Which of a synthetic world's features the latents have found, and what became of the others.",
    reference=_BENCH,
    needs=frozenset({"world"}),
    metrics=(
        MetricSpec(
            name="mcc",
            better="higher",
            bounds=_UNIT,
            formula=(
                f"mean |cosine| over the one-to-one matching of {_ALIVE} with features that makes its sum largest; "
                "min(live latents, features) pairs; sees directions alone, not when they are used"
            ),
            reference=f"{_BENCH}, which counts dead latents",
        ),
        MetricSpec(
            name="mcc_signed",
            better="higher",
            bounds=(-1.0, 1.0),
            formula="as mcc with the cosine itself: a direction that is opposite does not count as found",
        ),
        MetricSpec(
            name="uniqueness",
            better="higher",
            bounds=_UNIT,
            formula=f"features that are the largest cosine of some latent / min(n, features), n the {_ALIVE}",
            reference=f"{_BENCH}, which divides by all latents and takes |cosine|",
        ),
        MetricSpec(
            name="truth_precision",
            better="higher",
            bounds=_UNIT,
            formula=(
                f"mean over {_ALIVE} of (tokens on which latent and feature fire) / (tokens on which the latent "
                f"fires), features {_SIGNED}; 0 for a latent left over"
            ),
            reference=f"{_BENCH}, which matches many to one",
        ),
        MetricSpec(
            name="truth_recall",
            better="higher",
            bounds=_UNIT,
            formula=(
                "as truth_precision, divided by the tokens on which the feature fires; 0 where it never does or the "
                "latent is left over"
            ),
            reference=f"{_BENCH}, which matches many to one",
        ),
        MetricSpec(
            name="truth_f1",
            better="higher",
            bounds=_UNIT,
            formula=f"mean over {_ALIVE} of the harmonic mean of a latent's precision and recall",
            reference=f"{_BENCH}, which matches many to one",
        ),
        _recovered("recovered", "the features"),
        _recovered("recovered_frequent", "the third of the features with the highest rate, those"),
        _recovered("recovered_middle", "the middle third of the features by rate, those"),
        _recovered("recovered_rare", "the third of the features with the lowest rate, those"),
        MetricSpec(
            name="splitting",
            better="lower",
            bounds=_UNIT,
            formula=(
                f"share of the {_ALIVE} that are one too many: sum over features of (latents whose largest cosine is "
                "this feature's, and >= 0.8) - 1; 0 for an SAE that finds nothing: read it beside recovered"
            ),
            compared=False,
        ),
        MetricSpec(
            name="hierarchy_recall",
            better="higher",
            bounds=_UNIT,
            chance=0.0,
            formula=(
                "of all firings of features with a parent, the share on which the latent of the parent fires too, with "
                f"cosine >= 0.8 to it; latents {_SIGNED}; 1 in a world without trees"
            ),
        ),
        MetricSpec(
            name="true_absorption",
            better="lower",
            bounds=_UNIT,
            formula=(
                "of all firings of features with a parent, the share on which the parent's latent (cosine >= 0.8) is "
                "silent while the child's fires, whose least-squares part along the parent is at least a quarter of "
                "that along the child; 0 for an SAE that finds no parent: read it beside hierarchy_recall"
            ),
            reference="Chanin et al. 2024, arXiv:2409.14507; here the features are known",
            compared=False,
        ),
        MetricSpec(
            name="absorbed_pairs",
            better="lower",
            unit="pairs",
            bounds=(0.0, None),
            formula=(
                "parents and children such that more than half of the child's firings are absorbed (true_absorption) "
                "and the parent's latent fires on more than half of the parent's firings without the child"
            ),
            compared=False,
        ),
        MetricSpec(
            name="temporal_fidelity",
            better="higher",
            bounds=(-1.0, 1.0),
            chance=0.0,
            formula=(
                "Pearson correlation, over latents and their features that each fire on 30 tokens or more, of the "
                "lag-1 autocorrelations of their firing on held-out tokens; 0 where fewer than three pairs do"
            ),
        ),
        MetricSpec(
            name="shrinkage",
            better="none",
            bounds=(0.0, None),
            formula=(
                "sum of code x |direction| / sum of the feature's true magnitude, over tokens on which a latent and "
                "its feature fire; ideal 1; 0 where no latent fires with its feature"
            ),
            reference=f"{_BENCH}, which takes mean |x_hat| / |x| (here l2_ratio)",
        ),
    ),
)
