"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness import AnalysisSpec, Option, Preset, TrainerSpec, hookimpl

# The nine runs of the first study, each with what it adds to those before. `weight` is the one its text states.
_RUNS: tuple[tuple[str, Mapping[str, Option]], ...] = (
    ("tau .1, the top .1 % of all pairs of a batch", {"weight": 0.1}),
    ("tau 1", {"weight": 1.0}),
    ("tau 1 (1 + correlation)", {"weight": 1.0, "adaptive": True}),
    ("and correlations averaged over batches, decay .9", {"weight": 1.0, "adaptive": True, "memory": 0.9}),
    ("decay .95", {"weight": 1.0, "adaptive": True, "memory": 0.95}),
    ("and correlation above .1", {"weight": 1.0, "adaptive": True, "memory": 0.95, "minimum": 0.1}),
    ("and correlation above .2", {"weight": 1.0, "adaptive": True, "memory": 0.95, "minimum": 0.2}),
    (
        "and correlation between .1 and .8",
        {"weight": 1.0, "adaptive": True, "memory": 0.95, "minimum": 0.1, "maximum": 0.8},
    ),
    ("and a fifth of the correlations above .1", {"weight": 1.0, "adaptive": True, "memory": 0.95, "minimum": 0.1}),
)
_SHARED: Mapping[str, Option] = {"base": "relu", "penalty": "sq", "fraction": 0.001, "fraction_of": "all"}


def _of_the_study() -> dict[str, Preset]:
    """Each run as its code had it and as its text means it."""
    found: dict[str, Preset] = {}
    for number, (summary, options) in enumerate(_RUNS, start=1):
        last = number == len(_RUNS)
        found[f"seed000_run{number}"] = Preset(
            options={
                **_SHARED,
                **options,
                "weight": 0.1,  # the trainer passed .1 whatever the run's default said
                "scale": "absolute",
                "target": "codes",
                "divide_by_tokens": True,
                "sample_tokens": 2048,
                "min_count": 1,
                **({"quantile_high": 0.2} if last else {}),
            },
            faulty=True,
            summary=f"As coded: {summary}; on codes, correlations divided by the tokens, tau .1 throughout"
            + (", the lowest fifth." if last else "."),
        )
        found[f"seed000_run{number}_fixed"] = Preset(
            options={**_SHARED, **options, **({"quantile_low": 0.8} if last else {})},
            summary=f"As meant: {summary}; on decoder rows, tau as a share of the reconstruction loss"
            + (", the highest fifth." if last else "."),
        )
    return found


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield TrainerSpec(
        name="topk_orthogonality",
        target="sae_harness_topk_orthogonality.trainer:TopKOrthogonalityTrainer",
        extends=("topk", "relu", "jumprelu", "batchtopk", "matryoshka", "gated", "april"),
        sparsity="base",
        summary="A base SAE whose decoder rows are drawn apart for the pairs of latents that go together most.",
        aims=("mcc", "uniqueness", "splitting"),
        presets={
            "default": Preset(summary="The defaults by name."),
            "random_pairs": Preset(
                options={"pairs": "random"},
                control=True,
                summary="As many pairs drawn at random: what is not due to the selection.",
            ),
            "off": Preset(options={"weight": 0.0}, control=True, summary="Weight 0: the base trainer to the bit."),
            "batchtopk": Preset(options={"base": "batchtopk"}, summary="The defaults on BatchTopK."),
            "hinge": Preset(options={"penalty": "hinge"}, summary="Cosines up to .1 cost nothing."),
            "remembered": Preset(options={"memory": 0.9}, summary="Statistics of about ten batches instead of one."),
            "within_clusters": Preset(
                options={"clusters": "louvain", "between_weight": 0.0, "memory": 0.9},
                summary="Only pairs inside one community of latents that fire together.",
            ),
            "between_clusters": Preset(
                options={"clusters": "louvain", "within_weight": 0.0, "memory": 0.9},
                summary="Only pairs of two communities.",
            ),
            "seed000_run10": Preset(
                options={"clusters": "louvain", "memory": 0.95, "weight": 0.1},
                summary="The planned run: pairs within and between communities, each with half of the term.",
            ),
            "idea000": Preset(
                options={
                    "weight": 0.2,
                    "penalty": "abs",
                    "correlation": "dot",
                    "fraction": 0.001,
                    "fraction_of": "all",
                    "min_count": 1,
                },
                summary="The idea's text: |cosine| of the decoder rows for the top .1 % of products of codes.",
            ),
            "ortsae": Preset(
                options={"pairs": "chunked", "weight": 0.25, "every": 5},
                summary="OrtSAE (arXiv:2509.22033): each row against its nearest in a random chunk, every fifth step.",
            ),
            "ortsae_batchtopk": Preset(
                options={"base": "batchtopk", "pairs": "chunked", "weight": 0.25, "every": 5},
                summary="OrtSAE on the base it was published with.",
            ),
            "gram": Preset(options={"pairs": "gram"}, summary="All pairs, whether they fire together or not."),
            **_of_the_study(),
        },
    )


@hookimpl
def register_analyses() -> Iterable[AnalysisSpec]:
    home = "sae_harness_topk_orthogonality"
    yield AnalysisSpec(
        name="pair_selection_stability",
        target=f"{home}.stability_analysis:PairSelectionStability",
        summary="Whether the pairs selected on one stretch of text are those of another, against two nulls.",
    )
    yield AnalysisSpec(
        name="decoder_cosines",
        target=f"{home}.decoder_analyses:DecoderCosines",
        summary="Cosines of the directions of latents, beside those of the initialisation.",
    )
    yield AnalysisSpec(
        name="splitting",
        target=f"{home}.decoder_analyses:Splitting",
        summary="Near-duplicate latents, their clusters, and whether twins fire on the same tokens.",
    )
    yield AnalysisSpec(
        name="matching",
        target=f"{home}.matching:SAEMatching",
        summary="Latents that a --reference SAE has too, has as several, or has as one.",
    )
    yield AnalysisSpec(
        name="pair_traces",
        target=f"{home}.traces:PairTraces",
        summary="Pairs observed and selected, their cosine and the term's weight over training.",
        methods=("topk_orthogonality",),
    )
