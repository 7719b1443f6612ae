"""The permuted decoder: true codes, written along other features' directions. On worlds alone.

Its set of directions is the true one and its codes are the true ones; what is wrong is which goes with which. A metric
of the decoder alone (`mcc`) cannot tell it from the oracle: what that scores here says what it does not see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .oracle import OracleTrainer


class PermutedDecoderTrainer(OracleTrainer):
    """The oracle with its directions moved round: each latent writes that of the next in a random order."""

    def directions(self, features: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(features), generator=generator)
        moved = torch.empty_like(features)
        moved[order] = features[order.roll(-1)]
        return moved
