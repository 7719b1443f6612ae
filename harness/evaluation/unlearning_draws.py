"""Which questions and texts an unlearning evaluation uses: drawn with the evaluation seed, in two halves.

No word of a table's row is in both halves: neither as a question's answer, nor as a wrong option, nor in a text.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.local_questions import SIDES, LocalQuestion, read_local
from ..errors import ConfigError, NotEvaluatedError
from .unlearning_prompts import Question

N_OPTIONS = 4
_LETTERS = "ABCDEFGH"

Tokens = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Something drawn, and where it belongs."""

    forget: bool
    half: int
    """0: to choose on; 1: to read."""
    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnQuestion(Drawn):
    """A question of a side, half and domain."""

    question: Question
    variants: tuple[Question, ...] = ()
    """The same with its options in other orders, where their order shows: known is what is answered in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnText(Drawn):
    """A text of a side, half and domain."""

    text: str
    measured: bool
    """Whether losses are measured on it; on all, latents' firings are counted, which costs little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """At most how much is drawn of a half, over the domains of a side alike."""

    questions: Mapping[str, int]
    """By side."""
    texts: int
    """Of each side."""
    measured: int
    """Of these, on how many losses are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What one evaluation uses."""

    questions: tuple[DrawnQuestion, ...]
    texts: tuple[DrawnText, ...]


def draw_from_table(
    rows: Sequence[Mapping[str, Any]],
    tokens: Tokens,
    sizes: Sizes,
    *,
    generator: torch.Generator,
) -> Draws:
    """Questions and texts of a table (see `harness.data.packaged_wordnet`).

    A row is of the half that all of its `lemmas` fall into, and unused where they fall into both. Wrong options are
    answers of other rows of the same half and domain with as many tokens, so that an option's length says nothing.
    Of each domain those of fewest tokens are taken first: they are the words a small LM knows.

    Args:
        tokens: token ids of texts.
    """
    half = _halves(rows, generator)
    questions: list[DrawnQuestion] = []
    texts: list[DrawnText] = []
    for side, part in itertools.product(SIDES, (0, 1)):
        own = [row for row, found in zip(rows, half, strict=True) if found == part and row["side"] == side]
        domains = sorted({row["domain"] for row in own})
        for domain in domains:
            # Drawn for every domain whatever is asked for, so that more questions do not change the texts.
            seeds = torch.randint(1 << 62, (2,), generator=generator).tolist()
            of_domain = [row for row in own if row["domain"] == domain]
            place = {"forget": side == "forget", "half": part, "domain": domain}
            drawn = _questions(
                of_domain, tokens, _share(sizes.questions[side], domains), torch.Generator().manual_seed(seeds[0])
            )
            questions += [DrawnQuestion(question=question, **place) for question in drawn]
            order = torch.randperm(len(of_domain), generator=torch.Generator().manual_seed(seeds[1])).tolist()
            measured = _share(sizes.measured, domains)
            texts += [
                DrawnText(text=of_domain[i]["text"], measured=n < measured, **place)
                for n, i in enumerate(order[: _share(sizes.texts, domains)])
            ]
    return Draws(questions=tuple(questions), texts=tuple(texts))


def _share(n: int, domains: Sequence[str]) -> int:
    return -(-n // len(domains))


def _halves(rows: Sequence[Mapping[str, Any]], generator: torch.Generator) -> list[int]:
    """Of each row, its half; -1 where its words are of both."""
    lemmas = sorted({lemma for row in rows for lemma in row["lemmas"]})
    order = torch.randperm(len(lemmas), generator=generator).tolist()
    of_lemma = {lemma: place % 2 for lemma, place in zip(lemmas, order, strict=True)}
    found = ({of_lemma[lemma] for lemma in row["lemmas"]} for row in rows)
    return [halves.pop() if len(halves) == 1 else -1 for halves in found]


def _questions(rows: Sequence[Mapping[str, Any]], tokens: Tokens, n: int, generator: torch.Generator) -> list[Question]:
    asked = [row for row in rows if row["question"]]
    lengths = [len(ids) for ids in tokens([row["answer"] for row in asked])]
    alike: dict[int, list[str]] = defaultdict(list)
    for answer, length in sorted({(row["answer"], length) for row, length in zip(asked, lengths, strict=True)}):
        alike[length].append(answer)
    order = torch.randperm(len(asked), generator=generator).tolist()
    order = sorted((i for i in order if len(alike[lengths[i]]) >= N_OPTIONS), key=lambda i: lengths[i])
    found = []
    for i in order[:n]:
        answer = asked[i]["answer"]
        others = [option for option in alike[lengths[i]] if option != answer]
        drawn = torch.randperm(len(others), generator=generator)[: N_OPTIONS - 1].tolist()
        place = int(torch.randint(N_OPTIONS, (1,), generator=generator))
        options = [others[k] for k in drawn]
        options.insert(place, answer)
        found.append(Question(prompt=asked[i]["question"], options=tuple(options), answer=place))
    return found


def draw_from_files(folder: Path, sha256: str, sizes: Sizes, *, generator: torch.Generator) -> Draws:
    """Questions and texts of one's own files (see `harness.data.local_questions`), halved at random.

    A question is asked by its letters, as SAEBench asks it but for the chat format, and counts as known where it is
    answered in all orders of its options.

    Args:
        sha256: of the files: it stands for them in a record, since their path does not.

    Raises:
        DataError: files are missing or have another form.
        ConfigError: they are not those of `sha256`.
    """
    files = read_local(folder)
    if files.sha256 != sha256:
        raise ConfigError(
            f"The files in {folder} have sha256 {files.sha256}, the option `files_sha256` says {sha256 or 'nothing'}: "
            "set it, so that a record tells which questions it is about."
        )
    questions: list[DrawnQuestion] = []
    texts: list[DrawnText] = []
    for side in SIDES:
        forget = side == "forget"
        order = torch.randperm(len(files.questions[side]), generator=generator).tolist()
        for half, part in _halved(order, sizes.questions[side]):
            asked = [files.questions[side][i] for i in part]
            questions += [_by_letters(question, forget=forget, half=half) for question in asked]
        order = torch.randperm(len(files.texts[side]), generator=generator).tolist()
        for half, part in _halved(order, sizes.texts):
            texts += [
                DrawnText(text=files.texts[side][i], measured=n < sizes.measured, forget=forget, half=half, domain=side)
                for n, i in enumerate(part)
            ]
    return Draws(questions=tuple(questions), texts=tuple(texts))


def _halved(order: Sequence[int], n: int) -> Iterator[tuple[int, Sequence[int]]]:
    middle = len(order) // 2
    yield 0, order[:middle][:n]
    yield 1, order[middle:][:n]


def _by_letters(question: LocalQuestion, *, forget: bool, half: int) -> DrawnQuestion:
    places = range(len(question.choices))
    letters = tuple(f" {_LETTERS[place]}" for place in places)
    subject = question.subject.replace("_", " ").replace("-", " ")
    variants = []
    for order in itertools.permutations(places) if len(places) <= N_OPTIONS else [tuple(places)]:
        options = "".join(f"\n{_LETTERS[place]}. {question.choices[i]}" for place, i in enumerate(order))
        prompt = (
            f"The following are multiple choice questions (with answers) about {subject}.\n\n"
            f"{question.question}{options}\nAnswer:"
        )
        variants.append(Question(prompt=prompt, options=letters, answer=order.index(question.answer)))
    return DrawnQuestion(
        question=variants[0], variants=tuple(variants[1:]), forget=forget, half=half, domain=question.subject
    )


def check_enough(drawn: Sequence[Drawn], what: str, least: int) -> None:
    """Raises DataError where a side and half has too few questions or texts."""
    for forget, half in itertools.product((True, False), (0, 1)):
        n = sum(1 for found in drawn if found.forget == forget and found.half == half)
        if n < least:
            raise NotEvaluatedError(
                f"Not evaluated: there are {n} {what} for the {'forget' if forget else 'retain'} side in the "
                f"{'report' if half else 'selection'} half, {least} are needed."
            )
