"""Which latents fire together, from the active latents alone.

A dense definition needs a few [d_sae, d_sae] matrices (17 GB each at 65,536 latents). Here some tokens of a batch are
sampled, the pairs of latents active on each are listed as keys i · d_sae + j with i < j, and sorting the keys gives
how often each pair fires together and the dot product of its codes: exactly the dense numbers on those tokens.

    found = pair_statistics(terms.codes, d_sae, generator=state.generator)
    chosen = select_pairs(correlation(found, "cos"), found, fraction=0.01, of="observed")
    cosines = pair_cosines(sae.W_dec, found.first[chosen], found.second[chosen])  # of pair_penalties

Statistics carry no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..interfaces.codes import take, token_of_slot
from ..interfaces.sae import RaggedCodes, SparseCodes
from .pair_penalties import pair_cosines
from .sparse_ops import SlotsByColumn, top_k

Codes = SparseCodes | RaggedCodes | Tensor

CORRELATIONS = ("cos", "phi", "jaccard", "dot", "cos_times_dec")
COMPETITIONS = ("min", "jaccard", "ochiai", "lift", "shrunk")

_CHUNK_BYTES = 1 << 24
"""Bound of what is listed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatistics:
    """What is known of the pairs of latents that fired together on some tokens. Counts are floats: in a `PairTable`
    old tokens count less than one."""

    keys: Tensor
    """[P] int64, ascending: i · d_sae + j with i < j."""
    count: Tensor
    """[P]: n_ij, tokens on which both fire."""
    dot: Tensor
    """[P]: v_ij, sum over tokens of f_i f_j."""
    fires: Tensor
    """[d_sae]: n_i, tokens on which a latent fires."""
    squares: Tensor
    """[d_sae]: v_ii, sum over tokens of f_i²."""
    n_tokens: float

    @property
    def first(self) -> Tensor:
        """[P] int64: i."""
        return self.keys // len(self.fires)

    @property
    def second(self) -> Tensor:
        """[P] int64: j > i."""
        return self.keys % len(self.fires)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> PairStatistics:
        """The same on a device; itself where it lies there."""
        if self.keys.device == device:
            return self
        moved = {name: getattr(self, name).to(device) for name in ("keys", "count", "dot", "fires", "squares")}
        return PairStatistics(**moved, n_tokens=self.n_tokens)

    def at(self, positions: Tensor) -> PairStatistics:
        """Of these pairs alone, [p] int64 ascending; what is known of single latents stays."""
        return PairStatistics(
            keys=self.keys[positions],
            count=self.count[positions],
            dot=self.dot[positions],
            fires=self.fires,
            squares=self.squares,
            n_tokens=self.n_tokens,
        )


@torch.no_grad()
def pair_statistics(
    codes: Codes,
    d_sae: int,
    *,
    n_tokens: int = 256,
    per_token: int = 64,
    generator: torch.Generator | None = None,
) -> PairStatistics:
    """Statistics of the pairs that fire together on `n_tokens` tokens of the codes.

    Args:
        codes: of n tokens in any form; values <= 0 are not active.
        d_sae: number of latents.
        n_tokens: tokens sampled without repetition; all where there are no more (nothing is drawn then).
        per_token: only so many of a token's latents, its largest, are looked at: for pairs and for single latents
            alike, so that a correlation never exceeds 1.
        generator: where the sample is drawn from; the first tokens where None.

    Raises:
        ShapeError: `n_tokens` is below 1 or `per_token` below 2.
    """
    if n_tokens < 1 or per_token < 2:
        raise ShapeError(f"Pairs need n_tokens >= 1 and per_token >= 2, got {n_tokens} and {per_token}.")
    latents, values = _strongest(_sampled(codes, n_tokens, generator), d_sae, per_token)
    active = latents < d_sae
    singles = latents[active].long()
    squares = SlotsByColumn(singles, 1, d_sae).totals(values[active].square())
    keys, products = _listed(latents, values, d_sae)
    keys, order, count = _grouped(keys)
    return PairStatistics(
        keys=keys.long(),
        count=count.to(values.dtype),
        dot=_totals(products, order, count),
        fires=torch.bincount(singles, minlength=d_sae).to(values.dtype),
        squares=squares,
        n_tokens=float(len(latents)),
    )


def _sampled(codes: Codes, n_tokens: int, generator: torch.Generator | None) -> Codes:
    if isinstance(codes, RaggedCodes):
        n, device = len(codes.offsets) - 1, codes.offsets.device
    else:
        table = codes if isinstance(codes, Tensor) else codes.values
        n, device = table.shape[0], table.device
    if n <= n_tokens:
        return codes
    rows = torch.arange(n_tokens) if generator is None else torch.randperm(n, generator=generator)[:n_tokens]
    rows = rows.to(device)
    if isinstance(codes, RaggedCodes):
        return take(codes, rows)
    return codes[rows] if isinstance(codes, Tensor) else SparseCodes(codes.indices[rows], codes.values[rows])


def _strongest(codes: Codes, d_sae: int, per_token: int) -> tuple[Tensor, Tensor]:
    """Latents [m, w] ascending in each row and their values > 0; unused places hold the latent d_sae, last."""
    if isinstance(codes, Tensor):
        values, latents = top_k(codes.float().contiguous(), min(per_token, codes.shape[1]))
    elif isinstance(codes, SparseCodes):
        latents, values = codes.indices, codes.values.float()
    else:
        lengths = codes.offsets[1:] - codes.offsets[:-1]
        token = token_of_slot(codes)
        width = int(lengths.max()) if len(lengths) else 0
        cell = token * width + torch.arange(len(token), device=token.device) - codes.offsets[token]
        values = codes.values.new_zeros(len(lengths) * width, dtype=torch.float32)
        latents = torch.zeros_like(values, dtype=torch.int64)
        values[cell], latents[cell] = codes.values.float(), codes.latents
        values, latents = values.view(len(lengths), width), latents.view(len(lengths), width)
    if values.shape[1] > per_token:
        values, places = top_k(values, per_token)
        latents = latents.gather(1, places)
    # Half the bytes sort in half the time; keys reach d_sae².
    latents = latents.masked_fill(values <= 0, d_sae).to(torch.int32 if d_sae * d_sae < 2**31 else torch.int64)
    latents, order = latents.sort(dim=1)
    width = int((latents < d_sae).sum(1).max()) if latents.numel() else 0
    return latents[:, :width], values.gather(1, order)[:, :width]


def _listed(latents: Tensor, values: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Keys and products of codes of all pairs of each token, [N] each."""
    width = latents.shape[1]
    r, s = torch.triu_indices(width, width, 1, device=latents.device)
    rows = max(1, _CHUNK_BYTES // (8 * max(1, len(r))))
    keys, products = [latents.new_empty(0)], [values.new_empty(0)]
    for ids, sizes in zip(latents.split(rows), values.split(rows), strict=True):
        later = ids[:, s]
        both = later < d_sae  # rows ascend: where the later one is in use, so is the earlier
        keys.append(torch.masked_select(ids[:, r].mul_(d_sae).add_(later), both))
        products.append(torch.masked_select(sizes[:, r].mul_(sizes[:, s]), both))
    return torch.cat(keys), torch.cat(products)


def _grouped(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct keys, ascending; the order that sorts the keys; and how often each occurs."""
    keys, order = torch.sort(keys, stable=True)
    keys, lengths = torch.unique_consecutive(keys, return_counts=True)
    return keys, order, lengths


def _totals(values: Tensor, order: Tensor, lengths: Tensor) -> Tensor:
    """Sums of the values of each key, in a fixed order: equal inputs give equal bits."""
    if len(values) == 0:
        return values
    return torch.segment_reduce(values[order], "sum", lengths=lengths, initial=0.0)


def correlation(found: PairStatistics, kind: str, W_dec: Tensor | None = None) -> Tensor:
    """[P]: how strongly two latents go together.

    cos: v_ij / sqrt(v_ii v_jj) · phi: Pearson correlation of firing, 0 where a latent always fires · jaccard:
    n_ij / (n_i + n_j - n_ij) · dot: v_ij / tokens · cos_times_dec: cos · |cosine of the rows of W_dec|.
    """
    i, j = found.first, found.second
    if kind == "jaccard":
        return found.count / (found.fires[i] + found.fires[j] - found.count)
    if kind == "phi":
        n = found.n_tokens
        spread = (found.fires * (n - found.fires)).clamp_min(0).sqrt()
        product = spread[i] * spread[j]
        return torch.where(
            product > 0, (n * found.count - found.fires[i] * found.fires[j]) / product, torch.zeros_like(product)
        )
    if kind == "dot":
        return found.dot / max(found.n_tokens, 1e-12)
    if kind not in CORRELATIONS:
        raise ConfigError(f"Unknown correlation {kind!r}; allowed are {', '.join(CORRELATIONS)}.")
    norm = found.squares.sqrt()
    cosine = found.dot / (norm[i] * norm[j]).clamp_min(1e-30)
    if kind == "cos":
        return cosine
    if W_dec is None:
        raise ConfigError("The correlation cos_times_dec needs W_dec.")
    return cosine * pair_cosines(W_dec.detach(), i, j).abs()


def competition(found: PairStatistics, kind: str, *, shrink: float = 10.0) -> Tensor:
    """[P] in [0, 1]: what share of their firings two latents have in common.

    min: n_ij / min(n_i, n_j) · jaccard: n_ij / (n_i + n_j - n_ij) · ochiai: n_ij / sqrt(n_i n_j) · lift: n_ij · tokens
    / (n_i n_j) - 1, clipped to [0, 1] · shrunk: n_ij / (min(n_i, n_j) + shrink), so that a latent seen once does not
    get 1.
    """
    a, b = found.fires[found.first], found.fires[found.second]
    if kind == "min":
        return found.count / torch.minimum(a, b)
    if kind == "jaccard":
        return found.count / (a + b - found.count)
    if kind == "ochiai":
        return found.count / (a * b).sqrt()
    if kind == "lift":
        return (found.count * found.n_tokens / (a * b) - 1).clamp(0, 1)
    if kind == "shrunk":
        return found.count / (torch.minimum(a, b) + shrink)
    raise ConfigError(f"Unknown competition coefficient {kind!r}; allowed are {', '.join(COMPETITIONS)}.")


class PairTable:
    """A moving average of pair statistics, of bounded size.

    Sums are discounted: S <- decay · S + new, for pairs, latents and tokens alike. Every ratio of them is then that of
    bias-corrected exponential averages, and counts stay counts: of 1 / (1 - decay) batches in the long run. Above
    `capacity` pairs those of lowest priority are forgotten; one that returns starts anew.
    """

    def __init__(self, *, decay: float, capacity: int) -> None:
        self.decay, self.capacity = decay, capacity
        self.held: PairStatistics | None = None

    def update(self, new: PairStatistics, priority: Callable[[PairStatistics], Tensor]) -> PairStatistics:
        """Take in a batch's statistics; those held afterwards. `priority` gives [P], the largest is kept longest."""
        if self.decay == 0.0:
            return new
        if self.held is None:
            merged = new
        else:
            old, rho = self.held.to(new.keys.device), self.decay
            keys, order, lengths = _grouped(torch.cat([old.keys, new.keys]))
            merged = PairStatistics(
                keys=keys,
                count=_totals(torch.cat([old.count * rho, new.count]), order, lengths),
                dot=_totals(torch.cat([old.dot * rho, new.dot]), order, lengths),
                fires=old.fires * rho + new.fires,
                squares=old.squares * rho + new.squares,
                n_tokens=old.n_tokens * rho + new.n_tokens,
            )
        if len(merged) > self.capacity:
            merged = merged.at(_largest(priority(merged), self.capacity))
        self.held = merged
        return merged

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        held = self.held
        if held is None:
            return {}
        tensors = {name: getattr(held, name) for name in ("keys", "count", "dot", "fires", "squares")}
        return {**tensors, "n_tokens": held.n_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.held = PairStatistics(**state) if state else None


@torch.no_grad()
def select_pairs(
    scores: Tensor,
    found: PairStatistics,
    *,
    fraction: float,
    of: str = "observed",
    minimum: float = -math.inf,
    maximum: float = math.inf,
    quantiles: tuple[float, float] = (0.0, 1.0),
    min_count: float = 1.0,
    max_pairs: int = 65_536,
) -> Tensor:
    """Positions [p] int64, ascending, of the chosen pairs among scores [P].

    Kept are pairs seen at least `min_count` times with minimum < score < maximum, of these the scores between the two
    quantiles, of these the ceil(fraction · N) largest and at most `max_pairs`. N is the number of pairs of d_sae
    latents (of="all") or of those seen at least `min_count` times (of="observed"). Ties go to the smaller key.
    """
    if of not in ("all", "observed"):
        raise ConfigError(f"A share of pairs is of 'all' or of 'observed' ones, got {of!r}.")
    seen = found.count >= min_count
    kept = (seen & (scores > minimum) & (scores < maximum)).nonzero().squeeze(1)
    low, high = quantiles
    if len(kept) and (low, high) != (0.0, 1.0):
        rank = torch.sort(torch.sort(scores[kept], stable=True).indices).indices
        # By rank, not by value: torch.quantile refuses more than 16 million, and ties would fall on one side.
        kept = kept[(rank >= math.floor(low * len(kept))) & (rank < math.ceil(high * len(kept)))]
    d_sae = len(found.fires)
    total = d_sae * (d_sae - 1) // 2 if of == "all" else int(seen.sum())
    n = min(math.ceil(fraction * total), max_pairs, len(kept))
    return kept if n == len(kept) else kept[_largest(scores[kept], n)]


def _largest(scores: Tensor, n: int) -> Tensor:
    """Positions [n], ascending, of the n largest; of equal ones at the edge the first."""
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    edge = scores.topk(n, sorted=False).values.min()
    above = (scores > edge).nonzero().squeeze(1)
    level = (scores == edge).nonzero().squeeze(1)
    return torch.cat([above, level[: n - len(above)]]).sort().values


def random_pairs(n: int, among: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n distinct pairs (first, second), drawn evenly from those of the latents `among` [m]: the control of any
    selection.

    Raises:
        ShapeError: so many pairs do not exist.
    """
    m = len(among)
    if n > m * (m - 1) // 2:
        raise ShapeError(f"{m} latents have {m * (m - 1) // 2} pairs, {n} were asked for.")
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < n:
        a, b = torch.randint(m, (2, 2 * n + 8), generator=generator)
        new = torch.minimum(a, b) * m + torch.maximum(a, b)
        drawn = torch.cat([drawn, new[a != b]]).unique()
    drawn = drawn[torch.randperm(len(drawn), generator=generator)[:n]].to(among.device)
    return among[drawn // m], among[drawn % m]
