"""The unlearning evaluator for LMs that cannot answer: how much worse a topic's texts can be made to be predicted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.metrics import ratio_estimate
from harness.evaluation.unlearning import best_within, bootstrap, random_matched
from harness.evaluation.unlearning_sweep import REPORT, SELECTION, TextBench, sweep

from .unlearning_detail import columns
from .unlearning_options import UnlearningOptions
from .unlearning_specs import BUDGETS, RETAIN_BUDGET


class UnlearningTextEvaluator(Evaluator):
    """Clamps latents chosen on forget and retain texts, and measures losses. See `UnlearningOptions` for options."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        self._options = UnlearningOptions.of("unlearning_text", self.options)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: there are too few texts.
            NonFiniteError: codes or logits are not finite.
        """
        texts = TextBench(self._options.draws(context).texts, context, max_tokens=self._options.max_tokens)
        told = texts.coded(sae, context)
        forget, retain = texts.firings(told, SELECTION)
        settings = self._options.settings

        def losses(half: int, clamp: object) -> Tensor:
            return texts.losses(context, told, clamp, half)  # type: ignore[arg-type]

        selection = sweep(settings, forget, retain, partial(losses, SELECTION))
        gain, cost = (_rises(texts, selection, SELECTION, forget=side) for side in (True, False))
        chosen = best_within(gain, cost, RETAIN_BUDGET)
        at_budget = [best_within(gain, cost, budget) for budget in BUDGETS]
        read = sorted({place for place in (*at_budget, chosen) if place >= 0})
        # The LM as it is comes last, so that -1 names it.
        report = torch.stack(
            [texts.clean.ce]
            if not read
            else [*sweep([settings[i] for i in read], forget, retain, partial(losses, REPORT)), texts.clean.ce]
        )
        where = {place: row for row, place in enumerate(read)} | {-1: len(read)}
        matched = None
        if chosen >= 0:
            others = random_matched(
                settings[chosen].latents(forget, retain), forget, retain, context.generator("matched")
            )
            matched = settings[chosen].clamp(others, forget, retain)
        rise = partial(_rise, texts)
        detail = columns(settings, chosen, {"forget_rise": gain, "retain_rise": cost})
        return {
            "unlearning_text_forget_rise": rise(report[where[chosen]], forget=True, detail=detail),
            "unlearning_text_retain_rise": rise(report[where[chosen]], forget=False),
            "unlearning_text_matched_rise": rise(losses(REPORT, matched), forget=True),
            "unlearning_text_frontier": _frontier(
                texts, report, [where[place] for place in at_budget], context.generator("bootstrap")
            ),
            "unlearning_text_forget_ce": _clean(texts, forget=True),
            "unlearning_text_retain_ce": _clean(texts, forget=False),
        }


def _rises(texts: TextBench, losses: Tensor, half: int, *, forget: bool) -> Tensor:
    """[s]: relative rise of the cross-entropy [s, t] over a side and half."""
    own = texts.of(forget=forget, half=half)
    return losses[:, own].sum(1) / texts.clean.ce[own].sum() - 1


def _rise(
    texts: TextBench, losses: Tensor, *, forget: bool, detail: Mapping[str, tuple[float, ...]] | None = None
) -> MetricValue:
    """The same over the report half, with its standard error over texts."""
    own = texts.of(forget=forget, half=REPORT)
    found = ratio_estimate((losses - texts.clean.ce)[own], texts.clean.ce[own], "rise of the cross-entropy")
    return MetricValue(value=found.value, n=found.n, stderr=found.stderr, detail=detail)


def _frontier(texts: TextBench, report: Tensor, places: list[int], generator: torch.Generator) -> MetricValue:
    """Mean over budgets of the forget texts' rise at the setting that each budget's choice on the other half gave."""
    own = texts.of(forget=True, half=REPORT)
    modified, clean = report[places][:, own].mean(0), texts.clean.ce[own]

    def measure(weights: Tensor) -> Tensor:
        return (weights @ modified) / (weights @ clean) - 1

    interval = bootstrap((len(clean),), measure, generator)
    return MetricValue(
        value=float(modified.sum() / clean.sum() - 1),
        n=len(clean),
        stderr=interval.stderr,
        detail={
            "interval": (interval.low, interval.high),
            "budget": BUDGETS,
            "forget_rise": tuple(_rises(texts, report[places], REPORT, forget=True).tolist()),
            "retain_rise": tuple(_rises(texts, report[places], REPORT, forget=False).tolist()),
        },
    )


def _clean(texts: TextBench, *, forget: bool) -> MetricValue:
    own = texts.of(forget=forget, half=REPORT)
    return ratio_estimate(texts.clean.ce[own], texts.clean.n[own], "cross-entropy of the unmodified LM")
