"""The trainer `hierarchical_prefixes`: a base trainer's loss and the error of its concepts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import (
    ActivationBatch,
    ConfigError,
    LossTerms,
    Option,
    Options,
    RaggedCodes,
    SparseCodes,
    Trainer,
    TrainState,
)
from harness.training.kernels import sparse_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixOptions(Options):
    """Options of `hierarchical_prefixes`; those of the base trainer are given beside them."""

    weight: float = 1.0
    """Weight of the concepts' own squared error; 1 weighs both prefixes alike, as Matryoshka does; 0 is the base."""
    concept_share: float = 0.25
    """The first such share of the latents are the concepts."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"hierarchical_prefixes: option weight is {self.weight}; it must be at least 0.")
        if not 0 < self.concept_share < 1:
            raise ConfigError(
                f"hierarchical_prefixes: option concept_share is {self.concept_share}; it must be in (0, 1)."
            )


class PrefixTrainer(Trainer):
    """L_base + weight · mean over tokens of ||x - x̂_c||², x̂_c decoded from the concepts' codes alone.

    Matryoshka's loss (arXiv:2503.17547) with two groups, over any base. Its gradient reaches concepts and b_dec alone.
    """

    options_type = PrefixOptions

    def sae_options(self, target_l0: int | None) -> Mapping[str, Option]:
        # Only `levels_of` reads it: built-in architectures look at their own options alone.
        return {**super().sae_options(target_l0), "concept_share": self.options.concept_share}

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        assert self.base is not None, "the spec says `extends`"
        terms = self.base.loss(sae, batch, state)
        if self.options.weight == 0.0:
            return terms
        n_concepts = concept_count(sae.config.d_sae, self.options.concept_share)
        x = batch.activations
        error = F.mse_loss(_of_first(terms.codes, n_concepts, sae), x, reduction="sum") / len(x)
        return terms.plus("concepts", error, self.options.weight)


def concept_count(d_sae: int, share: float) -> int:
    """How many of d_sae latents are concepts: at least one, and at least one is none."""
    return min(d_sae - 1, max(1, round(share * d_sae)))


def _of_first(codes: SparseCodes | RaggedCodes | Tensor, n_concepts: int, sae: Any) -> Tensor:
    """[n, d_in]: what the first latents alone reconstruct."""
    if isinstance(codes, Tensor):
        return codes[:, :n_concepts] @ sae.W_dec[:n_concepts] + sae.b_dec
    if isinstance(codes, SparseCodes):
        kept = torch.where(codes.indices < n_concepts, codes.values, 0)
        return sparse_decode(SparseCodes(codes.indices, kept), sae.W_dec, sae.b_dec)
    kept = torch.where(codes.latents < n_concepts, codes.values, 0)
    return sparse_decode(RaggedCodes(codes.latents, codes.offsets, kept), sae.W_dec, sae.b_dec)
