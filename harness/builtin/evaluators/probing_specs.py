"""What the sparse probing evaluator measures: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from harness import EvaluatorSpec, MetricSpec

from .scr_tpp_specs import planted as planted_classes

_GURNEE = "Gurnee et al. 2023, arXiv:2305.01610"
_SAE_PROBES = "Kantamneni et al. 2025, arXiv:2502.16681"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"

KS = (1, 2, 5, 10, 20, 50)
PUBLISHED_KS = (1, 2, 5)

_TASKS = (
    "mean over the tasks that raw activations carry (`probing_tasks`) on test texts, half of each class; codes are "
    "pooled as the mean over a text's counted tokens"
)
_CHOSEN = (
    "the k latents of largest |difference of class means| on training texts, either as it is or over the latent's "
    "standard deviation; logistic regression with an L2 penalty on standardised latents; that choice and C by log-loss "
    "on validation texts"
)
_FULL = (
    "logistic regression with an L2 penalty on all {what}, either in their own units or standardised; that choice and "
    "C by log-loss on validation texts"
)
_SCORES = {
    "accuracy": "share of texts on the right side of probability 1/2",
    "auc": "area under the ROC curve, ties counted half",
    "f1": "F1 of class 1 at probability 1/2; always saying class 1 scores 2/3",
}
_COMPARED = frozenset({"sparse_probing_top1_auc", "sparse_probing_top5_auc", "probing_full_auc"})
"""One number for a single latent, a few, and all of them: the others say nearly the same."""


def _scores(prefix: str, how: str, reference: str) -> tuple[MetricSpec, ...]:
    return tuple(
        MetricSpec(
            name=f"{prefix}_{score}",
            better="none" if prefix == "raw_probing" else "higher",
            bounds=(0.0, 1.0),
            chance=0.5,
            formula=f"{what}, {_TASKS}; {how}",
            reference=reference,
            compared=f"{prefix}_{score}" in _COMPARED,
        )
        for score, what in _SCORES.items()
    )


SPARSE_PROBING = EvaluatorSpec(
    name="sparse_probing",
    target="harness.builtin.evaluators.sparse_probing:SparseProbingEvaluator",
    summary="How much of what texts are labelled with can be read off a few latents: 113 binary tasks.",
    reference=_SAE_PROBES,
    needs=frozenset({"language_model"}),
    texts=("sae-probes",),
    metrics=(
        MetricSpec(
            name="probing_tasks",
            better="none",
            unit="tasks",
            bounds=(0.0, None),
            formula=(
                "number of tasks whose full probe on raw activations has a validation AUC more than 2 standard errors "
                "above chance; detail, by task: counts (1) or not (0), that AUC and its standard error, test AUC, "
                "texts to train, choose and test on"
            ),
            compared=False,
        ),
        *(metric for k in KS for metric in _scores(f"sparse_probing_top{k}", f"k = {k}; {_CHOSEN}", _GURNEE)),
        *_scores("probing_full", _FULL.format(what="latents"), _SAE_PROBES),
        *_scores("raw_probing", _FULL.format(what="dimensions of the LM's activations"), _SAE_PROBES),
        *(
            MetricSpec(
                name=f"saebench_sparse_probing_top{k}_accuracy",
                better="higher",
                bounds=(0.0, 1.0),
                chance=0.5,
                formula=(
                    f"{_SCORES['accuracy']}, {_TASKS}; SAEBench's probe (its data and sizes: saebench_sparse_probing): "
                    f"the {k} latents of largest |difference of class means| in their own units, logistic regression "
                    "with C = 1, trained on training and validation texts"
                ),
                reference=_SAEBENCH,
                compared=False,
            )
            for k in PUBLISHED_KS
        ),
    ),
)

_PROTOCOL = (
    "SAEBench's definition, faults included: of each class half as many texts as the probe has, and as many of the "
    "others of its set, drawn anew; a text is its first `max_tokens` tokens, mean-pooled; mean over sets of the mean "
    "over classes, of those that the LM does not carry too"
)
_PROBES = {
    "": (
        "test accuracy of logistic regression on all {what} by AdamW (rate 1e-2, batches of 250, up to 100 epochs, "
        "patience 10), its epoch chosen on the test texts"
    ),
    **{
        f"top{k}_": (
            f"test accuracy of logistic regression (C = 1) on the {k} {{what}} of largest |difference of class means| "
            "in their own units"
        )
        for k in PUBLISHED_KS
    },
}

SAEBENCH_SPARSE_PROBING = EvaluatorSpec(
    name="saebench_sparse_probing",
    target="harness.builtin.evaluators.saebench_probing:SAEBenchProbingEvaluator",
    summary="Sparse probing as SAEBench defines it: classes against the others of their set, 4000 texts and 1000.",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    texts=("class-sets",),
    planted="harness.builtin.evaluators.probing_specs:planted",
    metrics=(
        MetricSpec(
            name="probing_classes",
            better="none",
            unit="classes",
            bounds=(0.0, None),
            formula="number of classes; n is the number of sets; detail, by class: texts to train and to test on",
            compared=False,
        ),
        *(
            MetricSpec(
                name=f"saebench_probing_{who}_{name}accuracy",
                better="higher" if who == "sae" else "none",
                bounds=(0.0, 1.0),
                chance=0.5,
                formula=f"{formula.format(what=what)}. {_PROTOCOL}",
                reference=_SAEBENCH,
                compared=False,
            )
            for who, what in (("llm", "dimensions of the LM's activations"), ("sae", "latents"))
            for name, formula in _PROBES.items()
        ),
    ),
)


def planted(name: str) -> Iterator[Mapping[str, str]]:
    """The first rows of the planted classes of `tpp`."""
    return islice(planted_classes(name), 600)
