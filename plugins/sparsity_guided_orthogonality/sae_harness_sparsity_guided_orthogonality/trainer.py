"""The trainer `sparsity_guided_orthogonality`: a base trainer's loss and a penalty on the cosines of latents that fire
together, each pair weighed by how often it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness import SAE, ActivationBatch, LossTerms, Trainer, TrainState
from harness.training.pair_penalties import (
    PairMemory,
    code_columns,
    memory_estimate,
    pair_cosines,
    pair_dots,
    penalty,
)
from harness.training.pairs import (
    Codes,
    PairStatistics,
    PairTable,
    competition,
    pair_statistics,
    random_pairs,
    select_pairs,
)
from harness.training.relative_scale import RelativeScale

from .options import SparsityGuidedOptions

SCALE_FLOOR = 1e-4
"""Least value of the term taken as reference: a cosine of .01, squared. A hinge that is all but 0 at first would
otherwise get a weight without bound."""
EPS = 1e-8
"""Added to the sum of w, as the published code has it."""


class SparsityGuidedTrainer(Trainer):
    """The base's loss + weight · scale · sum over pairs of w_ij g(cos(d_i, d_j)) / sum of w_ij.

    w_ij is c_ij after its threshold, counted without gradient on sampled tokens; the penalty moves the rows of `target`
    alone. Where no pair is above the threshold the term is 0. The log tells how many were, and the sum of w.
    """

    options_type = SparsityGuidedOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._restart()

    def _restart(self) -> None:
        options = self.options
        self.scale = RelativeScale(SCALE_FLOOR)
        self.table = PairTable(decay=options.memory, capacity=options.capacity or 4 * options.max_pairs)
        self.told: dict[str, float] = {}
        """Of the last step: pairs observed and with part; the sum of w (which `by_c` divides out)
        and its mean; their mean |cosine| in the target, weighed; the weight."""

    def initialise(self, sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        self._restart()
        super().initialise(sae, sample, target_l0, generator)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        assert self.base is not None, "the spec says `extends`"
        terms = self.base.loss(sae, batch, state)
        if self.options.weight == 0.0 or state.step % self.options.every:
            return terms
        value, told = self._term(sae, terms.codes, state.generator)
        weight = self._weight(batch.activations, terms, float(value.detach()))
        self.told = {**told, "weight": weight}
        return terms.plus("orthogonality", value, weight)

    def diagnostics(self) -> Mapping[str, float]:
        assert self.base is not None, "the spec says `extends`"
        return {**self.base.diagnostics(), **self.told}

    def _term(self, sae: Any, codes: Codes, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The penalty, and what the log is to keep of it."""
        options = self.options
        found = self._statistics(codes, sae.config.d_sae, generator)
        at, w = weighted_pairs(found, options)
        told = {"observed": float(len(found)), "selected": float(len(at)), "sum_w": float(w.sum())}
        if len(at) == 0:
            return sae.W_dec.new_zeros(()), told
        first, second = found.first[at], found.second[at]
        if options.partners == "random":
            first, second = random_pairs(len(at), (found.fires > 0).nonzero().squeeze(1), generator)
        cosines = self._cosines(sae, codes, first, second)
        total = (w * penalty(cosines, options.penalty, margin=options.margin)).sum()
        told["mean_w"] = told["sum_w"] / len(at)
        told["mean_cosine"] = float((w * cosines.detach().abs()).sum() / w.sum().clamp_min(1e-12))
        if options.normalise == "by_c":
            total = total / (w.sum() + EPS)
        elif options.normalise == "by_pairs":
            total = total / len(at)
        return total, told

    def _statistics(self, codes: Codes, d_sae: int, generator: torch.Generator) -> PairStatistics:
        options = self.options
        detached = codes.detach() if isinstance(codes, Tensor) else codes._replace(values=codes.values.detach())
        new = pair_statistics(
            detached, d_sae, n_tokens=options.sample_tokens, per_token=options.per_token, generator=generator
        )

        def priority(held: PairStatistics) -> Tensor:
            # What may have part before what has been seen too seldom; of these, what has been seen most.
            c = competition(held, options.competition, shrink=options.shrink)
            return torch.where(held.count >= options.min_count, 1 + c, held.count / options.min_count)

        return self.table.update(new, priority)

    def _cosines(self, sae: Any, codes: Codes, first: Tensor, second: Tensor) -> Tensor:
        target = self.options.target
        if target == "decoder":
            return pair_cosines(sae.W_dec, first, second)
        if target == "encoder":
            return pair_cosines(sae.W_enc.t(), first, second)
        columns, place = code_columns(codes, torch.cat([first, second]).unique(), sae.config.d_sae)
        if target == "codes":
            return pair_cosines(columns, place[first], place[second])
        return pair_dots(columns, place[first], place[second]) / columns.shape[1]

    def _weight(self, x: Tensor, terms: LossTerms, value: float) -> float:
        options = self.options
        if options.scale == "absolute":
            return options.weight
        return options.weight * self.scale.update(_reconstruction_loss(x, terms), value)

    def memory_estimate(self, *, d_sae: int, d_in: int) -> PairMemory:
        """Bytes the term takes beside the base trainer (for a target of codes, the [u, n] codes of its latents too)."""
        options = self.options
        return memory_estimate(
            n_tokens=options.sample_tokens,
            per_token=options.per_token,
            d_sae=d_sae,
            d_in=d_in,
            max_pairs=options.max_pairs,
            capacity=(options.capacity or 4 * options.max_pairs) if options.memory else 0,
        )

    def state_dict(self) -> dict[str, Any]:
        own = {"scale": self.scale.state_dict(), "table": self.table.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.scale.load_state_dict(state["scale"])
        self.table.load_state_dict(state["table"])


@torch.no_grad()
def weighted_pairs(found: PairStatistics, options: SparsityGuidedOptions) -> tuple[Tensor, Tensor]:
    """Positions [p] of the pairs that have part, and their weights w [p] > 0."""
    c = competition(found, options.competition, shrink=options.shrink)
    top = options.threshold_kind == "top"
    at = select_pairs(
        c,
        found,
        fraction=options.threshold if top else 1.0,
        of="observed",
        minimum=0.0 if top else options.threshold,
        maximum=math.inf,
        min_count=options.min_count,
        max_pairs=options.max_pairs,
    )
    w = c[at]
    return at, (w - options.threshold if options.threshold_kind == "relu" else w)


def _reconstruction_loss(x: Tensor, terms: LossTerms) -> float:
    """Mean over tokens of ||x - x̂||²."""
    if "sse" in terms.values:
        return float(terms.values["sse"].detach())
    return float((x - terms.reconstruction.detach()).square().sum(-1).mean())
