"""What the selection and the decoder look like: pure functions that give named series, ready to be drawn.

Selections are sets of keys i · d_sae + j, as `PairStatistics.keys` has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import DataError
from harness.training.code_distance import n_tokens as token_count
from harness.training.code_distance import select_tokens
from harness.training.pairs import Codes, PairStatistics, pair_statistics

_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionStability:
    """How far the pairs selected from one batch are those selected from another."""

    lags: tuple[int, ...]
    jaccard: tuple[float, ...]
    """Mean |A ∩ B| / |A ∪ B| of selections so many batches apart."""
    rank_correlation: tuple[float, ...]
    """Mean Spearman correlation of the scores of pairs observed in both; NaN where fewer than three are."""
    random_jaccard: float
    """Expected of two random selections of this size among the pairs ever observed."""
    halves_jaccard: float
    """Mean between selections from two disjoint halves of one batch: what sampling alone leaves, with half the
    tokens. NaN where halves were not given."""
    survival: tuple[float, ...]
    """Share of the first batch's pairs that are selected in every batch up to number 0, 1, 2, ..."""
    half_life: float | None
    """Batches until half of them have dropped out once (the mean over starting batches of `survival`, interpolated);
    None where that is not reached."""
    share_persistent: float
    """Share of the pairs ever selected that are selected in at least half of the batches."""
    sizes: tuple[int, ...]


def selection_stability(
    selections: Sequence[Tensor],
    *,
    observed: Sequence[PairStatistics],
    scores: Sequence[Tensor],
    halves: Sequence[tuple[Tensor, Tensor]] = (),
    lags: Sequence[int] = (1, 10, 100),
) -> SelectionStability:
    """Stability of the selections of consecutive batches of one SAE.

    Args:
        selections: keys [p] of the pairs selected from each batch, distinct.
        observed: each batch's statistics, and
        scores: the correlation [P] of each of their pairs.
        halves: selections from the two halves of some batches.
        lags: those that the batches allow are used.

    Raises:
        DataError: there are fewer than two batches.
    """
    n = len(selections)
    if n < 2:
        raise DataError(f"Stability needs the selections of two batches or more, got {n}.")
    sets = [set(keys.tolist()) for keys in selections]
    lags = tuple(lag for lag in lags if lag < n)
    pool = len(set().union(*(set(found.keys.tolist()) for found in observed)))
    survival = _survival(sets)
    counts: dict[int, int] = {}
    for one in sets:
        for key in one:
            counts[key] = counts.get(key, 0) + 1
    mean_size = sum(map(len, sets)) / n
    return SelectionStability(
        lags=lags,
        jaccard=tuple(_mean([jaccard(sets[t], sets[t + lag]) for t in range(n - lag)]) for lag in lags),
        rank_correlation=tuple(
            _mean([_rank_correlation(observed, scores, t, t + lag) for t in range(n - lag)]) for lag in lags
        ),
        random_jaccard=expected_random_jaccard(mean_size, pool),
        halves_jaccard=_mean([jaccard(set(a.tolist()), set(b.tolist())) for a, b in halves]),
        survival=survival,
        half_life=_half_life(survival),
        share_persistent=sum(count >= n / 2 for count in counts.values()) / max(1, len(counts)),
        sizes=tuple(map(len, sets)),
    )


def collect_selections(
    batches: Sequence[Codes],
    d_sae: int,
    *,
    score: Callable[[PairStatistics], Tensor],
    select: Callable[[Tensor, PairStatistics], Tensor],
    n_tokens: int = 256,
    per_token: int = 64,
    generator: torch.Generator,
) -> dict[str, list]:
    """The arguments of `selection_stability` (`selections`, `observed`, `scores`, `halves`) from the codes of batches.

    `score` gives the correlation of each pair, `select(scores, statistics)` positions, as in training. The halves of a
    batch are its first and its second tokens.
    """
    found: dict[str, list] = {"selections": [], "observed": [], "scores": [], "halves": []}

    def chosen(codes: Codes) -> tuple[PairStatistics, Tensor, Tensor]:
        statistics = pair_statistics(codes, d_sae, n_tokens=n_tokens, per_token=per_token, generator=generator)
        scores = score(statistics)
        return statistics, scores, statistics.keys[select(scores, statistics)]

    for codes in batches:
        statistics, scores, keys = chosen(codes)
        found["observed"].append(statistics)
        found["scores"].append(scores)
        found["selections"].append(keys)
        found["halves"].append(tuple(chosen(half)[2] for half in _halves(codes)))
    return found


def _halves(codes: Codes) -> tuple[Codes, Codes]:
    n = len(codes) if isinstance(codes, Tensor) else token_count(codes)
    device = codes.device if isinstance(codes, Tensor) else codes.values.device
    first = torch.arange(n, device=device) < n // 2
    if isinstance(codes, Tensor):
        return codes[first], codes[~first]
    return select_tokens(codes, first), select_tokens(codes, ~first)


def jaccard(a: set[int], b: set[int]) -> float:
    """|A ∩ B| / |A ∪ B|; NaN where both are empty."""
    return len(a & b) / len(a | b) if a or b else math.nan


def expected_random_jaccard(size: float, pool: int) -> float:
    """Of two random selections of `size` pairs among `pool`: s² / pool shared, to first order."""
    if pool == 0 or size == 0:
        return math.nan
    shared = size * size / pool
    return shared / (2 * size - shared)


def _survival(sets: Sequence[set[int]]) -> tuple[float, ...]:
    """Mean over starting batches of the share still selected in all batches until so many later."""
    length = len(sets)
    totals, counts = [0.0] * length, [0] * length
    for start, first in enumerate(sets):
        alive = set(first)
        if not first:
            continue
        for later, one in enumerate(sets[start:]):
            alive &= one
            totals[later] += len(alive) / len(first)
            counts[later] += 1
    return tuple(t / c for t, c in zip(totals, counts, strict=True) if c)


def _half_life(survival: Sequence[float]) -> float | None:
    for step in range(1, len(survival)):
        before, after = survival[step - 1], survival[step]
        if after <= 0.5:
            return step - 1 + (before - 0.5) / max(before - after, 1e-12)
    return None


def _rank_correlation(observed: Sequence[PairStatistics], scores: Sequence[Tensor], a: int, b: int) -> float:
    shared, counts = torch.cat([observed[a].keys, observed[b].keys]).unique(return_counts=True)
    shared = shared[counts == 2]
    if len(shared) < 3:
        return math.nan
    return spearman(
        scores[a][torch.searchsorted(observed[a].keys, shared)], scores[b][torch.searchsorted(observed[b].keys, shared)]
    )


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of a [n] and b [n]; equal values share the mean of their ranks. NaN where one is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineDistribution:
    """Cosines of different decoder rows."""

    max_per_row: Tensor
    """[m]: each row's largest |cosine| to another."""
    mean_per_row: Tensor
    """[m]: each row's mean |cosine| to the others."""
    mean_abs: float
    """Mean |cosine| over all pairs."""
    quantile_999: float
    """99.9th percentile of |cosine|, from the histogram (error at most a bin)."""
    edges: Tensor
    """[bins + 1] of the histogram over [-1, 1]."""
    counts: Tensor
    """[bins]: pairs in each."""


@torch.no_grad()
def decoder_cosines(W_dec: Tensor, *, bins: int = 2000) -> CosineDistribution:
    """Of the rows of W_dec [m, d], in blocks: no [m, m] matrix is held. Before and after training, and of a random
    decoder of the same shape, for comparison.

    Raises:
        DataError: there are fewer than two rows.
    """
    m = len(W_dec)
    if m < 2:
        raise DataError(f"Cosines between rows need two rows or more, got {m}.")
    unit = F.normalize(W_dec.float(), dim=1).cpu()
    counts = torch.zeros(bins, dtype=torch.float64)
    largest, mean = torch.empty(m), torch.empty(m, dtype=torch.float64)
    for start in range(0, m, _BLOCK):
        cosines = (unit[start : start + _BLOCK] @ unit.t()).clamp_(-1, 1)
        own = torch.arange(len(cosines))
        cosines[own, own + start] = 0.0
        largest[start : start + _BLOCK] = cosines.abs().amax(1)
        mean[start : start + _BLOCK] = cosines.abs().sum(1, dtype=torch.float64) / (m - 1)
        counts += torch.histc(cosines, bins, -1.0, 1.0).double()
        counts[torch.histc(torch.zeros(1), bins, -1.0, 1.0).bool()] -= len(own)
    absolute = counts[: bins // 2].flip(0) + counts[bins // 2 :]
    share = absolute.cumsum(0) / absolute.sum()
    place = int((share < 0.999).sum())
    return CosineDistribution(
        max_per_row=largest,
        mean_per_row=mean,
        mean_abs=float(mean.mean()),
        quantile_999=min(1.0, (place + 1) * 2 / bins),
        edges=torch.linspace(-1, 1, bins + 1),
        counts=(counts / 2).round(),
    )


def cosines_before_and_after(states: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Of named decoders ("random", "before", "off", "on"): mean and 99.9th percentile of |cosine|, mean and largest of
    the rows' largest."""
    table = {}
    for name, W_dec in states.items():
        found = decoder_cosines(W_dec)
        table[name] = {
            "mean_abs": found.mean_abs,
            "quantile_999": found.quantile_999,
            "mean_max": float(found.max_per_row.mean()),
            "max": float(found.max_per_row.max()),
        }
    return table


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan
