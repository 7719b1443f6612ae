"""The unlearning evaluator: how much of a topic's questions can be made to fail while others are still answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.metrics import ratio_estimate
from harness.evaluation.unlearning import (
    Clamp,
    Firings,
    Setting,
    area_under,
    best_within,
    bootstrap,
    hull_of,
    random_matched,
    settings_of,
)
from harness.evaluation.unlearning_prompts import CodedPrompts
from harness.evaluation.unlearning_sweep import REPORT, SELECTION, QuestionBench, TextBench, sweep

from .unlearning_detail import columns
from .unlearning_options import UnlearningOptions
from .unlearning_specs import PUBLISHED_LATENTS, PUBLISHED_MULTIPLIERS, PUBLISHED_THRESHOLDS, RETAINED

_PUBLISHED = settings_of(
    [("rate", threshold) for threshold in PUBLISHED_THRESHOLDS], PUBLISHED_LATENTS, PUBLISHED_MULTIPLIERS, "absolute"
)


class UnlearningEvaluator(Evaluator):
    """Clamps latents chosen on forget and retain texts, and asks questions. See `UnlearningOptions` for options."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        self._options = UnlearningOptions.of("unlearning", self.options)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: there are too few questions or texts, or the LM does not answer better than by guessing.
            NonFiniteError: codes or logits are not finite.
        """
        draws = self._options.draws(context)
        questions = QuestionBench(draws.questions, context)
        texts = TextBench(draws.texts, context, max_tokens=self._options.max_tokens)
        run = _Run(context, questions, CodedPrompts(sae, context, questions.quiz.prompts))
        told = texts.coded(sae, context)
        forget, retain = texts.firings(told, SELECTION)
        settings = self._options.settings
        selection = _Losses(run, SELECTION, sweep(settings, forget, retain, partial(run.answers, SELECTION)))
        chosen = best_within(selection.forget, 1 - selection.kept, 1 - RETAINED)
        hull = hull_of(selection.retain_share, selection.forget_share)
        read: list[int] = sorted({*hull, chosen} - {-1})
        answers = sweep([settings[i] for i in read], forget, retain, partial(run.answers, REPORT)) if read else None
        report = _Losses(run, REPORT, questions.correct[None][:0] if answers is None else answers)
        metrics = {
            **_questions_metrics(questions),
            **_at(report, read.index(chosen) if chosen >= 0 else -1),
            "unlearning_frontier_auc": _area(report, [read.index(i) for i in hull], context.generator("bootstrap")),
        }
        setting = settings[chosen] if chosen >= 0 else None
        metrics["unlearning_matched_drop"] = _matched(run, setting, forget, retain, context.generator("matched"))
        metrics |= _text_metrics(context, texts, told, setting, forget, retain)
        metrics["saebench_unlearning_score"] = _published(run, *texts.firings(told))
        details = columns(settings, chosen, {"forget_drop": selection.forget, "retain_kept": selection.kept})
        drop = metrics["unlearning_forget_drop"]
        metrics["unlearning_forget_drop"] = MetricValue(value=drop.value, n=drop.n, stderr=drop.stderr, detail=details)
        return metrics


class _Run:
    """One SAE under questions."""

    def __init__(self, context: EvalContext, questions: QuestionBench, coded: CodedPrompts) -> None:
        self.context, self.questions, self.coded = context, questions, coded

    def answers(self, half: int, clamp: Clamp | None) -> Tensor:
        """[q] bool: right answers under a clamp; those of the other half as they were."""
        return self.among(self.questions.half == half, clamp)

    def among(self, chosen: Tensor, clamp: Clamp | None) -> Tensor:
        """[q] bool: the same for the questions chosen."""
        return self.questions.answers(self.context, self.coded, clamp, chosen)


class _Losses:
    """What settings [s] cost on one half: answers [s, q] under each against the unmodified LM's."""

    def __init__(self, run: _Run, half: int, answers: Tensor) -> None:
        self.questions, self.half = run.questions, half
        clean = run.questions.correct.double()
        self.lost = clean - answers.double()
        self.clean = clean
        self.forget = self._mean(self.lost, forget=True)
        self.kept = 1 - self._mean(self.lost, forget=False) / max(float(self._mean(clean, forget=False)), 1e-12)
        self.forget_share = self.forget / run.questions.headroom(forget=True)
        self.retain_share = self._mean(self.lost, forget=False) / run.questions.headroom(forget=False)

    def own(self, *, forget: bool) -> Tensor:
        """[q] bool: the questions of this half and a side."""
        return self.questions.of(forget=forget, half=self.half)

    def _mean(self, values: Tensor, *, forget: bool) -> Tensor:
        return values[..., self.own(forget=forget)].mean(-1)


def _questions_metrics(questions: QuestionBench) -> dict[str, MetricValue]:
    found = {}
    for name, forget in (("forget", True), ("retain", False)):
        right = questions.correct[questions.of(forget=forget, half=REPORT)].double()
        found[f"unlearning_{name}_accuracy"] = MetricValue(
            value=float(right.mean()), n=len(right), stderr=float(right.std()) / math.sqrt(len(right))
        )
    known = questions.known.double()
    found["unlearning_known_questions"] = MetricValue(
        value=float(known.sum()), n=len(known), detail=questions.by_domain()
    )
    return found


def _at(report: _Losses, place: int) -> dict[str, MetricValue]:
    """The report half at the chosen setting; the LM as it is where none was (-1)."""
    lost = report.lost[place] if place >= 0 else torch.zeros_like(report.clean)
    forget, retain = report.own(forget=True), report.own(forget=False)
    return {
        "unlearning_forget_drop": _mean_metric(lost[forget]),
        "unlearning_retain_kept": ratio_estimate(
            (report.clean - lost)[retain], report.clean[retain], "unlearning_retain_kept"
        ),
    }


def _mean_metric(values: Tensor) -> MetricValue:
    return MetricValue(value=float(values.mean()), n=len(values), stderr=float(values.std()) / math.sqrt(len(values)))


def _area(report: _Losses, hull: list[int], generator: torch.Generator) -> MetricValue:
    """Area under the settings that made up the frontier of the selection half, as the report half has them."""
    rooms = [report.questions.headroom(forget=side) for side in (False, True)]
    cost = report.lost[hull][:, report.own(forget=False)] / rooms[0]
    gain = report.lost[hull][:, report.own(forget=True)] / rooms[1]

    def measure(of_retain: Tensor, of_forget: Tensor) -> Tensor:
        return area_under(of_retain @ cost.T / cost.shape[1], of_forget @ gain.T / gain.shape[1])

    interval = bootstrap((cost.shape[1], gain.shape[1]), measure, generator)
    shares = {"retain_lost": tuple(cost.mean(1).tolist()), "forget_lost": tuple(gain.mean(1).tolist())}
    return MetricValue(
        value=float(area_under(cost.mean(1), gain.mean(1))),
        n=cost.shape[1] + gain.shape[1],
        stderr=interval.stderr,
        detail={"interval": (interval.low, interval.high), **shares},
    )


def _matched(
    run: _Run, setting: Setting | None, forget: Firings, retain: Firings, generator: torch.Generator
) -> MetricValue:
    """The drop that as many random latents of like rates on retain texts make at the chosen setting."""
    clamp = None
    if setting is not None:
        others = random_matched(setting.latents(forget, retain), forget, retain, generator)
        clamp = setting.clamp(others, forget, retain)
    lost = run.questions.correct.double() - run.answers(REPORT, clamp).double()
    return _mean_metric(lost[run.questions.of(forget=True, half=REPORT)])


def _text_metrics(
    context: EvalContext,
    texts: TextBench,
    told: CodedPrompts,
    setting: Setting | None,
    forget: Firings,
    retain: Firings,
) -> dict[str, MetricValue]:
    """Change of cross-entropy on the texts of the report half at the chosen setting."""
    clamp = None if setting is None else setting.clamp(setting.latents(forget, retain), forget, retain)
    losses = texts.losses(context, told, clamp, REPORT)
    found = {}
    for name, side in (("forget", True), ("retain", False)):
        own = texts.of(forget=side, half=REPORT)
        metric = f"unlearning_{name}_ce_rise"
        found[metric] = ratio_estimate((losses - texts.clean.ce)[own], texts.clean.n[own], metric)
    return found


def _published(run: _Run, forget: Firings, retain: Firings) -> MetricValue:
    """SAEBench's score: everything chosen and read on the same questions, all of them known."""
    questions = run.questions
    answers = sweep(_PUBLISHED, forget, retain, partial(run.among, questions.known)).double()
    asked = [questions.known & questions.of(forget=side) for side in (True, False)]
    forgotten, kept = (answers[:, own].mean(1) for own in asked)
    allowed = torch.where(kept >= RETAINED, forgotten, torch.ones_like(forgotten))
    best = float(allowed.min())
    n = int(asked[0].sum())
    return MetricValue(
        value=1 - best,
        n=n,
        stderr=math.sqrt(best * (1 - best) / n),
        detail=columns(
            _PUBLISHED,
            int(allowed.argmin()) if best < 1 else -1,
            {"forget_accuracy": forgotten, "retain_accuracy": kept},
        ),
    )
