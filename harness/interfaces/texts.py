"""Activations of an evaluator's own texts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """The activations of some texts' counted tokens; each text is whole, and they come in the order they were given."""

    rows: Tensor
    """[n, d_in] float32, in original (unscaled) units."""
    text: Tensor
    """[n] int64, ascending: which of the texts each row is of."""
