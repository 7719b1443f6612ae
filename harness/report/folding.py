"""Plain tables that keep to the page: columns folded into further tables, or one column of text wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from .tables import WIDTH, render

_NARROWEST = 24
"""Columns a wrapped text keeps, whatever stands beside it."""


def folded(rows: Sequence[Sequence[str]], headers: Sequence[str], *, keys: int, width: int = WIDTH) -> str:
    """A table; columns for which there is no room go into further tables below, each of which begins with the first
    `keys` columns again."""
    parts: list[list[int]] = [[]]
    for column in range(keys, len(headers)):
        wider = [*parts[-1], column]
        if parts[-1] and _width(_cut(rows, headers, keys, wider)) > width:
            parts.append([column])
        else:
            parts[-1] = wider
    return "\n\n".join(_cut(rows, headers, keys, part) for part in parts)


def wrapped(rows: Sequence[Sequence[str]], headers: Sequence[str], *, column: int, width: int = WIDTH) -> str:
    """A table whose text column goes on below itself where it is wider than the page leaves it."""
    others = [[cell for at, cell in enumerate(row) if at != column] for row in [headers, *rows]]
    taken = sum(max(map(len, cells)) + 2 for cells in zip(*others, strict=True))
    room = max(_NARROWEST, len(headers[column]), width - taken)
    lines: list[list[str]] = []
    for row in rows:
        parts = textwrap.wrap(row[column], room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, part in enumerate(parts):
            lines.append([part if at == column else (cell if number == 0 else "") for at, cell in enumerate(row)])
    return render(lines, headers)


def _cut(rows: Sequence[Sequence[str]], headers: Sequence[str], keys: int, columns: Sequence[int]) -> str:
    shown = [*range(keys), *columns]
    return render([[row[at] for at in shown] for row in rows], [headers[at] for at in shown])


def _width(table: str) -> int:
    return max(map(len, table.splitlines()), default=0)
