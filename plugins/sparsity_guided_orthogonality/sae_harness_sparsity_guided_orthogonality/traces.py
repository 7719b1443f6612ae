"""The analysis `competition_traces`: the pairs and the strength of the term over training, from the training log."""

from __future__ import annotations

from harness import SAE, Analysis, AnalysisResult, DataError, EvalContext, Figure, Line, Panel, TrainingLog

_TERM = "term/orthogonality"


class CompetitionTraces(Analysis):
    """Pairs observed and with part, the sum and mean of their w (`by_c` divides the sum out), their mean |cosine|, and
    the weight of the term and its share of the loss."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        steps, term = training.column(_TERM)
        if not steps:
            raise DataError(
                f"The training log holds no {_TERM!r} ({', '.join(training.columns) or 'it is empty'}): "
                "competition_traces is for SAEs of sparsity_guided_orthogonality with a weight above 0."
            )
        series: dict[str, list[float | None]] = {"step": [*steps], "term": [*term]}
        values: dict[str, float | None] = {}
        for name in training.columns:
            if name.startswith("trainer/"):
                at, found = training.column(name)
                key = name.removeprefix("trainer/")
                series[f"{key}/step"], series[key] = [*at], [*found]
                values[f"{key}/first"], values[f"{key}/last_tenth"] = found[0], _late(found)
        panels = [*_share(training, values), *_of_the_trainer(training)]
        notes = [] if "selected" in series else [
            "The log has no number of pairs: the SAE was trained before trainers' diagnostics were logged."
        ]  # fmt: skip
        return AnalysisResult(
            values=values,
            series=series,
            figures=(
                Figure(
                    name="competition_traces",
                    title="The pairs and their penalty over training",
                    panels=panels,
                    caption="Single batches of the training log, about a hundred over the run.",
                ),
            ),
            notes=notes,
        )


def _late(values: list[float]) -> float:
    """Mean of the last tenth."""
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last)


def _share(training: TrainingLog, values: dict[str, float | None]) -> list[Panel]:
    """The weighted term over the reconstruction loss."""
    loss = dict(zip(*training.column("term/sse"), strict=True))
    steps, term = training.column(_TERM)
    share = [value / loss[step] if loss.get(step) else None for step, value in zip(steps, term, strict=True)]
    known = [value for value in share if value is not None]
    if not known:
        values["share_of_loss/last_tenth"] = None
        return [Panel(marks=[Line(x=steps, y=term)], title="The weighted term", x_label="step", y_label="loss")]
    values["share_of_loss/first"], values["share_of_loss/last_tenth"] = known[0], _late(known)
    line = Line(x=steps, y=share)
    return [Panel(marks=[line], title="The term over the reconstruction loss", x_label="step", y_label="share")]


def _of_the_trainer(training: TrainingLog) -> list[Panel]:
    panels = []
    pairs = [
        Line(label=name, x=steps, y=[v if v > 0 else None for v in found])
        for name, (steps, found) in ((n, training.column(f"trainer/{n}")) for n in ("observed", "selected"))
        if steps and any(v > 0 for v in found)
    ]
    if pairs:
        panels.append(Panel(marks=pairs, title="Pairs of latents", x_label="step", y_label="pairs", y_scale="log"))
    for name, title, label in (
        ("sum_w", "How much competition there is: sum of w", "sum of w"),
        ("mean_w", "Mean w of the selected pairs", "w"),
        ("mean_cosine", "Mean |cosine| of the selected pairs, weighed by w", "|cosine|"),
        ("weight", "Weight of the term (with the scale)", "weight"),
    ):
        steps, found = training.column(f"trainer/{name}")
        if steps:
            panels.append(Panel(marks=[Line(x=steps, y=found)], title=title, x_label="step", y_label=label))
    return panels
