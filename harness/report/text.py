"""Numbers as text: as many digits as their noise leaves meaning to."""

from __future__ import annotations

import math

_MOST_DECIMALS = 6
_ROUNDING = 1e-6
"""Of a value: what varies by less than this varies by how float32 rounds."""


def format_value(value: float, half_width: float | None = None) -> str:
    """`value ± half_width`, both to the second significant digit of the half-width.

    Without a half-width (one seed), with a width of 0 (no variation) or with one of rounding alone the value has four
    significant digits.
    """
    if half_width is None:
        return _four_digits(value)
    if half_width == 0.0:
        return f"{_four_digits(value)} ± 0"
    if half_width < _ROUNDING * abs(value) and float(_four_digits(value)) != 0.0:
        return f"{_four_digits(value)} ± {half_width:.0e}"
    decimals = _decimals(half_width)
    if decimals > _MOST_DECIMALS or abs(value) >= 1e7:
        exponent = math.floor(math.log10(max(abs(value), half_width)))
        scale = 10.0**exponent
        places = max(0, _decimals(half_width / scale))
        return f"({value / scale:.{places}f} ± {half_width / scale:.{places}f})e{exponent:+03d}"
    return f"{_fixed(value, decimals)} ± {half_width:.{decimals}f}"


def format_difference(estimate: float, low: float | None = None, high: float | None = None) -> str:
    """`+estimate [low, high]` with signs, digits as in `format_value`."""
    if low is None or high is None:
        return _signed(estimate, None)
    half_width = (high - low) / 2
    decimals = _decimals(half_width) if half_width > 0.0 else None
    if decimals is not None and decimals > _MOST_DECIMALS:
        return f"{estimate:+.2e} [{low:+.2e}, {high:+.2e}]"
    return f"{_signed(estimate, decimals)} [{_signed(low, decimals)}, {_signed(high, decimals)}]"


def _decimals(half_width: float) -> int:
    """Decimals that show two significant digits of the half-width, after its rounding (0.0996 is 0.10)."""
    return max(0, 1 - math.floor(math.log10(float(f"{half_width:.1e}"))))


def _four_digits(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and float(text) == 0.0 else text


def _signed(value: float, decimals: int | None) -> str:
    text = _four_digits(value) if decimals is None else _fixed(value, decimals)
    return text if text.startswith("-") else f"+{text}"
