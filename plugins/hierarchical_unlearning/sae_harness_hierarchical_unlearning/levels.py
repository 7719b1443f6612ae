"""The two levels of an SAE of any architecture: which concepts are active, which latents are their children."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from harness import SAE, RaggedCodes, SparseCodes
from harness.evaluation.metrics import n_active, take, token_of_slot
from harness.evaluation.unlearning import Clamp, Edit, Intervention
from harness.training.kernels import to_dense

from .linked_sae import LinkedTopKSAE
from .links import Links, chunks
from .mixture_sae import MixtureTopKSAE
from .prefixes import concept_count
from .sae import StackedTopKSAE

_CHUNK = 4096


class Levels(ABC):
    """Concepts as latents of a second level."""

    n_concepts: int

    @abstractmethod
    def concepts(self, codes: RaggedCodes) -> RaggedCodes:
        """Active concepts of the tokens, ascending within a token."""

    @abstractmethod
    def clamp(self, clamp: Clamp, parents: Tensor) -> Intervention:
        """What setting concepts to values does to codes; `parents` [d_sae] int64 or -1."""

    def link_sizes(self, concepts: Tensor, latents: Tensor) -> Tensor | None:
        """[m]: how strongly concepts lead one to expect latents, of m pairs, where weights say so."""
        return None

    def may_have_parent(self, d_sae: int) -> Tensor:
        """[d_sae] bool."""
        return torch.ones(d_sae, dtype=torch.bool)

    def attribution(self, of_latents: Tensor, parents: Tensor) -> Tensor:
        """[n_concepts]: what concepts do, where [d_sae] is what latents do: the sum over a concept's children."""
        own = parents >= 0
        return of_latents.new_zeros(self.n_concepts).index_add(0, parents[own], of_latents[own])

    def known_parents(self) -> Tensor | None:
        """[d_sae] int64 or -1, where the architecture says what belongs to what; None where it is to be counted."""
        return None


class SideLevels(Levels):
    """Concepts that are no latents of the SAE but stand beside them."""

    @abstractmethod
    def active(self, codes: RaggedCodes) -> SparseCodes:
        """Concepts of the codes of n tokens."""

    @abstractmethod
    def moved(self, codes: RaggedCodes, before: SparseCodes, after: SparseCodes, parents: Tensor) -> Tensor:
        """[nnz]: by how much each code changes when the concepts of its token do."""

    def concepts(self, codes: RaggedCodes) -> RaggedCodes:
        return _joined([_ragged(self.active(part)) for part in chunks(codes)], codes)

    def clamp(self, clamp: Clamp, parents: Tensor) -> Intervention:
        return _ConceptClamp(self, clamp, parents)


class StackedLevels(SideLevels):
    """Concepts of a `stacked_topk` SAE: z1' = z1 + y1(z2') - y1(z2)."""

    def __init__(self, sae: StackedTopKSAE) -> None:
        self.sae = sae
        self.n_concepts = sae.n_concepts

    def active(self, codes: RaggedCodes) -> SparseCodes:
        return self.sae.concepts(codes)

    def moved(self, codes: RaggedCodes, before: SparseCodes, after: SparseCodes, parents: Tensor) -> Tensor:
        at = token_of_slot(codes), codes.latents
        return self.sae.expected_at(after, *at) - self.sae.expected_at(before, *at)

    def link_sizes(self, concepts: Tensor, latents: Tensor) -> Tensor:
        device = self.sae.b_down.device
        return self.sae.link_sizes(concepts.to(device), latents.to(device)).cpu()


class LinkedLevels(SideLevels):
    """Concepts of a `linked_topk` SAE: a child moves by as many of its usual sizes as its parent by its own."""

    def __init__(self, sae: LinkedTopKSAE) -> None:
        self.sae = sae
        self.n_concepts = sae.n_concepts

    def active(self, codes: RaggedCodes) -> SparseCodes:
        return self.sae.concepts(codes)

    def moved(self, codes: RaggedCodes, before: SparseCodes, after: SparseCodes, parents: Tensor) -> Tensor:
        change = to_dense(after, self.n_concepts) - to_dense(before, self.n_concepts)
        parent = parents.to(codes.latents.device)[codes.latents].clamp_min(0)
        usual = self.sae.code_size[codes.latents] / self.sae.concept_size[parent]
        return change[token_of_slot(codes), parent] * usual


class PrefixLevels(Levels):
    """Concepts that are the first latents themselves."""

    def __init__(self, n_concepts: int) -> None:
        self.n_concepts = n_concepts

    def concepts(self, codes: RaggedCodes) -> RaggedCodes:
        first = codes.latents < self.n_concepts
        counts = torch.bincount(token_of_slot(codes)[first], minlength=len(codes.offsets) - 1)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return RaggedCodes(codes.latents[first], offsets, codes.values[first])

    def clamp(self, clamp: Clamp, parents: Tensor) -> Intervention:
        return clamp

    def may_have_parent(self, d_sae: int) -> Tensor:
        return torch.arange(d_sae) >= self.n_concepts

    def attribution(self, of_latents: Tensor, parents: Tensor) -> Tensor:
        return of_latents[: self.n_concepts]


class MixtureLevels(PrefixLevels):
    """Parents of a `mixture_topk` SAE. A parent that is set to 0 or less is silent, and its children with it."""

    def __init__(self, sae: MixtureTopKSAE) -> None:
        super().__init__(sae.n_parents)
        self._parents = sae.parents()

    def clamp(self, clamp: Clamp, parents: Tensor) -> Intervention:
        return _FamilyClamp(clamp, self._parents)

    def may_have_parent(self, d_sae: int) -> Tensor:
        return self._parents >= 0

    def attribution(self, of_latents: Tensor, parents: Tensor) -> Tensor:
        return super().attribution(of_latents, parents) + Levels.attribution(self, of_latents, parents)

    def known_parents(self) -> Tensor:
        return self._parents


def levels_of(sae: SAE) -> Levels | None:
    """The levels of a `stacked_topk`, `mixture_topk` or `linked_topk` SAE, of one with a `concept_share`, or of a
    Matryoshka SAE, whose first group is taken for the concepts; None for an SAE of one level."""
    if isinstance(sae, StackedTopKSAE):
        return StackedLevels(sae)
    if isinstance(sae, LinkedTopKSAE):
        return LinkedLevels(sae)
    if isinstance(sae, MixtureTopKSAE):
        return MixtureLevels(sae) if sae.n_children else None
    share = sae.config.options.get("concept_share")
    if isinstance(share, (int, float)):
        return PrefixLevels(concept_count(sae.config.d_sae, float(share)))
    prefixes: Any = getattr(sae, "prefixes", None)
    if isinstance(prefixes, tuple) and len(prefixes) > 1:
        return PrefixLevels(int(prefixes[0]))
    return None


def parents_of(levels: Levels, links: Links) -> Tensor:
    """[d_sae] int64: each latent's concept, or -1; where the architecture has parents, those of latents that fire."""
    known = levels.known_parents()
    if known is not None:
        return torch.where(links.latent > 0, known, -1)
    found = links.parents(levels.link_sizes(links.parent, links.child))
    return torch.where(levels.may_have_parent(len(found)), found, -1)


class GatedClamp:
    """A clamp of latents, at tokens alone where the latent's parent is active; one without parent is clamped wherever
    it fires."""

    def __init__(self, clamp: Clamp, levels: Levels, parents: Tensor) -> None:
        self._clamp, self._levels, self._parents = clamp, levels, parents

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes with the clamped values where the gate is open."""
        found = self._clamp.edit(codes, sequence)
        token, n = token_of_slot(codes), self._levels.n_concepts
        concepts = self._levels.concepts(codes)
        active = token_of_slot(concepts) * n + concepts.latents
        parent = self._parents.to(codes.latents.device)[codes.latents]
        is_open = (parent < 0) | torch.isin(token * n + parent, active)
        values = torch.where(is_open, found.codes.values, codes.values)
        return Edit(codes._replace(values=values), _changed(codes, values))


class Coordinated:
    """Latents clamped where their concepts are active, and concepts clamped too; a clamped latent keeps its value."""

    def __init__(self, latents: GatedClamp | None, concepts: Intervention | None) -> None:
        self._latents, self._concepts = latents, concepts

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes after both."""
        values = codes.values
        for intervention in (self._concepts, self._latents):
            if intervention is not None:
                found = intervention.edit(codes, sequence).codes.values
                values = torch.where(found != codes.values, found, values)
        return Edit(codes._replace(values=values), _changed(codes, values))


class _ConceptClamp:
    """Concepts set to values where they are active; their children that fire are moved with them."""

    def __init__(self, levels: SideLevels, clamp: Clamp, parents: Tensor) -> None:
        self._levels, self._clamp, self._parents = levels, clamp, parents
        self._child = torch.isin(parents, clamp.latents) & (parents >= 0)

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes after what the concepts' change brings."""
        values = codes.values.clone()
        child = self._child.to(codes.latents.device)
        for start in range(0, len(codes.offsets) - 1, _CHUNK):
            tokens = torch.arange(start, min(start + _CHUNK, len(codes.offsets) - 1), device=codes.latents.device)
            part = take(codes, tokens)
            concepts = self._levels.active(part)
            set_to = self._set(concepts)
            touched = (set_to.values != concepts.values).any(1)
            if not bool(touched.any()):
                continue
            moved = self._levels.moved(part, concepts, set_to, self._parents)
            moved = moved * child[part.latents] * (part.values > 0)
            slots = slice(int(codes.offsets[tokens[0]]), int(codes.offsets[tokens[-1] + 1]))
            values[slots] += moved * touched[token_of_slot(part)]
        return Edit(codes._replace(values=values), _changed(codes, values))

    def _set(self, concepts: SparseCodes) -> SparseCodes:
        latents, values = self._clamp.latents.to(concepts.indices.device), self._clamp.values.to(concepts.values)
        at = torch.searchsorted(latents, concepts.indices).clamp_max(len(latents) - 1)
        hit = (latents[at] == concepts.indices) & (concepts.values > 0)
        return SparseCodes(concepts.indices, torch.where(hit, values[at], concepts.values))


class _FamilyClamp:
    """Parents set to values where they fire; where that is 0 or less their children are silent."""

    def __init__(self, clamp: Clamp, parents: Tensor) -> None:
        self._clamp = clamp
        self._closed = torch.isin(parents, clamp.latents[clamp.values <= 0]) & (parents >= 0)

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes after both. A child fires only where its parent does, so that no gate is needed."""
        values = self._clamp.edit(codes, sequence).codes.values
        values = torch.where(self._closed.to(codes.latents.device)[codes.latents], 0.0, values)
        return Edit(codes._replace(values=values), _changed(codes, values))


def _ragged(codes: SparseCodes) -> RaggedCodes:
    latents, order = codes.indices.sort(dim=1)
    values = codes.values.gather(1, order)
    used = values > 0
    offsets = torch.nn.functional.pad(used.sum(1).cumsum(0), (1, 0))
    return RaggedCodes(latents[used], offsets, values[used].float())


def _changed(codes: RaggedCodes, values: Tensor) -> Tensor:
    changed = torch.zeros(len(codes.offsets) - 1, dtype=torch.bool, device=values.device)
    changed[token_of_slot(codes)[values != codes.values]] = True
    return changed


def _joined(parts: list[RaggedCodes], like: RaggedCodes) -> RaggedCodes:
    if not parts:
        return RaggedCodes(like.latents[:0], like.offsets[:1], like.values[:0])
    counts = torch.cat([n_active(part) for part in parts])
    return RaggedCodes(
        torch.cat([part.latents for part in parts]),
        torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        torch.cat([part.values for part in parts]),
    )
