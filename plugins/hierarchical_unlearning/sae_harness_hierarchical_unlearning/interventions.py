"""What each level does at a setting: latents, gated latents, concepts, both, and random latents; on any data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from harness import SAE, RaggedCodes
from harness.evaluation.unlearning import (
    Clamp,
    Firings,
    Intervention,
    SequenceGate,
    Setting,
    random_matched,
)

from .levels import Coordinated, GatedClamp, Levels, levels_of, parents_of
from .links import Links
from .metrics import LEVELS

CONCEPTS_PER_LATENT = 1 / 4
"""As many concepts are chosen for a latent: 4 for 16, as in the idea's text."""
GATE_QUANTILE = 0.95


class Interventions:
    """Makes the interventions of each level from a setting; everything is chosen on the selection half.

    Of an SAE of one level: `base` and `gated`. None stands for leaving everything as it is.
    """

    def __init__(
        self,
        sae: SAE,
        forget: Firings,
        retain: Firings,
        *,
        concepts: Callable[[Levels], tuple[Firings, Firings]],
        told: Callable[[], RaggedCodes],
        gate: Callable[[Clamp], float],
        generator: Callable[[], torch.Generator],
    ) -> None:
        """What latents do on tokens to be forgotten and others, and what else is asked for when it is needed.

        Args:
            concepts: how concepts fire on both.
            told: codes of the tokens on which parents are counted.
            gate: the share of a prompt's tokens that a clamp must change to be let through.
            generator: a fresh one for each draw of random latents.
        """
        self.forget, self.retain = forget, retain
        self._gate, self._generator = gate, generator
        self.levels: Levels | None = levels_of(sae)
        if self.levels is not None:
            codes, d_sae = told(), sae.config.d_sae
            links = Links.of(codes, self.levels.concepts(codes), d_sae, self.levels.n_concepts)
            self.parents = parents_of(self.levels, links)
            own, others = concepts(self.levels)
            self._of_concepts = self._attributed(own, forget), self._attributed(others, retain)

    @property
    def of_concepts(self) -> dict[str, tuple[Firings, Firings]]:
        """How `concepts` fire on tokens to be forgotten and others; empty for an SAE of one level."""
        return {} if self.levels is None else {"concepts": self._of_concepts}

    @property
    def names(self) -> tuple[str, ...]:
        """Levels that this SAE has; the last is the best."""
        return LEVELS if self.levels is not None else LEVELS[:2]

    def make(self, level: str) -> Callable[[Setting], Intervention | None]:
        """Setting -> intervention of a level; None where it chooses nothing."""
        return {
            "base": self.base,
            "gated": self.gated,
            "concept": self.concept,
            "coordinated": self.coordinated,
        }[level]

    def base(self, setting: Setting) -> Clamp | None:
        """Latents, wherever they fire."""
        return setting.clamp(setting.latents(self.forget, self.retain), self.forget, self.retain)

    def gated(self, setting: Setting) -> Intervention | None:
        """The same, in documents alone that have more of it than 95 % of the documents that are to be kept."""
        clamp = self.base(setting)
        return None if clamp is None else SequenceGate(clamp, self._gate(clamp))

    def random(self, setting: Setting) -> Clamp | None:
        """As many latents that fire about as often on retain tokens."""
        own = setting.latents(self.forget, self.retain)
        others = random_matched(own, self.forget, self.retain, self._generator())
        return setting.clamp(others, self.forget, self.retain)

    def concept(self, setting: Setting) -> Intervention | None:
        """Concepts, wherever they are active."""
        assert self.levels is not None, "only for an SAE of two levels"
        forget, retain = self._of_concepts
        fewer = max(1, round(setting.n * CONCEPTS_PER_LATENT))
        chosen = setting.latents(forget, retain)[:fewer]
        clamp = setting.clamp(chosen, forget, retain)
        return None if clamp is None else self.levels.clamp(clamp, self.parents)

    def coordinated(self, setting: Setting) -> Intervention | None:
        """Latents where their concepts are active, and concepts."""
        assert self.levels is not None, "only for an SAE of two levels"
        concepts, clamp = self.concept(setting), self.base(setting)
        gated = None if clamp is None else GatedClamp(clamp, self.levels, self.parents)
        return None if gated is None and concepts is None else Coordinated(gated, concepts)

    def _attributed(self, concepts: Firings, latents: Firings) -> Firings:
        """Concepts with what they do for the texts' log-probability, where that is known of latents."""
        of_latents, levels = latents.attribution, self.levels
        if of_latents is None or levels is None:
            return concepts
        return replace(concepts, attribution=lambda: levels.attribution(of_latents(), self.parents))


def quantile_of_shares(touched: Tensor, document: Tensor, n_documents: int, kept: Tensor) -> float:
    """The share of its tokens that 95 % of the documents to be kept stay below.

    Args:
        touched: [n] bool: tokens that an intervention changes.
        document: [n] int64 in [0, n_documents).
        kept: [n_documents] bool; where it is empty no gate can be learned, and 0 leaves it open.
    """
    size = torch.bincount(document, minlength=n_documents).cpu()
    share = torch.bincount(document[touched], minlength=n_documents).cpu() / size.clamp_min(1)
    own = share[kept & (size > 0)]
    return float(torch.quantile(own.double(), GATE_QUANTILE)) if len(own) else 0.0
