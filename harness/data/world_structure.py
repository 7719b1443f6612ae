"""What is fixed in a synthetic world before a token is drawn: rates, trees, what is drawn together, what lasts.

Firing follows SynthSAEBench (arXiv:2602.14687): Zipf rates, a forest of which at most one child of a parent fires, and
a Gaussian copula of low rank. Two things are done otherwise, so that every rate is what it is said to be and not merely
near it. The children of a parent that exclude each other are one draw with several outcomes, not several draws of
which all but one are dropped. And the copula's loadings of the draws along a path of a tree are made orthogonal, so
that a child's draw does not depend on its parent's; draws of different trees correlate as configured.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import WorldConfig
from ..errors import ConfigError

_MOST_SHARED = 0.99
"""Largest share of a draw's variance that the common factors may have."""


def world_generator(config: WorldConfig, *purpose: object) -> torch.Generator:
    """A CPU generator of (seed, purpose), so that no part of a world depends on how another was drawn."""
    text = ":".join(map(str, ("world", config.seed, *purpose)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regime:
    """How the draws come out in documents of one kind."""

    rate: Tensor
    """[n_units, width] float64: the probability of each outcome, given that the parent fires."""
    threshold: Tensor
    """[n_units, width] float32, falling: a normal draw above the first is outcome 0, above the second outcome 1, …"""
    emission: Tensor
    """[n_units] float64: the probability that an outcome shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Structure:
    """The fixed parts of a world. A unit is one draw a token: a feature, or siblings of which one at most fires."""

    parent: Tensor
    """[n_features] int64: -1 for roots and for features outside the trees."""
    level: Tensor
    """[n_features] int64: 0 for roots and for features outside the trees."""
    exclusive: Tensor
    """[n_features] bool: whether the feature's unit is shared with siblings."""
    probability: Tensor
    """[n_features] float64: the share of all tokens on which the feature fires."""
    forget: Tensor
    """[n_features] bool: of a subtree to be forgotten."""
    unit: Tensor
    """[n_features] int64."""
    outcome: Tensor
    """[n_features] int64: which outcome of its unit."""
    members: Tensor
    """[n_units, width] int64: the feature of each outcome; -1 where there is none."""
    stay: Tensor
    """[n_units] float64: the probability that a draw is kept for the next token; 0 where it does not last."""
    loadings: Tensor
    """[n_units, rank] float32."""
    own_std: Tensor
    """[n_units] float32: what makes each draw's variance 1."""
    retain: Regime
    forgetting: Regime
    """In documents of the forget kind."""

    def autocorrelation(self, config: WorldConfig, lag: int = 1) -> Tensor:
        """[n_features] float64: the correlation of a feature's firing with that `lag` >= 1 tokens later, over all
        documents. Along a path of a tree the draws are independent, so the expectations multiply."""
        share = config.forget_share if config.forget_subtrees else 0.0
        joint = torch.zeros_like(self.probability)
        for weight, regime in ((1 - share, self.retain), (share, self.forgetting)):
            shown = regime.emission[self.unit]
            hidden = regime.rate[self.unit, self.outcome] / shown
            pair = shown**2 * hidden * (hidden + (1 - hidden) * self.stay[self.unit] ** lag)
            joint += weight * self.along_path(pair)
        p = self.probability
        return (joint - p**2) / (p * (1 - p))

    def along_path(self, own: Tensor) -> Tensor:
        """[n_features]: the product of `own` over each feature and all above it."""
        product = own.clone()
        for level in range(1, int(self.level.max()) + 1):
            here = (self.level == level).nonzero().squeeze(1)
            product[here] = own[here] * product[self.parent[here]]
        return product


def zipf_rates(config: WorldConfig) -> np.ndarray:
    """[n_features] float64: rank^-exponent, stretched linearly to [p_min, p_max]."""
    if config.n_features == 1:
        return np.array([config.p_max])
    weight = np.arange(1, config.n_features + 1, dtype=np.float64) ** -config.zipf_exponent
    span = (weight - weight[-1]) / (weight[0] - weight[-1])
    return config.p_min + (config.p_max - config.p_min) * span


def build_structure(config: WorldConfig) -> Structure:
    """Everything of a world but its directions and magnitudes.

    Raises:
        ConfigError: fewer trees than asked for can be forgotten.
    """
    parent, level = _forest(config)
    exclusive = _exclusive(config, parent)
    rate, probability = _rates(config, parent, level, exclusive)
    root = _root_of(parent, level)
    forget_roots = _forget_roots(config, parent, probability)
    forget = np.isin(root, forget_roots)
    unit, outcome, members = _units(parent, exclusive)
    rate_of_unit = np.where(members >= 0, rate[np.maximum(members, 0)], 0.0)
    stay = _stay(config, root[members[:, 0]], parent)
    loadings = _loadings(config, parent, unit, members[:, 0])
    in_forget, in_retain = rate_of_unit.copy(), rate_of_unit.copy()
    for feature in forget_roots:
        in_forget[unit[feature]] /= config.forget_share
        in_retain[unit[feature]] = 0.0
    return Structure(
        parent=torch.from_numpy(parent),
        level=torch.from_numpy(level),
        exclusive=torch.from_numpy(exclusive),
        probability=torch.from_numpy(probability),
        forget=torch.from_numpy(forget),
        unit=torch.from_numpy(unit),
        outcome=torch.from_numpy(outcome),
        members=torch.from_numpy(members),
        stay=torch.from_numpy(stay),
        loadings=loadings,
        own_std=(1 - loadings.double().square().sum(1)).clamp_min(0).sqrt().float(),
        retain=_regime(config, in_retain, stay),
        forgetting=_regime(config, in_forget, stay),
    )


def _forest(config: WorldConfig) -> tuple[np.ndarray, np.ndarray]:
    """Parent and level of each feature: trees are filled breadth first, all at once, until the features run out."""
    parent = np.full(config.n_features, -1, dtype=np.int64)
    level = np.zeros(config.n_features, dtype=np.int64)
    above, first = np.arange(config.roots), config.roots
    for depth in range(1, config.depth + 1):
        children = np.arange(first, min(first + len(above) * config.branching, config.n_features))
        parent[children] = above[(children - first) // max(1, config.branching)]
        level[children] = depth
        above, first = children, first + len(children)
    return parent, level


def _exclusive(config: WorldConfig, parent: np.ndarray) -> np.ndarray:
    """[n_features] bool: of the parents with two children or more, a drawn share has children that exclude each
    other."""
    parents, counts = np.unique(parent[parent >= 0], return_counts=True)
    eligible = parents[counts >= 2]
    order = torch.randperm(len(eligible), generator=world_generator(config, "exclusive")).numpy()
    chosen = eligible[order[: int(len(eligible) * config.exclusive_share)]]
    return np.isin(parent, chosen)


def _rates(
    config: WorldConfig, parent: np.ndarray, level: np.ndarray, exclusive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each feature the probability given that its parent fires, and that over all tokens.

    Siblings that exclude each other share at most all of their parent's tokens: where their Zipf rates ask for more,
    all are lowered by one factor. (SynthSAEBench gets there by capping rates at 1 and dropping at random.)
    """
    zipf = zipf_rates(config)
    rate, probability = zipf.copy(), zipf.copy()
    for depth in range(1, int(level.max()) + 1):
        here = np.flatnonzero(level == depth)
        above = probability[parent[here]]
        wanted = zipf[here] / above if config.compensate else zipf[here]
        total = np.zeros(config.n_features)
        np.add.at(total, parent[here], wanted)
        most = np.where(exclusive[here], total[parent[here]], wanted)
        rate[here] = wanted / np.maximum(1.0, most)
        probability[here] = rate[here] * above
    return rate, probability


def _root_of(parent: np.ndarray, level: np.ndarray) -> np.ndarray:
    root = np.arange(len(parent))
    for depth in range(1, int(level.max()) + 1):
        here = np.flatnonzero(level == depth)
        root[here] = root[parent[here]]
    return root


def _forget_roots(config: WorldConfig, parent: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The roots of the trees to be forgotten: such with children, whose rate in forget documents stays below 1."""
    with_children = np.intersect1d(np.arange(config.roots), parent)
    able = with_children[probability[with_children] / config.forget_share < 1]
    if len(able) < config.forget_subtrees:
        raise ConfigError(
            f"World: forget_subtrees is {config.forget_subtrees}, but {len(able)} trees have children and fire rarely "
            f"enough for a forget_share of {config.forget_share}: lower it, p_max, or raise forget_share or roots."
        )
    order = torch.randperm(len(able), generator=world_generator(config, "forget")).numpy()
    return np.sort(able[order[: config.forget_subtrees]])


def _units(parent: np.ndarray, exclusive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit and outcome of each feature, and the features of each unit. Units are in the order of their features."""
    n = len(parent)
    first_sibling: dict[int, int] = {}
    unit, outcome = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    members: list[list[int]] = []
    for feature in range(n):
        above = int(parent[feature])
        if exclusive[feature] and above in first_sibling:
            unit[feature] = first_sibling[above]
            outcome[feature] = len(members[unit[feature]])
            members[unit[feature]].append(feature)
            continue
        unit[feature] = len(members)
        if exclusive[feature]:
            first_sibling[above] = len(members)
        members.append([feature])
    width = max(len(found) for found in members)
    table = np.full((len(members), width), -1, dtype=np.int64)
    for row, found in zip(table, members, strict=True):
        row[: len(found)] = found
    return unit, outcome, table


def _stay(config: WorldConfig, root_of_unit: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """[n_units] float64. Whole trees last, or do not: a child can be on no longer than its parent."""
    generator = world_generator(config, "sticky")
    families = np.flatnonzero(parent < 0)
    low, high = np.log(config.dwell_min), np.log(config.dwell_max)
    dwell = np.exp(low + (high - low) * torch.rand(len(parent), generator=generator, dtype=torch.float64).numpy())
    lasting = np.zeros(len(parent), dtype=bool)
    for group in (families[families < config.roots], families[families >= config.roots]):
        order = torch.randperm(len(group), generator=generator).numpy()
        lasting[group[order[: round(len(group) * config.sticky_share)]]] = True
    return np.where(lasting, 1 - 1 / dwell, 0.0)[root_of_unit]


def _loadings(config: WorldConfig, parent: np.ndarray, unit: np.ndarray, first: np.ndarray) -> Tensor:
    """[n_units, rank] float32: normal, then along each path orthogonal to those above, with their norms kept.

    Where a path is longer than the rank, what is left over has no common factor.
    """
    n, rank = len(first), config.correlation_rank
    raw = torch.randn(n, rank, generator=world_generator(config, "correlation"), dtype=torch.float64)
    raw *= config.correlation_scale
    if rank == 0:
        return raw.float()
    norm = raw.norm(dim=1).clamp_max(_MOST_SHARED**0.5)
    above = torch.from_numpy(np.where(parent[first] >= 0, unit[np.maximum(parent[first], 0)], -1))
    found = raw.clone()
    # A unit's parent comes before it, so walking up from all units at once meets finished loadings level by level.
    depth = torch.zeros(n, dtype=torch.int64)
    walk = above.clone()
    while bool((walk >= 0).any()):
        depth += walk >= 0
        walk = torch.where(walk >= 0, above[walk.clamp_min(0)], -1)
    for level in range(int(depth.max()) + 1):
        here = (depth == level).nonzero().squeeze(1)
        own, walk = found[here], above[here]
        for _ in range(level):
            basis = found[walk]
            scale = basis.square().sum(1).clamp_min(1e-300)
            own = own - ((own * basis).sum(1) / scale)[:, None] * basis
            walk = above[walk]
        left = own.norm(dim=1)
        kept = left > 1e-9 * raw[here].norm(dim=1)
        found[here] = torch.where(kept[:, None], own * (norm[here] / left.clamp_min(1e-300))[:, None], 0.0)
    return found.float()


def _regime(config: WorldConfig, rate: np.ndarray, stay: np.ndarray) -> Regime:
    rates = torch.from_numpy(rate)
    total = rates.sum(1)
    lasting = torch.from_numpy(stay) > 0
    # A unit that is on more often than it would show cannot be hidden: it shows as often as it must.
    emission = torch.where(lasting, total.clamp(min=config.emission, max=1.0), 1.0)
    reached = (rates.cumsum(1) / emission[:, None]).clamp(max=1.0)
    return Regime(rate=rates, threshold=torch.special.ndtri(1 - reached).float(), emission=emission)
