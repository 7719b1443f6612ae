"""Values for a text: with as many digits as their noise leaves meaning to, or in the form that is asked for."""

from __future__ import annotations

import math

from .checks import one_value
from .comparisons import Terms, row_of
from .grammar import Compare, Fill
from .library import Library
from .outcome import Ruling


def filled(library: Library, terms: Terms, annotation: Fill | Compare) -> str | Ruling:
    """The text that stands for an annotation, or why there is none."""
    if isinstance(annotation, Compare):
        return _compared(library, terms, annotation)
    found = one_value(library, annotation.reference)
    if isinstance(found, Ruling):
        return found
    value, half_width, _ = found
    if annotation.format == "±":
        if half_width is None:
            return Ruling(status="unsupported", reason=f"{annotation.reference} is one seed: it has no interval")
        digits = _decimals(half_width) if half_width else None
        return f"{_shown(value, digits)} ± {_shown(half_width, digits)}"
    if annotation.format:
        try:
            return format(value, annotation.format)
        except ValueError:
            told = f"{annotation.format!r} is no format of a number: write as in Python, .3f, .1% or +.2e, or ±"
            return Ruling(status="unresolved", reason=told)
    return _shown(value, _decimals(half_width) if half_width else None)


def _compared(library: Library, terms: Terms, claim: Compare) -> str | Ruling:
    row = row_of(library, claim, terms)
    if isinstance(row, Ruling):
        return row
    if row.difference is None or row.low is None or row.high is None:
        return Ruling(status="unsupported", reason=f"{row.verdict}: {row.reason}")
    if claim.part == "verdict":
        return row.verdict
    if claim.part == "p":
        p = row.p_corrected
        return Ruling(status="unsupported", reason=f"{row.metric} is not judged") if p is None else f"{p:.2g}"
    digits = _decimals((row.high - row.low) / 2) if row.high > row.low else None
    estimate, low, high = (_signed(v, digits) for v in (row.difference, row.low, row.high))
    return estimate if claim.part == "estimate" else f"{estimate} [{low}, {high}]"


def _decimals(half_width: float) -> int:
    """Decimals that show two significant digits of the half-width."""
    return max(0, 1 - math.floor(math.log10(float(f"{half_width:.1e}"))))


def _shown(value: float, decimals: int | None) -> str:
    if decimals is None:
        return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text


def _signed(value: float, decimals: int | None) -> str:
    text = _shown(value, decimals)
    return text if text.startswith("-") else f"+{text}"
