"""What this plugin provides: specs alone, so that listing it loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness import AnalysisSpec, EvaluatorSpec, Preset, SAESpec, TrainerSpec, hookimpl

from .metrics import TRUE_SIDE_EFFECTS

_HOME = "sae_harness_hierarchical_unlearning"
_GAO = "Gao et al. 2024, arXiv:2406.04093"
_AIMS = ("true_frontier", "unlearning_text_frontier")


@hookimpl
def register_saes() -> Iterable[SAESpec]:
    yield SAESpec(
        name="stacked_topk",
        target=f"{_HOME}.sae:StackedTopKSAE",
        summary="A topk SAE whose codes are read by a second, smaller level of concepts.",
        reference=_GAO,
        sparse=True,
    )


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
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
        name="selectivity",
        target=f"{_HOME}.analyses:selectivity",
        needs=frozenset({"world"}),
        summary="How much more often latents and concepts fire on tokens to be forgotten.",
    )
