"""Interventions on a language model's texts: which are to be forgotten, and what each level does to them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from harness import SAE, EvalContext, MetricValue
from harness.data.worlds import join_codes
from harness.evaluation.metrics import ratio_estimate
from harness.evaluation.unlearning import Clamp, Firings, Intervention
from harness.evaluation.unlearning_draws import Sizes, draw_from_table
from harness.evaluation.unlearning_prompts import CodedPrompts
from harness.evaluation.unlearning_sweep import REPORT, SELECTION, TextBench

from .interventions import Interventions, quantile_of_shares
from .levels import Levels

TABLE = "wordnet-questions"
SIZES = Sizes(questions={"forget": 0, "retain": 0}, texts=96, measured=32)
MAX_TOKENS = 64


class TextTask:
    """An SAE and the texts of a table, in a half to choose on and one to read."""

    def __init__(self, sae: SAE, context: EvalContext) -> None:
        """Raises DataError where there is no LM, or the table has not been fetched."""
        drawn = draw_from_table(
            context.table(TABLE), context.token_ids, SIZES, generator=context.generator("unlearning")
        ).texts
        self.sae, self.context = sae, context
        self.bench = TextBench(drawn, context, max_tokens=MAX_TOKENS)
        self.domain = tuple(text.domain for text in drawn)
        self.coded: CodedPrompts = self.bench.coded(sae, context)

    def chosen(self, *, forget: bool) -> Tensor:
        """[texts] bool: those of a side on which latents are chosen."""
        return (self.bench.half == SELECTION) & (self.bench.forget == forget)

    def losses(self, intervention: Intervention | None, half: int) -> Tensor:
        """[texts] float64: summed cross-entropy in nats; of the other half as it was."""
        return self.bench.losses(self.context, self.coded, intervention, half)

    def rises(self, losses: Tensor, half: int, *, forget: bool) -> Tensor:
        """[...]: relative rise of the cross-entropy [..., texts] over a side and half."""
        own = self.bench.of(forget=forget, half=half)
        return losses[..., own].sum(-1) / self.bench.clean.ce[own].sum() - 1

    def rise(self, losses: Tensor, own: Tensor) -> MetricValue:
        """The same over some texts ([texts] bool), with its standard error over them."""
        return ratio_estimate((losses - self.bench.clean.ce)[own], self.bench.clean.ce[own], "rise of cross-entropy")

    def report(self, *, forget: bool) -> Tensor:
        """[texts] bool: the measured texts of a side that nothing is chosen on."""
        return self.bench.of(forget=forget, half=REPORT)


class TextInterventions(Interventions):
    """Those of a text task, chosen on the selection half."""

    def __init__(self, task: TextTask) -> None:
        forget, retain = task.bench.firings(task.coded, SELECTION)
        super().__init__(
            task.sae,
            forget,
            retain,
            concepts=partial(_concepts, task),
            told=lambda: join_codes([codes for _, codes in task.coded.codes_of(task.bench.half == SELECTION)]),
            gate=partial(_gate, task),
            generator=partial(task.context.generator, "matched"),
        )


def _concepts(task: TextTask, levels: Levels) -> tuple[Firings, Firings]:
    found = []
    for forget in (True, False):
        parts = (levels.concepts(codes) for _, codes in task.coded.codes_of(task.chosen(forget=forget)))
        found.append(Firings.of(parts, levels.n_concepts))
    return found[0], found[1]


def _gate(task: TextTask, clamp: Clamp) -> float:
    kept = task.chosen(forget=False)
    texts, touched = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.bool)]
    for text, codes in task.coded.codes_of(kept):
        texts.append(text.cpu())
        touched.append(clamp.edit(codes, text).changed.cpu())
    return quantile_of_shares(torch.cat(touched), torch.cat(texts), len(kept), kept)
