"""The analysis `matching`: which latents of an SAE another has too, has as one for several, or as several for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    Bars,
    EvalContext,
    Figure,
    Histogram,
    Line,
    NotEvaluatedError,
    Panel,
    Scatter,
    Table,
    TrainingLog,
)

from .held_out import histogram, live_latents

THRESHOLD = 0.7
"""Cosine above which a row is taken for the same direction."""
PARTS = 3
"""So many rows of the other SAE may make up one of this."""
_BLOCK = 1024
_EDGES = tuple(n / 50 for n in range(51))
_KINDS = ("matched", "composed", "neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Rows of one SAE against those of another."""

    best: Tensor
    """[m]: each row's largest cosine to a row of the other, and"""
    nearest: Tensor
    """[m] int64: which row that is."""
    composed: Tensor
    """[m] bool: no single row of the other matches, but a non-negative sum of at most `parts` of them does."""
    share_matched: float
    """Share of the rows whose largest cosine is above the threshold: distinct where it is not."""
    share_split: float
    """Share of the other's rows that are the nearest, above the threshold, of two or more rows."""
    share_composed: float


@torch.no_grad()
def matching(W: Tensor, other: Tensor, *, threshold: float = THRESHOLD, parts: int = PARTS) -> Matching:
    """How the rows of W [m, d] relate to those of another SAE [r, d]: equal, split, or composed of several.

    Sums are found greedily, of non-negative parts: the row of largest cosine with what is left is added, and all parts
    are fitted anew. In blocks: no [m, r] matrix is held.
    """
    a, b = F.normalize(W.float(), dim=1), F.normalize(other.float(), dim=1)
    best, nearest, composed = [], [], []
    for rows in a.split(_BLOCK):
        top, place = (rows @ b.t()).max(1)
        sums = torch.zeros(len(rows), dtype=torch.bool)
        alone = top <= threshold
        if bool(alone.any()):
            sums[alone] = _greedy_cosine(rows[alone], b, parts) > threshold
        best.append(top.clamp(-1, 1))
        nearest.append(place)
        composed.append(sums)
    cosine, which, made = torch.cat(best), torch.cat(nearest), torch.cat(composed)
    children = torch.bincount(which[cosine > threshold], minlength=len(b))
    return Matching(
        best=cosine,
        nearest=which,
        composed=made,
        share_matched=float((cosine > threshold).double().mean()),
        share_split=float((children >= 2).double().mean()),
        share_composed=float(made.double().mean()),
    )


def _greedy_cosine(rows: Tensor, table: Tensor, parts: int) -> Tensor:
    """[n]: cosine of each row to its best non-negative sum of so many rows of the table."""
    chosen = torch.empty(len(rows), 0, dtype=torch.int64)
    residual, fit = rows, torch.zeros_like(rows)
    for _ in range(min(parts, len(table))):
        scores = residual @ table.t()
        if chosen.shape[1]:
            scores.scatter_(1, chosen, -math.inf)
        chosen = torch.cat([chosen, scores.argmax(1, keepdim=True)], dim=1)
        members = table[chosen]
        solved = torch.linalg.lstsq(members.transpose(1, 2), rows.unsqueeze(2)).solution.clamp_min(0)
        fit = (members * solved).sum(1)
        residual = rows - fit
    return F.cosine_similarity(fit, rows, dim=1)


class SAEMatching(Analysis):
    """Live latents of this SAE matched by, split or composed in the reference, the reverse, and against as many random
    directions."""

    compares = True

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        if self.reference is None:
            raise NotEvaluatedError("matching holds two SAEs against each other: give it a reference.")
        other = self.reference.sae
        own, theirs = live_latents(sae, context), live_latents(other, context)
        rows, table = (
            one.decoder_directions().detach().float().cpu()[live] for one, live in ((sae, own), (other, theirs))
        )
        random = F.normalize(torch.randn(table.shape, generator=context.generator("random directions")), dim=1)
        ours, back, null = matching(rows, table), matching(table, rows), matching(rows, random)
        label = self.reference.label
        found = {"this SAE in the reference": ours, "the reference in this SAE": back, "in random directions": null}
        values: dict[str, float] = {"live_latents": len(own), "live_latents/reference": len(theirs)}
        for key, one in (("this_SAE", ours), ("reference", back), ("random_directions", null)):
            values[f"matched/{key}"] = one.share_matched
            values[f"composed/{key}"] = one.share_composed
            values[f"split/{key}"] = one.share_split
            values[f"mean_best_cosine/{key}"] = float(one.best.double().mean())
        rates = _rates(sae, context)[own]
        return AnalysisResult(
            values=values,
            series={
                "latent": own.double().tolist(),
                "best_cosine": ours.best.double().tolist(),
                "best_cosine/reference": back.best.double().tolist(),
                "firing_rate": rates.tolist(),
            },
            tables={"unmatched": _unmatched(ours, own, theirs, rates)},
            figures=(_figure(found, ours, rates, label),),
            notes=(
                f"Matched: a cosine above {THRESHOLD} to one row. Composed: not matched, but a non-negative sum of at "
                f"most {PARTS} rows has one. Split: share of the other's rows that match two or more. `this_SAE`: its "
                "rows looked up in the reference; `reference`: the reverse.",
            ),
        )


def _rates(sae: SAE, context: EvalContext) -> Tensor:
    """[d_sae] float64: share of the counted tokens on which each latent fires."""
    counts, n = torch.zeros(sae.config.d_sae, dtype=torch.int64), 0
    for part in context.encoded(sae):
        counts += torch.bincount(part.codes.latents, minlength=len(counts)).cpu()
        n += len(part.rows)
    return counts.double() / n


def _unmatched(ours: Matching, own: Tensor, theirs: Tensor, rates: Tensor) -> Table:
    """The most frequent latents that no single one of the reference matches."""
    at = (ours.best <= THRESHOLD).nonzero().squeeze(1)
    at = at[rates[at].argsort(descending=True, stable=True)[:50]]
    rows = [
        [int(own[i]), float(rates[i]), int(theirs[ours.nearest[i]]), float(ours.best[i]), bool(ours.composed[i])]
        for i in at.tolist()
    ]
    return Table(columns=("latent", "firing_rate", "nearest_of_reference", "cosine", "composed"), rows=rows)


def _figure(found: dict[str, Matching], ours: Matching, rates: Tensor, label: str) -> Figure:
    levels = [n / 50 for n in range(10, 51)]
    bars = [
        Bars(
            label=name,
            categories=_KINDS,
            heights=[one.share_matched, one.share_composed, 1 - one.share_matched - one.share_composed],
        )
        for name, one in found.items()
    ]
    panels = [
        Panel(marks=bars, title="Latents of one SAE in the other", x_label="is it there?", y_label="share of latents"),
        Panel(
            marks=[
                Histogram(label=name, edges=_EDGES, counts=histogram(one.best, _EDGES)) for name, one in found.items()
            ],
            title="How near the nearest row lies",
            x_label="largest cosine to a row of the other",
            y_label="latents",
        ),
        Panel(
            marks=[
                Line(
                    label=name,
                    x=levels,
                    y=[float((one.best > level).double().mean()) for level in levels],
                    dashed="random" in name,
                )
                for name, one in found.items()
            ],
            title="Share matched, by threshold",
            x_label="cosine",
            y_label="share of latents",
        ),
        Panel(
            marks=[Scatter(x=rates.tolist(), y=ours.best.double().tolist())],
            title="Are frequent latents found in the reference?",
            x_label="firing rate (share of tokens)",
            y_label="largest cosine",
            x_scale="log",
            y_reference=THRESHOLD,
        ),
    ]
    return Figure(
        name="matching",
        title=f"Latents of this SAE and of the reference, {label}",
        panels=panels,
        caption=(
            f"Latents that fire on held-out tokens. Matched: cosine above {THRESHOLD}; composed: only a non-negative "
            f"sum of at most {PARTS} rows has one. Random directions: as many as the reference has live latents. Two "
            "trainings of one method from two seeds differ too: compare with that."
        ),
    )
