"""Competition among latents: its graph, how it relates to directions, and what of it is chance. Pure functions that
give named series, ready to be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness import RaggedCodes
from harness.training.code_distance import n_tokens, ragged
from harness.training.pair_penalties import pair_cosines
from harness.training.pairs import Codes, PairStatistics, competition, pair_statistics


class Edges(NamedTuple):
    """Pairs above a threshold: [p] each."""

    first: Tensor
    second: Tensor
    c: Tensor


def edges(
    found: PairStatistics,
    *,
    kind: str = "ochiai",
    threshold: float = 0.1,
    min_count: float = 1.0,
    shrink: float = 10.0,
) -> Edges:
    """The pairs of c > threshold that fired together on `min_count` tokens or more."""
    c = competition(found, kind, shrink=shrink)
    at = ((c > threshold) & (found.count >= min_count)).nonzero().squeeze(1)
    return Edges(found.first[at], found.second[at], c[at])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompetitionGraph:
    """The graph whose edges are competing pairs."""

    degree: Tensor
    """[d_sae] int64: competitors of each latent."""
    strength: Tensor
    """[d_sae]: the sum of their c."""
    weight_edges: Tensor
    """[bins + 1] of the histogram of c over [0, 1]."""
    weight_counts: Tensor
    """[bins]: edges in each."""
    community: Tensor
    """[d_sae] int64: numbered by size, the largest 0; -1 for latents without competitors."""
    modularity: float
    """Of the communities; NaN where there is no edge."""
    total: float
    """The sum of c, which the normalisation `by_c` divides out."""


def competition_graph(found: PairStatistics, chosen: Edges, *, bins: int = 20, seed: int = 0) -> CompetitionGraph:
    """Degrees, weights and communities (Louvain, arXiv:0803.0476) of the chosen edges."""
    d_sae = len(found.fires)
    ends = torch.cat([chosen.first, chosen.second])
    community, modularity = _communities(chosen, d_sae, seed)
    return CompetitionGraph(
        degree=torch.bincount(ends, minlength=d_sae),
        strength=torch.zeros(d_sae, dtype=chosen.c.dtype).index_add(0, ends, chosen.c.repeat(2)),
        weight_edges=torch.linspace(0, 1, bins + 1),
        weight_counts=torch.histc(chosen.c.clamp(0, 1), bins, 0.0, 1.0),
        community=community,
        modularity=modularity,
        total=float(chosen.c.sum()),
    )


def _communities(chosen: Edges, d_sae: int, seed: int) -> tuple[Tensor, float]:
    import networkx

    labels = torch.full((d_sae,), -1, dtype=torch.int64)
    if len(chosen.c) == 0:
        return labels, math.nan
    graph = networkx.Graph()
    graph.add_weighted_edges_from(zip(*(values.tolist() for values in chosen), strict=True))
    groups = networkx.community.louvain_communities(graph, seed=seed)
    for number, members in enumerate(sorted(groups, key=lambda group: (-len(group), min(group)))):
        labels[torch.tensor(sorted(members))] = number
    return labels, float(networkx.community.modularity(graph, groups))


class Competitor(NamedTuple):
    """One competitor of a latent."""

    latent: int
    c: float
    tokens: tuple[int, ...]
    """Tokens on which both fire, those of the largest product of codes first."""


def top_competitors(
    chosen: Edges, codes: Codes, latents: Sequence[int], *, n: int = 20, n_tokens_shown: int = 5
) -> dict[int, list[Competitor]]:
    """The `n` strongest competitors of each of these latents, with the numbers of tokens on which both fire."""
    columns = _columns(codes)
    table: dict[int, list[Competitor]] = {}
    for latent in latents:
        at = ((chosen.first == latent) | (chosen.second == latent)).nonzero().squeeze(1)
        at = at[chosen.c[at].argsort(descending=True, stable=True)[:n]]
        others = torch.where(chosen.first[at] == latent, chosen.second[at], chosen.first[at])
        table[latent] = [
            Competitor(other, c, _shared_tokens(columns, latent, other, n_tokens_shown))
            for other, c in zip(others.tolist(), chosen.c[at].tolist(), strict=True)
        ]
    return table


def _columns(codes: Codes) -> dict[int, dict[int, float]]:
    """Latent to token to value."""
    slots = _slots(codes)
    columns: dict[int, dict[int, float]] = {}
    for token, latent, value in zip(*(values.tolist() for values in slots), strict=True):
        columns.setdefault(latent, {})[token] = value
    return columns


def _slots(codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
    """Token, latent and value [nnz] of all that is active."""
    if isinstance(codes, Tensor):
        token, latent = (codes > 0).nonzero(as_tuple=True)
        return token, latent, codes[token, latent]
    found = ragged(codes)
    lengths = found.offsets[1:] - found.offsets[:-1]
    token = torch.arange(len(lengths)).repeat_interleave(lengths)
    active = found.values > 0
    return token[active], found.latents[active], found.values[active]


def _shared_tokens(columns: Mapping[int, Mapping[int, float]], a: int, b: int, n: int) -> tuple[int, ...]:
    first, second = columns.get(a, {}), columns.get(b, {})
    shared = sorted(first.keys() & second.keys(), key=lambda token: (-first[token] * second[token], token))
    return tuple(shared[:n])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompetitionAndDirection:
    """Do latents that fire together point the same way?"""

    c: Tensor
    """[p] of the pairs shown, and"""
    cosine: Tensor
    """[p]: the cosine of their decoder rows."""
    spearman: float
    """Rank correlation of c and |cosine| over all pairs given; NaN where one is constant."""
    weighed_cosine: float
    """Mean |cosine|, weighed by c: what the penalty `abs` sees at threshold 0; NaN without pairs."""


def competition_against_cosine(
    chosen: Edges, W_dec: Tensor, *, shown: int = 5000, generator: torch.Generator | None = None
) -> CompetitionAndDirection:
    """c against the cosine of decoder rows W_dec [d_sae, d_in]; at most `shown` pairs, drawn at random, are given
    for a figure."""
    cosine = pair_cosines(W_dec.detach(), chosen.first, chosen.second)
    some = torch.randperm(len(cosine), generator=generator)[:shown].sort().values
    return CompetitionAndDirection(
        c=chosen.c[some],
        cosine=cosine[some],
        spearman=spearman(chosen.c, cosine.abs()) if len(cosine) > 2 else math.nan,
        weighed_cosine=float((chosen.c * cosine.abs()).sum() / chosen.c.sum()) if len(cosine) else math.nan,
    )


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of a [n] and b [n]; equal values share the mean of their ranks. NaN where one is constant."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]


def frequency_null(codes: Codes, d_sae: int, *, per_token: int = 64, generator: torch.Generator) -> PairStatistics:
    """Statistics after the tokens of each latent are drawn anew, independently of all others: competition that
    follows from how often latents fire alone. Tokens then differ in how many latents fire.
    """
    total = len(codes) if isinstance(codes, Tensor) else n_tokens(codes)
    _, latent, value = _slots(codes)
    order = latent.argsort(stable=True)
    latent, value = latent[order], value[order]
    token = torch.cat(
        [
            torch.randperm(total, generator=generator)[:count]
            for count in torch.bincount(latent, minlength=d_sae).tolist()
        ]
    )
    place = (token * d_sae + latent).argsort()
    offsets = torch.zeros(total + 1, dtype=torch.int64)
    offsets[1:] = torch.bincount(token, minlength=total).cumsum(0)
    shuffled = RaggedCodes(latent[place], offsets, value[place])
    return pair_statistics(shuffled, d_sae, n_tokens=total, per_token=per_token)


class ThresholdEffect(NamedTuple):
    """What a threshold leaves."""

    threshold: float
    n_pairs: int
    total: float
    """The sum of c - threshold."""
    mean_degree: float
    share_of_latents: float
    """Share of the latents that fire which have a competitor."""


def threshold_effect(
    found: PairStatistics,
    thresholds: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.4),
    *,
    kind: str = "ochiai",
    min_count: float = 1.0,
    shrink: float = 10.0,
) -> list[ThresholdEffect]:
    """How many pairs each threshold leaves, and how much of c. (Its effect on an SAE needs one trained at each.)"""
    alive = max(1, int((found.fires > 0).sum()))
    table = []
    for threshold in thresholds:
        chosen = edges(found, kind=kind, threshold=threshold, min_count=min_count, shrink=shrink)
        touched = len(torch.cat([chosen.first, chosen.second]).unique())
        table.append(
            ThresholdEffect(
                threshold=threshold,
                n_pairs=len(chosen.c),
                total=float((chosen.c - threshold).sum()),
                mean_degree=2 * len(chosen.c) / alive,
                share_of_latents=touched / alive,
            )
        )
    return table
