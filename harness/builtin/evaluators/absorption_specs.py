"""What the absorption evaluator measures: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness import EvaluatorSpec, MetricSpec

_CHANIN = "Chanin et al. 2024, arXiv:2409.14507"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"

FLOOR = 0.5
"""A letter is the SAE's where its split latents' validation F1 is at least this share of the probe's."""

_WORDS = (
    "test words that the letter's probe on raw activations says (logit > 0), words being one token at the end of "
    "solved examples"
)
_LETTERS = (
    "mean over the letters of `absorption_letters`, which the LM alone fixes; a letter that the SAE has no latents for "
    f"(validation F1 of its split latents below {FLOOR:g} of the probe's) counts 1, so that dead latents are no "
    "absorption of 0"
)
_FULL = (
    "no split latent is active, and the latent that writes most along the probe's direction has a cosine of at least "
    "0.025 with it and writes at least 0.4 of the activation's projection on it, the decoder's bias taken off"
)
_FRACTION = (
    "absorption fraction: a / (a + m), m what split latents write along the probe's direction, P the activation's "
    "projection on it, the decoder's bias taken off, a = min(A, P - m), A what the up to 3 other latents of cosine at "
    "least 0.1 that write most do; 1 where m <= 0; 0 where m >= P or A < 0.4 P"
)
_SPLIT = (
    "split latents of a letter: one by one the latent that lowers the loss of the letter's class-balanced probe on "
    "training words fastest, while the probe's validation F1 rises by more than 0.03, at most 10"
)
_PUBLISHED = (
    "SAEBench 0.6.0 on this evaluator's words and activations: probes of 50 epochs of Adam, split latents by the "
    "weights of an L1 probe, letters (F1 > 0.6) and number of split latents chosen on the test words themselves, the "
    "decoder's bias left in; SAEBench gives no value below 20 letters (see n)"
)

ABSORPTION = EvaluatorSpec(
    name="absorption",
    target="harness.builtin.evaluators.absorption:AbsorptionEvaluator",
    summary="How often a word's first letter is carried by other latents than those that stand for the letter.",
    reference=_CHANIN,
    needs=frozenset({"language_model"}),
    texts=("words",),
    planted="harness.builtin.evaluators.absorption_specs:planted_words",
    metrics=(
        MetricSpec(
            name="absorption_rate",
            better="lower",
            bounds=(0.0, 1.0),
            formula=f"share of {_WORDS}, that are fully absorbed: {_FULL}; {_LETTERS}; {_SPLIT}",
            reference=_CHANIN,
        ),
        MetricSpec(
            name="absorption_fraction",
            better="lower",
            bounds=(0.0, 1.0),
            formula=f"mean over {_WORDS}, of the {_FRACTION}; {_LETTERS}",
            reference=_SAEBENCH,
        ),
        MetricSpec(
            name="absorption_rate_pooled",
            better="lower",
            bounds=(0.0, 1.0),
            formula="`absorption_rate` over the words of all letters together, not letter by letter",
            reference=_CHANIN,
            compared=False,
        ),
        MetricSpec(
            name="first_letter_f1",
            better="higher",
            bounds=(0.0, 1.0),
            formula=(
                "F1 on test words of the class-balanced probe on a letter's split latents, 0 where it has none; mean "
                "over the letters of `absorption_letters`; to be read beside the absorption of an SAE"
            ),
            reference=_CHANIN,
        ),
        MetricSpec(
            name="split_latents",
            better="none",
            unit="latents/letter",
            bounds=(0.0, 10.0),
            formula=f"mean number of split latents over the letters of `absorption_letters`; {_SPLIT}",
            reference=_CHANIN,
        ),
        MetricSpec(
            name="absorption_letters",
            better="none",
            unit="letters",
            bounds=(2.0, None),
            formula=(
                "number of letters whose logistic regression on raw activations has an F1 above 0.6 on validation "
                "words; below 20 of 26 the evaluator gives nothing. Detail, by letter: 1 where the SAE has latents for "
                "it, absorption rate and fraction before that counts, probe-positive test words, split latents, their "
                "validation and test F1, the probe's validation and test F1"
            ),
            reference=_CHANIN,
            compared=False,
        ),
        MetricSpec(
            name="saebench_absorption_fraction",
            better="lower",
            bounds=(0.0, 1.0),
            formula=f"mean absorption fraction; {_PUBLISHED}",
            reference=_SAEBENCH,
            compared=False,
        ),
        MetricSpec(
            name="saebench_full_absorption",
            better="lower",
            bounds=(0.0, 1.0),
            formula=f"full absorption rate; {_PUBLISHED}",
            reference=_SAEBENCH,
            compared=False,
        ),
        MetricSpec(
            name="saebench_split_latents",
            better="none",
            unit="latents/letter",
            bounds=(1.0, 10.0),
            formula=f"mean number of split latents; {_PUBLISHED}",
            reference=_SAEBENCH,
            compared=False,
        ),
    ),
)

_PLANTED_LETTERS = {"a": (1, 25, 2, 26), "b": (5, 29, 6, 30), "c": (9, 33, 10, 34)}


def planted_words(name: str) -> Iterable[Mapping[str, Any]]:
    """Rows of `words` in the planted world: the tokens of three letters, 100 rows each, after token 40."""
    return [
        {"word": str(token), "letter": letter, "text": f" {token}", "shown": " 40\n"}
        for letter, tokens in _PLANTED_LETTERS.items()
        for token in tokens
        for _ in range(25)
    ]
