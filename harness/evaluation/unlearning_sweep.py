"""A sweep of unlearning settings: questions and texts in their halves, and every setting measured on one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import NotEvaluatedError
from ..interfaces.evaluator import EvalContext
from ..interfaces.sae import SAE
from .unlearning import Clamp, Firings, Intervention, Setting
from .unlearning_draws import DrawnQuestion, DrawnText, check_enough
from .unlearning_prompts import (
    CodedPrompts,
    Quiz,
    TextLosses,
    clean_text_losses,
    modified_text_losses,
)

SELECTION, REPORT = 0, 1
_SURE = 3.0
"""Standard errors by which the unmodified LM must beat guessing, on the selection half and on each side."""
_LEAST_QUESTIONS, _LEAST_TEXTS = 12, 8


class QuestionBench:
    """Drawn questions and what the unmodified LM answers; nothing here depends on an SAE."""

    def __init__(self, drawn: Sequence[DrawnQuestion], context: EvalContext) -> None:
        """Raises DataError where there are too few questions, or the LM guesses."""
        check_enough(drawn, "questions", _LEAST_QUESTIONS)
        self.quiz = Quiz([found.question for found in drawn], context)
        self.forget = torch.tensor([found.forget for found in drawn])
        self.half = torch.tensor([found.half for found in drawn])
        self.domains = tuple(found.domain for found in drawn)
        self._variants = [(number, variant) for number, found in enumerate(drawn) for variant in found.variants]
        told = [(found.question, found.variants) for found in drawn]
        clean = context.shared("questions", {"sha256": _digest(told)}, lambda: self._clean(context))
        self.scores = clean["scores"].cpu()
        self.known = clean["known"].cpu() > 0
        self.correct = self.quiz.correct(self.scores)
        self._require_answers()

    def of(self, *, forget: bool, half: int | None = None) -> Tensor:
        """[q] bool: the questions of a side, of one half or of both."""
        side = self.forget == forget
        return side if half is None else side & (self.half == half)

    def headroom(self, *, forget: bool) -> float:
        """What the unmodified LM answers better than by guessing, over both halves: the most that can be lost."""
        own = self.of(forget=forget)
        return float((self.correct[own].double() - self.quiz.chance()[own]).mean())

    def by_domain(self) -> dict[str, tuple[float, ...]]:
        """Of each domain: 1 if it is to be forgotten, its questions and the share answered right in the selection
        half, and the same in the report half."""
        found = {}
        for domain in sorted(set(self.domains)):
            own = torch.tensor([name == domain for name in self.domains])
            row = [float(self.forget[own][0])]
            for half in (SELECTION, REPORT):
                right = self.correct[own & (self.half == half)].double()
                row += [float(len(right)), float(right.mean()) if len(right) else 0.0]
            found[domain] = tuple(row)
        return found

    def answers(
        self, context: EvalContext, coded: CodedPrompts, intervention: Intervention | None, chosen: Tensor
    ) -> Tensor:
        """[q] bool: answered right under an intervention; questions not `chosen` as the unmodified LM answers them."""
        return self.quiz.correct(self.quiz.modified(context, coded, intervention, self.scores, chosen))

    def _clean(self, context: EvalContext) -> dict[str, Tensor]:
        scores = self.quiz.clean(context)
        known = self.quiz.correct(scores)
        if self._variants:
            other = Quiz([variant for _, variant in self._variants], context)
            right = other.correct(other.clean(context))
            known[torch.tensor([number for number, _ in self._variants])[~right]] = False
        return {"scores": scores, "known": known.to(torch.uint8)}

    def _require_answers(self) -> None:
        for forget in (True, False):
            own = self.of(forget=forget, half=SELECTION)
            right, chance = self.correct[own].double(), self.quiz.chance()[own]
            stderr = float((chance * (1 - chance)).mean()) ** 0.5 / len(right) ** 0.5
            if float((right - chance).mean()) <= _SURE * stderr:
                raise NotEvaluatedError(
                    f"Not evaluated: the language model answers {float(right.mean()):.3f} of {len(right)} "
                    f"{'forget' if forget else 'retain'} questions of the selection half right, where guessing gives "
                    f"{float(chance.mean()):.3f} (standard error {stderr:.3f}; {_SURE:g} of them are asked for). There "
                    "is nothing to unlearn: use a larger LM, or `unlearning_text`, which needs no answers."
                )
        if not all(bool((self.known & self.of(forget=forget)).any()) for forget in (True, False)):
            raise NotEvaluatedError(
                "Not evaluated: no question of one side is answered right in every order of its options."
            )


class TextBench:
    """Drawn texts and how well the unmodified LM predicts them; nothing here depends on an SAE."""

    def __init__(self, drawn: Sequence[DrawnText], context: EvalContext, *, max_tokens: int) -> None:
        """Raises DataError where there are too few texts."""
        check_enough([found for found in drawn if found.measured], "texts", _LEAST_TEXTS)
        self.texts = tuple(found.text for found in drawn)
        self.forget = torch.tensor([found.forget for found in drawn])
        self.half = torch.tensor([found.half for found in drawn])
        self.measured = torch.tensor([found.measured for found in drawn])
        self._max_tokens = max_tokens
        told = [(found.text, found.measured) for found in drawn]
        inputs = {"sha256": _digest(told), "max_tokens": max_tokens}
        clean = context.shared("texts", inputs, lambda: self._clean(context))
        self.clean = TextLosses(clean["ce"].cpu(), clean["n"].cpu())

    def of(self, *, forget: bool, half: int) -> Tensor:
        """[t] bool: the texts of a side and half on which losses are measured."""
        return self.measured & (self.forget == forget) & (self.half == half)

    def coded(self, sae: SAE, context: EvalContext) -> CodedPrompts:
        """The texts with an SAE's codes."""
        return CodedPrompts(sae, context, [(text,) for text in self.texts], max_tokens=self._max_tokens)

    def firings(self, coded: CodedPrompts, half: int | None = None) -> tuple[Firings, Firings]:
        """How latents fire on the forget and on the retain texts of one half, or of both."""
        own = torch.ones_like(self.forget) if half is None else self.half == half
        return coded.firings(own & self.forget), coded.firings(own & ~self.forget)

    def losses(self, context: EvalContext, coded: CodedPrompts, intervention: Intervention | None, half: int) -> Tensor:
        """[t] float64: summed cross-entropy under an intervention, of the texts of a half on which losses are measured;
        of the others as the unmodified LM has them."""
        chosen = self.measured & (self.half == half)
        return modified_text_losses(context, coded, intervention, self.clean, chosen).ce

    def _clean(self, context: EvalContext) -> dict[str, Tensor]:
        losses = clean_text_losses(context, self.texts, self.measured, max_tokens=self._max_tokens)
        return {"ce": losses.ce, "n": losses.n}


def sweep(
    settings: Sequence[Setting], forget: Firings, retain: Firings, measure: Callable[[Clamp | None], Tensor]
) -> Tensor:
    """[s, ...]: each setting measured. Settings that come to the same intervention are measured once."""
    seen: dict[tuple[tuple[int, ...], tuple[float, ...]], Tensor] = {}
    found = []
    for setting in settings:
        clamp = setting.clamp(setting.latents(forget, retain), forget, retain)
        key = ((), ()) if clamp is None else (tuple(clamp.latents.tolist()), tuple(clamp.values.tolist()))
        if key not in seen:
            seen[key] = measure(clamp)
        found.append(seen[key])
    return torch.stack(found)


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, default=repr).encode()).hexdigest()
