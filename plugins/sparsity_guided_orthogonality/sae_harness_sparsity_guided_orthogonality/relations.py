"""The analyses `competition_cosine` and `threshold_effect`: competition against direction and against thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    EvalContext,
    Figure,
    Histogram,
    Line,
    Panel,
    Scatter,
    Table,
    TrainingLog,
)
from harness.training.pair_penalties import pair_cosines
from harness.training.pairs import PairStatistics

from .analyses import CompetitionAndDirection, Edges, ThresholdEffect, competition_against_cosine, threshold_effect
from .counting import Counting, null_statistics, statistics
from .held_out import competition_options, histogram, numbers, sample, untrained

THRESHOLDS = tuple(n / 40 for n in range(25))
_C_EDGES = tuple(n / 20 for n in range(21))
_FEW = 5
"""Pairs below which a bin of c has no mean."""
_COSINES = [n / 25 - 1 for n in range(51)]


@dataclass(frozen=True, slots=True)
class _Direction:
    """Competition and cosines of one decoder."""

    chosen: Edges
    cosine: Tensor
    """[p] of all pairs."""
    shown: CompetitionAndDirection


class CompetitionCosine(Analysis):
    """c against the cosine of decoder rows: scatter and rank correlation, for the SAE and for untrained directions."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        options, note = competition_options(training)
        tokens = sample(sae, context, options.per_token)
        found = statistics(tokens.codes, sae, options)
        counting = Counting.of(options, found)
        beginning, codes, name, drawn = untrained(sae, context, tokens, training)
        directions = sae.decoder_directions().detach().float().cpu()
        both = {
            "this SAE": _direction(counting.edges(found, threshold=0.0), directions, context),
            name: _direction(
                counting.edges(statistics(codes, sae, options), threshold=0.0), beginning, context
            ),
        }  # fmt: skip
        values: dict[str, float | None] = {}
        series: dict[str, list[float]] = {}
        for key, one in both.items():
            key = key.replace(" ", "_")
            competing = one.cosine[one.chosen.c > counting.threshold]
            values[f"pairs/{key}"] = len(one.chosen.c)
            values[f"spearman/{key}"] = _number(one.shown.spearman)
            values[f"weighed_cosine/{key}"] = _number(one.shown.weighed_cosine)
            values[f"competing_pairs/{key}"] = len(competing)
            values[f"mean_cosine_of_competing/{key}"] = float(competing.abs().mean()) if len(competing) else None
            series[f"c/{key}"], series[f"cosine/{key}"] = numbers(one.shown.c), numbers(one.shown.cosine)
        return AnalysisResult(
            values=values,
            series=series,
            figures=(_cosine_figure(both, counting.threshold, values, tokens.n),),
            notes=(
                note,
                f"{drawn}; its codes are the {max(1, round(tokens.l0))} largest products with the centred activation.",
            ),
        )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _direction(chosen: Edges, W_dec: Tensor, context: EvalContext) -> _Direction:
    shown = competition_against_cosine(chosen, W_dec, generator=context.generator("pairs shown"))
    return _Direction(chosen, pair_cosines(W_dec, chosen.first, chosen.second), shown)


def _cosine_figure(both: dict[str, _Direction], threshold: float, values: dict, n: int) -> Figure:
    panels = []
    for key, one in both.items():
        rank = values[f"spearman/{key.replace(' ', '_')}"]
        told = "" if rank is None else f": Spearman of c and |cosine| {rank:+.2f}"
        if len(one.shown.c):
            panels.append(
                Panel(
                    marks=[Scatter(x=numbers(one.shown.c), y=numbers(one.shown.cosine))],
                    title=f"{key[0].upper()}{key[1:]}{told}",
                    x_label="competition c",
                    y_label="cosine of the decoder rows",
                    y_reference=0.0,
                )
            )
    panels += [
        Panel(
            marks=[_by_c(key, one) for key, one in both.items()],
            title="Nearness by competition",
            x_label="competition c",
            y_label="mean |cosine|",
        ),
        Panel(
            marks=[_competing(key, one, threshold) for key, one in both.items()],
            title=f"Cosines of competing pairs (c above {threshold:.2g})",
            x_label="cosine of the decoder rows",
            y_label="share of competing pairs",
        ),
    ]
    return Figure(
        name="competition_cosine",
        title="Do latents that fire together point the same way?",
        panels=panels,
        caption=(
            f"Pairs that fire together on {n} held-out tokens; at most 5000 are drawn. Untrained directions that point "
            "the same way fire together by themselves: what training adds is the difference. Bands: the middle half."
        ),
    )


def _by_c(name: str, one: _Direction) -> Line:
    x, y, low, high = [], [], [], []
    for start, stop in pairwise(_C_EDGES):
        inside = one.cosine[(one.chosen.c > start) & (one.chosen.c <= stop)].abs()
        enough = len(inside) >= _FEW
        x.append((start + stop) / 2)
        y.append(float(inside.mean()) if enough else None)
        low.append(float(inside.quantile(0.25)) if enough else None)
        high.append(float(inside.quantile(0.75)) if enough else None)
    return Line(label=name, x=x, y=y, low=low, high=high, dashed=name != "this SAE")


def _competing(name: str, one: _Direction, threshold: float) -> Histogram:
    counts = histogram(one.cosine[one.chosen.c > threshold], _COSINES)
    total = max(1.0, sum(counts))
    return Histogram(label=f"{name} ({sum(counts):.0f} pairs)", edges=_COSINES, counts=[c / total for c in counts])


class ThresholdEffectAnalysis(Analysis):
    """How many pairs each threshold leaves and how much of c, against a null with the same firing rates."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        options, note = competition_options(training)
        tokens = sample(sae, context, options.per_token)
        found = statistics(tokens.codes, sae, options)
        threshold = Counting.of(options, found).threshold

        def table(of: PairStatistics) -> list[ThresholdEffect]:
            return threshold_effect(
                of, THRESHOLDS, kind=options.competition, min_count=options.min_count, shrink=options.shrink
            )

        real, null = table(found), table(null_statistics(tokens, sae, context, options))
        used = threshold_effect(
            found, (threshold,), kind=options.competition, min_count=options.min_count, shrink=options.shrink
        )[0]
        columns = ThresholdEffect._fields
        return AnalysisResult(
            values={"threshold": threshold, **{name: getattr(used, name) for name in columns[1:]}},
            tables={
                "thresholds": Table(
                    columns=(*columns, "n_pairs_null", "total_null"),
                    rows=[[*row, other.n_pairs, other.total] for row, other in zip(real, null, strict=True)],
                )
            },
            figures=(_threshold_figure(real, null, threshold, tokens.n),),
            notes=(note, "What a threshold does to an SAE needs one trained at each: that is a sweep."),
        )


def _threshold_figure(real: list, null: list, threshold: float, n: int) -> Figure:
    panels = []
    for name, title, label in (
        ("n_pairs", "Pairs above the threshold", "pairs"),
        ("total", "Summed weight: c above the threshold", "sum of (c - threshold)"),
        ("mean_degree", "Competitors of a live latent", "mean degree"),
        ("share_of_latents", "Live latents with a competitor", "share"),
    ):
        scale: Literal["linear", "log"] = "linear" if name == "share_of_latents" else "log"
        marks = []
        for key, table in (("this SAE", real), ("firing rates alone", null)):
            y = [float(getattr(row, name)) for row in table]
            shown = [value if scale == "linear" or value > 0 else None for value in y]
            marks.append(Line(label=key, x=list(THRESHOLDS), y=shown, dashed=key != "this SAE"))
        panels.append(Panel(marks=marks, title=title, x_label="threshold of c", y_label=label, y_scale=scale))
    return Figure(
        name="threshold_effect",
        title="What does a threshold leave?",
        panels=panels,
        caption=(
            f"{n} held-out tokens; this SAE's threshold is c = {threshold:.3g}. Firing rates alone: the tokens of each "
            "latent are drawn anew, apart from all others'. Where both lines agree a threshold takes chance for "
            "competition."
        ),
    )
