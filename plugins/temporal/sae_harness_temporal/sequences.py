"""Codes of held-out sequences as time series, and of what they are compared with: shuffled tokens, a random SAE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import SAE, DataError, EvalContext, RaggedCodes
from harness.evaluation.metrics import dense, n_active, token_of_slot

MAX_LATENTS = 2048
_ELEMENTS = 1 << 25
"""Of one dense tensor of codes (128 MiB in float32): sequences are left out beyond it."""
_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Series:
    """Codes of some latents on held-out sequences, in document order."""

    codes: Tensor
    """[S, s, L] float32; 0 at tokens that are not counted."""
    mask: Tensor
    """[S, s] bool: counted tokens."""
    document: Tensor
    """[S] int64."""
    latents: Tensor
    """[L] int64: which latents, the most active first."""

    @property
    def active(self) -> Tensor:
        """[S, s, L] bool."""
        return self.codes != 0

    def whole(self) -> Tensor:
        """[S', p, L]: the longest stretch of positions that most sequences have whole, of those that do."""
        columns = self.mask.float().mean(0) > 0.5
        first, last = int(columns.long().argmax()), len(columns) - int(columns.flip(0).long().argmax())
        kept = self.mask[:, first:last].all(1)
        return self.codes[kept, first:last]


def firing_counts(sae: SAE, context: EvalContext) -> tuple[Tensor, int]:
    """[d_sae] int64: on how many counted tokens each latent fires; and how many tokens there are."""
    counts, n = torch.zeros(sae.config.d_sae, dtype=torch.int64), 0
    for part in context.encoded(sae):
        counts += torch.bincount(part.codes.latents, minlength=len(counts)).cpu()
        n += len(part.rows)
    return counts, n


def series(sae: SAE, context: EvalContext, *, max_latents: int = MAX_LATENTS, min_firings: int = 20) -> Series:
    """The SAE's most active latents over the first held-out sequences.

    Raises:
        DataError: fewer than two latents fire often enough.
    """
    counts, _ = firing_counts(sae, context)
    order = counts.argsort(descending=True, stable=True)[:max_latents]
    latents = order[counts[order] >= min_firings]
    if len(latents) < 2:
        raise DataError(
            f"Only {len(latents)} latents fire on {min_firings} held-out tokens or more: there is no course over time "
            "to look at. Give the suite more held-out text, or look at an SAE whose latents are alive."
        )
    place = torch.full((sae.config.d_sae,), -1, dtype=torch.int64, device=context.device)
    place[latents.to(context.device)] = torch.arange(len(latents), device=context.device)
    parts = [(part.batch, _chosen(part.codes, place, len(latents))) for part in context.encoded(sae)]
    return _stacked(parts, latents)


def random_series(like: Series, l0: float, sae: SAE, context: EvalContext) -> Series:
    """The same number of latents of an SAE with random unit directions and as many active latents a token: what the
    course of the activations alone gives."""
    generator = context.generator("random directions")
    directions = F.normalize(torch.randn(sae.config.d_sae, sae.config.d_in, generator=generator), dim=1)
    directions = directions.to(context.device)
    mean = _mean_activation(sae, context)
    k = min(max(1, round(l0)), sae.config.d_sae)
    counts = torch.zeros(sae.config.d_sae, dtype=torch.int64, device=context.device)
    for batch in context.batches():
        for rows in batch.rows().split(_ROWS):
            counts += torch.bincount(_top(rows, mean, directions, k)[1].flatten(), minlength=len(counts))
    latents = counts.argsort(descending=True, stable=True)[: like.codes.shape[2]]
    place = torch.full_like(counts, -1)
    place[latents] = torch.arange(len(latents), device=context.device)
    parts = []
    for batch in context.batches():
        values, ids = zip(*(_top(rows, mean, directions, k) for rows in batch.rows().split(_ROWS)), strict=True)
        here = place[torch.cat(ids)]
        wide = torch.zeros(len(here), len(latents) + 1, device=context.device)
        wide.scatter_(1, here.where(here >= 0, len(latents)), torch.cat(values))
        parts.append((batch, wide[:, :-1]))
    return _stacked(parts, latents.cpu())


def _mean_activation(sae: SAE, context: EvalContext) -> Tensor:
    """[d_in] float64, over all counted tokens."""
    total, n = torch.zeros(sae.config.d_in, dtype=torch.float64, device=context.device), 0
    for batch in context.batches():
        rows = batch.rows()
        total += rows.double().sum(0)
        n += len(rows)
    return total / n


def shuffled(like: Series, context: EvalContext) -> Series:
    """The same codes with the counted tokens in a random order over all sequences: no course over time is left."""
    tokens = like.codes[like.mask]
    order = torch.randperm(len(tokens), generator=context.generator("shuffled tokens")).to(tokens.device)
    codes = torch.zeros_like(like.codes)
    codes[like.mask] = tokens[order]
    return Series(codes, like.mask, like.document, like.latents)


def _top(rows: Tensor, mean: Tensor, directions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = ((rows - mean.to(rows)) @ directions.t()).relu().topk(k, dim=1)
    return found.values, found.indices


def _chosen(codes: RaggedCodes, place: Tensor, n_latents: int) -> Tensor:
    """[n, L]: the codes of the chosen latents, each in its place."""
    where = place[codes.latents]
    kept = where >= 0
    lengths = torch.bincount(token_of_slot(codes)[kept], minlength=len(n_active(codes)))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return dense(RaggedCodes(where[kept], offsets, codes.values[kept]), n_latents)


def _stacked(parts: list, latents: Tensor) -> Series:
    codes, masks, documents = [], [], []
    room = _ELEMENTS
    for batch, rows in parts:
        room -= batch.mask.numel() * len(latents)
        if room < 0 and codes:
            break
        here = rows.new_zeros(*batch.mask.shape, len(latents))
        here[batch.mask] = rows
        codes.append(here)
        masks.append(batch.mask)
        documents.append(batch.document)
    return Series(torch.cat(codes), torch.cat(masks), torch.cat(documents), latents)


def lagged(found: Series, lag: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(codes now [m, L], codes `lag` tokens before [m, L], sequence [m]) of all pairs of counted tokens, in pieces."""
    if lag >= found.mask.shape[1]:
        return
    for start in range(0, len(found.mask), 16):
        piece = slice(start, start + 16)
        mask = found.mask[piece, lag:] & found.mask[piece, : found.mask.shape[1] - lag]
        now, before = found.codes[piece, lag:][mask], found.codes[piece, : found.mask.shape[1] - lag][mask]
        yield now, before, start + mask.nonzero()[:, 0]
