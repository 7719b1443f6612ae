"""SAEBench's RAVEL (Karvonen et al. 2025, arXiv:2503.09532): a binary mask over latents, trained through the LM.

Kept as published, faults included: pairs are split at random, so that entities are in training and test; the SAE's
error is not added; a pair counts as isolation where the wanted token is the base's own, even if it was drawn for cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NotEvaluatedError
from ..interfaces.codes import dense, take
from ..interfaces.evaluator import EvalContext
from ..interfaces.prompts import PromptBatch
from ..interfaces.sae import SAE, RaggedCodes
from .interchange import Hits, selected
from .ravel import Accepted, Asked, Pairs, Quiz, last_token

_NAME = 1
_EPOCHS = 2
_STEPS_PER_EPOCH = 13
"""SAEBench takes 13 of 512 pairs an epoch from its 7,000; with fewer pairs, batches are smaller and steps as many."""
_LEARNING_RATE = 1e-3
_LAST_TEMPERATURE = 1e-4
_TRAIN_SHARE = 0.7
_TESTED_AT_ONCE = 32


class Wanted(NamedTuple):
    """Pairs, and what should come out."""

    pairs: Pairs
    token: Tensor
    """[n] int64: the LM's own answer to the source prompt (cause) or to the base prompt (isolation)."""
    answer: Tensor
    """[n] int64: the prompt whose right answer is wanted."""


def draw_wanted(
    quiz: Quiz,
    asked: Asked,
    usable: Tensor,
    attribute: int,
    attributes: Sequence[int],
    n: int,
    generator: torch.Generator,
) -> Wanted:
    """n pairs that ask for the attribute and want the source's answer, and n that ask for others and want the base's;
    both entities' answers differ. In random order."""
    cause = _draw(quiz, usable, attribute, n, generator)
    others = [_draw(quiz, usable, other, n, generator) for other in attributes if other != attribute]
    isolation = Pairs(*(torch.cat(column) for column in zip(*others, strict=True)))
    kept = torch.randperm(len(isolation), generator=generator)[: len(cause)]
    base = torch.cat([cause.base, isolation.base[kept]])
    source = torch.cat([cause.source, isolation.source[kept]])
    answer = torch.cat([cause.source, isolation.base[kept]])
    order = torch.randperm(len(base), generator=generator)
    return Wanted(Pairs(base[order], source[order]), asked.answer[answer[order]], answer[order])


def _draw(quiz: Quiz, usable: Tensor, attribute: int, n: int, generator: torch.Generator) -> Pairs:
    classes = quiz.classes(attribute)[quiz.entity]
    chosen = (usable & (quiz.attribute == attribute)).nonzero().squeeze(1)
    base = chosen[torch.randperm(len(chosen), generator=generator)[:n]]
    source = []
    for prompt in base.tolist():
        others = chosen[classes[chosen] != classes[prompt]]
        source.append(int(others[int(torch.randint(len(others), (1,), generator=generator))]))
    return Pairs(base, torch.tensor(source, dtype=torch.int64))


class PublishedRavel:
    """Trains and tests masks for one SAE."""

    def __init__(self, context: EvalContext, quiz: Quiz, asked: Asked, sae: SAE) -> None:
        self._context, self._quiz, self._sae = context, quiz, sae
        self._codes: RaggedCodes = context.encode(sae, asked.rows.to(context.device))

    def hits(self, wanted: Wanted, accepted: Accepted, asked: Asked) -> tuple[Hits, Hits]:
        """Cause and isolation on the test pairs, with a mask trained on the others.

        Raises:
            DataError: the LM gives no gradients, or test pairs of one kind are missing.
        """
        n_train = int(_TRAIN_SHARE * len(wanted.pairs))
        prompts = self._prompts(wanted.pairs.base)
        mask = self._train(_part(wanted, slice(0, n_train)), prompts)
        test = _part(wanted, slice(n_train, None))
        found = torch.zeros(len(test.pairs), dtype=torch.int64)
        for start in range(0, len(test.pairs), _TESTED_AT_ONCE):
            logits, order = self._logits(
                _part(test, slice(start, start + _TESTED_AT_ONCE)), prompts, (mask > 0).float()
            )
            found[start + order] = logits.argmax(-1).cpu()
        entity, hit = self._quiz.entity[test.pairs.base], accepted.holds(test.answer, found).double()
        isolation = asked.answer[test.pairs.base] == test.token
        if not bool(isolation.any()) or bool(isolation.all()):
            raise NotEvaluatedError(
                f"not evaluated: of {len(hit)} test pairs {int(isolation.sum())} are for isolation; both kinds are "
                "needed. Use more pairs (n_pairs)."
            )
        return Hits(entity[~isolation], hit[~isolation]), Hits(entity[isolation], hit[isolation])

    def _prompts(self, base: Tensor) -> dict[int, PromptBatch]:
        """Each base prompt with its activations, as a batch of one."""
        wanted = set(base.tolist())
        found = {}
        for batch in self._context.prompt_batches(self._quiz.prompts):
            for row, prompt in enumerate(batch.index.tolist()):
                if prompt in wanted:
                    found[prompt] = selected(batch, torch.tensor([row], device=batch.tokens.device))
        return found

    def _train(self, wanted: Wanted, prompts: dict[int, PromptBatch]) -> Tensor:
        """[d_sae]: where it is above 0, the latent is swapped."""
        size = max(1, -(-len(wanted.pairs) // _STEPS_PER_EPOCH))
        starts = list(range(0, len(wanted.pairs), size))
        temperatures = torch.logspace(
            0.0, torch.tensor(_LAST_TEMPERATURE).log10().item(), _EPOCHS * len(starts)
        ).tolist()
        with torch.enable_grad():
            mask = torch.zeros(self._sae.config.d_sae, device=self._context.device, requires_grad=True)
            adam = torch.optim.Adam([mask], lr=_LEARNING_RATE)
            for temperature, start in zip(temperatures, _EPOCHS * starts, strict=True):
                batch = _part(wanted, slice(start, start + size))
                adam.zero_grad()
                logits, order = self._logits(batch, prompts, (mask / temperature).sigmoid())
                if not logits.requires_grad:
                    raise NotEvaluatedError(
                        "not evaluated: the language model gives no gradients with respect to the activations put in; "
                        "SAEBench's mask is trained by them."
                    )
                F.cross_entropy(logits, batch.token[order].to(logits.device)).backward()
                adam.step()
        return mask.detach()

    def _logits(self, wanted: Wanted, prompts: dict[int, PromptBatch], mask: Tensor) -> tuple[Tensor, Tensor]:
        """[n, vocab] after the base prompts, and the pair [n] each row is of; prompts of one length run together."""
        lengths = torch.tensor([prompts[prompt].tokens.shape[1] for prompt in wanted.pairs.base.tolist()])
        found, order = [], []
        for length in lengths.unique().tolist():
            here = (lengths == length).nonzero().squeeze(1)
            rows = self._mixed(wanted.pairs.base[here], wanted.pairs.source[here], mask)
            batch = _together([prompts[prompt] for prompt in wanted.pairs.base[here].tolist()])
            where = torch.zeros_like(batch.part, dtype=torch.bool)
            where[torch.arange(len(where), device=where.device), batch.last_of(_NAME)] = True
            activations = batch.replaced(where, rows.to(batch.activations.dtype))
            found.append(self._context.prompt_logits(batch, activations, last_token(batch.part)))
            order.append(here)
        return torch.cat(found), torch.cat(order)

    def _mixed(self, base: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """[n, d_in]: decode((1 - mask) z + mask z'), without the SAE's error."""
        d_sae, device = self._sae.config.d_sae, self._codes.offsets.device
        own, other = (dense(take(self._codes, prompts.to(device)), d_sae) for prompts in (base, source))
        return self._sae.decode((1 - mask) * own + mask * other).float()


def _part(wanted: Wanted, part: slice) -> Wanted:
    pairs = Pairs(wanted.pairs.base[part], wanted.pairs.source[part])
    return Wanted(pairs, wanted.token[part], wanted.answer[part])


def _together(prompts: Sequence[PromptBatch]) -> PromptBatch:
    columns = {
        name: torch.cat([getattr(prompt, name) for prompt in prompts])
        for name in ("index", "tokens", "part", "activations")
    }
    return PromptBatch(**columns)
