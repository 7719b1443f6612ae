"""Which token each token is compared with, from what a batch holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness import ActivationBatch, ConfigError


@dataclass(frozen=True, slots=True)
class Partners:
    """m tokens of a batch and the token that each is compared with."""

    valid: Tensor
    """[n] bool: the m tokens that have one."""
    x: Tensor
    """[m, d_in]: the partners' activations."""
    document: Tensor
    """[m] int64: the partners' documents."""
    rows: Tensor | None = None
    """[m] int64: their rows in the batch, where they stand in it: their codes are then known."""


def of_pairs(batch: ActivationBatch, partner: str, generator: torch.Generator) -> Partners:
    """The true previous token that a batch of pairs carries, or (`shuffled`) that of another row.

    Raises:
        ConfigError: the batch holds no pairs.
    """
    if batch.previous is None or batch.has_previous is None:
        raise ConfigError("temporal needs batches with the previous token: use a stream of the kind 'pairs'.")
    valid = batch.has_previous
    whole = bool(valid.all())
    found = Partners(valid, batch.previous if whole else batch.previous[valid], batch.document[valid])
    return found if partner == "previous" else _shuffled(found, generator)


def of_rows(batch: ActivationBatch, partner: str, lag: int, generator: torch.Generator) -> Partners:
    """Partners among the rows of a batch in document order: the token `lag` before, a random earlier one of the same
    sequence (`earlier`), or the previous token of another row (`shuffled`)."""
    n = len(batch)
    row = torch.arange(n, device=batch.position.device)
    if partner == "earlier":
        first = _sequence_starts(batch)
        valid = row > first
        uniform = torch.rand(n, generator=generator).to(row.device)
        source = first + torch.minimum((uniform * (row - first)).long(), (row - first - 1).clamp_min(0))
    else:
        source = (row - lag).clamp_min(0)
        valid = (row >= lag) & (batch.document == batch.document[source])
        valid &= batch.position - batch.position[source] == lag
    rows = source[valid]
    found = Partners(valid, batch.activations[rows], batch.document[rows], rows)
    return found if partner != "shuffled" else _shuffled(found, generator)


def starts_of_rows(batch: ActivationBatch) -> Tensor:
    """[n] bool: rows of a batch in document order that begin a sequence. The first row is left out: unknown."""
    row = torch.arange(len(batch), device=batch.position.device)
    return (_sequence_starts(batch) == row) & (row > 0)


def _sequence_starts(batch: ActivationBatch) -> Tensor:
    """[n] int64: the first row of each row's sequence. A sequence ends where the document changes or positions fall."""
    begins = torch.ones(len(batch), dtype=torch.bool, device=batch.position.device)
    begins[1:] = (batch.document[1:] != batch.document[:-1]) | (batch.position[1:] <= batch.position[:-1])
    starts = begins.nonzero().squeeze(1)
    return starts[begins.long().cumsum(0) - 1]


def _shuffled(found: Partners, generator: torch.Generator) -> Partners:
    """Each row with the partner of another: one cycle, so that none keeps its own, as a permutation's fixed points
    would."""
    if len(found.x) < 2:
        rows = None if found.rows is None else found.rows[:0]
        return Partners(torch.zeros_like(found.valid), found.x[:0], found.document[:0], rows)
    cycle = torch.randperm(len(found.x), generator=generator).to(found.x.device)
    source = torch.empty_like(cycle)
    source[cycle] = cycle.roll(1)
    rows = None if found.rows is None else found.rows[source]
    return Partners(found.valid, found.x[source], found.document[source], rows)
