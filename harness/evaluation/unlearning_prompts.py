"""The language model under an intervention: what it answers to questions, and how well it predicts texts.

Codes are made once an SAE. Only prompts in which an intervention changes a token are run again; of all others the
unmodified LM's result holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from ..interfaces.codes import dense, take
from ..interfaces.evaluator import EvalContext
from ..interfaces.prompts import PromptBatch
from ..interfaces.sae import SAE, RaggedCodes
from .codes import Decoder
from .unlearning import Firings, Intervention

_DENSE_ELEMENTS = 1 << 24
"""Codes are made dense in chunks of about this many numbers, where their gradient is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and the continuations to choose from."""

    prompt: str
    options: tuple[str, ...]
    answer: int
    """Which of the options is right."""


class _Coded(NamedTuple):
    batch: PromptBatch
    counted: Tensor
    """[b, s] bool: tokens of the prompts' own, not what the suite puts before them."""
    codes: RaggedCodes
    """Of the counted tokens."""


class CodedPrompts:
    """Prompts with the codes that an SAE gives their own tokens."""

    def __init__(
        self, sae: SAE, context: EvalContext, prompts: Sequence[Sequence[str]], *, max_tokens: int | None = None
    ) -> None:
        """Raises DataError where there is no LM, or as `EvalContext.prompt_batches`."""
        self._sae, self._context = sae, context
        self._decode = Decoder(sae, context.device)
        self._d_sae = sae.config.d_sae
        self._coded: list[_Coded] = []
        for batch in context.prompt_batches(prompts, max_tokens=max_tokens):
            counted = batch.part >= 0
            self._coded.append(_Coded(batch, counted, context.encode(sae, batch.activations[counted])))

    def firings(self, chosen: Tensor) -> Firings:
        """How latents fire on the tokens of some prompts (`chosen` [prompts] bool)."""
        found = Firings.of((codes for _, codes in self.codes_of(chosen)), self._d_sae)
        return replace(found, attribution=cache(partial(self.attribution, chosen)))

    def attribution(self, chosen: Tensor) -> Tensor:
        """[d_sae] float64: sum over the tokens of some prompts ([prompts] bool) of a latent's code times the gradient
        of the prompts' log-probability by it, in nats per token. To first order, what is lost without the latent."""
        total = torch.zeros(self._d_sae, dtype=torch.float64)
        n_tokens = 0
        for batch, counted, codes in self._coded:
            rows = chosen[batch.index].nonzero().squeeze(1)
            if not len(rows):
                continue
            part = _rows(batch, rows)
            with torch.enable_grad():
                x = part.activations.clone().requires_grad_()
                (slope,) = torch.autograd.grad(self._context.prompt_logprobs(part, x).sum(), x)
            own_token = chosen[batch.index].to(counted.device)[counted.nonzero()[:, 0]]
            own = take(codes, own_token.nonzero().squeeze(1))
            total += self._through_codes(own, slope[counted[rows.to(counted.device)]])
            n_tokens += len(own.offsets) - 1
        return total / max(1, n_tokens)

    def _through_codes(self, codes: RaggedCodes, slope: Tensor) -> Tensor:
        """[d_sae] float64: sum over n tokens of each code times the gradient by it, of slopes [n, d_in] by the SAE's
        output. The SAE may decode in any way."""
        total = torch.zeros(self._d_sae, dtype=torch.float64)
        tokens = torch.arange(len(slope), device=slope.device)
        for part in tokens.split(max(1, _DENSE_ELEMENTS // self._d_sae)):
            with torch.enable_grad():
                z = dense(take(codes, part), self._d_sae).requires_grad_()
                (by_code,) = torch.autograd.grad((self._sae.decode(z) * slope[part]).sum(), z)
            total += (by_code * z.detach()).sum(0).double().cpu()
        return total

    def codes_of(self, chosen: Tensor) -> Iterator[tuple[Tensor, RaggedCodes]]:
        """For the tokens of some prompts ([prompts] bool), batch by batch: the prompt of each [n] int64, and codes."""
        for batch, counted, codes in self._coded:
            row = counted.nonzero()[:, 0]
            tokens = chosen[batch.index].to(row.device)[row].nonzero().squeeze(1)
            yield batch.index.to(row.device)[row[tokens]], take(codes, tokens)

    def touched(self, intervention: Intervention | None, chosen: Tensor) -> Iterator[tuple[PromptBatch, Tensor]]:
        """Of the prompts chosen ([prompts] bool), those in which the intervention changes a token, in batches, and
        their activations [b, s, d_in] under it. None changes nothing."""
        if intervention is None:
            return
        for batch, counted, codes in self._coded:
            places = counted.nonzero()
            edited, changed = intervention.edit(codes, batch.index.to(places.device)[places[:, 0]])
            tokens = (changed & chosen[batch.index].to(places.device)[places[:, 0]]).nonzero().squeeze(1)
            if not len(tokens):
                continue
            activations = batch.activations.clone()
            at = places[tokens]
            activations[at[:, 0], at[:, 1]] += self._decode(take(edited, tokens)) - self._decode(take(codes, tokens))
            rows = at[:, 0].unique()
            yield _rows(batch, rows.cpu()), activations[rows]


def _rows(batch: PromptBatch, rows: Tensor) -> PromptBatch:
    """Some prompts of a batch: rows [m] int64 on the CPU."""
    at = rows.to(batch.tokens.device)
    return PromptBatch(
        index=batch.index[rows],
        tokens=batch.tokens[at],
        part=batch.part[at],
        activations=batch.activations[at],
    )


class Quiz:
    """Questions whose options are scored by the log-probability of their tokens.

    Where all options of a question are single tokens, one run of the question gives all of them; else each option is
    run after it.
    """

    def __init__(self, questions: Sequence[Question], context: EvalContext) -> None:
        """Raises DataError where there is no question, or an option has no token."""
        if not questions:
            raise DataError("A quiz needs questions.")
        self.questions = tuple(questions)
        flat = [option for question in questions for option in question.options]
        ids = dict(zip(flat, context.token_ids(flat), strict=True))
        if empty := [option for option, found in ids.items() if not found]:
            raise DataError(f"The option {empty[0]!r} has no token.")
        self._width = max(len(question.options) for question in questions)
        prompts: list[tuple[str, ...]] = []
        owner: list[int] = []
        option: list[int] = []
        self._single = torch.zeros(len(questions), self._width, dtype=torch.int64)
        for number, question in enumerate(questions):
            if all(len(ids[text]) == 1 for text in question.options):
                prompts.append((question.prompt,))
                owner.append(number)
                option.append(-1)
                self._single[number, : len(question.options)] = torch.tensor([ids[o][0] for o in question.options])
                continue
            for place, text in enumerate(question.options):
                prompts.append((question.prompt, text))
                owner.append(number)
                option.append(place)
        self.prompts = tuple(prompts)
        self._owner, self._option = torch.tensor(owner), torch.tensor(option)
        self._answers = torch.tensor([question.answer for question in questions])
        sizes = torch.tensor([len(question.options) for question in questions])
        self._offered = torch.arange(self._width) < sizes[:, None]

    def __len__(self) -> int:
        return len(self.questions)

    def clean(self, context: EvalContext) -> Tensor:
        """[q, options] float32: log-probability (nats) of each option of the unmodified LM; 0 where none is."""
        scores = torch.zeros(len(self), self._width)
        for batch in context.prompt_batches(self.prompts):
            self._score(context, batch, batch.activations, scores)
        return scores

    def modified(
        self,
        context: EvalContext,
        coded: CodedPrompts,
        intervention: Intervention | None,
        clean: Tensor,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """[q, options]: those under an intervention. Questions not `chosen` ([q] bool) are left as they were.

        Args:
            coded: the codes of `prompts`.
            clean: what `clean` gave.
        """
        scores = clean.clone()
        wanted = torch.ones(len(self), dtype=torch.bool) if chosen is None else chosen
        for batch, activations in coded.touched(intervention, wanted[self._owner]):
            self._score(context, batch, activations, scores)
        return scores

    def correct(self, scores: Tensor) -> Tensor:
        """[q] bool: is the right option the most probable one. Of equal ones the first is taken."""
        return scores.masked_fill(~self._offered, -torch.inf).argmax(1) == self._answers

    def chance(self) -> Tensor:
        """[q] float64: probability of a right guess."""
        return 1.0 / self._offered.sum(1).double()

    def _score(self, context: EvalContext, batch: PromptBatch, activations: Tensor, scores: Tensor) -> None:
        """Write the scores of a batch's prompts into `scores`."""
        owner, option = self._owner[batch.index], self._option[batch.index]
        for single in (True, False):
            rows = ((option == -1) == single).nonzero().squeeze(1)
            if not len(rows):
                continue
            at = rows.to(activations.device)
            part = _rows(batch, rows)
            if single:
                last = part.last_of(0)
                found = context.prompt_logits(part, activations[at], last).log_softmax(-1).cpu()
                scores[owner[rows]] = found.gather(1, self._single[owner[rows]]) * self._offered[owner[rows]]
            else:
                found = context.prompt_logprobs(part, activations[at])
                scores[owner[rows], option[rows]] = (found * (part.part == 1)).sum(1).cpu()


class TextLosses(NamedTuple):
    """How well the LM predicts each of some texts."""

    ce: Tensor
    """[texts] float64: summed cross-entropy in nats."""
    n: Tensor
    """[texts] float64: number of predicted tokens."""


def clean_text_losses(context: EvalContext, texts: Sequence[str], chosen: Tensor, *, max_tokens: int) -> TextLosses:
    """Of the unmodified LM, on the texts chosen ([texts] bool); 0 for the others. Predicted is each token of a text but
    one that nothing stands before."""
    losses = TextLosses(torch.zeros(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.float64))
    for batch in context.prompt_batches([(text,) for text in texts], max_tokens=max_tokens):
        rows = chosen[batch.index].nonzero().squeeze(1)
        if not len(rows):
            continue
        part = _rows(batch, rows)
        losses.ce[part.index] = -context.prompt_logprobs(part, part.activations).double().sum(1).cpu()
        losses.n[part.index] = (part.part[:, 1:] >= 0).sum(1).double().cpu()
    return losses


def modified_text_losses(
    context: EvalContext,
    coded: CodedPrompts,
    intervention: Intervention | None,
    clean: TextLosses,
    chosen: Tensor,
) -> TextLosses:
    """Under an intervention; texts not `chosen` ([texts] bool) are left as they were."""
    ce = clean.ce.clone()
    for batch, activations in coded.touched(intervention, chosen):
        ce[batch.index] = -context.prompt_logprobs(batch, activations).double().sum(1).cpu()
    return TextLosses(ce, clean.n)
