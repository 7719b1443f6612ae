"""The analyses `position_analysis` and `sparsity_analysis`: where in a sequence an SAE errs, and how sparse it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    DataError,
    EvalContext,
    Figure,
    HeatMap,
    Histogram,
    Line,
    Panel,
    Table,
    TrainingLog,
)
from harness.evaluation.metrics import n_active, predicting_positions

from .sequences import firing_counts
from .sparsity_log import logged_octaves

_Profile = tuple[list[float | None], list[float | None]]
_SAME = 0.01
"""Share of the mean within which an L0 is constant: a top-k SAE has fewer than k on tokens with few positive values."""


class PositionAnalysis(Analysis):
    """Squared error, L0 and next-token loss by position, with standard errors over documents."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        documents, errors, counts, power = _errors(sae, context)
        n_documents = len(set(documents.tolist()))
        profiles = {
            "fvu": by_position(errors / power, documents),
            "l0": by_position(counts, documents),
        }
        notes = [f"Variance: {power:.5g}, the mean of ||x - mean||² over all counted tokens."]
        try:
            profiles["ce_increase"] = _loss_increase(sae, context)
        except DataError as error:
            notes.append(f"No next-token losses: {error}")
        l0 = constant(profiles["l0"][0])
        panels = [_panel(name, profile) for name, profile in profiles.items() if name != "l0" or l0 is None]
        first = [n for n, (mean, _) in enumerate(zip(*profiles["fvu"], strict=True)) if mean is not None]
        return AnalysisResult(
            values={name: _slope(profile) for name, profile in profiles.items()},
            tables={"positions": _table(profiles, first)},
            figures=(
                Figure(
                    name="position_analysis",
                    title="Error and sparsity along the sequence",
                    panels=panels,
                    columns=len(panels),
                    caption=(
                        f"{len(documents)} held-out sequences of {n_documents} documents: those of one document are "
                        "averaged first. Lines: means over documents; bands: ± 1 standard error over them."
                        + ("" if l0 is None else f" L0 is {l0:.4g} at every position, and not drawn.")
                    ),
                ),
            ),
            notes=[*notes, "Values: mean of the last quarter of positions minus that of the second quarter."],
        )


class SparsityAnalysis(Analysis):
    """L0, dead latents and the sparsity coefficient over training, L0 by position over training and at its end, and
    firing rates."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        documents, _, active, _ = _errors(sae, context)
        counts, n_tokens = firing_counts(sae, context)
        profile = by_position(active, documents)
        at_end = constant(profile[0])
        panels = [*([] if at_end is not None else [_panel("l0", profile)]), _rates(counts, n_tokens)]
        octaves, notes = logged_octaves(training), []
        if training.rows:
            panels = [*_over_training(training), *_by_octave(octaves, training), *panels]
        if training.rows and not octaves:
            notes.append(
                "The training log keeps no L0 by position (the trainer `temporal` tells it): that panel is of the end "
                "of training, on held-out text."
            )
        if octaves and len({value for *_, values in octaves for value in values}) == 1:
            notes.append("L0 was the same at all positions throughout: the architecture fixes it.")
        if not training.rows:
            notes.append("No training log lies beside this SAE: L0 and dead latents over training cannot be shown.")
        steps, l0 = training.column("l0")
        fixed = [("over training", constant(l0)), ("by position at its end", at_end)]
        told = " and ".join(f"{where} ({value:.4g})" for where, value in fixed if value is not None)
        return AnalysisResult(
            values={"l0": float(counts.sum()) / n_tokens, "silent_latents": int((counts == 0).sum())},
            series={
                "step": steps,
                "l0_over_training": l0,
                "l0_by_position": profile[0],
                **{f"l0_over_training/positions_{words}": values for words, _, values in octaves},
            },
            figures=(
                Figure(
                    name="sparsity_analysis",
                    title="Sparsity over training and along the sequence",
                    panels=panels,
                    caption=(
                        "Over training: single batches of the training log. By position and rates: held-out text."
                        + (f" Not drawn, being constant: L0 {told}." if told else "")
                    ),
                ),
            ),
            notes=notes,
        )


def _errors(sae: SAE, context: EvalContext) -> tuple[Tensor, Tensor, Tensor, float]:
    """Documents [S], squared error and L0 [S, s] float64 (NaN where not counted), and the variance of the inputs.

    Raises:
        DataError: there is no counted token.
    """
    documents, errors, counts = [], [], []
    n, total, squares = 0, torch.zeros(context.d_in, dtype=torch.float64), 0.0
    for part in context.encoded(sae):
        mask = part.batch.mask
        for kept, values in (
            (errors, (part.rows - part.reconstruction()).double().square().sum(1)),
            (counts, n_active(part.codes).double()),
        ):
            grid = torch.full(mask.shape, torch.nan, dtype=torch.float64)
            grid[mask.cpu()] = values.cpu()
            kept.append(grid)
        documents.append(part.batch.document.cpu())
        rows = part.rows.double().cpu()
        n += len(rows)
        total += rows.sum(0)
        squares += float(rows.square().sum())
    if n == 0:
        raise DataError("There are no counted held-out tokens: give the suite held-out data.")
    variance = squares / n - float((total / n).square().sum())
    return torch.cat(documents), torch.cat(errors), torch.cat(counts), variance


def by_position(values: Tensor, documents: Tensor) -> _Profile:
    """Mean and standard error over documents of values [S, s] at each position; None where fewer than two documents
    have one. NaN is no value; sequences of one document are averaged first."""
    _, number = documents.unique(return_inverse=True)
    n_documents = int(number.max()) + 1
    known = values.isfinite()
    sums = values.new_zeros(n_documents, values.shape[1]).index_add_(0, number, values.nan_to_num(0.0))
    counts = values.new_zeros(n_documents, values.shape[1]).index_add_(0, number, known.to(values))
    means = torch.where(counts > 0, sums / counts, torch.nan)
    centre = means.nanmean(0)
    n = (counts > 0).sum(0)
    error = ((means - centre).square().nansum(0) / (n - 1).clamp_min(1) / n.clamp_min(1)).sqrt()
    enough = (n > 1).tolist()
    return (
        [float(value) if ok else None for value, ok in zip(centre, enough, strict=True)],
        [float(value) if ok else None for value, ok in zip(error, enough, strict=True)],
    )


def _loss_increase(sae: SAE, context: EvalContext) -> _Profile:
    """By position of the predicting token, the loss with the reconstruction minus that without, in nats.

    Raises:
        DataError: there is no LM.
    """
    clean = context.clean_losses()
    grids, documents, done = [], [], 0
    replaced = context.next_token_losses(part.replaced(part.reconstruction()) for part in context.encoded(sae))
    for batch, losses in zip(context.batches(), replaced, strict=True):
        places = predicting_positions(batch.mask).cpu()
        # Of s tokens the first s - 1 can predict.
        grid = torch.full(places.shape, torch.nan, dtype=torch.float64)
        increase = losses.ce.cpu() - clean.ce[done : done + len(losses)].cpu()
        grid[places] = increase
        done += len(losses)
        grids.append(grid)
        documents.append(batch.document.cpu())
    return by_position(torch.cat(grids), torch.cat(documents))


_LABELS = {
    "fvu": ("Reconstruction error", "squared error / variance"),
    "l0": ("Active latents", "L0 (latents per token)"),
    "ce_increase": ("What the LM loses", "rise of next-token loss (nats)"),
}


def _panel(name: str, profile: _Profile) -> Panel:
    title, label = _LABELS[name]
    mean, error = profile
    known = [(p, m, e) for p, (m, e) in enumerate(zip(mean, error, strict=True)) if m is not None and e is not None]
    line = Line(
        x=[p for p, *_ in known],
        y=[m for _, m, _ in known],
        low=[m - e for _, m, e in known],
        high=[m + e for _, m, e in known],
    )
    return Panel(marks=[line], title=title, x_label="position in the sequence (tokens)", y_label=label)


def constant(values: Sequence[float | None]) -> float | None:
    """The mean, where all lie within 1 % of it; None where they differ, or there are none."""
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    return mean if known and max(known) - min(known) <= _SAME * mean else None


def _slope(profile: _Profile) -> float | None:
    """Mean of the last quarter of positions minus that of the second quarter (the first is another world)."""
    mean = [value for value in profile[0] if value is not None]
    quarter = len(mean) // 4
    if not quarter:
        return None
    return sum(mean[-quarter:]) / quarter - sum(mean[quarter : 2 * quarter]) / quarter


def _table(profiles: dict[str, _Profile], positions: list[int]) -> Table:
    columns = ["position", *(f"{name}{end}" for name in profiles for end in ("", "_stderr"))]
    rows = []
    for position in positions:
        cells = [side[position] if position < len(side) else None for p in profiles.values() for side in p]
        rows.append([position, *cells])
    return Table(columns=columns, rows=rows)


def _rates(counts: Tensor, n_tokens: int) -> Panel:
    alive = counts[counts > 0].double()
    logs = (alive / n_tokens).log10()
    edges = torch.linspace(float(logs.min().floor()), 0.0, 31, dtype=torch.float64)
    histogram = Histogram(edges=edges.tolist(), counts=torch.histogram(logs, edges).hist.tolist())
    silent = int((counts == 0).sum())
    return Panel(
        marks=[histogram],
        title=f"How often latents fire ({silent} of {len(counts)} never do)",
        x_label="log10 of the share of tokens",
        y_label="latents",
    )


def _by_octave(octaves: list[tuple[str, list[float], list[float]]], training: TrainingLog) -> list[Panel]:
    """Positions against steps, over the batch's L0; a gap where a batch had no token of an octave, or no latent fired.
    Nothing where all are equal."""
    if len({value for _, _, values in octaves for value in values}) < 2:
        return []
    whole = dict(zip(*training.column("l0"), strict=True))
    steps = sorted(whole)
    rows = []
    for _, at, values in octaves:
        known = dict(zip(at, values, strict=True))
        rows.append([_octaves_over(known.get(step, 0.0), whole[step]) for step in steps])
    ticks = {place: f"{steps[place]:g}" for place in range(0, len(steps), max(1, len(steps) // 5))}
    drawn = HeatMap(
        rows=rows,
        colour_label="log2 of L0 over the batch's L0",
        x_ticks=ticks,
        y_ticks={number: words for number, (words, *_) in enumerate(octaves)},
        diverging=True,
    )
    return [Panel(marks=[drawn], title="L0 by position over training", x_label="step", y_label="position (tokens)")]


def _octaves_over(value: float, whole: float) -> float | None:
    """log2 of the ratio, at most 1 either way; None where there is none."""
    return max(-1.0, min(1.0, math.log2(value / whole))) if value > 0 and whole > 0 else None


def _over_training(training: TrainingLog) -> list[Panel]:
    panels = []
    for name, title, label in (
        ("l0", "L0 over training", "L0 of one batch (latents per token)"),
        ("dead", "Dead latents over training", "latents"),
        ("coefficient", "Sparsity coefficient over training", "weight of the sparsity term"),
    ):
        steps, values = training.column(name)
        if any(values) and not (name == "l0" and constant(values) is not None):
            line = Line(x=steps, y=values)
            panels.append(Panel(marks=[line], title=title, x_label="step", y_label=label))
    return panels
