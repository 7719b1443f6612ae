"""What the analyses read of an SAE: its codes on a sample of held-out tokens, and those of one that is untrained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import SAE, DataError, EncodedBatch, EvalContext, RaggedCodes, TrainingLog
from harness.evaluation.metrics import n_active, take, token_of_slot

from .options import SparsityGuidedOptions

MAX_PAIRS = 4_000_000
"""Pairs listed at most, one for each two latents of a token: what they take is about 400 MB."""
MAX_TOKENS = 65_536
_WINDOW = 6
_ROWS = 512
_OPTIONS = tuple(field.name for field in fields(SparsityGuidedOptions))


@dataclass(frozen=True, slots=True)
class Sample:
    """Some counted held-out tokens, in the order of the data."""

    chosen: tuple[Tensor, ...]
    """Of each batch, which of its counted tokens, [m] int64 ascending."""
    n: int
    l0: float
    """Mean number of active latents, over all counted tokens."""
    codes: RaggedCodes
    """[n] of the SAE, on the CPU."""


def sample(sae: SAE, context: EvalContext, per_token: int) -> Sample:
    """Tokens drawn at random: as many as MAX_PAIRS and MAX_TOKENS allow.

    Raises:
        DataError: no latent fires on a held-out token.
    """
    lengths = [n_active(part.codes).cpu() for part in context.encoded(sae)]
    every = torch.cat(lengths) if lengths else torch.zeros(0, dtype=torch.int64)
    if len(every) == 0 or int(every.sum()) == 0:
        raise DataError("No latent fires on a held-out token: there is no competition to look at.")
    width = every.clamp_max(per_token).double()
    pairs = float((width * (width - 1) / 2).mean())
    n = max(1, min(len(every), MAX_TOKENS, int(MAX_PAIRS / max(pairs, 1.0))))
    order = torch.randperm(len(every), generator=context.generator("tokens"))[:n].sort().values
    start, chosen = 0, []
    for length in lengths:
        inside = order[(order >= start) & (order < start + len(length))]
        chosen.append(inside - start)
        start += len(length)
    codes = _joined(sae, context, chosen, lambda part, at: take(part.codes, at))
    return Sample(tuple(chosen), n, float(every.double().mean()), codes)


def _joined(
    sae: SAE,
    context: EvalContext,
    chosen: list[Tensor] | tuple[Tensor, ...],
    codes_of: Callable[[EncodedBatch, Tensor], RaggedCodes],
) -> RaggedCodes:
    parts = []
    for part, at in zip(context.encoded(sae), chosen, strict=True):
        if len(at):
            codes = codes_of(part, at.to(part.rows.device))
            parts.append(RaggedCodes(codes.latents.cpu(), codes.offsets.cpu(), codes.values.cpu()))
    lengths = torch.cat([n_active(codes) for codes in parts])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return RaggedCodes(torch.cat([c.latents for c in parts]), offsets, torch.cat([c.values for c in parts]))


def places(sae: SAE, context: EvalContext, found: Sample) -> list[str]:
    """Where each token of the sample stands: document, position, and the text up to it, itself in brackets; token ids
    in place of text where there is no tokenizer, and neither where the data have no tokens."""
    told: list[tuple[str, list[int]]] = []
    for part, at in zip(context.encoded(sae), found.chosen, strict=True):
        sequence, position = part.batch.mask.cpu().nonzero(as_tuple=True)
        tokens = part.batch.tokens.cpu()
        for s, p in zip(sequence[at].tolist(), position[at].tolist(), strict=True):
            window = tokens[s, max(0, p + 1 - _WINDOW) : p + 1].tolist()
            told.append((f"document {int(part.batch.document[s])}, position {p}", window))
    ids = sorted({token for _, window in told for token in window})
    if len(ids) < 2:
        return [where for where, _ in told]
    text = token_texts(context, ids)
    if text is None:
        return [f"{where}: {' '.join(map(str, ids[:-1]))} [{ids[-1]}]".replace(":  ", ": ") for where, ids in told]
    return [f"{where}: {''.join(text[i] for i in ids[:-1])}[{text[ids[-1]]}]" for where, ids in told]


def token_texts(context: EvalContext, ids: list[int]) -> dict[int, str] | None:
    """Token id -> its text on one line; None where there is no tokenizer."""
    try:
        texts = context.token_text(ids)
    except DataError:
        return None
    return {i: text.replace("\n", "⏎").replace("\r", "") for i, text in zip(ids, texts, strict=True)}


def strongest_tokens(sae: SAE, context: EvalContext, found: Sample, latents: Tensor) -> list[str]:
    """[m]: the text of the token of the sample on which each latent [m] is largest; empty where it has none."""
    token = token_of_slot(found.codes)
    best = []
    for latent in latents.tolist():
        at = (found.codes.latents == latent).nonzero().squeeze(1)
        best.append(int(token[at[found.codes.values[at].argmax()]]) if len(at) else -1)
    ids = torch.cat(
        [
            part.batch.tokens[part.batch.mask].cpu()[at]
            for part, at in zip(context.encoded(sae), found.chosen, strict=True)
        ]
    ).tolist()
    texts = token_texts(context, sorted({ids[at] for at in best if at >= 0}))
    return ["" if texts is None or at < 0 else texts[ids[at]].strip() for at in best]


def untrained(
    sae: SAE, context: EvalContext, found: Sample, training: TrainingLog
) -> tuple[Tensor, RaggedCodes, str, str]:
    """Directions [d_sae, d_in] that the SAE began with; the codes that they give the tokens of the sample; what they
    are called, and a note on them.

    Codes are the k largest positive products with the centred activation, k the SAE's own mean L0: so untrained
    directions have the same number of competitors a token, whatever the architecture. Where the training seed is not
    known directions are drawn anew, from the same distribution; where an architecture begins with nothing (one made
    from data), they are random unit vectors.
    """
    known = training.seed is not None and training.steps > 0
    seeded = torch.Generator().manual_seed(training.seed or 0)
    generator = seeded if known else context.generator("initialisation")
    fresh = copy.deepcopy(sae).cpu()
    fresh.reset_parameters(generator)
    rows, name = fresh.decoder_directions().detach().float(), "its initialisation"
    note = f"'{name}' is that of training seed {training.seed}"
    if not known:
        note = f"'{name}' is drawn anew, as the training seed is not known"
    if not (bool(rows.isfinite().all()) and bool((rows.norm(dim=1) > 0).all())):
        rows, name = torch.randn(rows.shape, generator=generator), "random directions"
        note = f"'{name}' are drawn, as the architecture begins with none"
    rows = F.normalize(rows, dim=1)
    total, n = torch.zeros(sae.config.d_in, dtype=torch.float64), 0
    for batch in context.batches():
        total += batch.rows().double().sum(0).cpu()
        n += int(batch.mask.sum())
    mean, k = (total / n).float(), min(max(1, round(found.l0)), sae.config.d_sae)

    def codes_of(part: EncodedBatch, at: Tensor) -> RaggedCodes:
        directions = rows.to(part.rows.device)
        centred = part.rows[at] - mean.to(part.rows)
        top = [(block @ directions.t()).topk(k, dim=1) for block in centred.split(_ROWS)]
        latents, order = torch.cat([t.indices for t in top]).sort(dim=1)
        values = torch.cat([t.values for t in top]).gather(1, order)
        active = values > 0
        lengths = active.sum(1)
        return RaggedCodes(latents[active], torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), values[active])

    return rows, _joined(sae, context, found.chosen, codes_of), name, note


def codes_on(sae: SAE, context: EvalContext, found: Sample) -> RaggedCodes:
    """Another SAE's codes of the tokens of the sample, on the CPU."""
    return _joined(sae, context, found.chosen, lambda part, at: take(part.codes, at))


def competition_options(training: TrainingLog) -> tuple[SparsityGuidedOptions, str]:
    """The options by which competition was counted in the SAE's training, or the defaults for one of another method;
    and a note that says which."""
    if set(_OPTIONS) <= training.options.keys():
        known: dict[str, Any] = {name: training.options[name] for name in _OPTIONS}
        options = SparsityGuidedOptions(**known)
        whose = "as in this SAE's training"
    else:
        options = SparsityGuidedOptions()
        whose = "by the defaults of sparsity_guided_orthogonality, by which this SAE was not trained"
    return options, f"Competition is {options.competition}, {whose}."


def numbers(values: Tensor) -> list[float]:
    """As plain floats."""
    return values.double().tolist()


def histogram(values: Tensor, edges: list[float]) -> list[float]:
    """Counts between the edges; values beyond them fall into the outermost bins."""
    inside = values.double().clamp(edges[0], edges[-1])
    return torch.histogram(inside, torch.tensor(edges, dtype=torch.float64)).hist.tolist()
