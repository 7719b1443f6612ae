"""The trainer `topk_orthogonality`: a base trainer's loss and a penalty on the cosines of chosen pairs of latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness import SAE, ActivationBatch, LossTerms, Trainer, TrainState
from harness.training.pair_penalties import PairMemory, code_columns, memory_estimate, pair_cosines, penalty
from harness.training.pairs import (
    Codes,
    PairStatistics,
    PairTable,
    correlation,
    pair_statistics,
    random_pairs,
    select_pairs,
)
from harness.training.relative_scale import RelativeScale

from .all_pairs import nearest_in_chunks, whole_gram
from .clusters import clusters
from .options import TopKOrthogonalityOptions

SCALE_FLOOR = 1e-4
"""Least value of the term taken as reference: a cosine of .01, squared. A hinge that is all but 0 at first would
otherwise get a weight without bound."""


class Chosen(NamedTuple):
    """Pairs to penalise: [p] each."""

    first: Tensor
    second: Tensor
    weight: Tensor
    """Of each pair in the term."""


class TopKOrthogonalityTrainer(Trainer):
    """The base's loss + weight · scale · sum over chosen pairs of w g(cos(d_i, d_j)) / sum of w.

    Pairs are chosen by the correlation of their codes, without gradient; the penalty moves the rows of the chosen
    pairs of `target` alone. Where no pair is chosen the term is 0. The log tells how many were.
    """

    options_type = TopKOrthogonalityOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._restart()

    def _restart(self) -> None:
        options = self.options
        self.scale = RelativeScale(SCALE_FLOOR)
        self.table = PairTable(decay=options.memory, capacity=options.capacity or 4 * options.max_pairs)
        self.labels: Tensor | None = None
        self.clustered_at = 0
        self.told: dict[str, float] = {}
        """Of the last step: pairs observed and selected; their mean |cosine| in the target; the
        smallest correlation selected; clusters; the weight."""

    def initialise(self, sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        self._restart()
        super().initialise(sae, sample, target_l0, generator)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        assert self.base is not None, "the spec says `extends`"
        terms = self.base.loss(sae, batch, state)
        if self.options.weight == 0.0 or state.step % self.options.every:
            return terms
        value, told = self._term(sae, terms.codes, state)
        weight = self._weight(batch.activations, terms, float(value.detach()))
        self.told = {**told, "weight": weight}
        return terms.plus("orthogonality", value, weight)

    def diagnostics(self) -> Mapping[str, float]:
        assert self.base is not None, "the spec says `extends`"
        return {**self.base.diagnostics(), **self.told}

    def _term(self, sae: Any, codes: Codes, state: TrainState) -> tuple[Tensor, dict[str, float]]:
        """The penalty, and what the log is to keep of it."""
        options = self.options
        if options.pairs == "chunked":
            return nearest_in_chunks(
                self._rows(sae), chunk=options.chunk, kind=options.penalty, margin=options.margin,
                generator=state.generator,
            ), {}  # fmt: skip
        if options.pairs == "gram":
            return whole_gram(self._rows(sae), kind=options.penalty, margin=options.margin), {}
        found, scores = self._statistics(sae, codes, state.generator)
        groups = self._groups(found, scores, state)
        total, shares, told = sae.W_dec.new_zeros(()), 0.0, {"observed": float(len(found)), "selected": 0.0}
        for positions, share in groups:
            part, part_scores = (found, scores) if positions is None else (found.at(positions), scores[positions])
            chosen = self._choose(part, part_scores, state.generator)
            told["selected"] += len(chosen.first)
            if len(chosen.first):
                cosines = self._cosines(sae, codes, chosen)
                terms = penalty(cosines, options.penalty, margin=options.margin)
                total = total + share * (terms * chosen.weight).sum() / chosen.weight.sum().clamp_min(1e-12)
                told["mean_cosine"] = float(cosines.detach().abs().mean())
            shares += share
        if self.labels is not None:
            told["clusters"] = float(self.labels.max() + 1)
        return total / shares, told

    def _statistics(self, sae: Any, codes: Codes, generator: torch.Generator) -> tuple[PairStatistics, Tensor]:
        """Statistics of the batch, or of the table with it, and the correlation of each pair."""
        options = self.options
        new = pair_statistics(
            _detached(codes), sae.config.d_sae, n_tokens=options.sample_tokens, per_token=options.per_token,
            generator=generator,
        )  # fmt: skip

        def priority(found: PairStatistics) -> Tensor:
            # What may be selected before what has been seen too seldom; of these, what has been seen most.
            scores = correlation(found, options.correlation, sae.W_dec).clamp(-1, 1)
            return torch.where(found.count >= options.min_count, 3 + scores, found.count / options.min_count)

        found = self.table.update(new, priority)
        scores = correlation(found, options.correlation, sae.W_dec)
        return found, scores / found.n_tokens if options.divide_by_tokens else scores

    def _groups(
        self, found: PairStatistics, scores: Tensor, state: TrainState
    ) -> list[tuple[Tensor | None, float]]:  # fmt: skip
        """Positions of the pairs of each group (None for all of them) and the group's share in the term."""
        options = self.options
        if options.clusters == "none":
            return [(None, 1.0)]
        if self.labels is None or state.step - self.clustered_at >= options.cluster_every:
            self.clustered_at = state.step
            seed = int(torch.randint(2**31, (), generator=state.generator))
            seen = torch.where(found.count >= options.min_count, scores, torch.zeros_like(scores))
            self.labels = clusters(
                found, seen, method=options.clusters, n_edges=options.cluster_edges, seed=seed
            )  # fmt: skip
        labels = self.labels.to(found.keys.device)
        a, b = labels[found.first], labels[found.second]
        both = (a >= 0) & (b >= 0)
        groups = [(both & (a == b), options.within_weight), (both & (a != b), options.between_weight)]
        return [(mask.nonzero().squeeze(1), share) for mask, share in groups if share > 0]

    def _choose(self, found: PairStatistics, scores: Tensor, generator: torch.Generator) -> Chosen:
        options = self.options
        at = select_pairs(
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
        weight = (1 + scores[at]).clamp_min(0) if options.adaptive else torch.ones_like(scores[at])
        if options.pairs == "random":
            return Chosen(*random_pairs(len(at), (found.fires > 0).nonzero().squeeze(1), generator), weight)
        return Chosen(found.first[at], found.second[at], weight)

    def _rows(self, sae: Any) -> Tensor:
        return sae.W_enc.t() if self.options.target == "encoder" else sae.W_dec

    def _cosines(self, sae: Any, codes: Codes, chosen: Chosen) -> Tensor:
        if self.options.target != "codes":
            return pair_cosines(self._rows(sae), chosen.first, chosen.second)
        latents = torch.cat([chosen.first, chosen.second]).unique()
        columns, place = code_columns(codes, latents, sae.config.d_sae)
        return pair_cosines(columns, place[chosen.first], place[chosen.second])

    def _weight(self, x: Tensor, terms: LossTerms, value: float) -> float:
        options = self.options
        if options.scale == "absolute":
            return options.weight
        return options.weight * self.scale.update(_reconstruction_loss(x, terms), value)

    def memory_estimate(self, *, d_sae: int, d_in: int) -> PairMemory:
        """Bytes the term takes beside the base trainer (for target=codes, the [u, n] codes of chosen latents too)."""
        options = self.options
        capacity = (options.capacity or 4 * options.max_pairs) if options.memory else 0
        return memory_estimate(
            n_tokens=options.sample_tokens, per_token=options.per_token, d_sae=d_sae, d_in=d_in,
            max_pairs=options.max_pairs, capacity=capacity,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        labels = {} if self.labels is None else {"labels": self.labels, "clustered_at": self.clustered_at}
        own = {"scale": self.scale.state_dict(), "table": self.table.state_dict(), **labels}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.scale.load_state_dict(state["scale"])
        self.table.load_state_dict(state["table"])
        self.labels, self.clustered_at = state.get("labels"), int(state.get("clustered_at", 0))


def _detached(codes: Codes) -> Codes:
    return codes.detach() if isinstance(codes, Tensor) else codes._replace(values=codes.values.detach())


def _reconstruction_loss(x: Tensor, terms: LossTerms) -> float:
    """Mean over tokens of ||x - x̂||²."""
    if "sse" in terms.values:
        return float(terms.values["sse"].detach())
    return float((x - terms.reconstruction.detach()).square().sum(-1).mean())
