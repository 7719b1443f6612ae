"""Detection scoring: a judge explains a latent from texts it fires on, then says which of other texts it fires on.

Texts are cut into words, so that what the judge sees marked is a word. After Bills et al. 2023 and SAEBench's
`autointerp` (Karvonen et al. 2025, arXiv:2503.09532), whose prompts are used (SAEBench, MIT licence).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import NotEvaluatedError
from ..interfaces.codes import token_of_slot
from ..interfaces.evaluator import EvalContext
from ..interfaces.sae import SAE
from .judge import Completion, Judge, Message

__all__ = ["Activity", "Case", "Corpus", "Judge", "Verdict", "cases", "collect", "corpus_of", "eligible", "judged"]

N_TOP, N_WEIGHTED, N_RANDOM = (10, 2), (5, 2), 10
"""Texts to explain by, and to detect: of the largest activations, drawn by squared activation, any others."""
_LEAST_ACTIVE = (5, 4)
"""A latent can be judged where so many texts to explain by, and to detect, make it fire."""
_MOST_ACTIVE = 0.5
"""A latent that fires on a larger share of the texts to detect cannot be told from them."""
_WORDS_ROUND = 8
"""Words shown before and after the one of the largest activation."""
_FIRES = 0.01
"""A word counts as active above this share of the latent's largest activation (SAEBench's act_threshold_frac)."""
_EXPLANATION_TOKENS, _DETECTION_TOKENS = 30, 48

_EXPLAIN = (
    "We're studying neurons in a neural network. Each neuron activates on some particular word/words/substring/concept "
    "in a short document. The activating words in each document are indicated with << ... >>. We will give you a list "
    "of documents on which the neuron activates, in order from most strongly activating to least strongly activating. "
    "Look at the parts of the document the neuron activates for and summarize in a single sentence what the neuron is "
    "activating on. Try not to be overly specific in your explanation. Note that some neurons will activate only on "
    "specific words or substrings, but others will activate on most/all words in a sentence provided that sentence "
    "contains some particular concept. Your explanation should cover most or all activating words (for example, don't "
    "give an explanation which is specific to a single word if all words in a sentence cause the neuron to activate). "
    "Pay attention to things like the capitalization and punctuation of the activating words or concepts, if that "
    "seems relevant. Keep the explanation as short and simple as possible, limited to 20 words or less. Omit "
    'punctuation and formatting. You should avoid giving long lists of words. Some examples: "This neuron activates on '
    "the word 'knows' "
    'in rhetorical questions", and "This neuron activates on verbs related to decision-making and preferences", and '
    '"This neuron activates on the substring \'Ent\' at the start of words", and "This neuron activates on text about '
    'government economic policy".'
)
_DETECT = (
    "We're studying neurons in a neural network. Each neuron activates on some particular word/words/substring/concept "
    "in a short document. You will be given a short explanation of what this neuron activates for, and then be shown "
    "{n} example sequences in random order. You will have to return a comma-separated list of the examples where you "
    "think the neuron should activate at least once, on ANY of the words or substrings in the document. For example, "
    'your response might look like "{example}". Try not to be overly specific in your interpretation of the '
    "explanation. If you think there are no examples where the neuron will activate, you should just respond with "
    '"None". You should include nothing else in your response other than comma-separated numbers or the word "None" - '
    "this is important."
)


class Corpus(NamedTuple):
    """Texts as words."""

    words: tuple[tuple[str, ...], ...]

    @property
    def prompts(self) -> list[tuple[str, ...]]:
        """A part is a word, with the space before it."""
        return [(own[0], *(f" {word}" for word in own[1:])) for own in self.words]


def corpus_of(texts: Sequence[str], n_texts: int, max_words: int, generator: torch.Generator) -> Corpus:
    """The first words of `n_texts` of the texts, drawn with the generator; texts that begin alike are one.

    Raises:
        DataError: there are too few.
    """
    cut = sorted({tuple(text.split()[:max_words]) for text in texts} - {()})
    if len(cut) < 2 * (N_TOP[1] + N_WEIGHTED[1] + N_RANDOM):
        raise NotEvaluatedError(
            f"not evaluated: {len(cut)} different texts are too few to judge latents by: fetch more."
        )
    order = torch.randperm(len(cut), generator=generator)[:n_texts].tolist()
    return Corpus(tuple(cut[number] for number in order))


class Activity(NamedTuple):
    """Where latents fire: one entry for each token and active latent, on the CPU."""

    text: Tensor
    """[nnz] int32."""
    word: Tensor
    """[nnz] int32: within the text."""
    latent: Tensor
    """[nnz] int32."""
    value: Tensor
    """[nnz] float32."""


def collect(context: EvalContext, sae: SAE, corpus: Corpus, max_tokens: int) -> Activity:
    """The codes of all tokens of the texts, each text cut after `max_tokens`."""
    parts: list[tuple[Tensor, ...]] = []
    for batch in context.prompt_batches(corpus.prompts, max_tokens=max_tokens):
        counted = batch.part >= 0
        codes = context.encode(sae, batch.activations[counted])
        slot = token_of_slot(codes)
        text = batch.index.to(counted.device)[:, None].expand_as(counted)[counted][slot]
        found = (text.int(), batch.part[counted][slot].int(), codes.latents.int(), codes.values.float())
        parts.append(tuple(tensor.cpu() for tensor in found))
    return Activity(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Eligible(NamedTuple):
    """Latents by whether they can be judged."""

    latents: Tensor
    """[m] int64."""
    alive: int
    """Fire at all."""
    rare: int
    """Of these, on too few texts."""
    dense: int
    """Of these, on too many."""


def eligible(activity: Activity, n_texts: int, d_sae: int) -> Eligible:
    """The latents that can be judged. The first half of the texts is to explain by, the second to detect."""
    pairs = (activity.latent.long() * n_texts + activity.text.long()).unique()
    latent, text = pairs // n_texts, pairs % n_texts
    half = n_texts // 2
    explaining = torch.bincount(latent[text < half], minlength=d_sae)
    detecting = torch.bincount(latent[text >= half], minlength=d_sae)
    alive = explaining + detecting > 0
    rare = alive & ((explaining < _LEAST_ACTIVE[0]) | (detecting < _LEAST_ACTIVE[1]))
    dense = detecting > _MOST_ACTIVE * (n_texts - half)
    chosen = (alive & ~rare & ~dense).nonzero().squeeze(1)
    return Eligible(chosen, int(alive.sum()), int(rare.sum()), int(dense.sum()))


class Case(NamedTuple):
    """What a judge is shown of one latent."""

    latent: int
    explaining: tuple[str, ...]
    """Active words between << and >>, strongest first."""
    detecting: tuple[str, ...]
    """Unmarked, in random order."""
    active: tuple[bool, ...]
    """Of each of those: whether a word in it makes the latent fire."""
    published: tuple[bool, ...]
    """The same as SAEBench has it: what was drawn at random counts as inactive."""


def cases(activity: Activity, corpus: Corpus, latents: Sequence[int], context: EvalContext) -> list[Case]:
    """Of each latent its examples; which, follows from the latent and the evaluation seed alone."""
    order = activity.latent.sort(stable=True).indices
    ordered = activity.latent[order]
    found = []
    for latent in latents:
        low, high = (int(torch.searchsorted(ordered, latent + side)) for side in (0, 1))
        own = Activity(*(column[order[low:high]] for column in activity))
        found.append(_case(own, corpus, latent, context.generator(f"examples of latent {latent}")))
    return found


def _case(own: Activity, corpus: Corpus, latent: int, generator: torch.Generator) -> Case:
    n_texts = len(corpus.words)
    largest = torch.zeros(n_texts).scatter_reduce(0, own.text.long(), own.value, "amax")
    levels = [torch.zeros(len(words)) for words in corpus.words]
    for text, word, value in zip(own.text.tolist(), own.word.tolist(), own.value.tolist(), strict=True):
        levels[text][word] = max(float(levels[text][word]), value)
    fires = _FIRES * float(largest.max())
    half = n_texts // 2
    shown = []
    for part, low, high in ((0, 0, half), (1, half, n_texts)):
        strengths = torch.zeros(n_texts)
        strengths[low:high] = largest[low:high]
        active = strengths.sort(descending=True, stable=True).indices[: int((strengths > fires).sum())]
        top, rest = active[: N_TOP[part]], active[N_TOP[part] :]
        weights = strengths[rest].double().square()
        drawn = torch.multinomial(weights, min(N_WEIGHTED[part], len(rest)), generator=generator) if len(rest) else rest
        shown.append(torch.cat([top, rest[drawn]]))
    explaining = shown[0][largest[shown[0]].sort(descending=True, stable=True).indices].tolist()
    others = half + torch.randperm(n_texts - half, generator=generator)
    others = others[~torch.isin(others, shown[1])][:N_RANDOM]
    mixed = torch.cat([shown[1], others])
    mixed = mixed[torch.randperm(len(mixed), generator=generator)]
    windows = []
    for text in mixed.tolist():
        chosen = bool((shown[1] == text).any())
        centre = (
            int(levels[text].argmax()) if chosen else int(torch.randint(len(levels[text]), (1,), generator=generator))
        )
        windows.append((_window(corpus.words[text], levels[text], centre, fires), chosen))
    return Case(
        latent=latent,
        explaining=tuple(
            _window(corpus.words[text], levels[text], int(levels[text].argmax()), fires).marked for text in explaining
        ),
        detecting=tuple(window.plain for window, _ in windows),
        active=tuple(window.active for window, _ in windows),
        published=tuple(chosen for _, chosen in windows),
    )


class _Window(NamedTuple):
    plain: str
    marked: str
    active: bool


def _window(words: Sequence[str], levels: Tensor, centre: int, fires: float) -> _Window:
    low, high = max(0, centre - _WORDS_ROUND), centre + _WORDS_ROUND + 1
    on = (levels > fires).tolist()[low:high]
    some = list(words[low:high])
    marked = [f"<<{word}>>" if active else word for word, active in zip(some, on, strict=True)]
    return _Window(" ".join(some), " ".join(marked), any(on))


class Verdict(NamedTuple):
    """What a judge made of some latents, each [n] float64."""

    score: Tensor
    """Balanced accuracy of detection; 1/2 for a reply that cannot be read."""
    null: Tensor
    """The same with another latent's explanation."""
    published: Tensor
    """SAEBench's accuracy; NaN for a reply that cannot be read."""
    readable: Tensor
    """Share of the two detection replies that can be read."""
    tokens: Tensor
    """Read and written by the judge, kept replies too."""


def judged(judge: Judge, found: Sequence[Case], generator: torch.Generator) -> Verdict:
    """Explain each latent, detect with its own explanation, and with that of another (a random cyclic shift).

    Raises:
        DataError: there are fewer than two latents.
        JudgeError: the judge fails or its budget is spent.
    """
    if len(found) < 2:
        raise NotEvaluatedError(
            f"not evaluated: {len(found)} latents can be judged, and the null score needs two: use more texts."
        )
    replies = [judge.ask(_explain(case), _EXPLANATION_TOKENS) for case in found]
    explanations = [_explanation(reply.text) for reply in replies]
    order = torch.randperm(len(found), generator=generator).tolist()
    other = dict(zip(order, order[1:] + order[:1], strict=True))
    rows = []
    for number, case in enumerate(found):
        own, null = (
            judge.ask(_detect(case, explanations[of]), _DETECTION_TOKENS, listing=len(case.detecting))
            for of in (number, other[number])
        )
        said, said_of_null = (_numbers(reply.text) for reply in (own, null))
        rows.append(
            (
                balanced_accuracy(said, case.active),
                balanced_accuracy(said_of_null, case.active),
                float("nan") if said is None else _accuracy(said, case.published),
                ((said is not None) + (said_of_null is not None)) / 2,
                float(sum(_tokens(reply) for reply in (replies[number], own, null))),
            )
        )
    return Verdict(*torch.tensor(rows, dtype=torch.float64).unbind(1))


def _tokens(reply: Completion) -> int:
    return reply.tokens_in + reply.tokens_out


def _explain(case: Case) -> list[Message]:
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(case.explaining, start=1))
    asked = f"The activating documents are given below:\n\n{listed}"
    return [Message("system", _EXPLAIN), Message("user", asked)]


def _explanation(reply: str) -> str:
    return reply.split("activates on")[-1].strip().rstrip(".").strip()


def _detect(case: Case, explanation: str) -> list[Message]:
    n = len(case.detecting)
    example = ", ".join(str(number) for number in sorted({2, 5, n // 2 + 1, n - 1}))
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(case.detecting, start=1))
    asked = f"Here is the explanation: this neuron fires on {explanation}.\n\nHere are the examples:\n\n{listed}"
    return [Message("system", _DETECT.format(n=n, example=example)), Message("user", asked)]


def _numbers(reply: str) -> frozenset[int] | None:
    """The examples a reply names; None where it cannot be read."""
    words = [word for word in re.split(r"[,\s]+", reply.strip().strip('"').rstrip(".").replace("and", ",")) if word]
    if words in ([], ["None"], ["none"]):
        return frozenset() if words else None
    return frozenset(map(int, words)) if all(word.isascii() and word.isdigit() for word in words) else None


def balanced_accuracy(said: frozenset[int] | None, active: Sequence[bool]) -> float:
    """(share of active examples named + share of others not named) / 2; of one kind alone, its own share. A reply that
    cannot be read says nothing: 1/2."""
    if said is None:
        return 0.5
    named = [number in said for number in range(1, len(active) + 1)]
    shares = [
        sum(a == on and n == on for n, a in zip(named, active, strict=True)) / active.count(on)
        for on in (True, False)
        if active.count(on)
    ]
    return sum(shares) / len(shares)


def _accuracy(said: frozenset[int], active: Sequence[bool]) -> float:
    return sum((number in said) == on for number, on in enumerate(active, start=1)) / len(active)
