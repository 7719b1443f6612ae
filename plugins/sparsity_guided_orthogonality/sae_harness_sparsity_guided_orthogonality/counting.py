"""Competition on a sample of held-out tokens, and what of it follows from firing rates alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import SAE, EvalContext, RaggedCodes
from harness.training.pairs import PairStatistics, competition, pair_statistics

from .analyses import Edges, edges, frequency_null
from .held_out import Sample
from .options import SparsityGuidedOptions


@dataclass(frozen=True, slots=True)
class Counting:
    """How pairs are counted and which compete."""

    options: SparsityGuidedOptions
    threshold: float
    """c above which a pair competes."""

    @staticmethod
    def of(options: SparsityGuidedOptions, found: PairStatistics) -> Counting:
        """With threshold_kind=top the threshold is the c that leaves the share asked for."""
        if options.threshold_kind != "top":
            return Counting(options, options.threshold)
        c = competition(found, options.competition, shrink=options.shrink)[found.count >= options.min_count]
        n = math.ceil(options.threshold * len(c))
        edge = float(c.topk(n + 1).values[-1]) if n < len(c) else 0.0
        return Counting(options, edge)

    def edges(self, found: PairStatistics, *, threshold: float | None = None) -> Edges:
        """The pairs that compete."""
        return edges(
            found,
            kind=self.options.competition,
            threshold=self.threshold if threshold is None else threshold,
            min_count=self.options.min_count,
            shrink=self.options.shrink,
        )


def statistics(codes: RaggedCodes, sae: SAE, options: SparsityGuidedOptions) -> PairStatistics:
    """Of all tokens of a sample."""
    n = len(codes.offsets) - 1
    return pair_statistics(codes, sae.config.d_sae, n_tokens=n, per_token=options.per_token)


def null_statistics(
    found: Sample, sae: SAE, context: EvalContext, options: SparsityGuidedOptions, draw: int = 0
) -> PairStatistics:
    """After the tokens of each latent are drawn anew, apart from all others'."""
    generator = context.generator(f"frequency null {draw}")
    return frequency_null(found.codes, sae.config.d_sae, per_token=options.per_token, generator=generator)


def strongest(chosen: Edges, n: int) -> Edges:
    """The n of largest c; all where there are no more."""
    if len(chosen.c) <= n:
        return chosen
    at = chosen.c.argsort(descending=True, stable=True)[:n].sort().values
    return Edges(*(values[at] for values in chosen))


def within(chosen: Edges, latents: Tensor) -> list[tuple[int, int, float]]:
    """The edges among some latents [m], as places in that list."""
    place = {latent: number for number, latent in enumerate(latents.tolist())}
    return [
        (place[a], place[b], c)
        for a, b, c in zip(chosen.first.tolist(), chosen.second.tolist(), chosen.c.tolist(), strict=True)
        if a in place and b in place
    ]


def mean_and_spread(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of those that are numbers; None where there are too few."""
    known = torch.tensor([value for value in values if math.isfinite(value)], dtype=torch.float64)
    mean = float(known.mean()) if len(known) else None
    return mean, float(known.std()) if len(known) > 1 else None
