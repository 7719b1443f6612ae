"""What is won per unit paid, as a table."""

from __future__ import annotations

from ..results.trade import Trade
from .tables import footer, render
from .text import format_difference


def trade_table(found: Trade, fmt: str = "plain") -> str:
    """What is won and what is paid, each with its interval, and their ratio.

    Raises:
        ConfigError: the format is unknown.
    """
    won, paid = found.metrics
    if found.ratio is None:
        ratio = "no number: what is paid is not told apart from 0"
    else:
        ratio = format_difference(found.ratio, found.low, found.high)
    rows = [
        [f"won in {won}", format_difference(found.won.estimate, found.won.low, found.won.high)],
        [f"paid in {paid}", format_difference(found.paid.estimate, found.paid.low, found.paid.high)],
        ["won per unit paid", ratio],
    ]
    headers = (f"{found.candidate} beside {found.baseline}", "[95 %]")
    note = (
        f"L0 {found.l0.describe()}, {found.n} seeds, paired. Won: by how much {won} is better; paid: by how much "
        f"{paid} is worse (both below 0 for the reverse). The interval of the ratio is Fieller's; uncorrected."
    )
    return f"{render(rows, headers, fmt)}\n\n{footer([note], fmt)}"
