"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness import AnalysisSpec, EvaluatorSpec, Preset, SAESpec, TrainerSpec, hookimpl

from .metrics import TRUE_SIDE_EFFECTS

_HOME = "sae_harness_hierarchical_unlearning"
_GAO = "Gao et al. 2024, arXiv:2406.04093"
_MUCHANE = "Muchane et al. 2025, arXiv:2506.01197"
_AIMS = ("true_frontier", "unlearning_text_frontier")
_TEXTS = ("wordnet-questions",)
_PLANTED = "harness.builtin.evaluators.unlearning_specs:planted_rows"


@hookimpl
def register_saes() -> Iterable[SAESpec]:
    yield SAESpec(
        name="stacked_topk",
        target=f"{_HOME}.sae:StackedTopKSAE",
        summary="A topk SAE whose codes are read by a second, smaller level of concepts.",
        reference=_GAO,
        sparse=True,
    )
    yield SAESpec(
        name="mixture_topk",
        target=f"{_HOME}.mixture_sae:MixtureTopKSAE",
        summary="Parents by top-k, and of each active parent the best child in a subspace of its own.",
        reference=_MUCHANE,
        sparse=True,
    )
    yield SAESpec(
        name="linked_topk",
        target=f"{_HOME}.linked_sae:LinkedTopKSAE",
        summary="A topk SAE and, beside it, a smaller one whose latents are concepts.",
        reference=_GAO,
        sparse=True,
    )


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    yield from _one_dictionary()
    yield from _two_dictionaries()


def _one_dictionary() -> Iterable[TrainerSpec]:
    """Concepts above latents, and concepts among them."""
    yield TrainerSpec(
        name="hierarchical_unlearning",
        target=f"{_HOME}.stacked:StackedTrainer",
        sae="stacked_topk",
        sparsity="k",
        summary="topk, with concepts above its latents that must say which latents fire.",
        aims=_AIMS,
        presets={
            "default": Preset(summary="The defaults by name."),
            "detached": Preset(
                options={"through_base": False, "concept_weight": 0.0},
                summary="The concepts are learned from the codes of a topk SAE that does not feel them.",
            ),
            "low_rank": Preset(
                options={"concept_rank": 64},
                summary="The concepts' weights are products of two factors: d_sae / 4 concepts fit a d_sae of 65,536.",
            ),
            "seed002": Preset(
                options={
                    "concept_weight": 0.0,
                    "predict_weight": 0.0,
                    "l1_base": 0.1,
                    "l1_concepts": 0.2,
                    "l1_links": 0.01,
                    "start": "near_zero",
                },
                faulty=True,
                summary="The idea's text: concepts enter no reconstruction, so penalties alone move their weights.",
            ),
            "seed002_fixed": Preset(
                options={"l1_links": 1e-4},
                summary="The same as meant: concepts explain the codes, and their links are penalised a little.",
            ),
        },
    )
    yield TrainerSpec(
        name="hierarchical_prefixes",
        target=f"{_HOME}.prefixes:PrefixTrainer",
        extends=("topk", "batchtopk", "relu", "jumprelu"),
        sparsity="base",
        summary="A base SAE whose first latents, the concepts, must reconstruct by themselves.",
        aims=_AIMS,
        reference="after Bussmann et al. 2025, arXiv:2503.17547",
        presets={
            "default": Preset(summary="The defaults by name."),
            "off": Preset(options={"weight": 0.0}, control=True, summary="Weight 0: the base trainer to the bit."),
        },
    )


def _two_dictionaries() -> Iterable[TrainerSpec]:
    """Parents with subspaces of children, and two SAEs that are linked afterwards."""
    yield TrainerSpec(
        name="hierarchical_mixture",
        target=f"{_HOME}.mixture:MixtureTrainer",
        sae="mixture_topk",
        sparsity="k",
        summary="Half of the active latents are parents, the others their children in small subspaces.",
        aims=_AIMS,
        reference=_MUCHANE,
        presets={
            "default": Preset(summary="The defaults by name."),
            "hsae": Preset(
                options={"children": 16, "cross_weight": 0.1, "l1_weight": 1e-3},
                summary="H-SAE's sizes and weights: 16 children, encoders drawn off others' decoders, a little L1.",
            ),
            "off": Preset(
                options={"children": 0, "parents_weight": 0.0},
                control=True,
                summary="No children: topk to the bit.",
            ),
        },
    )
    yield TrainerSpec(
        name="hierarchical_linked",
        target=f"{_HOME}.linked:LinkedTrainer",
        sae="linked_topk",
        sparsity="k",
        summary="topk, and a smaller topk SAE beside it whose latents are linked to the others afterwards.",
        aims=_AIMS,
        reference=_GAO,
        presets={
            "default": Preset(summary="The defaults by name."),
            "off": Preset(
                options={"concepts_weight": 0.0},
                control=True,
                summary="The concepts stay as drawn: topk to the bit, and what links to random concepts are worth.",
            ),
        },
    )


@hookimpl
def register_evaluators() -> Iterable[EvaluatorSpec]:
    yield TRUE_SIDE_EFFECTS


@hookimpl
def register_analyses() -> Iterable[AnalysisSpec]:
    yield AnalysisSpec(
        name="level_interaction",
        target=f"{_HOME}.analyses:level_interaction",
        needs=frozenset({"world"}),
        summary="What clamping latents, concepts and both does to the features that are to go and to stay.",
    )
    yield AnalysisSpec(
        name="hierarchy",
        target=f"{_HOME}.analyses:hierarchy",
        summary="Which latents belong to which concept, how purely, and the tree as DOT and SVG.",
    )
    yield AnalysisSpec(
        name="unlearning_levels",
        target=f"{_HOME}.text_analysis:unlearning_levels",
        needs=frozenset({"language_model"}),
        texts=_TEXTS,
        planted=_PLANTED,
        summary="The sweep of every level on texts to be forgotten and others, with side effects by domain.",
        reference="clamping: Farrell et al. 2024, arXiv:2410.19278",
    )
    yield AnalysisSpec(
        name="selected_overlap",
        target=f"{_HOME}.overlap:SelectedOverlap",
        texts=_TEXTS,
        planted=_PLANTED,
        summary="Whether another SAE, such as of another seed, has the same latents selected to be clamped.",
    )
    yield AnalysisSpec(
        name="selectivity",
        target=f"{_HOME}.analyses:selectivity",
        texts=_TEXTS,
        planted=_PLANTED,
        summary="How much more often latents and concepts fire on tokens to be forgotten.",
    )
