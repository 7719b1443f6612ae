"""The analysis `strength_traces`: how strong the temporal term was over training, from the training log."""

from __future__ import annotations

import torch

from harness import SAE, Analysis, AnalysisResult, DataError, EvalContext, Figure, Histogram, Line, Panel, TrainingLog

_TERM = "term/temporal"


class StrengthTraces(Analysis):
    """The weighted term and its share of the reconstruction loss; alpha and its trackers where the log has them."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        steps, term = training.column(_TERM)
        if not steps:
            raise DataError(
                f"The training log holds no {_TERM!r} ({', '.join(training.columns) or 'it is empty'}): "
                "strength_traces is for SAEs of temporal with a strength above 0."
            )
        reconstruction = next((n for n in ("term/sse", "term/l2norm") if n in training.columns), None)
        if reconstruction is None:
            raise DataError("The training log holds no reconstruction loss beside the temporal term.")
        loss = training.column(reconstruction)[1]
        share = [t / r if r else None for t, r in zip(term, loss, strict=True)]
        panels = [
            Panel(
                marks=[Line(label=name.partition("/")[2], x=steps, y=values) for name, values in _terms(training)],
                title="Terms of the loss, weighted",
                x_label="step",
                y_label="loss (squared units of the scaled inputs)",
                y_scale="log",
            ),
            Panel(
                marks=[Line(x=steps, y=share)],
                title="Temporal term over the reconstruction loss",
                x_label="step",
                y_label="share",
            ),
        ]
        alphas, notes = _alpha(training)
        panels += alphas
        known = [value for value in share if value is not None]
        return AnalysisResult(
            values={"share_at_start": known[0], "share_at_end": sum(known[-10:]) / len(known[-10:])},
            series={"step": steps, "temporal": term, "reconstruction": loss, "share": share},
            figures=(
                Figure(
                    name="strength_traces",
                    title="How strong the temporal term was",
                    panels=panels,
                    caption="Single batches of the training log, about a hundred over the run.",
                ),
            ),
            notes=notes,
        )


def _terms(training: TrainingLog) -> list[tuple[str, list[float | None]]]:
    """The weighted terms that are ever above 0; None where a logarithmic axis has no place for one."""
    found = []
    for name in training.columns:
        if name.startswith("term/"):
            values = training.column(name)[1]
            if len(values) == len(training.rows) and any(value > 0 for value in values):
                found.append((name, [value if value > 0 else None for value in values]))
    return found


def _alpha(training: TrainingLog) -> tuple[list[Panel], list[str]]:
    """Panels of the adaptive factor, or a note that says why there are none."""
    steps, alpha = training.column("trainer/alpha")
    if not steps:
        return [], ["The training log keeps only weighted terms: alpha, its maximum and deviation are not shown."]
    edges = torch.linspace(0, max(1.0, max(alpha)), 26, dtype=torch.float64)
    counts = torch.histogram(torch.tensor(alpha, dtype=torch.float64), edges).hist
    panels = [
        Panel(marks=[Line(x=steps, y=alpha)], title="alpha", x_label="step", y_label="alpha"),
        Panel(
            marks=[Histogram(edges=edges.tolist(), counts=counts.tolist())],
            title="Distribution of alpha: two spikes are a step function",
            x_label="alpha",
            y_label="logged steps",
        ),
    ]
    tracked = [(n, training.column(f"trainer/{n}")) for n in ("loss_maximum", "loss_deviation", "loss_reference")]
    lines = [Line(label=name.replace("_", " "), x=x, y=y) for name, (x, y) in tracked if x]
    if lines:
        panels.append(
            Panel(marks=lines, title="What alpha is made from", x_label="step", y_label="reconstruction loss")
        )
    return panels, []
