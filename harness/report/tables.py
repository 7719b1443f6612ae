"""Comparisons and leaderboards as tables (plain, md, github, csv) and as JSON. The only file that knows tabulate."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from ..results.comparison import Comparison, ComparisonRow
from ..results.frontier import Window
from ..results.leaderboard import Leaderboard, LeaderboardEntry
from ..results.reliability import MEANING
from ..results.side import L0
from .text import format_difference, format_value

FORMATS = ("plain", "md", "github", "csv")
WIDTH = 120
"""Columns a plain table and its footnotes keep to."""

_TABULATE = {"md": "pipe", "github": "github"}
_SYMBOLS = {"within noise": "~ ", "unresolved": "? ", "not comparable": "x ", "confounded": "x ", "matched": "= "}
_ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
_WARNED = ("blind", "noisy")
"""Labels that stand beside a verdict; of a misleading metric it is the verdict's reason."""
_INLINE = 24
"""Longest reason, in characters, shown in the row; longer ones become footnotes."""


def render(rows: Sequence[Sequence[str]], headers: Sequence[str], fmt: str = "plain") -> str:
    """A table of texts.

    Raises:
        ConfigError: the format is unknown.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"Unknown table format {fmt!r}: known are {', '.join(FORMATS)}.")
    if fmt == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([headers, *rows])
        return out.getvalue().rstrip("\n")
    if fmt == "plain":
        # Not by tabulate, which strips the spaces that line up the numbers.
        columns = [_aligned(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in headers]
        full = [[head, *column] for head, column in zip(headers, columns, strict=True)]
        widths = [max(map(len, column)) for column in full]
        lines = zip(*full, strict=True)
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )
    from tabulate import tabulate

    return tabulate(rows, headers=list(headers), tablefmt=_TABULATE[fmt], disable_numparse=True)


def comparison_table(
    comparison: Comparison, fmt: str = "plain", *, detail: bool = False, levels: bool = False, every: bool = True
) -> str:
    """The comparison with its footnotes; `detail` adds the smallest detectable difference, the p-value after Holm's
    correction, the evaluation noise and the reliability, `levels` a table for each L0. Without `every`, rows that can
    have no verdict are left out. As csv: all rows, numbers in full, without footnotes.

    Raises:
        ConfigError: the format is unknown.
    """
    if fmt == "csv":
        at_levels = [row for level in comparison.by_level for row in level.rows] if levels else []
        return _comparison_csv(comparison, [*comparison.rows, *at_levels])
    footnotes: list[str] = []
    shown = comparison.rows if every else [row for row in comparison.rows if _can_be_judged(row)]
    parts = [_comparison_rows(comparison, shown, fmt, detail, footnotes)]
    for level in comparison.by_level if levels else ():
        rows = level.rows if every else [row for row in level.rows if _can_be_judged(row)]
        parts += [f"at L0 {level.l0:.3g}", _comparison_rows(comparison, rows, fmt, detail, footnotes)]
    notes = [*_numbered(footnotes), *_reading(comparison), *(_of_detail(comparison) if detail else [])]
    notes += comparison.notes
    if len(shown) < len(comparison.rows):
        n = len(comparison.rows) - len(shown)
        notes.append(f"Not shown are {n} that get no verdict: --metrics all.")
    return "\n\n".join([*parts, footer(notes, fmt)] if notes else parts)


def leaderboard_table(board: Leaderboard, fmt: str = "plain", *, metrics: Sequence[str] | None = None) -> str:
    """The leaderboard with its footnotes: the primary metric first, then `metrics` (default: all that fit).

    Raises:
        ConfigError: the format is unknown.
    """
    names = _leaderboard_metrics(board, metrics)
    if fmt == "csv":
        return _leaderboard_csv(board, names)
    shown, footnotes = names, []
    if fmt == "plain" and metrics is None:
        while len(shown) > 1 and _width(_leaderboard_rows(board, shown, fmt, footnotes)) > WIDTH:
            shown = shown[:-1]
    table = _leaderboard_rows(board, shown, fmt, footnotes)
    notes = [*_numbered(footnotes), *board.notes]
    if board.window is not None:
        notes.insert(
            0,
            f"Mean over log L0 in {board.window.describe()}, ± half-width of the 95 % interval over seeds. "
            f"Ordered by {board.primary}; rank: from 1 + the number of methods significantly better to the number "
            "of methods less those significantly worse.",
        )
    if fmt == "plain" and any(name in entry.tainted for entry in board.entries for name in shown):
        notes.insert(0, "In [ ]: tainted, shown because it was asked for. It is not a measurement of this method.")
    if len(shown) < len(names):
        notes.append(f"Not shown, for want of width: {', '.join(names[len(shown) :])}.")
    return f"{table}\n\n{footer(notes, fmt)}" if notes else table


def comparison_to_json_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data; `kind` and `version` name its layout."""
    return {"kind": "sae-harness/comparison", "version": 1, **_plain(comparison)}


def leaderboard_to_json_dict(board: Leaderboard) -> dict[str, Any]:
    """The leaderboard as plain data; `kind` and `version` name its layout."""
    data = {"kind": "sae-harness/leaderboard", "version": 1, **_plain(board)}
    data["metrics"] = [{"name": m.name, "better": m.better, "version": m.version} for m in board.metrics]
    return data


def headline(protocol: str, fmt: str = "plain") -> str:
    """The protocol's line; in a plain table broken at its dots where it is too wide."""
    if fmt != "plain":
        return protocol
    lines: list[str] = []
    for part in protocol.split(" · "):
        if lines and len(lines[-1]) + len(part) + 3 <= WIDTH:
            lines[-1] += f" · {part}"
        else:
            lines += textwrap.wrap(part, WIDTH, subsequent_indent="  ") if lines else [part]
    return "\n".join(lines)


def _can_be_judged(row: ComparisonRow) -> bool:
    """Whether the row is L0, or a metric that gets a verdict, or would but for its reliability."""
    if row.verdict == "not comparable" and row.better == "none":
        return row.metric == L0
    return row.verdict not in ("information", "no direction") or row.reliability == "misleading"


def _comparison_rows(
    comparison: Comparison, rows: Sequence[ComparisonRow], fmt: str, detail: bool, footnotes: list[str]
) -> str:
    n_theirs = max((r.baseline_n for r in rows), default=0) or len(comparison.baseline_seeds)
    n_ours = max((r.candidate_n for r in rows), default=0) or len(comparison.candidate_seeds)
    headers = [
        "metric",
        f"{comparison.baseline} ({_seeds(n_theirs)})",
        f"{comparison.candidate} ({_seeds(n_ours)})",
        "difference [95 %]",
        *(["detectable", "p (Holm)", "evaluation noise", "reliability"] if detail else []),
        "verdict",
    ]
    cells = [
        [
            f"{row.metric}{_ARROWS[row.better]}{' *' if row.primary else ''}",
            _mean(row.baseline_mean, row.baseline_half_width, row.baseline_n, n_theirs),
            _mean(row.candidate_mean, row.candidate_half_width, row.candidate_n, n_ours),
            "-" if row.difference is None else format_difference(row.difference, row.low, row.high),
            *([*_details(row), row.reliability or "-"] if detail else []),
            _verdict(row, footnotes) + (f" ({row.reliability})" if row.reliability in _WARNED else ""),
        ]
        for row in rows
    ]
    return render(cells, headers, fmt)


def _details(row: ComparisonRow) -> list[str]:
    p = row.p_corrected
    noise = [row.baseline_evaluation_noise, row.candidate_evaluation_noise]
    sides = " / ".join("-" if value is None else f"{value:.2g}" for value in noise) if any(noise) else "-"
    if row.difference_evaluation_noise is not None:
        sides += f" ({row.difference_evaluation_noise:.2g})"
    return [
        "-" if row.smallest_detectable is None else f"{row.smallest_detectable:.2g}",
        "-" if p is None else ("<0.0001" if p < 0.0001 else f"{p:.2g}"),
        sides,
    ]


def _of_detail(comparison: Comparison) -> list[str]:
    """What the columns of `--detail` mean, where they have something to show."""
    if not any(row.baseline_evaluation_noise or row.candidate_evaluation_noise for row in comparison.rows):
        return []
    note = (
        "evaluation noise: standard error over held-out documents of the mean of the baseline / of the candidate, at "
        "most. It is in no interval: both are read on the same documents, and most of it cancels in the difference"
    )
    if any(row.difference_evaluation_noise is not None for row in comparison.rows):
        note += " (in brackets: that of the difference, by the bootstrap)"
    return [f"{note}."]


def _mean(mean: float | None, half_width: float | None, n: int, usual: int) -> str:
    if mean is None:
        return "-"
    return format_value(mean, half_width) + ("" if n == usual else f" (n={n})")


def _verdict(row: ComparisonRow, footnotes: list[str]) -> str:
    symbol = _SYMBOLS.get(row.verdict, "")
    if not row.reason:
        return symbol + row.verdict
    if row.verdict in ("unresolved", "confounded"):
        return f"{symbol}{row.verdict} ({row.reason})"
    return symbol + _short(row.reason, row.verdict, footnotes)


def _short(reason: str, instead: str, footnotes: list[str]) -> str:
    """The reason itself where it is short, else `instead` with the number of its footnote."""
    if len(reason) <= _INLINE:
        return reason
    if reason not in footnotes:
        footnotes.append(reason)
    return f"{instead} [{footnotes.index(reason) + 1}]"


def _reading(comparison: Comparison) -> list[str]:
    """How the numbers came about, in words."""
    rows = [r for r in comparison.rows if r.l0_low is not None]
    if not rows:
        return []
    methods = sorted({r.method for r in rows})
    how = " or ".join({"paired": "paired by seed", "welch": "unpaired (Welch)"}[m] for m in methods)
    if comparison.at_l0 is not None:
        where = f"at L0 {comparison.at_l0:.4g}"
    else:
        spans = sorted({Window(r.l0_low, r.l0_high).describe() for r in rows if r.l0_low and r.l0_high})
        where = f"mean over log L0 in {spans[0]}" if len(spans) == 1 else f"mean over log L0, {' or '.join(spans)}"
    notes = [
        f"difference = {comparison.candidate} - {comparison.baseline} at matched L0 ({where}), {how}; ± and "
        "[ ] are 95 % intervals over training seeds."
    ]
    notes += _families(comparison)
    warned = sorted({r.reliability for r in rows} & {"misleading", *_WARNED})
    notes += [f"{label}: {MEANING[label]}." for label in warned]
    constant = [r.metric for r in rows if r.constant and r.verdict in ("better", "worse")]
    if constant:
        notes.append(f"no variation between seeds, so an interval of width 0: {', '.join(constant)}.")
    return notes


def _families(comparison: Comparison) -> list[str]:
    """What the verdicts were corrected over; a metric alone in its group needs no correction."""
    primary, others = comparison.n_judged
    hidden = primary + others - sum(row.p_corrected is not None for row in comparison.rows)
    declared = "* primary: declared beforehand, by the suite or as an aim of the method."
    notes = [declared] if any(row.primary for row in comparison.rows) else []
    if primary:
        groups = [f"the {n} {which} metrics judged" for n, which in ((primary, "primary"), (others, "other")) if n > 1]
    else:
        groups = [f"the {others} metrics judged"] if others > 1 else []
    if groups:
        apart = ", each group by itself" if len(groups) > 1 else ""
        notes.append(
            f"Verdicts on {' and on '.join(groups)} are after Holm's correction{apart}: chance decides any of "
            f"{'a group' if apart else 'them'} with 5 % at most. The intervals shown are uncorrected."
        )
        notes += [f"{hidden} of the metrics judged are not shown."] if hidden else []
    return [" ".join(notes)] if notes else []


def _comparison_csv(comparison: Comparison, rows: Sequence[ComparisonRow]) -> str:
    fields = [f.name for f in dataclasses.fields(ComparisonRow)]
    headers = ["candidate", "baseline", *fields]
    cells = [[comparison.candidate, comparison.baseline, *(_csv_cell(getattr(row, f)) for f in fields)] for row in rows]
    return render(cells, headers, "csv")


def _leaderboard_metrics(board: Leaderboard, chosen: Sequence[str] | None) -> list[str]:
    measured = {name for entry in board.entries for name in entry.values}
    names = [m.name for m in board.metrics if m.compared and m.name in measured] if chosen is None else list(chosen)
    return [board.primary, *(n for n in names if n != board.primary)]


def _leaderboard_rows(board: Leaderboard, names: Sequence[str], fmt: str, footnotes: list[str]) -> str:
    directions = {m.name: _ARROWS[m.better] for m in board.metrics}
    headers = ["rank", "method", "seeds", *(f"{n}{directions.get(n, '')}" for n in names), "note"]
    rows = [
        [
            "-" if entry.rank is None else rank_range(entry),
            entry.label,
            str(entry.n_seeds),
            *(_leaderboard_cell(entry, name, fmt) for name in names),
            _leaderboard_note(board, entry, footnotes),
        ]
        for entry in board.entries
    ]
    return render(rows, headers, fmt)


def rank_range(entry: LeaderboardEntry) -> str:
    """The ranks that noise leaves a ranked method: `3`, or `1–3`."""
    return str(entry.rank) if entry.rank == entry.worst_rank else f"{entry.rank}–{entry.worst_rank}"


def _leaderboard_cell(entry: LeaderboardEntry, name: str, fmt: str) -> str:
    value = entry.values.get(name)
    if value is None:
        return "-"
    text = format_value(value.mean, value.half_width)
    if name not in entry.tainted:
        return text
    return f"[{text}]" if fmt == "plain" else f"~~{text}~~"


def _leaderboard_note(board: Leaderboard, entry: LeaderboardEntry, footnotes: list[str]) -> str:
    if entry.l0 is not None and entry.l0 != board.window:
        return f"{_short(entry.reason, 'not ranked', footnotes)}, at L0 {entry.l0.describe()}"
    return _short(entry.reason, "not ranked", footnotes)


def _leaderboard_csv(board: Leaderboard, names: Sequence[str]) -> str:
    headers = ["rank", "worst_rank", "method", "seeds", "control", "faulty", "reason", "l0_low", "l0_high"]
    headers += [f"{name}_{part}" for name in names for part in ("mean", "half_width", "n")]
    rows: list[list[str]] = []
    for entry in board.entries:
        low, high = entry.l0 or (None, None)
        row: list[Any] = [
            entry.rank,
            entry.worst_rank,
            entry.label,
            entry.n_seeds,
            entry.control,
            entry.faulty,
            entry.reason,
            low,
            high,
        ]
        for name in names:
            value = entry.values.get(name)
            row += [None] * 3 if value is None else [value.mean, value.half_width, value.n]
        rows.append([_csv_cell(cell) for cell in row])
    return render(rows, headers, "csv")


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbered(footnotes: Sequence[str]) -> list[str]:
    return [f"[{i}] {text}" for i, text in enumerate(footnotes, 1)]


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def _width(table: str) -> int:
    return max(map(len, table.splitlines()), default=0)


def footer(notes: Sequence[str], fmt: str) -> str:
    """Notes under a table, each a paragraph; in Markdown a list."""
    if fmt != "plain":
        return "\n".join(f"- {note}" for note in notes)
    return "\n".join(
        textwrap.fill(note, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for note in notes
    )


def _aligned(column: Sequence[str]) -> list[str]:
    """Cells with the decimal points of their leading numbers in line, and what follows the numbers too."""
    split = [_split_number(cell) for cell in column]
    before = max((len(whole) for whole, _, _ in split), default=0)
    after = max((len(fraction) for whole, fraction, _ in split if whole), default=0)
    return [f"{whole.rjust(before)}{fraction.ljust(after)}{rest}" if whole else rest for whole, fraction, rest in split]


def _split_number(cell: str) -> tuple[str, str, str]:
    """Whole part, fraction with its point, and the rest; the first is empty where no number leads."""
    number, space, rest = cell.partition(" ")
    try:
        finite = math.isfinite(float(number))
    except ValueError:
        finite = False
    if not finite or "e" in number:
        return "", "", cell
    whole, point, fraction = number.partition(".")
    return whole, point + fraction, space + rest


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
