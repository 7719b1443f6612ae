"""Questions about entities: what the language model knows of them, and pairs of prompts to swap activations between.

After RAVEL (Huang et al. 2024, arXiv:2402.17700). A prompt has three parts: text before the entity's name, the name,
text after it. Its answer is the LM's likeliest next token. Nothing here depends on an SAE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, NotEvaluatedError
from ..interfaces.evaluator import EvalContext

Part = Literal["training", "validation", "test"]

_NAME, _CONTINUATION = 1, 3
"""Parts of a prompt."""
_TRAINING, _VALIDATION = 0.5, 0.65
"""Entities whose hash, as a share of all hashes, lies below the first are for training, below the second for
validation, the rest for testing."""
LEAST: Mapping[Part, int] = {"training": 24, "validation": 8, "test": 16}
"""An attribute counts where the LM knows it of at least so many entities of each part, with two answers among them."""


class Template(NamedTuple):
    """A question about any entity."""

    attribute: int
    before: str
    after: str


class Quiz:
    """Entities, what is true of them, and the prompts that ask for it."""

    def __init__(
        self,
        attributes: tuple[str, ...],
        templates: tuple[Template, ...],
        names: tuple[str, ...],
        answers: tuple[tuple[tuple[str, ...], ...], ...],
    ) -> None:
        """`answers` [attribute][entity]: accepted words, the usual one first; none where nothing is known."""
        self.attributes, self.templates, self.names, self.answers = attributes, templates, names, answers
        asked = [
            (number, entity)
            for number, template in enumerate(templates)
            for entity in range(len(names))
            if answers[template.attribute][entity]
        ]
        self.template = torch.tensor([number for number, _ in asked])
        """[p] int64: of each prompt."""
        self.entity = torch.tensor([entity for _, entity in asked])
        """[p] int64."""
        self.attribute = torch.tensor([templates[number].attribute for number, _ in asked])
        """[p] int64."""

    def __len__(self) -> int:
        return len(self.entity)

    @cached_property
    def prompts(self) -> tuple[tuple[str, ...], ...]:
        """The parts of each prompt."""
        found = []
        for number, entity in zip(self.template.tolist(), self.entity.tolist(), strict=True):
            _, before, after = self.templates[number]
            name = self.names[entity]
            found.append((before, f" {name}" if before else name, after))
        return tuple(found)

    @property
    def sha256(self) -> str:
        """Of all that is asked."""
        return hashlib.sha256(json.dumps([self.prompts, self.answers]).encode()).hexdigest()

    def classes(self, attribute: int) -> Tensor:
        """[entities] int64: the same number for entities of the same answer; -1 where none is known."""
        number: dict[tuple[str, ...], int] = {}
        return torch.tensor([number.setdefault(a, len(number)) if a else -1 for a in self.answers[attribute]])

    def parts(self, seed: int) -> dict[Part, Tensor]:
        """Of each part [entities] bool: what an entity is for follows from its name and the seed alone."""
        share = torch.tensor([_share(name, seed) for name in self.names], dtype=torch.float64)
        return {
            "training": share < _TRAINING,
            "validation": (share >= _TRAINING) & (share < _VALIDATION),
            "test": share >= _VALIDATION,
        }


def _share(name: str, seed: int) -> float:
    return int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:16], 16) / 2**64


def quiz_of(rows: Iterable[Mapping[str, Any]], n_entities: int) -> Quiz:
    """The questions and the first `n_entities` entities of a table.

    Raises:
        DataError: it asks for fewer than two attributes, or has no entities.
    """
    kept = list(rows)
    asked = [row for row in kept if "attribute" in row]
    attributes = tuple(dict.fromkeys(str(row["attribute"]) for row in asked))
    entities = [row for row in kept if "name" in row][:n_entities]
    if len(attributes) < 2 or not entities:
        raise DataError(
            f"A table of entities needs questions for two attributes or more and entities: got the attributes "
            f"{', '.join(attributes) or 'none'} and {len(entities)} entities."
        )
    templates = tuple(Template(attributes.index(row["attribute"]), row["before"], row["after"]) for row in asked)
    answers = tuple(tuple(tuple(row.get(attribute, ())) for row in entities) for attribute in attributes)
    return Quiz(attributes, templates, tuple(row["name"] for row in entities), answers)


class Asked(NamedTuple):
    """What the LM makes of all prompts."""

    rows: Tensor
    """[p, d_in]: the activation at the last token of the entity's name."""
    answer: Tensor
    """[p] int64: the likeliest token after the prompt."""
    right: Tensor
    """[p] bool: that token begins the right answer, and no other answer that begins alike goes on more likely."""


def ask(context: EvalContext, quiz: Quiz, accepted: Accepted) -> Asked:
    """Run the LM on all prompts."""
    rows = torch.zeros(len(quiz), context.d_in)
    answer = torch.zeros(len(quiz), dtype=torch.int64)
    for batch in context.prompt_batches(quiz.prompts):
        at = batch.last_of(_NAME)
        rows[batch.index] = batch.activations[torch.arange(len(at), device=at.device), at].float().cpu()
        logits = context.prompt_logits(batch, batch.activations, last_token(batch.part))
        answer[batch.index] = logits.argmax(-1).cpu()
    right = accepted.holds(torch.arange(len(quiz)), answer)
    return Asked(rows, answer, right & _goes_on_right(context, quiz, accepted, right))


def last_token(part: Tensor) -> Tensor:
    """[b] int64: the position of the last token of each prompt, of its tokens' parts [b, s]."""
    return (part >= 0).long().cumsum(1).argmax(1)


class Accepted:
    """The tokens that right answers begin with."""

    def __init__(self, context: EvalContext, quiz: Quiz) -> None:
        self._quiz = quiz
        words = sorted({word for of_all in quiz.answers for own in of_all for word in own})
        ids = context.token_ids([f" {word}" for word in words])
        self.first = {word: found[0] for word, found in zip(words, ids, strict=True) if found}
        sets = [
            sorted({self.first[word] for word in quiz.answers[a][e] if word in self.first})
            for a, e in zip(quiz.attribute.tolist(), quiz.entity.tolist(), strict=True)
        ]
        width = max(map(len, sets), default=1) or 1
        self.tokens = torch.tensor([own + [-1] * (width - len(own)) for own in sets])
        """[p, m] int64, filled up with -1: of each prompt."""

    def holds(self, prompts: Tensor, answers: Tensor) -> Tensor:
        """[n] bool: whether the tokens answers [n] begin the right answer to the prompts [n]."""
        return (self.tokens[prompts] == answers[:, None]).any(1)

    def apart(self, prompt: int, others: Tensor) -> Tensor:
        """[n] bool: the prompts of `others` [n] whose right answers begin with no token that this one's begin with."""
        own = self.tokens[prompt]
        own = own[own >= 0]
        return ~torch.isin(self.tokens[others], own).any(1)

    def rivals(self, prompt: int, token: int) -> list[tuple[str, bool]]:
        """The answers to the prompt's question that begin with a token, and whether each is right; none where all
        of them are."""
        attribute, entity = int(self._quiz.attribute[prompt]), int(self._quiz.entity[prompt])
        right = self._quiz.answers[attribute][entity]
        words = {word for own in self._quiz.answers[attribute] for word in own}
        found = [(word, word in right) for word in sorted(words) if self.first.get(word) == token]
        return found if any(not is_right for _, is_right in found) else []


def _goes_on_right(context: EvalContext, quiz: Quiz, accepted: Accepted, right: Tensor) -> Tensor:
    """[p] bool: False where another answer with the same first token ("South Africa" for "South Korea") is likelier."""
    whole: list[tuple[str, ...]] = []
    of: list[tuple[int, bool]] = []
    for prompt in right.nonzero().squeeze(1).tolist():
        for token in accepted.tokens[prompt][accepted.tokens[prompt] >= 0].tolist():
            for word, is_right in accepted.rivals(prompt, token):
                whole.append((*quiz.prompts[prompt], f" {word}"))
                of.append((prompt, is_right))
    found = torch.ones(len(quiz), dtype=torch.bool)
    if not whole:
        return found
    sums = torch.zeros(len(whole), dtype=torch.float64)
    for batch in context.prompt_batches(whole):
        logprobs = context.prompt_logprobs(batch, batch.activations).double()
        sums[batch.index] = logprobs.masked_fill(batch.part != _CONTINUATION, 0.0).sum(1).cpu()
    best = torch.full((2, len(quiz)), -torch.inf, dtype=torch.float64)
    for (prompt, is_right), value in zip(of, sums.tolist(), strict=True):
        best[int(is_right), prompt] = max(float(best[int(is_right), prompt]), value)
    return best[1] >= best[0]


class Knowledge(NamedTuple):
    """The prompts that may be used."""

    used: Tensor
    """[p] bool: answered right, of an entity and attribute that the LM answers right under most templates."""
    known: Tensor
    """[attributes, entities] bool: those."""
    asked: Tensor
    """[attributes, entities] bool: those that have an answer."""
    counts: Tensor
    """[attributes, 3] int64: known entities to train, choose and test on."""
    enough: Tensor
    """[attributes] bool: the attributes that count."""


def knowledge_of(quiz: Quiz, right: Tensor, parts: Mapping[Part, Tensor]) -> Knowledge:
    """What the LM knows, of its right answers [p]."""
    n_attributes, n_entities = len(quiz.attributes), len(quiz.names)
    cell = quiz.attribute * n_entities + quiz.entity
    hits = torch.bincount(cell[right], minlength=n_attributes * n_entities).view(n_attributes, n_entities)
    tries = torch.bincount(cell, minlength=n_attributes * n_entities).view(n_attributes, n_entities)
    known = 2 * hits > tries
    counts = torch.stack([(known & parts[name]).sum(1) for name in LEAST], dim=1)
    enough = (counts >= torch.tensor(list(LEAST.values()))).all(1)
    for attribute in range(n_attributes):
        classes = quiz.classes(attribute)
        enough[attribute] &= all(len(classes[known[attribute] & parts[name]].unique()) > 1 for name in LEAST)
    return Knowledge(right & known[quiz.attribute, quiz.entity], known, tries > 0, counts, enough)


def refuse_ignorance(quiz: Quiz, found: Knowledge, right: Tensor) -> None:
    """Raises DataError unless the LM knows two attributes well enough."""
    if int(found.enough.sum()) >= 2:
        return
    told = "; ".join(
        f"{name} {int(found.known[number].sum())} of {int(found.asked[number].sum())}"
        for number, name in enumerate(quiz.attributes)
    )
    needed = ", ".join(f"{least} {part}" for part, least in LEAST.items())
    raise NotEvaluatedError(
        f"not evaluated: the language model answers {int(right.sum())} of {len(right)} prompts right "
        f"({float(right.float().mean()):.1%}) and knows too few entities (known under most templates: {told}). Two "
        f"attributes are needed with {needed} entities each. Use a larger LM, or more entities (n_entities)."
    )


def known_quiz(context: EvalContext, table: str, n_entities: int) -> tuple[Quiz, Accepted, Asked, Knowledge]:
    """The questions, and what the LM knows of them.

    Raises:
        DataError: the table is not there, or the LM knows too little.
    """
    quiz = quiz_of(context.table(table), n_entities)
    accepted = Accepted(context, quiz)
    shared = context.shared("asked", {"quiz": quiz.sha256}, lambda: ask(context, quiz, accepted)._asdict())
    asked = Asked(**{name: value.cpu() for name, value in shared.items()})
    knowledge = knowledge_of(quiz, asked.right, quiz.parts(context.seed))
    refuse_ignorance(quiz, knowledge, asked.right)
    return quiz, accepted, asked, knowledge


class Pairs(NamedTuple):
    """Prompts to change (base), and those whose entity is put in (source): both ask the same, of other entities."""

    base: Tensor
    """[n] int64: prompts."""
    source: Tensor
    """[n] int64."""

    def __len__(self) -> int:
        return len(self.base)


def draw_pairs(
    quiz: Quiz,
    accepted: Accepted,
    usable: Tensor,
    *,
    edited: int,
    asked: int,
    n: int,
    generator: torch.Generator,
) -> Pairs:
    """At most n pairs of usable [p] prompts that ask for the attribute `asked`, each base prompt at most once.

    The two entities differ in the attribute `edited`, and their answers to what is asked begin with other tokens, so
    that which answer comes can be told by its first token.
    """
    classes = quiz.classes(edited)[quiz.entity]
    chosen = (usable & (quiz.attribute == asked)).nonzero().squeeze(1)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]
    found: list[tuple[int, int]] = []
    for prompt in chosen.tolist():
        if len(found) == n:
            break
        fit = (quiz.template[chosen] == quiz.template[prompt]) & (classes[chosen] != classes[prompt])
        others = chosen[fit & accepted.apart(prompt, chosen)]
        if len(others):
            found.append((prompt, int(others[int(torch.randint(len(others), (1,), generator=generator))])))
    pairs = torch.tensor(found, dtype=torch.int64).view(-1, 2)
    return Pairs(pairs[:, 0], pairs[:, 1])


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All of the parts, in order."""
    return Pairs(torch.cat([part.base for part in parts]), torch.cat([part.source for part in parts]))
