"""Prompts: texts of an evaluator's own that the language model is run on, with its activations in the middle."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBatch:
    """Some prompts of like lengths, padded on the right, and the LM's activations of all their tokens.

    A prompt is a sequence of parts, each tokenized by itself, so that a token is of one part: the words of a question
    and an answer, the text before a name, the name, and the text after it.
    """

    index: Tensor
    """[b] int64: which of the prompts each row is."""
    tokens: Tensor
    """[b, s] int64."""
    part: Tensor
    """[b, s] int64: the part of its prompt a token is of; -1 for what the suite puts before it, and for padding."""
    activations: Tensor
    """[b, s, d_in] float32, in original (unscaled) units; 0 at padding. Not to be edited."""

    def last_of(self, part: int) -> Tensor:
        """[b] int64: the position of the last token of a part; every prompt must have one."""
        return (self.part == part).long().cumsum(1).argmax(1)

    def replaced(self, where: Tensor, rows: Tensor) -> Tensor:
        """The activations [b, s, d_in] with `rows` [n, d_in] in place of those where `where` [b, s] bool holds."""
        return self.activations.masked_scatter(where[..., None], rows)
