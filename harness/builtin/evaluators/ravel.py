"""The RAVEL evaluator: does swapping a few latents swap one attribute of an entity, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness import (
    SAE,
    ConfigError,
    EvalContext,
    Evaluator,
    MetricValue,
    NotEvaluatedError,
    Option,
    RaggedCodes,
)
from harness.evaluation.interchange import (
    Estimate,
    Interchange,
    Ranking,
    active_on,
    answers,
    by_attribute,
    cause_hits,
    estimate,
    isolation_hits,
    random_latents,
    rankings,
)
from harness.evaluation.ravel import (
    Accepted,
    Asked,
    Knowledge,
    Pairs,
    Part,
    Quiz,
    draw_pairs,
    joined,
    known_quiz,
)

from .options import require_known

KS = (1, 4, 16, 64, 256, 1024)
_DEFAULTS: dict[str, int | str] = {"table": "cities", "n_entities": 240, "n_validation": 32, "n_test": 96}
_LEAST_CEILING = 0.1
"""Where swapping the whole activation turns fewer answers than this, the entity's last token does not carry them."""


class Swaps(NamedTuple):
    """Pairs of one part of the entities, for one attribute."""

    cause: Pairs
    isolation: Pairs

    def both(self) -> Pairs:
        """Cause pairs, then isolation pairs."""
        return joined([self.cause, self.isolation])


class Choice(NamedTuple):
    """The latents chosen for one attribute."""

    latents: Tensor
    ranking: int
    cause: float
    """On validation entities."""
    isolation: float


class Setting(NamedTuple):
    """All that does not depend on the SAE."""

    quiz: Quiz
    accepted: Accepted
    asked: Asked
    knowledge: Knowledge
    training: Tensor
    """[p] bool: the prompts to choose latents by."""
    attributes: tuple[int, ...]
    """Those that count."""
    validation: tuple[Swaps, ...]
    test: tuple[Swaps, ...]
    """Of each of them."""


class RavelEvaluator(Evaluator):
    """Cause, isolation and disentanglement by interchange of latents at an entity's last token.

    Options: `table` of entities and questions; `n_entities`, the best known of it, to ask about; `n_validation` and
    `n_test` pairs an attribute, for cause and for isolation each. What an entity is for follows from its name and the
    evaluation seed; so do the pairs.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        self._table, self._n_entities, self._n_validation, self._n_test = read_options("ravel", self.options, _DEFAULTS)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the table is not there, the LM knows too little of it, or its answers do not depend on the
                entity's last token at this hookpoint.
            NonFiniteError: codes or logits are not finite.
        """
        setting = self._setting(context)
        ceiling = self._ceiling(context, setting)
        rows = setting.asked.rows.to(context.device)
        codes = context.encode(sae, rows)
        swap = Interchange(sae, rows, codes)
        choices = [self._choose(sae, context, setting, swap, codes, number) for number in range(len(setting.test))]
        active = active_on(codes, setting.training)
        drawn = [
            random_latents(active, len(choice.latents), context.generator(f"random latents {number}"))
            for number, choice in enumerate(choices)
        ]
        own = _test(context, setting, [swap.rows(s.both(), c.latents) for s, c in zip(setting.test, choices)])  # noqa: B905
        floor = _test(context, setting, [swap.rows(s.both(), latents) for s, latents in zip(setting.test, drawn)])  # noqa: B905
        return {**_scores(setting, own, ceiling, floor), **_counts(setting, choices)}

    def _setting(self, context: EvalContext) -> Setting:
        quiz, accepted, asked, knowledge = known_quiz(context, self._table, self._n_entities)
        parts = quiz.parts(context.seed)
        attributes = tuple(knowledge.enough.nonzero().squeeze(1).tolist())

        def swaps(part: Part, n: int) -> tuple[Swaps, ...]:
            usable = knowledge.used & parts[part][quiz.entity]
            return tuple(_swaps(context, quiz, accepted, usable, part, a, attributes, n) for a in attributes)

        training = knowledge.used & parts["training"][quiz.entity]
        return Setting(
            quiz,
            accepted,
            asked,
            knowledge,
            training,
            attributes,
            swaps("validation", self._n_validation),
            swaps("test", self._n_test),
        )

    def _ceiling(self, context: EvalContext, setting: Setting) -> Tensor:
        """[n] int64: the answers to all test pairs when the whole activation is the source's."""
        pairs = joined([swaps.both() for swaps in setting.test])
        inputs = {"quiz": setting.quiz.sha256, "base": pairs.base.tolist(), "source": pairs.source.tolist()}
        found = context.shared(
            "ceiling",
            inputs,
            lambda: {"answers": answers(context, setting.quiz, pairs.base, setting.asked.rows[pairs.source])},
        )["answers"].cpu()
        cause, _, _ = _judged(setting, found)
        if cause.value < _LEAST_CEILING:
            raise NotEvaluatedError(
                f"not evaluated: with the whole activation of another entity's last token, {cause.value:.1%} of the "
                f"answers become that entity's; {_LEAST_CEILING:.0%} are needed. At this hookpoint the attributes are "
                "not read from there: choose an earlier layer."
            )
        return found

    def _choose(
        self, sae: SAE, context: EvalContext, setting: Setting, swap: Interchange, codes: RaggedCodes, number: int
    ) -> Choice:
        """The ranking and k of the best mean of cause and isolation on validation entities; of equal ones the first."""
        candidates = [
            (which, ranking.latents[:k])
            for which, ranking in enumerate(_rankings(sae, setting, codes, number))
            for k in _ks(len(ranking.latents))
        ]
        if not candidates:
            return Choice(torch.empty(0, dtype=torch.int64), 0, 0.0, 1.0)
        swaps = setting.validation[number]
        pairs, n_cause = swaps.both(), len(swaps.cause)
        rows = torch.cat([swap.rows(pairs, latents) for _, latents in candidates])
        found = answers(context, setting.quiz, pairs.base.repeat(len(candidates)), rows).view(len(candidates), -1)
        scored = []
        for (which, latents), own in zip(candidates, found, strict=True):
            cause = cause_hits(setting.quiz, setting.accepted, swaps.cause, own[:n_cause]).hit.mean()
            isolation = isolation_hits(setting.quiz, setting.accepted, swaps.isolation, own[n_cause:]).hit.mean()
            scored.append(Choice(latents, which, float(cause), float(isolation)))
        return max(scored, key=lambda choice: choice.cause + choice.isolation)


def read_options(evaluator: str, given: Mapping[str, Option], defaults: Mapping[str, int | str]) -> tuple:
    """The values of the options, in the order of their defaults.

    Raises:
        ConfigError: there is no such option, or a value is of another type or not positive.
    """
    require_known(evaluator, given, defaults)
    for name, value in given.items():
        wanted = type(defaults[name])
        if isinstance(value, bool) or not isinstance(value, wanted) or (wanted is int and int(value) < 1):
            raise ConfigError(
                f"Evaluator {evaluator!r}: {name} must be a {'positive whole number' if wanted is int else 'name'}, "
                f"got {value!r}."
            )
    return tuple({**defaults, **given}.values())


def _swaps(
    context: EvalContext,
    quiz: Quiz,
    accepted: Accepted,
    usable: Tensor,
    part: Part,
    attribute: int,
    attributes: Sequence[int],
    n: int,
) -> Swaps:
    """The pairs for one attribute: those that ask for it, and as many that ask for the others, in equal shares.

    Raises:
        DataError: there are none.
    """
    others = [other for other in attributes if other != attribute]

    def draw(asked: int, count: int) -> Pairs:
        generator = context.generator(f"{part} pairs: swap {attribute}, ask {asked}")
        return draw_pairs(quiz, accepted, usable, edited=attribute, asked=asked, n=count, generator=generator)

    found = Swaps(draw(attribute, n), joined([draw(other, -(-n // len(others))) for other in others]))
    if not len(found.cause) or not len(found.isolation):
        raise NotEvaluatedError(
            f"not evaluated: the known {part} entities give {len(found.cause)} pairs that differ in "
            f"{quiz.attributes[attribute]} and {len(found.isolation)} that differ in another attribute too; one of "
            "each is needed. Use more entities (n_entities)."
        )
    return found


def _ks(n: int) -> list[int]:
    return sorted({min(k, n) for k in KS} - {0})


def _rankings(sae: SAE, setting: Setting, codes: RaggedCodes, number: int) -> tuple[Ranking, ...]:
    """Of the latents on training prompts that ask for the attribute; the attributes' classes are those of the table."""
    attribute = setting.attributes[number]
    chosen = (setting.training & (setting.quiz.attribute == attribute)).nonzero().squeeze(1)
    entity = setting.quiz.entity[chosen]
    others = [setting.quiz.classes(other)[entity] for other in setting.attributes if other != attribute]
    return rankings(sae, codes, chosen, setting.quiz.classes(attribute)[entity], others)


def _test(context: EvalContext, setting: Setting, rows: Sequence[Tensor]) -> Tensor:
    """[n] int64: the answers to all test pairs, attribute by attribute, with these rows put in."""
    pairs = joined([swaps.both() for swaps in setting.test])
    return answers(context, setting.quiz, pairs.base, torch.cat(list(rows)))


def _judged(setting: Setting, found: Tensor) -> tuple[Estimate, Estimate, Estimate]:
    """Cause, isolation and their mean, of the answers to all test pairs."""
    cause, isolation = [], []
    for swaps, own in zip(setting.test, found.split([len(s.both()) for s in setting.test]), strict=True):
        n = len(swaps.cause)
        cause.append(cause_hits(setting.quiz, setting.accepted, swaps.cause, own[:n]))
        isolation.append(isolation_hits(setting.quiz, setting.accepted, swaps.isolation, own[n:]))
    return estimate(cause), estimate(isolation), estimate([*cause, *isolation])


def _scores(setting: Setting, own: Tensor, ceiling: Tensor, floor: Tensor) -> dict[str, MetricValue]:
    names = [setting.quiz.attributes[attribute] for attribute in setting.attributes]
    cause, isolation, both = _judged(setting, own)
    means = [(a + b) / 2 for a, b in zip(cause.parts, isolation.parts, strict=True)]
    found = {"ravel_disentanglement": _metric(both, names, means)}
    for prefix, answered in (("ravel", own), ("ravel_ceiling", ceiling), ("ravel_random", floor)):
        cause, isolation, _ = _judged(setting, answered)
        found[f"{prefix}_cause"] = _metric(cause, names, cause.parts)
        found[f"{prefix}_isolation"] = _metric(isolation, names, isolation.parts)
    return found


def _metric(found: Estimate, names: Sequence[str], parts: Sequence[float]) -> MetricValue:
    detail = by_attribute(names, parts)
    return MetricValue(value=found.value, stderr=found.stderr, n=found.n_entities, detail=detail)


def _counts(setting: Setting, choices: Sequence[Choice]) -> dict[str, MetricValue]:
    quiz, knowledge, right = setting.quiz, setting.knowledge, setting.asked.right
    names = [quiz.attributes[attribute] for attribute in setting.attributes]
    of_choice = [(float(len(c.latents)), float(c.ranking), c.cause, c.isolation) for c in choices]
    entities = knowledge.known[list(setting.attributes)].any(0)
    pairs = {
        name: (
            float(knowledge.enough[number]),
            float(knowledge.asked[number].sum()),
            float(knowledge.known[number].sum()),
            *knowledge.counts[number].double().tolist(),
            float(right[quiz.attribute == number].double().mean()),
        )
        for number, name in enumerate(quiz.attributes)
    }
    mean = sum(k for k, *_ in of_choice) / len(of_choice)
    return {
        "ravel_latents": MetricValue(value=mean, n=len(choices), detail=dict(zip(names, of_choice, strict=True))),
        "ravel_entities": MetricValue(value=float(entities.sum()), n=len(quiz.names)),
        "ravel_pairs": MetricValue(value=float(knowledge.known.sum()), n=int(knowledge.asked.sum()), detail=pairs),
    }
