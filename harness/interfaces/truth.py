"""What is known of held-out activations that come from a synthetic world."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .sae import RaggedCodes


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldTruth:
    """The features that a world's held-out activations are sums of: x = codes · features + bias. Not to be edited."""

    features: Tensor
    """[n_features, d_in] float32, of norm 1."""
    bias: Tensor
    """[d_in] float32."""
    codes: RaggedCodes
    """Of the counted held-out tokens, in the order of the data: `latents` are features, ascending within a token."""
    probability: Tensor
    """[n_features] float64: the share of all tokens on which a feature fires, as configured."""
    autocorrelation: Tensor
    """[n_features] float64: the correlation of a feature's firing with that one token later, as configured."""
    parent: Tensor
    """[n_features] int64: the feature that a feature fires only with; -1 where there is none."""
    forget: Tensor
    """[n_features] bool: of a subtree marked to be forgotten."""
    forget_document: Tensor
    """[n_sequences] bool: of the forget kind, in which alone those subtrees fire."""

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.features.shape[0]
