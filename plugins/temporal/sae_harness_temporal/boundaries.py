"""The analysis `event_boundaries`: how codes respond where the text breaks off and another goes on.

Held-out sequences are cut in two, and each beginning is read by the LM once with its own continuation and once with
that of another document, which stands at the same positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import SAE, Analysis, AnalysisResult, DataError, EvalContext, Figure, Line, Panel, RaggedCodes, TrainingLog
from harness.evaluation.metrics import n_active, take, token_of_slot

from .penalties import relative_distance
from .positions import by_position

MAX_PAIRS = 200
HALF = 32
"""Tokens on each side of the boundary, where sequences are long enough."""
SHORTEST = 4
MEMORY = 8
"""Tokens before the boundary whose active latents are called old."""
_BROKEN = "\N{REPLACEMENT CHARACTER}"
_Profiles = dict[str, tuple[list[float | None], list[float | None]]]
"""What is measured -> mean and standard error by token."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Beginnings and continuations of some sequences."""

    before: list[str]
    after: list[str]
    document: Tensor
    """[n] int64."""
    partner: Tensor
    """[n] int64: the sequence, of another document, whose continuation comes in place of one's own; each comes once."""
    half: int
    """Tokens of each."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is measured of each sequence at each token from the boundary, NaN where it has none: [n, 2 · half - 1]."""

    distance: Tensor
    """To the code of the token before, in [0, 2]."""
    old: Tensor
    """Share of the active latents that were active on one of the last tokens before the boundary."""


class EventBoundaries(Analysis):
    """Distance between neighbouring codes, and share of old latents, where another document's text goes on, beside the
    same text after its own beginning."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        halves = cut(context)
        own = response(sae, context, halves, torch.arange(len(halves.before)))
        mixed = response(sae, context, halves, halves.partner)
        other = Response(*(_by_continuation(values, halves.partner) for values in (mixed.distance, mixed.old)))
        profiles: _Profiles = {}
        values: dict[str, float | None] = {"sequences": len(halves.before)}
        for name, continued, changed in (
            ("distance", own.distance, other.distance),
            ("old_latents", own.old, other.old),
        ):
            # Before the boundary the texts are others: there is nothing to subtract.
            after = changed[:, halves.half - 1 :] - continued[:, halves.half - 1 :]
            profiles[f"{name}/continued"] = by_position(continued, halves.document)
            profiles[f"{name}/changed"] = by_position(changed, halves.document)
            profiles[f"{name}/difference"] = by_position(after, halves.document)
            for words, part in (("first", after[:, :MEMORY]), ("last", after[:, -MEMORY:])):
                [mean], [error] = by_position(part.nanmean(1, keepdim=True), halves.document)
                values[f"{name}_added/{words}_{MEMORY}"], values[f"{name}_added_stderr/{words}_{MEMORY}"] = mean, error
        offsets = list(range(1 - halves.half, halves.half))
        values["distance_added/boundary"], values["distance_added_stderr/boundary"] = (
            side[0] for side in profiles["distance/difference"]
        )
        return AnalysisResult(
            values=values,
            series={
                "offset": [float(offset) for offset in offsets],
                "offset/difference": [float(offset) for offset in offsets[halves.half - 1 :]],
                **{name: mean for name, (mean, _) in profiles.items()},
                **{f"{name}/stderr": error for name, (_, error) in profiles.items()},
            },
            figures=(_figure(profiles, offsets, halves.half - 1, len(halves.before)),),
            notes=(
                f"Beginnings of {halves.half} tokens; old latents are those active on one of their last {MEMORY}. "
                "Every continuation is read twice: what is added is what another document before it does to its codes.",
            ),
        )


def _by_continuation(values: Tensor, partner: Tensor) -> Tensor:
    """Rows in the order of the continuations, from the order of the beginnings they followed."""
    found = torch.empty_like(values)
    found[partner] = values
    return found


def cut(context: EvalContext) -> Halves:
    """The halves of held-out sequences, each with a partner of another document.

    Raises:
        DataError: there is no tokenizer, too few sequences are long enough, or all are of one document.
    """
    tokens, documents = [], []
    for batch in context.batches():
        for row, mask, document in zip(batch.tokens.cpu(), batch.mask.cpu(), batch.document.tolist(), strict=True):
            tokens.append(row[mask].tolist())
            documents.append(document)
    lengths = sorted(len(ids) for ids in tokens)
    half = min(HALF, lengths[len(lengths) // 2] // 2) if lengths else 0
    if half < SHORTEST:
        raise DataError(f"Held-out sequences have too few tokens to be cut in two: {2 * SHORTEST} are needed.")
    long = [n for n, ids in enumerate(tokens) if len(ids) >= 2 * half]
    texts = context.token_text(known := sorted({token for n in long for token in tokens[n]}))
    text = dict(zip(known, texts, strict=True))
    found = []
    for n in long:
        whole = [text[token] for token in tokens[n][: 2 * half]]
        # A token that is part of a character has no text by itself: such a sequence could not be read again.
        if not any(_BROKEN in piece for piece in whole):
            found.append(("".join(whole[:half]), "".join(whole[half:]), documents[n]))
    order = torch.randperm(len(found), generator=context.generator("sequences"))[:MAX_PAIRS].sort().values
    found = [found[n] for n in order.tolist()]
    found = [found[n] for n in _balanced(torch.tensor([d for *_, d in found], dtype=torch.int64)).tolist()]
    document = torch.tensor([d for *_, d in found], dtype=torch.int64)
    if len(found) == 0:
        raise DataError("A change of document needs held-out sequences of two documents or more.")
    return Halves([a for a, *_ in found], [b for _, b, _ in found], document, _partners(document, context), half)


def _partners(document: Tensor, context: EvalContext) -> Tensor:
    """[n]: a permutation that gives each sequence one of another document; no document has more than half of them."""
    shuffled = torch.randperm(len(document), generator=context.generator("partners"))
    order = shuffled[document[shuffled].argsort(stable=True)]
    shift = int(torch.bincount(document.unique(return_inverse=True)[1]).max())
    partner = torch.empty_like(document)
    partner[order] = order.roll(-shift)
    return partner


def _balanced(document: Tensor) -> Tensor:
    """[m] int64: the sequences kept, ascending, so that no document has more than half of them."""
    if len(document) == 0:
        return document
    _, number, counts = document.unique(return_inverse=True, return_counts=True)
    most = int(counts.argmax())
    room = len(document) - int(counts[most])
    of_most = (number == most).nonzero().squeeze(1)
    return torch.cat([(number != most).nonzero().squeeze(1), of_most[:room]]).sort().values


def response(sae: SAE, context: EvalContext, halves: Halves, partner: Tensor) -> Response:
    """Of each beginning followed by the continuation of `partner` [n]."""
    n, width = len(halves.before), 2 * halves.half - 1
    distance = torch.full((n, width), torch.nan, dtype=torch.float64)
    old = distance.clone()
    prompts = [(before, halves.after[partner[i]]) for i, before in enumerate(halves.before)]
    for index, codes, begins in _codes(sae, context, prompts):
        length = len(codes.offsets) - 1
        at = torch.arange(1, length) - begins + halves.half - 1
        kept = (at >= 0) & (at < width)
        steps = relative_distance(take(codes, torch.arange(1, length)), take(codes, torch.arange(length - 1)))
        distance[index, at[kept]] = steps[kept].double()
        old[index, at[kept]] = _old(codes, begins)[1:][kept]
    return Response(distance, old)


def _codes(sae: SAE, context: EvalContext, prompts: list[tuple[str, str]]) -> Iterator[tuple[int, RaggedCodes, int]]:
    """(which prompt, codes of its tokens on the CPU, how many of them are of the beginning)."""
    for batch in context.prompt_batches(prompts):
        for row, index in enumerate(batch.index.tolist()):
            part = batch.part[row].cpu()
            codes = context.encode(sae, batch.activations[row][batch.part[row] >= 0])
            on_cpu = RaggedCodes(codes.latents.cpu(), codes.offsets.cpu(), codes.values.cpu())
            yield index, on_cpu, int((part == 0).sum())


def _old(codes: RaggedCodes, begins: int) -> Tensor:
    """[n] float64: share of each token's active latents that the last tokens before `begins` have; NaN where none is
    active."""
    token = token_of_slot(codes)
    remembered = codes.latents[(token < begins) & (token >= begins - MEMORY)].unique()
    shared = torch.isin(codes.latents, remembered).double()
    n = n_active(codes).double()
    return torch.zeros_like(n).index_add(0, token, shared) / torch.where(n > 0, n, torch.nan)


_NAMES = {"continued": "after its own beginning", "changed": "after another document"}


def _figure(profiles: _Profiles, offsets: list[int], at: int, n: int) -> Figure:
    """`at` is the place of the boundary in `offsets`."""

    def line(name: str, which: str, first: int) -> Line:
        shown = first if which != "difference" else 0
        both = [side[shown:] for side in profiles[f"{name}/{which}"]]
        known = [(m, e) if m is not None and e is not None else (None, 0.0) for m, e in zip(*both, strict=True)]
        return Line(
            label=_NAMES.get(which, ""),
            x=offsets[first:],
            y=both[0],
            low=[None if m is None else m - e for m, e in known],
            high=[None if m is None else m + e for m, e in known],
            dashed=which == "continued",
        )

    panels = []
    for name, title, label, first in (
        ("distance", "Distance of neighbouring codes", "|f_t - f_t-1| / mean |f|", 0),
        ("old_latents", f"Latents active in the last {MEMORY} tokens of the beginning", "share of active latents", at),
    ):
        panels += [
            Panel(
                marks=[line(name, which, first) for which in _NAMES],
                title=title,
                x_label="token of the continuation",
                y_label=label,
                x_stretch=(0.0, float(offsets[-1])),
            ),
            Panel(
                marks=[line(name, "difference", at)],
                title="What another document before it adds",
                x_label="token of the continuation",
                y_label=f"difference of the {'distance' if name == 'distance' else 'share'}",
                y_reference=0.0,
            ),
        ]
    return Figure(
        name="event_boundaries",
        title="What happens where the text changes?",
        panels=panels,
        caption=(
            f"{n} held-out continuations, each read after its own beginning and after that of another document, at the "
            "same positions. Shaded: the continuation. Bands: ± 1 standard error over documents. Latents that follow "
            "the text lose the old document's latents faster than a continuation would."
        ),
    )
