"""How often latents fire, counted from the active latents where codes are sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError, ShapeError
from ..interfaces.sae import RaggedCodes
from ..interfaces.specs import MetricValue
from .estimates import GroupedSums

DENSE_FREQUENCY = 0.01
"""A latent that fires on more than this share of the tokens counts as dense."""

LOG10_EDGES = tuple(-8.0 + 0.25 * i for i in range(33))
"""Edges of the density histogram: fixed, so that histograms of different SAEs can be laid over one another."""


def l0(codes: Tensor) -> Tensor:
    """Number of latents that are not zero in each row of codes [n, d_sae], [n] int64."""
    return _fired(codes).sum(1)


def firing_counts(codes: Tensor) -> Tensor:
    """Number of rows of codes [n, d_sae] on which each latent is not zero, [d_sae] int64."""
    return _fired(codes).sum(0)


class RunningFirings:
    """How often each latent fires: L0, dead latents and the density of live ones. A latent fires where it is not 0."""

    def __init__(self, d_sae: int) -> None:
        self.counts = torch.zeros(d_sae, dtype=torch.int64)
        """[d_sae]: tokens on which each latent fired."""
        self.n_tokens = 0
        self._sums = GroupedSums("tokens", "fired")

    def update(self, codes: Tensor | RaggedCodes, document: Tensor) -> None:
        """Add the codes of n tokens, [n, d_sae] or ragged, with the document [n] int64 of each.

        Raises:
            ShapeError: the codes have another d_sae or number of tokens than there are documents, or the latter are
                not [n].
            NonFiniteError: a code is NaN or infinite.
        """
        values = codes.values if isinstance(codes, RaggedCodes) else codes
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError("NaN or infinite values in the codes.")
        d_sae = len(self.counts)
        if isinstance(codes, RaggedCodes):
            self._require(len(codes.offsets) - 1, 1 + int(codes.latents.max()) if len(values) else 0, document)
            fired = values != 0
            counts = torch.bincount(codes.latents[fired], minlength=d_sae)
            before = torch.cat([codes.offsets.new_zeros(1), fired.cumsum(0)])
            per_token = before[codes.offsets[1:]] - before[codes.offsets[:-1]]
        else:
            if codes.ndim != 2 or codes.shape[1] != d_sae:
                raise ShapeError(f"Expected codes [n, {d_sae}], got {tuple(codes.shape)}.")
            self._require(len(codes), d_sae, document)
            counts, per_token = firing_counts(codes), l0(codes)
        self.counts += counts.cpu()
        self.n_tokens += len(per_token)
        self._sums.add(document, tokens=torch.ones_like(per_token), fired=per_token)

    def _require(self, n: int, n_latents: int, document: Tensor) -> None:
        if document.shape != (n,) or n_latents > len(self.counts):
            raise ShapeError(
                f"Expected codes of up to {len(self.counts)} latents with one document a token; got {n_latents} "
                f"latents, {n} tokens and document {tuple(document.shape)}."
            )

    def frequencies(self) -> Tensor:
        """[d_sae] float64: share of the tokens on which each latent fires. Raises DataError without tokens."""
        if not self.n_tokens:
            raise DataError("There are no tokens to count firings on: the held-out data is empty.")
        return self.counts.double() / self.n_tokens

    def l0(self) -> MetricValue:
        """Mean number of latents that fire on a token."""
        return self._sums.ratio("fired", "tokens", "l0")

    def dead_fraction(self) -> MetricValue:
        """Share of the latents that fire on no token."""
        dead = self.frequencies() == 0
        return MetricValue(value=float(dead.double().mean()), n=len(dead))

    def density(self) -> MetricValue:
        """Share of the latents that are dense, with the histogram of log10 frequency of the live ones as detail."""
        frequency = self.frequencies()
        log10 = frequency[frequency > 0].log10().clamp(LOG10_EDGES[0], LOG10_EDGES[-1])
        counts, _ = torch.histogram(log10, bins=torch.tensor(LOG10_EDGES, dtype=torch.float64))
        return MetricValue(
            value=float((frequency > DENSE_FREQUENCY).double().mean()),
            n=len(frequency),
            detail={"log10_edges": LOG10_EDGES, "counts": tuple(counts.tolist())},
        )


def _fired(codes: Tensor) -> Tensor:
    if codes.ndim != 2:
        raise ShapeError(f"Codes must be [n, d_sae], got {tuple(codes.shape)}.")
    return codes != 0
