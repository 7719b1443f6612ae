"""What the analyses read of an SAE: its codes on held-out tokens, its decoder and the one it would begin with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import SAE, DataError, EvalContext, RaggedCodes, TrainingLog
from harness.evaluation.metrics import n_active, take

from .options import TopKOrthogonalityOptions

_OPTIONS = tuple(field.name for field in fields(TopKOrthogonalityOptions))


def held_out_codes(sae: SAE, context: EvalContext, max_tokens: int) -> RaggedCodes:
    """Codes of the first `max_tokens` counted held-out tokens, in the order of the data, on the CPU.

    Raises:
        DataError: there are none.
    """
    parts, n = [], 0
    for part in context.encoded(sae):
        parts.append(part.codes)
        n += len(part.rows)
        if n >= max_tokens:
            break
    if n == 0:
        raise DataError("There are no counted held-out tokens: give the suite held-out data.")
    lengths = torch.cat([n_active(codes).cpu() for codes in parts])
    joined = RaggedCodes(
        torch.cat([codes.latents.cpu() for codes in parts]),
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        torch.cat([codes.values.cpu() for codes in parts]),
    )
    return take(joined, torch.arange(min(n, max_tokens)))


def stretches(codes: RaggedCodes, length: int) -> list[RaggedCodes]:
    """The codes in stretches of `length` consecutive tokens; what is left over is left out."""
    n = len(codes.offsets) - 1
    return [take(codes, torch.arange(start, start + length)) for start in range(0, n - length + 1, length)]


def live_latents(sae: SAE, context: EvalContext) -> Tensor:
    """[m] int64: the latents that fire on a held-out token, ascending.

    Raises:
        DataError: fewer than two do.
    """
    counts = torch.zeros(sae.config.d_sae, dtype=torch.int64)
    for part in context.encoded(sae):
        counts += torch.bincount(part.codes.latents, minlength=len(counts)).cpu()
    live = counts.nonzero().squeeze(1)
    if len(live) < 2:
        raise DataError(f"{len(live)} of {len(counts)} latents fire on held-out tokens: there are no pairs to look at.")
    return live


def initial_directions(sae: SAE, context: EvalContext, training: TrainingLog) -> tuple[Tensor, str, str]:
    """Directions [d_sae, d_in] that the SAE began with, what they are called, and a note on them.

    Where the training seed is not known they are drawn anew, from the same distribution; where an architecture begins
    with nothing (one made from data), they are random unit vectors.
    """
    known = begins_at_its_seed(training)
    seeded = torch.Generator().manual_seed(training.seed or 0)
    generator = seeded if known else context.generator("initialisation")
    fresh = copy.deepcopy(sae).cpu()
    fresh.reset_parameters(generator)
    rows, name = fresh.decoder_directions().detach().float(), "its initialisation"
    if bool(rows.isfinite().all()) and bool((rows.norm(dim=1) > 0).all()):
        note = f"that of training seed {training.seed}" if known else "drawn anew, as the training seed is not known"
        return rows, name, f"'{name}' is {note}."
    drawn = F.normalize(torch.randn(rows.shape, generator=generator), dim=1)
    return drawn, "random directions", "'random directions' are drawn, as the architecture begins with none."


def begins_at_its_seed(training: TrainingLog) -> bool:
    """Whether the SAE's first directions are those that its architecture draws from a known seed."""
    return training.seed is not None and training.steps > 0


def selection_options(training: TrainingLog) -> tuple[TopKOrthogonalityOptions, str]:
    """The options by which the SAE's pairs were selected, or the defaults for one of another method; and a note that
    says which."""
    if set(_OPTIONS) <= training.options.keys():
        known: dict[str, Any] = {name: training.options[name] for name in _OPTIONS}
        options = TopKOrthogonalityOptions(**known)
        return options, "Pairs are selected as in this SAE's training."
    return TopKOrthogonalityOptions(), (
        "This SAE was not trained by topk_orthogonality: pairs are selected as by that method's default options."
    )


def histogram(values: Tensor, edges: Sequence[float]) -> list[float]:
    """Counts between the edges; values beyond them fall into the outermost bins."""
    inside = values.double().clamp(edges[0], edges[-1])
    return torch.histogram(inside, torch.tensor(edges, dtype=torch.float64)).hist.tolist()
