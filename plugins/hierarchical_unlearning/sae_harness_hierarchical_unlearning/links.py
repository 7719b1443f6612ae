"""Latents and the concepts that are active with them, counted pair by pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import RaggedCodes
from harness.evaluation.metrics import dense, n_active, take, token_of_slot

LIFT = 2.0
"""A latent has a parent only where the parent is active this many times as often as elsewhere."""
_CHUNK = 4096
_DENSE = 2**24
"""Up to so many concepts times latents a matrix is counted in; beyond, the pairs that occur alone."""
_PAIRS = 2**22
"""Pairs of a concept and a latent on one token that are made at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Links:
    """Pairs of a concept and a latent that are active on one token, of some tokens: ascending by concept, then by
    latent."""

    n_tokens: int
    latent: Tensor
    """[d_sae] float64: tokens on which each fires."""
    concept: Tensor
    """[n_concepts] float64: tokens on which each is active."""
    parent: Tensor
    """[pairs] int64: the concept."""
    child: Tensor
    """[pairs] int64: the latent."""
    both: Tensor
    """[pairs] float64 > 0: tokens on which both are."""

    @staticmethod
    def of(codes: RaggedCodes, concepts: RaggedCodes, d_sae: int, n_concepts: int) -> Links:
        """Of the codes and concepts of the same tokens."""
        count = _by_matrix if n_concepts * d_sae <= _DENSE else _by_pairs
        parent, child, both = count(codes, concepts, d_sae, n_concepts)
        return Links(
            n_tokens=len(codes.offsets) - 1,
            latent=torch.bincount(codes.latents, minlength=d_sae).double().cpu(),
            concept=torch.bincount(concepts.latents, minlength=n_concepts).double().cpu(),
            parent=parent,
            child=child,
            both=both,
        )

    def given_child(self) -> Tensor:
        """[pairs]: P(concept active | latent fires)."""
        return self.both / self.latent[self.child].clamp_min(1)

    def given_parent(self) -> Tensor:
        """[pairs]: P(latent fires | concept active)."""
        return self.both / self.concept[self.parent].clamp_min(1)

    def lift(self) -> Tensor:
        """[pairs]: P(concept | latent) / P(concept)."""
        share = self.concept[self.parent] / max(1, self.n_tokens)
        return self.given_child() / share.clamp_min(1e-12)

    def parents(self, strength: Tensor | None = None, lift: float = LIFT) -> Tensor:
        """[d_sae] int64: the concept of largest strength ([pairs]) · P(concept | latent), the first of equals, if its
        lift is enough; else -1."""
        score = self.given_child() * (1.0 if strength is None else strength.double())
        best, pair = largest(score, self.child, len(self.latent))
        found = torch.full((len(self.latent),), -1)
        own = best > 0
        own[own.clone()] = self.lift()[pair[own]] >= lift
        found[own] = self.parent[pair[own]]
        return found

    def with_parents(self, values: Tensor, parents: Tensor) -> Tensor:
        """[d_sae]: each latent's value [pairs] with its parent ([d_sae] int64 or -1); 0 where there is no such pair."""
        own = parents[self.child] == self.parent
        return values.new_zeros(len(self.latent)).index_copy(0, self.child[own], values[own])

    def of_children(self, values: Tensor) -> Tensor:
        """[d_sae]: sum of values [pairs] over each latent's concepts."""
        return values.new_zeros(len(self.latent)).index_add(0, self.child, values)

    def of_parents(self, values: Tensor) -> Tensor:
        """[n_concepts]: sum of values [pairs] over each concept's latents."""
        return values.new_zeros(len(self.concept)).index_add(0, self.parent, values)


def largest(values: Tensor, group: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """[n] each: the largest value >= 0 of each group ([m] int64), and where it is: the first of equals; 0 and 0 where a
    group is empty."""
    best = values.new_zeros(n).scatter_reduce(0, group, values, "amax")
    places = torch.arange(len(values), device=values.device)
    places = places.where(values == best[group], len(values))
    first = torch.full((n,), len(values), device=values.device).scatter_reduce(0, group, places, "amin")
    return best, first.where(first < len(values), 0)


Counted = tuple[Tensor, Tensor, Tensor]


def _by_matrix(codes: RaggedCodes, concepts: RaggedCodes, d_sae: int, n_concepts: int) -> Counted:
    both = torch.zeros(n_concepts, d_sae, dtype=torch.float64)
    for c, z in zip(chunks(concepts), chunks(codes), strict=True):
        both += (dense(c, n_concepts) > 0).float().t().cpu().double() @ (dense(z, d_sae) != 0).cpu().double()
    parent, child = both.nonzero(as_tuple=True)
    return parent, child, both[parent, child]


def _by_pairs(codes: RaggedCodes, concepts: RaggedCodes, d_sae: int, n_concepts: int) -> Counted:
    keys, counts = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    for part in _pairs(codes, concepts, d_sae):
        own, n = part.cpu().unique(return_counts=True)
        keys, place = torch.cat([keys, own]).unique(return_inverse=True)
        counts = torch.zeros(len(keys), dtype=torch.float64).index_add(0, place, torch.cat([counts, n.double()]))
    return keys // d_sae, keys % d_sae, counts


def _pairs(codes: RaggedCodes, concepts: RaggedCodes, d_sae: int) -> Iterator[Tensor]:
    """concept · d_sae + latent of every pair on every token, some tokens at a time."""
    per_token = n_active(codes) * n_active(concepts)
    group = (per_token.cumsum(0) - per_token) // _PAIRS
    for tokens in torch.arange(len(per_token), device=codes.latents.device).split(
        torch.bincount(group).tolist() if len(group) else []
    ):
        z, c = take(codes, tokens), take(concepts, tokens)
        fired = (z.values != 0).nonzero().squeeze(1)
        active = n_active(c)[token_of_slot(z)[fired]]
        # Each firing once for every concept of its token.
        firing = torch.arange(len(fired), device=fired.device).repeat_interleave(active)
        place = torch.arange(len(firing), device=fired.device) - (active.cumsum(0) - active)[firing]
        slot = c.offsets[token_of_slot(z)[fired[firing]]] + place
        keys = c.latents[slot] * d_sae + z.latents[fired[firing]]
        yield keys[c.values[slot] > 0]


def chunks(codes: RaggedCodes) -> list[RaggedCodes]:
    """The codes of some tokens at a time."""
    tokens = torch.arange(len(codes.offsets) - 1, device=codes.latents.device)
    return [take(codes, part) for part in tokens.split(_CHUNK)] if len(tokens) else []
