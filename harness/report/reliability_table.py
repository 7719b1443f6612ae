"""The reliability of a suite's metrics as a table."""

from __future__ import annotations

from ..results.reliability import MEANING, MetricReliability, Reliability
from .tables import footer, render


def reliability_table(found: Reliability, fmt: str = "plain") -> str:
    """One row a metric: its noise, what it can show, and its label with the meaning below.

    Raises:
        ConfigError: the format is unknown.
    """
    truth = next((m.truth for m in found.metrics if m.truth), "")
    headers = ["metric", "label", "evaluation CV", "seed sd", "spread", "1 seed", "3 seeds", "5 seeds", "order"]
    headers += [f"rank with {truth}"] if truth else []
    rows = [_row(metric, bool(truth)) for metric in found.metrics]
    table = render(rows, headers, fmt)
    if fmt == "csv":
        return table
    used = sorted({m.label for m in found.metrics})
    l0 = ", ".join(map(str, found.l0)) or "-"
    notes = [
        f"{found.suite}: {', '.join(found.methods)}; L0 {l0}; {len(found.training_seeds)} training seeds, "
        f"{len(found.evaluation_seeds)} evaluation seeds.",
        "evaluation CV: sd of one SAE's value over evaluation seeds, over the mean |value|. seed sd: over training "
        "seeds of one method. spread: largest difference between two methods' means. 1, 3, 5 seeds: the difference "
        "that a two-sided 95 % test between two methods finds with power 0.8. order: oracle above trained above "
        "random.",
        *(f"{label}: {MEANING[label]}." for label in used),
    ]
    return f"{table}\n\n{footer(notes, fmt)}"


def _row(metric: MetricReliability, truth: bool) -> list[str]:
    cells = [
        metric.metric,
        metric.label,
        "-" if metric.evaluation_cv is None else f"{metric.evaluation_cv:.2%}",
        _number(metric.seed_noise),
        _number(metric.spread),
        *(_number(metric.smallest.get(n)) for n in ("1", "3", "5")),
        metric.order,
    ]
    return [*cells, "-" if metric.truth_correlation is None else f"{metric.truth_correlation:+.2f}"] if truth else cells


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
