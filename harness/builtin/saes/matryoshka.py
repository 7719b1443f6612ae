"""The Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv:2503.17547)."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from harness import ConfigError, RaggedCodes, SAEConfig
from harness.training.kernels import sparse_decode

from .batchtopk import BatchTopKSAE

GROUPS = "1/16,1/16,1/8,1/4,1/2"
"""Shares of the latents in each group, as the authors' code has them."""


class MatryoshkaSAE(BatchTopKSAE):
    """A BatchTopK SAE whose latents fall into groups: each prefix of groups reconstructs the input by itself.

    To use the first m groups alone, keep the codes of the latents below `prefixes[m - 1]`.
    """

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.prefixes = prefix_sizes(str(config.options.get("groups", GROUPS)), config.d_sae)
        """How many latents each prefix has; the last is d_sae."""

    def decode_prefixes(self, codes: RaggedCodes) -> Tensor:
        """[n, n_groups, d_in]: the reconstruction of every prefix, the last that of all latents.

        Each group is decoded once, as a segment of its own; prefixes are running sums over groups.
        """
        n_groups, n = len(self.prefixes), len(codes.offsets) - 1
        counts = codes.offsets[1:] - codes.offsets[:-1]
        token = torch.arange(n, device=counts.device).repeat_interleave(counts, output_size=len(codes.latents))
        bounds = torch.tensor(self.prefixes, device=counts.device)
        segment = token * n_groups + torch.bucketize(codes.latents, bounds, right=True)
        order = segment.argsort(stable=True)
        lengths = torch.bincount(segment, minlength=n * n_groups)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        by_group = RaggedCodes(codes.latents[order], offsets, codes.values[order])
        parts = sparse_decode(by_group, self.W_dec, torch.zeros_like(self.b_dec))
        return parts.view(n, n_groups, -1).cumsum(1) + self.b_dec


def prefix_sizes(groups: str, d_sae: int) -> tuple[int, ...]:
    """Sizes of the prefixes that `groups` (shares such as "1/4,3/4" or "0.25,0.75") makes of d_sae latents.

    Raises:
        ConfigError: a share is no positive number, they do not sum to 1, or a group would be empty.
    """
    shares = shares_of(groups, "groups")
    if sum(shares) != 1:
        raise ConfigError(f"The shares of groups must sum to 1; {groups!r} sum to {float(sum(shares)):g}.")
    sizes = tuple(int(share * d_sae) for share in accumulate(shares))
    if any(a >= b for a, b in pairwise((0, *sizes))):
        raise ConfigError(f"The groups {groups!r} of d_sae = {d_sae} latents leave one empty: take fewer or larger.")
    return sizes


def shares_of(text: str, option: str) -> list[Fraction]:
    """The positive numbers of a list such as "1/4,3/4" or "0.25,0.75".

    Raises:
        ConfigError: it is no such list.
    """
    try:
        shares = [Fraction(part.strip()) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        shares = []
    if not shares or min(shares) <= 0:
        raise ConfigError(f'{option} must be positive numbers like "1/4,3/4" or "0.25,0.75"; got {text!r}.')
    return shares
