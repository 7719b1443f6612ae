"""Codes of some tokens as a sparse matrix, for products with dense ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interfaces.codes import n_active, offsets_of, take, token_of_slot
from ..interfaces.sae import RaggedCodes


class CodeMatrix:
    """A [n, d_sae] float64 matrix of codes. Sums are made in one order, so they are the same each time."""

    def __init__(self, codes: RaggedCodes, d_sae: int, tokens: Tensor) -> None:
        """The codes of the tokens [n] int64."""
        own = take(codes, tokens)
        self.n, self.d_sae = len(tokens), d_sae
        self._codes = own._replace(values=own.values.double())
        order = own.latents.argsort(stable=True)
        self._tokens = token_of_slot(own)[order]
        self._by_latent = self._codes.values[order]
        self._starts = offsets_of(torch.bincount(own.latents, minlength=d_sae))

    def squared(self) -> CodeMatrix:
        """The matrix of squares."""
        found = CodeMatrix.__new__(CodeMatrix)
        found.__dict__ = {
            **self.__dict__,
            "_codes": self._codes._replace(values=self._codes.values.square()),
            "_by_latent": self._by_latent.square(),
        }
        return found

    def times(self, weights: Tensor) -> Tensor:
        """[n, l] of weights [d_sae, l], in their dtype."""
        return _bags(self._codes.latents, weights, self._codes.offsets, self._codes.values)

    def transposed_times(self, values: Tensor) -> Tensor:
        """[d_sae, l] of values [n, l], in their dtype."""
        return _bags(self._tokens, values, self._starts, self._by_latent)

    def columns(self, latents: Tensor) -> Tensor:
        """[n, c] float64: the columns of the distinct latents [c] int64."""
        place = torch.full((self.d_sae,), -1)
        place[latents] = torch.arange(len(latents))
        column = place[self._codes.latents]
        kept = column >= 0
        row = torch.arange(self.n).repeat_interleave(n_active(self._codes))
        found = torch.zeros(self.n, len(latents), dtype=torch.float64)
        return found.index_put((row[kept], column[kept]), self._codes.values[kept])


def _bags(index: Tensor, table: Tensor, offsets: Tensor, factors: Tensor) -> Tensor:
    """[len(offsets) - 1, l]: sums of factor · table[index] over each stretch between offsets."""
    return F.embedding_bag(
        index,
        table.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=factors.to(table.dtype),
        include_last_offset=True,
    )
