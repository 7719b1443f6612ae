"""The analysis `pair_selection_stability`: are the pairs chosen on some tokens those chosen on others?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from harness import SAE, Analysis, AnalysisResult, DataError, EvalContext, Figure, Histogram, Line, Panel, TrainingLog
from harness.training.pairs import PairStatistics, correlation, select_pairs

from .analyses import SelectionStability, collect_selections, jaccard, selection_stability
from .held_out import held_out_codes, histogram, selection_options, stretches
from .options import TopKOrthogonalityOptions

LAGS = (1, 2, 5, 10, 20, 50, 100)
MAX_BATCHES = 201
_SHOWN = 21
"""Stretches over which survival is drawn."""
_PRESENCE_EDGES = tuple(n / 20 for n in range(21))


class PairSelectionStability(Analysis):
    """Jaccard index and rank correlation at lags, survival, and how constantly a pair is selected, over stretches of
    held-out text, each against random pairs; the Jaccard index against sampling noise too."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        options, note = selection_options(training)
        length = 2 * options.sample_tokens
        batches = stretches(held_out_codes(sae, context, MAX_BATCHES * length), length)
        if len(batches) < 2:
            raise DataError(
                f"Stability needs two stretches of {length} held-out tokens (twice sample_tokens), there are "
                f"{len(batches)}: give the suite more held-out data."
            )
        chosen = _chosen(sae, context, batches, options)
        if sum(map(len, chosen["selections"])) == 0:
            raise DataError(
                "No pair is selected on held-out data under these options (the presets that reproduce the published "
                "mistakes select none): there is no stability to look at."
            )
        real = selection_stability(**chosen, lags=LAGS)
        random = _random(chosen, options, context)
        noise = [jaccard(set(a.tolist()), set(b.tolist())) for a, b in chosen["halves"]]
        present, present_random = _presence(chosen["selections"]), _presence(random[1])
        values = _values(real, random[0], noise, len(batches))
        return AnalysisResult(
            values=values,
            series=_series(real, random[0], present),
            figures=(_figure(real, random[0], present, present_random, values, options),),
            notes=(note, *_notes(options, length)),
        )


def _notes(options: TopKOrthogonalityOptions, length: int) -> list[str]:
    notes = [
        f"Stretches are of {length} consecutive held-out tokens, pairs are selected on {options.sample_tokens} of "
        "them. Sampling noise: the two disjoint halves of a stretch, of as many tokens each."
    ]
    if options.memory:
        notes.append(
            f"In training statistics are remembered (memory={options.memory}); here each stretch stands alone."
        )
    if options.pairs != "selected" or options.clusters != "none":
        notes.append(
            f"The training had pairs={options.pairs!r} and clusters={options.clusters!r}: shown is what selection by "
            "correlation alone would take."
        )
    return notes


def _chosen(sae: SAE, context: EvalContext, batches: Sequence, options: TopKOrthogonalityOptions) -> dict[str, Any]:
    directions = sae.decoder_directions().detach().cpu()

    def score(found: PairStatistics) -> Tensor:
        scores = correlation(found, options.correlation, directions)
        return scores / found.n_tokens if options.divide_by_tokens else scores

    def select(scores: Tensor, found: PairStatistics) -> Tensor:
        return select_pairs(
            scores,
            found,
            fraction=options.fraction,
            of=options.fraction_of,
            minimum=-math.inf if options.minimum is None else options.minimum,
            maximum=math.inf if options.maximum is None else options.maximum,
            quantiles=(options.quantile_low, options.quantile_high),
            min_count=options.min_count,
            max_pairs=options.max_pairs,
        )

    return collect_selections(
        batches,
        sae.config.d_sae,
        score=score,
        select=select,
        n_tokens=options.sample_tokens,
        per_token=options.per_token,
        generator=context.generator("pair selection"),
    )


def _random(
    chosen: dict[str, Any], options: TopKOrthogonalityOptions, context: EvalContext
) -> tuple[SelectionStability, list[Tensor]]:
    """As many pairs of each stretch, drawn among those that could have been selected: seen often enough there."""
    generator = context.generator("random pairs")
    keys = []
    for found, selected in zip(chosen["observed"], chosen["selections"], strict=True):
        eligible = found.keys[found.count >= options.min_count]
        keys.append(eligible[torch.randperm(len(eligible), generator=generator)[: len(selected)]].sort().values)
    stability = selection_stability(keys, observed=chosen["observed"], scores=chosen["scores"], lags=LAGS)
    return stability, keys


def _presence(selections: Sequence[Tensor]) -> Tensor:
    """Of each pair ever selected: the share of the stretches in which it is."""
    counts = Counter(chain.from_iterable(keys.tolist() for keys in selections))
    return torch.tensor(list(counts.values()), dtype=torch.float64) / len(selections)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _values(real: SelectionStability, random: SelectionStability, noise: list[float], n: int) -> dict[str, Any]:
    known = torch.tensor([value for value in noise if not math.isnan(value)], dtype=torch.float64)
    values: dict[str, Any] = {"stretches": n, "mean_pairs": sum(real.sizes) / len(real.sizes)}
    for lag, here, there, rank in zip(real.lags, real.jaccard, random.jaccard, real.rank_correlation, strict=True):
        values[f"jaccard_lag{lag}"] = _number(here)
        values[f"jaccard_lag{lag}/random_pairs"] = _number(there)
        values[f"rank_correlation_lag{lag}"] = _number(rank)
    values["jaccard_sampling_noise"] = _number(real.halves_jaccard)
    values["jaccard_sampling_noise_stderr"] = float(known.std() / len(known) ** 0.5) if len(known) > 1 else None
    values["half_life"] = real.half_life
    values["half_life/random_pairs"] = random.half_life
    values["share_persistent"] = real.share_persistent
    values["share_persistent/random_pairs"] = random.share_persistent
    return values


def _series(real: SelectionStability, random: SelectionStability, present: Tensor) -> dict[str, list[float | None]]:
    return {
        "lag": [float(lag) for lag in real.lags],
        "jaccard": [_number(value) for value in real.jaccard],
        "jaccard/random_pairs": [_number(value) for value in random.jaccard],
        "rank_correlation": [_number(value) for value in real.rank_correlation],
        "survival": list(real.survival),
        "survival/random_pairs": list(random.survival),
        "share_of_stretches": sorted(present.tolist(), reverse=True),
        "pairs_selected": [float(size) for size in real.sizes],
    }


def _figure(
    real: SelectionStability,
    random: SelectionStability,
    present: Tensor,
    present_random: Tensor,
    values: dict[str, Any],
    options: TopKOrthogonalityOptions,
) -> Figure:
    lags, noise = list(real.lags), values["jaccard_sampling_noise"]
    shared = [
        Line(label="selected", x=lags, y=[_number(v) for v in real.jaccard]),
        Line(label="random pairs", x=lags, y=[_number(v) for v in random.jaccard], dashed=True),
    ]
    if noise is not None:
        shared.append(Line(label="sampling noise: halves of a stretch", x=lags, y=[noise] * len(lags), dashed=True))
    counts = [
        (name, histogram(one, _PRESENCE_EDGES))
        for name, one in (("selected", present), ("random pairs", present_random))
    ]
    return Figure(
        name="pair_selection_stability",
        title="Are the same pairs selected again?",
        panels=(
            Panel(
                marks=shared,
                title="Jaccard index of two selections",
                x_label="lag (stretches of text)",
                y_label="shared / any",
                x_scale="log",
            ),
            Panel(
                marks=[
                    _survival("selected", real),
                    _survival("random pairs", random, dashed=True),
                ],
                title="Pairs selected in every stretch since the first",
                x_label="stretches later",
                y_label="share of the first selection",
                y_reference=0.5,
            ),
            Panel(
                marks=[
                    Histogram(label=name, edges=_PRESENCE_EDGES, counts=[n / max(1.0, sum(bins)) for n in bins])
                    for name, bins in counts
                ],
                title="How constantly a pair is selected",
                x_label="share of the stretches in which it is selected",
                y_label="share of the pairs ever selected",
                y_scale="log",
            ),
            Panel(
                marks=[Line(x=lags, y=[_number(v) for v in real.rank_correlation])],
                title=f"Rank correlation of the pairs' scores ({options.correlation})",
                x_label="lag (stretches of text)",
                y_label="Spearman correlation",
                x_scale="log",
                y_reference=0.0,
            ),
        ),
        caption=(
            f"{values['stretches']} stretches of held-out text, {values['mean_pairs']:.0f} pairs selected from each on "
            "average. Random pairs: as many, among those seen often enough in the stretch. Where selected pairs lie at "
            "the line of sampling noise, what changes from stretch to stretch is the sample and not the text."
        ),
    )


def _survival(label: str, found: SelectionStability, *, dashed: bool = False) -> Line:
    shares = list(found.survival[:_SHOWN])
    return Line(label=label, x=list(range(len(shares))), y=shares, dashed=dashed)
