"""The words of a first-letter task: which ones an LM takes as one token, their parts, and the prompts they end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, NotEvaluatedError
from ..interfaces.evaluator import EvalContext

TRAINING, VALIDATION, TEST = 0, 1, 2
SHARES = (0.6, 0.2, 0.2)
"""Of a letter's words, to train on, to choose on and to measure on."""
MIN_WORDS = 10
"""A letter with fewer words is left out: two to choose on and two to measure on say nothing."""
_SHOWN = " {word} has the first letter: {letter}\n"
"""A solved example; SAEBench's prompt."""


class Word(NamedTuple):
    """One row of the table of words."""

    text: str
    """As it stands in a prompt: one token, with the space before it."""
    letter: str
    shown: str
    """As a solved example, to its end of line."""


class Drawn(NamedTuple):
    """The words that are used, n of them."""

    place: Tensor
    """[n] int64: which row."""
    letter: Tensor
    """[n] int64: which of the alphabet."""
    part: Tensor
    """[n] int64: TRAINING, VALIDATION or TEST."""


def words_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Word, ...]:
    """The rows of a table of words. A row has a `word` and its `letter`; it may have the word's `text` in a prompt
    (default: a space and the word) and how it is `shown` as a solved example.

    Raises:
        DataError: a row has no word or no letter.
    """
    words = []
    for row in rows:
        word, letter = row.get("word"), row.get("letter")
        if not isinstance(word, str) or not isinstance(letter, str) or not word or not letter:
            raise DataError(f"A row of the table of words must have a word and its letter, got {dict(row)}.")
        shown = row.get("shown", _SHOWN.format(word=word, letter=letter.upper()))
        words.append(Word(str(row.get("text", f" {word}")), letter, str(shown)))
    return tuple(words)


def alphabet_of(words: Sequence[Word]) -> tuple[str, ...]:
    """The letters that words begin with, in order."""
    return tuple(sorted({word.letter for word in words}))


def sha256_of(words: Sequence[Word]) -> str:
    """Of all that is used of the words."""
    return hashlib.sha256(json.dumps(words).encode("ascii")).hexdigest()


def draw(words: Sequence[Word], ids: Sequence[Sequence[int]], per_letter: int, generator: torch.Generator) -> Drawn:
    """Words that are one token, at most `per_letter` of each letter, each letter's cut into three parts.

    Raises:
        DataError: fewer than two letters have words enough.
    """
    alphabet = alphabet_of(words)
    own: dict[str, list[int]] = {letter: [] for letter in alphabet}
    for place, (word, tokens) in enumerate(zip(words, ids, strict=True)):
        if len(tokens) == 1:
            own[word.letter].append(place)
    places, letters, parts = [], [], []
    for number, letter in enumerate(alphabet):
        order = torch.randperm(len(own[letter]), generator=generator)[:per_letter]
        if len(order) < MIN_WORDS:
            continue
        places.append(torch.tensor(own[letter])[order])
        letters.append(torch.full((len(order),), number))
        parts.append(_parts(len(order)))
    if len(places) < 2:
        n = {letter: len(found) for letter, found in own.items()}
        raise NotEvaluatedError(
            f"not evaluated: of the {len(words)} words, {sum(n.values())} are one token of this language model, and "
            f"{len(places)} letters have {MIN_WORDS} of them or more; two are needed. Words by letter: {n}."
        )
    return Drawn(torch.cat(places), torch.cat(letters), torch.cat(parts))


def _parts(n: int) -> Tensor:
    """[n]: the parts of n words in random order."""
    validation, test = (max(1, round(share * n)) for share in SHARES[1:])
    sizes = torch.tensor([n - validation - test, validation, test])
    return torch.arange(3).repeat_interleave(sizes)


def prompts_of(words: Sequence[Word], drawn: Drawn, n_examples: int, generator: torch.Generator) -> list[str]:
    """Of each word the text that ends with it: `n_examples` solved examples with other words of its own part, so that
    no word to measure on was seen by a probe, then the word."""
    place, part = drawn.place.tolist(), drawn.part.tolist()
    within = {number: (drawn.part == number).nonzero().flatten() for number in (TRAINING, VALIDATION, TEST)}
    prompts = []
    for own, (at, number) in enumerate(zip(place, part, strict=True)):
        # One more than is needed, so that the word itself can be left out.
        chosen = _some(within[number], n_examples + 1, generator)
        others = [place[i] for i in chosen if i != own][:n_examples]
        prompts.append("".join(["\n", *(words[i].shown for i in others), words[at].text]))
    return prompts


def _some(of: Tensor, n: int, generator: torch.Generator) -> list[int]:
    """At most n of the entries, each at most once, in random order."""
    if len(of) > 8 * n:
        # The first n distinct of twice as many draws: a permutation of all for each word would take longer.
        draws = of[torch.randint(len(of), (2 * n,), generator=generator)].tolist()
        found = list(dict.fromkeys(draws))[:n]
        if len(found) == n:
            return found
    return of[torch.randperm(len(of), generator=generator)[:n]].tolist()


def last_activations(context: EvalContext, prompts: Sequence[str], tokens: Sequence[int]) -> Tensor:
    """[n, d_in] float32: the LM's activations at the last token of each prompt, which must be the token [n].

    Raises:
        DataError: a prompt does not end with its token.
    """
    ids = context.token_ids(prompts)
    for prompt, found, wanted in zip(prompts, ids, tokens, strict=True):
        if found[-1:] != [wanted]:
            raise NotEvaluatedError(
                f"not evaluated: the tokenizer reads the end of {prompt[-40:]!r} as token {found[-1:]}, and its last "
                f"word alone as token {wanted}: words in a list have no token of their own."
            )
    parts = context.text_activations(prompts, max_tokens=max(map(len, ids)), last_tokens=1)
    rows = [part.rows for part in parts]
    return torch.cat(rows).float()
