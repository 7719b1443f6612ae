"""What the SCR and TPP evaluators measure, and their planted rows: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from harness import EvaluatorSpec, MetricSpec

Better = Literal["higher", "lower", "none"]

_SHIFT = "Marks et al. 2024, arXiv:2403.19647"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"

NS = (2, 5, 10, 20, 50, 100, 500)

_NOISE_SCR = (
    "low reliability: a public audit (arXiv:2605.18229, as quoted by others) found a CV of 4.4 % between reseedings at "
    "N = 10, and an oracle that knows the features ranked below trained SAEs"
)
_NOISE_TPP = (
    "low reliability: a public audit (arXiv:2605.18229, as quoted by others) found a CV of 23 % between reseedings at "
    "N = 50 and of 39 % at N = 10, and a value that falls during training"
)
_ABLATION = "set to 0 on every token, the SAE's error kept, padding left out"
_PROBE = (
    "probes read mean-pooled activations of the LM: logistic regression on standardised dimensions, C by log-loss on "
    "selection texts"
)
_PUBLISHED = (
    "SAEBench's definition, faults included: probes by AdamW whose epoch is chosen on the test texts; latents of zero "
    "rows up to `max_tokens` are ablated too, which shifts the pool of short texts"
)
_SCR_CHOICE = (
    "the N latents of largest |(difference of class means of pooled codes) . (W_dec . probe)| above 0 for the "
    "attribute that is not measured, on training and selection texts"
)
_TPP_CHOICE = (
    "the N latents of largest max(difference of class means of pooled codes, 0) . (W_dec . probe) above 0 for the "
    "class, on training and selection texts"
)


_SCR_PAIRS = MetricSpec(
    name="scr_pairs",
    better="none",
    unit="pairs",
    bounds=(0.0, None),
    formula=(
        "number of pairs of target values that count: on selection texts, the probe trained on balanced texts is more "
        "accurate than the one trained on biased texts, by more than 2 standard errors, in the direction that is "
        "measured; detail, by pair: counts (1) or not (0), direction (1: the spurious attribute's latents are ablated "
        "and the target is measured; 2: the reverse), that difference and its standard error, test accuracies of the "
        "clean probes (target, spurious) and of the biased probe on both"
    ),
    compared=False,
)

_TPP_CLASSES = MetricSpec(
    name="tpp_classes",
    better="none",
    unit="classes",
    bounds=(0.0, None),
    formula=(
        "number of classes whose probe, against the other classes of the set, is more accurate than 1/2 on selection "
        "texts by more than 2 standard errors, in a set of at least two such; detail, by class: counts (1) or not (0), "
        "that accuracy and its standard error, test accuracy"
    ),
    compared=False,
)


def _scr(n: int) -> Iterator[MetricSpec]:
    yield MetricSpec(
        name=f"scr_n{n}",
        better="higher",
        chance=0.0,
        formula=(
            f"N = {n}: sum over pairs of (accuracy after - accuracy of the biased probe) / sum of (accuracy of the "
            "clean probe - accuracy of the biased probe), on balanced test texts read once; the biased probe is "
            f"trained where both attributes are equal; {_SCR_CHOICE}, {_ABLATION}; {_PROBE}; of the two directions the "
            "one in which the biased probe is less accurate on selection texts (equal: 1). Pairs count by "
            f"`scr_pairs`; they share values, so the standard error over them is a lower bound. {_NOISE_SCR}"
        ),
        reference=_SHIFT,
        compared=n == 10,
    )
    yield MetricSpec(
        name=f"saebench_scr_n{n}",
        better="higher",
        chance=0.0,
        formula=(
            f"N = {n}: mean over all pairs of (accuracy after - biased) / (clean - biased), 0 where that divisor is "
            "below 0.001, in the direction in which the biased probe is less accurate on test texts (equal: 1; "
            f"published: the pair is dropped). {_PUBLISHED}"
        ),
        reference=_SAEBENCH,
        compared=False,
    )
    for direction, what in _DIRECTIONS.items():
        yield MetricSpec(
            name=f"scr_dir{direction}_gain_n{n}",
            better="higher",
            bounds=(-1.0, 1.0),
            chance=0.0,
            formula=(
                f"N = {n}: {what}; accuracy after - accuracy of the biased probe, mean over the pairs that count; else "
                f"as scr_n{n}"
            ),
            reference=_SHIFT,
            compared=False,
        )
        yield MetricSpec(
            name=f"saebench_scr_dir{direction}_n{n}",
            better="higher",
            chance=0.0,
            formula=f"as saebench_scr_n{n}, always in direction {direction}: {what}",
            reference=_SAEBENCH,
            compared=False,
        )


_DIRECTIONS = {
    1: "the latents of the spurious attribute are ablated, the target is measured",
    2: "the latents of the target are ablated, the spurious attribute is measured",
}
_TPP_PARTS: dict[str, tuple[str, Better]] = {
    "tpp": ("own drop - mean drop of the other classes of the set", "higher"),
    "tpp_intended": ("own drop alone", "higher"),
    "tpp_unintended": ("mean drop of the other classes of the set alone", "lower"),
}


def _tpp(n: int) -> Iterator[MetricSpec]:
    for name, (what, better) in _TPP_PARTS.items():
        yield MetricSpec(
            name=f"{name}_n{n}",
            better=better,
            bounds=(-2.0, 2.0) if name == "tpp" else (-1.0, 1.0),
            chance=0.0,
            formula=(
                f"N = {n}: the class's latents are ablated; {what}, in test accuracy of the probes, mean over the "
                f"classes that count by `tpp_classes`; {_TPP_CHOICE}, {_ABLATION}; {_PROBE}. {_NOISE_TPP}"
            ),
            reference=_SAEBENCH,
            compared=name == "tpp" and n == 50,
        )
    yield MetricSpec(
        name=f"saebench_tpp_n{n}",
        better="higher",
        bounds=(-2.0, 2.0),
        chance=0.0,
        formula=(
            f"N = {n}: own drop - mean drop of the others, mean over all classes of a set, then over sets; latents of "
            "effect 0 are ablated where fewer than N have a positive one; negatives are drawn once (published: anew "
            f"at every test). {_PUBLISHED}"
        ),
        reference=_SAEBENCH,
        compared=False,
    )


SCR = EvaluatorSpec(
    name="scr",
    target="harness.builtin.evaluators.scr:ScrEvaluator",
    summary="Spurious correlation removal: does ablating an attribute's latents mend a probe that leans on it?",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    texts=("vader-attributes",),
    planted="harness.builtin.evaluators.scr_tpp_specs:planted",
    metrics=(_SCR_PAIRS, *(metric for n in NS for metric in _scr(n))),
)

TPP = EvaluatorSpec(
    name="tpp",
    target="harness.builtin.evaluators.tpp:TppEvaluator",
    summary="Targeted probe perturbation: does ablating a class's latents harm its probe and no other?",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    texts=("class-sets",),
    planted="harness.builtin.evaluators.scr_tpp_specs:planted",
    metrics=(_TPP_CLASSES, *(metric for n in NS for metric in _tpp(n))),
)

_SOURCES = {"amazon": 7, "movies": 11, "news": None}
"""In the planted world: the token that texts of a source hold, and no others do."""
_POSITIVE = 3
_N_OF_EACH = 1000


def planted(name: str) -> Iterator[Mapping[str, str]]:
    """Rows of "vader-attributes" and of "class-sets": token numbers, some of which stand for an attribute or a class.

    Nothing but that tells them apart.
    """
    for index in range(_N_OF_EACH):
        first, second, third = (12 + number % 36 for number in (index, index // 36, 7 * index))
        for source, marker in _SOURCES.items():
            for sentiment, mood in (("negative", third), ("positive", _POSITIVE)):
                origin = marker or second
                text = f"{first} {second} {origin} {mood} {origin} {mood}"
                if name == "class-sets":
                    yield {"text": text, "set": "planted", "class": source}
                else:
                    yield {"text": text, "source": source, "sentiment": sentiment}
