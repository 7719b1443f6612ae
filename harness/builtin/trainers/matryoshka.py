"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ConfigError
from harness.training.active import ActiveLatents

from ..saes.matryoshka import GROUPS, shares_of
from .batchtopk import BatchTopKOptions, BatchTopKTrainer
from .common import squared_error


@dataclass(frozen=True, slots=True, kw_only=True)
class MatryoshkaOptions(BatchTopKOptions):
    """Options of `matryoshka`."""

    groups: str = GROUPS
    """Shares of the latents in each group, such as "1/4,3/4"."""
    group_weights: str = ""
    """Relative weight of each prefix's error, such as "0.2,0.8" [default: all equal]."""
    bias_only: bool = False
    """Whether the decoder bias alone counts as one more prefix, as in the authors' code."""

    def __post_init__(self) -> None:
        n_groups = len(shares_of(self.groups, "groups"))
        n_weights = len(shares_of(self.group_weights, "group_weights")) if self.group_weights else n_groups
        if n_weights != n_groups:
            raise ConfigError(f"group_weights names {n_weights} weights for {n_groups} groups: give one a group.")


class MatryoshkaTrainer(BatchTopKTrainer):
    """`batchtopk` with, for its SSE, the weighted mean of the SSE of each prefix of groups.

    The mean is taken once. (dictionary_learning's weights are 1/|G| and then averaged: its auxiliary term weighs |G|
    times as much beside the reconstruction.)
    """

    options_type = MatryoshkaOptions

    def sae_options(self, target_l0: int | None) -> dict[str, Any]:
        return {**super().sae_options(target_l0), "groups": self.options.groups}

    def reconstruct(self, sae: Any, x: Tensor, active: ActiveLatents, values: Tensor) -> tuple[Tensor, Tensor]:
        prefixes = sae.decode_prefixes(active.codes(values))  # never dense: the largest of a batch are few
        errors = (prefixes - x[:, None]).square().sum((0, 2)) / len(x)
        weights = self._weights(errors)
        total, whole = (errors * weights).sum(), weights.sum()
        if self.options.bias_only:
            total, whole = total + squared_error(x, sae.b_dec.expand_as(x)), whole + 1
        return total / whole, prefixes[:, -1]

    def _weights(self, like: Tensor) -> Tensor:
        """[n_groups], of mean 1."""
        if not self.options.group_weights:
            return torch.ones_like(like)
        weights = like.new_tensor([float(w) for w in shares_of(self.options.group_weights, "group_weights")])
        return weights / weights.mean()
