"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness import AnalysisSpec, Option, Preset, TrainerSpec, hookimpl

# The runs of the study: (preset, k, weight). k is the suite's target L0, not an option.
_RUNS = (("seed001_run1", 160, 0.1), ("seed001_run2", 120, 0.2), ("seed001_run3", 120, 0.1), ("seed001_k80", 80, 0.3))
_LITERAL: Mapping[str, Option] = {
    "competition": "min",
    "penalty": "sq",
    "target": "codes_gram",
    "scale": "absolute",
    "memory": 0.0,
    "min_count": 1,
    "sample_tokens": 2048,
    "per_token": 320,
}
_FIXED: Mapping[str, Option] = {"competition": "shrunk", "penalty": "sq", "memory": 0.9}


def _of_the_study() -> dict[str, Preset]:
    """Each run as its code had it and as its text means it."""
    found: dict[str, Preset] = {}
    for name, k, weight in _RUNS:
        planned = " (planned, never run)" if name.endswith("k80") else ""
        found[name] = Preset(
            options={**_LITERAL, "weight": weight},
            faulty=True,
            summary=f"As coded{planned}: weight {weight}, at L0 {k}; squared Gram of codes, min-count c.",
        )
        found[f"{name}_fixed"] = Preset(
            options={**_FIXED, "weight": weight},
            summary=f"As meant{planned}: weight {weight} of the loss, at L0 {k}; decoder cosines, shrunk c.",
        )
    return found


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        name="sparsity_guided_orthogonality",
        target="sae_harness_sparsity_guided_orthogonality.trainer:SparsityGuidedTrainer",
        extends=("topk", "relu", "jumprelu", "batchtopk", "matryoshka", "gated", "april"),
        sparsity="base",
        summary="A base SAE whose decoder rows are drawn apart, each pair weighed by how often it fires together.",
        aims=("mcc", "uniqueness", "splitting"),
        presets={
            "default": Preset(summary="The defaults by name."),
            "random_pairs": Preset(
                options={"partners": "random"},
                control=True,
                summary="The same weights on random pairs: what is not due to which latents fire together.",
            ),
            "off": Preset(options={"weight": 0.0}, control=True, summary="Weight 0: the base trainer to the bit."),
            "batchtopk": Preset(options={"base": "batchtopk"}, summary="The defaults on BatchTopK."),
            "min": Preset(options={"competition": "min"}, summary="c = n_ij / min(n_i, n_j)."),
            "jaccard": Preset(options={"competition": "jaccard"}, summary="c = n_ij / (n_i + n_j - n_ij)."),
            "lift": Preset(options={"competition": "lift"}, summary="c = lift - 1: more than by chance alone."),
            "shrunk": Preset(options={"competition": "shrunk"}, summary="c = n_ij / (min(n_i, n_j) + 10)."),
            "by_pairs": Preset(options={"normalise": "by_pairs"}, summary="More competition costs more."),
            **_of_the_study(),
        },
    )


@hookimpl
def register_analyses() -> Iterable[AnalysisSpec]:
    home = "sae_harness_sparsity_guided_orthogonality"
    yield AnalysisSpec(
        name="competition_graph",
        target=f"{home}.graph_analysis:CompetitionGraphAnalysis",
        summary="Degrees, communities and top competitors of latents that fire together, against firing rates alone.",
    )
    yield AnalysisSpec(
        name="competition_cosine",
        target=f"{home}.relations:CompetitionCosine",
        summary="Competition against the cosine of decoder rows, for the SAE and for its initialisation.",
    )
    yield AnalysisSpec(
        name="competition_change",
        target=f"{home}.change:CompetitionChangeAnalysis",
        summary="Whether latents compete less than a --reference SAE's, or only their rows turned apart.",
    )
    yield AnalysisSpec(
        name="threshold_effect",
        target=f"{home}.relations:ThresholdEffectAnalysis",
        summary="How many competing pairs each threshold leaves, against firing rates alone.",
    )
    yield AnalysisSpec(
        name="competition_traces",
        target=f"{home}.traces:CompetitionTraces",
        summary="Competing pairs, their weight and cosine, and the term's weight over training.",
        methods=("sparsity_guided_orthogonality",),
    )
