"""Two methods' frontiers in two metrics, as a table."""

from __future__ import annotations

from ..results.pareto import ParetoComparison
from .tables import footer, render
from .text import format_difference, format_value


def pareto_table(found: ParetoComparison, fmt: str = "plain") -> str:
    """Hypervolume and dominance of both sides with their difference, and how to read them.

    Raises:
        ConfigError: the format is unknown.
    """
    x, y = found.metrics
    volumes, covers = (found.baseline_volume, found.candidate_volume), (found.baseline_covers, found.candidate_covers)
    difference = found.volume_difference
    rows = [
        [
            "hypervolume",
            *(format_value(v.mean, v.half_width) for v in volumes),
            format_difference(difference.estimate, difference.low, difference.high),
            found.verdict,
        ],
        ["share of the other's points beaten", *(format_value(v.mean, v.half_width) for v in covers), "-", "-"],
    ]
    headers = (f"frontier in {x} and {y}", found.baseline, found.candidate, "difference [95 %]", "verdict")
    note = (
        f"hypervolume: share of the box from the best values to {x} {found.reference[0]:.4g}, {y} "
        f"{found.reference[1]:.4g} that a frontier beats (l0 on a log axis, lower is better); ± and [ ] are 95 % "
        "intervals over training seeds. beaten: equal or better in both metrics."
    )
    return f"{render(rows, headers, fmt)}\n\n{footer([note], fmt)}"
