"""What the unlearning evaluators measure: specs alone, so that listing them loads no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from harness import EvaluatorSpec, MetricSpec

_FARRELL = "Farrell et al. 2024, arXiv:2410.19278"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"
_WORDNET = "questions from WordNet 3.0, Miller 1995"

RETAINED = 0.99
"""Share of its right answers on retain questions that a setting must leave, as published."""
RETAIN_BUDGET = 0.01
"""Largest relative rise of the cross-entropy on retain texts."""
BUDGETS = tuple(0.005 * step for step in range(1, 21))
"""Rises on retain texts over which the frontier of texts is taken."""
PUBLISHED_THRESHOLDS = (0.001, 0.01)
PUBLISHED_LATENTS = (10, 20)
PUBLISHED_MULTIPLIERS = (25.0, 50.0, 100.0, 200.0)

_CLAMP = (
    "each chosen latent is set to minus some multiple of its mean code where it fires on tokens of the prompt, and the "
    "SAE's error is kept"
)
_CHOSEN = (
    "setting chosen on the selection half: the largest drop among those that keep {what}, else none; read on the "
    "report half, which shares no word with the other"
)
_ON_QUESTIONS = _CHOSEN.format(what="99 % of the retain questions answered")
_ON_TEXTS = _CHOSEN.format(what="the cross-entropy of retain texts within 1 %").replace("drop", "rise")
_MATCHED = "as many random latents that fire about as often on retain texts, at the chosen setting"
_NATS = "nats/token"


def _side(name: str, formula: str, **options: Any) -> MetricSpec:
    return MetricSpec(name=name, better="none", formula=formula, compared=False, **options)


UNLEARNING = EvaluatorSpec(
    name="unlearning",
    target="harness.builtin.evaluators.unlearning:UnlearningEvaluator",
    summary="How much of a topic's questions can be made to fail, by clamping latents, while others are answered.",
    reference=f"{_FARRELL}; {_WORDNET}",
    needs=frozenset({"language_model"}),
    texts=("wordnet-questions",),
    planted="harness.builtin.evaluators.unlearning_specs:planted_rows",
    metrics=(
        MetricSpec(
            name="unlearning_forget_drop",
            better="higher",
            bounds=(-1.0, 1.0),
            chance=0.0,
            formula=(
                "accuracy of the unmodified LM minus that under the clamp, on forget questions of the report half; "
                f"{_CLAMP}; {_ON_QUESTIONS}; detail: the whole sweep on the selection half"
            ),
            reference=_FARRELL,
        ),
        MetricSpec(
            name="unlearning_frontier_auc",
            better="higher",
            bounds=(0.0, 1.0),
            chance=0.5,
            formula=(
                "area under straight lines through (0, 0), the settings on the upper hull of the selection half as the "
                "report half has them, and (1, 1); across: share lost of what the LM answers better than by guessing "
                "on retain questions, up: the same on forget questions; 1/2 where both are lost alike; detail: 95 % "
                "interval over questions"
            ),
        ),
        _side(
            "unlearning_retain_kept",
            "right answers under the clamp over those of the unmodified LM, on retain questions of the report half, at "
            "the setting of unlearning_forget_drop",
            bounds=(0.0, None),
        ),
        _side(
            "unlearning_matched_drop",
            f"unlearning_forget_drop of {_MATCHED}",
            bounds=(-1.0, 1.0),
        ),
        _side(
            "unlearning_forget_ce_rise",
            "cross-entropy under the clamp of unlearning_forget_drop minus that of the unmodified LM, on forget texts "
            "of the report half",
            unit=_NATS,
        ),
        _side(
            "unlearning_retain_ce_rise",
            "the same on retain texts of the report half",
            unit=_NATS,
        ),
        _side(
            "unlearning_forget_accuracy",
            "share of forget questions of the report half that the unmodified LM answers right: the option of largest "
            "summed log-probability",
            bounds=(0.0, 1.0),
        ),
        _side("unlearning_retain_accuracy", "the same of retain questions", bounds=(0.0, 1.0)),
        _side(
            "unlearning_known_questions",
            "number of questions of both sides and halves that the unmodified LM answers right, in every order of the "
            "options where it can tell; detail, by domain: to be forgotten (1) or not (0), questions and share right "
            "in the selection half, the same in the report half",
            unit="questions",
            bounds=(0.0, None),
        ),
        MetricSpec(
            name="saebench_unlearning_score",
            better="higher",
            bounds=(0.0, 1.0),
            chance=0.0,
            formula=(
                "SAEBench's definition: 1 - the lowest forget accuracy among settings with retain accuracy >= 0.99, on "
                "questions the LM answers right; latents with a firing rate on retain texts below 0.001 or 0.01, the "
                "10 or 20 that fire most on forget texts, set to -25, -50, -100 or -200 where they fire; chosen and "
                "read on the same questions, so too high; codes are in the units of the LM's activations"
            ),
            reference=_SAEBENCH,
            compared=False,
        ),
    ),
)

UNLEARNING_TEXT = EvaluatorSpec(
    name="unlearning_text",
    target="harness.builtin.evaluators.unlearning_text:UnlearningTextEvaluator",
    summary="How much worse a topic's texts can be made to be predicted, by clamping latents, while others are not.",
    reference=f"{_FARRELL}; {_WORDNET}",
    needs=frozenset({"language_model"}),
    texts=("wordnet-questions",),
    planted="harness.builtin.evaluators.unlearning_specs:planted_rows",
    metrics=(
        MetricSpec(
            name="unlearning_text_forget_rise",
            better="higher",
            bounds=(-1.0, None),
            chance=0.0,
            formula=(
                "cross-entropy under the clamp over that of the unmodified LM, minus 1, on forget texts of the report "
                f"half; {_CLAMP}; {_ON_TEXTS}; detail: the whole sweep on the selection half"
            ),
            reference=_FARRELL,
        ),
        MetricSpec(
            name="unlearning_text_frontier",
            better="higher",
            bounds=(-1.0, None),
            chance=0.0,
            formula=(
                "mean of unlearning_text_forget_rise over allowed rises of 0.5, 1, ... 10 % on retain texts, each with "
                "its own setting; detail: 95 % interval over texts"
            ),
        ),
        _side(
            "unlearning_text_retain_rise",
            "the rise on retain texts of the report half, at the setting of unlearning_text_forget_rise",
            bounds=(-1.0, None),
        ),
        _side(
            "unlearning_text_matched_rise",
            f"unlearning_text_forget_rise of {_MATCHED}",
            bounds=(-1.0, None),
        ),
        _side(
            "unlearning_text_forget_ce",
            "cross-entropy of the unmodified LM on forget texts of the report half, given the tokens before",
            unit=_NATS,
            bounds=(0.0, None),
        ),
        _side("unlearning_text_retain_ce", "the same on retain texts", unit=_NATS, bounds=(0.0, None)),
    ),
)


def planted_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Rows in the conformance kit's world, where a token is mostly followed by its successor: which of four tokens
    comes next. The even tokens are to be forgotten."""
    generator = random.Random(0)
    for answer in range(1, 50):
        before = [(answer - step - 1) % 49 + 1 for step in (3, 2, 1)]
        for _ in range(4):
            first = generator.randrange(1, 50)
            yield {
                "side": "retain" if answer % 2 else "forget",
                "domain": "odd" if answer % 2 else "even",
                "lemmas": [str(answer)],
                "question": " ".join(map(str, [first, *before])),
                "answer": f" {answer}",
                "text": " ".join(str(generator.randrange(1, 25) * 2 - answer % 2) for _ in range(8)),
            }
