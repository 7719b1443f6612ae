"""The SAE interface: a sparse autoencoder over activations.

Weights follow the layout of SAELens and SAEBench: `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_enc [d_sae]`,
`b_dec [d_in]`, so that checkpoints travel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .specs import Option


class SparseCodes(NamedTuple):
    """Codes of n tokens with at most k non-zero latents each."""

    indices: Tensor
    """[n, k] int64: latent ids; distinct in each row."""
    values: Tensor
    """[n, k]: code values >= 0; a zero value means the slot is unused."""


class RaggedCodes(NamedTuple):
    """Codes of n tokens, each with its own number of latents, one token's after the other's."""

    latents: Tensor
    """[nnz] int64: latent ids, distinct within a token."""
    offsets: Tensor
    """[n + 1] int64: token t has the slots offsets[t] to offsets[t + 1]."""
    values: Tensor
    """[nnz]: code values >= 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SAEConfig:
    """What is needed to build an SAE before its weights are loaded."""

    architecture: str
    """Name of the `SAESpec`."""
    d_in: int
    d_sae: int
    options: Mapping[str, Option] = field(default_factory=dict)
    """Options of the architecture, such as `k`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        if self.d_in < 1 or self.d_sae < 1:
            raise ConfigError(f"d_in and d_sae must be positive, got {self.d_in} and {self.d_sae}.")

    def __deepcopy__(self, _memo: dict[int, object]) -> SAEConfig:
        return self  # immutable, and its mapping proxy cannot be copied: `copy.deepcopy(sae)` must work


class SAE(nn.Module, ABC):
    """A sparse autoencoder: activations [..., d_in] to codes [..., d_sae] and back.

    A subclass is built as `Class(config)`: all parameters exist after construction and `reset_parameters`
    fills them from the generator it is given, so that equal seeds give equal weights.
    """

    unit_norm_decoder: bool = False
    """True where decoder rows have norm 1: the training loop then removes the gradient's parallel part and
    renormalises after each step. Needs a parameter `W_dec [d_sae, d_in]`."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Fill all parameters from `generator` alone."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Codes [..., d_sae] of activations [..., d_in]. A row's code does not depend on the other rows."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruction [..., d_in] of codes [..., d_sae]."""

    @abstractmethod
    def fold_input_scale(self, scale: float) -> None:
        """Make this SAE, trained on `scale * x`, act on `x`: afterwards `sae(x) == sae_before(scale * x) / scale`.

        Where the architecture is linear but for ReLU, top-k or a threshold, that divides biases and
        thresholds by `scale`.
        """

    @abstractmethod
    def decoder_directions(self) -> Tensor:
        """[d_sae, d_in]: the direction each latent writes."""

    def encode_sparse(self, x: Tensor) -> SparseCodes | RaggedCodes:
        """Codes of x [n, d_in] as latents and values: `SparseCodes` where every token has k of them, else
        `RaggedCodes`. Only where the spec says `sparse=True`."""
        raise NotImplementedError(f"{type(self).__name__} has no sparse codes: use encode().")

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of x; not to be overridden."""
        return self.decode(self.encode(x))
