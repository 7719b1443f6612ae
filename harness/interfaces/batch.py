"""Batches of activations: what trainers and evaluators receive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationBatch:
    """A training batch: rows of activations with where each came from.

    Rows are shuffled tokens by default. A trainer that needs `pairs` finds in `previous` the activation of the
    token just before, of the same document; one that needs `contiguous` finds the rows in document order.
    """

    activations: Tensor
    """[n, d_in] float32, scaled to mean norm sqrt(d_in)."""
    document: Tensor
    """[n] int64: which document."""
    position: Tensor
    """[n] int64: position of the token in its sequence."""
    previous: Tensor | None = None
    """[n, d_in] float32; rows without a previous token hold zeros."""
    has_previous: Tensor | None = None
    """[n] bool: whether `previous` is a real token of the same document."""

    def __post_init__(self) -> None:
        n = self.activations.shape[0]
        if self.activations.ndim != 2 or self.document.shape != (n,) or self.position.shape != (n,):
            raise ShapeError(
                f"A batch needs activations [n, d_in], document [n], position [n]; got "
                f"{tuple(self.activations.shape)}, {tuple(self.document.shape)}, {tuple(self.position.shape)}."
            )
        if (self.previous is None) != (self.has_previous is None):
            raise ShapeError("A batch has `previous` and `has_previous` together or neither.")
        if self.previous is not None and self.previous.shape != self.activations.shape:
            raise ShapeError(
                f"`previous` must have the shape of `activations` {tuple(self.activations.shape)}, "
                f"got {tuple(self.previous.shape)}."
            )

    def __len__(self) -> int:
        return self.activations.shape[0]

    def to(self, device: torch.device | str) -> ActivationBatch:
        """The same batch on another device."""
        move = lambda t: None if t is None else t.to(device, non_blocking=True)  # noqa: E731
        return ActivationBatch(
            activations=self.activations.to(device, non_blocking=True),
            document=self.document.to(device, non_blocking=True),
            position=self.position.to(device, non_blocking=True),
            previous=move(self.previous),
            has_previous=move(self.has_previous),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """Held-out sequences for evaluation, in their original (unscaled) units and in document order."""

    tokens: Tensor
    """[b, s] int64."""
    activations: Tensor
    """[b, s, d_in] float32 at the hookpoint, unscaled."""
    mask: Tensor
    """[b, s] bool: False at special tokens and padding, which no metric counts."""
    document: Tensor
    """[b] int64: the document each sequence was cut from."""

    def rows(self) -> Tensor:
        """[n, d_in]: the activations of all counted tokens."""
        return self.activations[self.mask]
