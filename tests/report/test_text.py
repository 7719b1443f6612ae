"""Numbers as text: known roundings."""

from __future__ import annotations

import pytest

from harness.report.text import format_difference, format_value


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (0.14231, 0.00312, "0.1423 ± 0.0031"),
        (0.14231, 0.00996, "0.142 ± 0.010"),
        (27.13, 0.4, "27.13 ± 0.40"),
        (1234.5, 56.0, "1234 ± 56"),
        (12345.6, 678.0, "12346 ± 678"),
        (0.5, None, "0.5"),
        (0.123456, None, "0.1235"),
        (12345.6, None, "12346"),
        (0.3, 0.0, "0.3 ± 0"),
        (28.0000004, 1.5e-6, "28 ± 2e-06"),
        (-0.00001, 0.01, "0.000 ± 0.010"),
        (1.234e-7, 2.5e-9, "(1.234 ± 0.025)e-07"),
        (0.5, 1e-12, "0.5 ± 1e-12"),
        (0.0, 1.5e-9, "(0.0 ± 1.5)e-09"),
    ],
)
def test_values_have_the_digits_their_noise_leaves(value, half_width, text):
    assert format_value(value, half_width) == text


@pytest.mark.parametrize(
    ("estimate", "low", "high", "text"),
    [
        (-0.003, -0.008, 0.002, "-0.0030 [-0.0080, +0.0020]"),
        (0.013, None, None, "+0.013"),
        (0.0, 0.0, 0.0, "+0 [+0, +0]"),
        (-1e-5, -0.02, 0.02, "+0.000 [-0.020, +0.020]"),
        (4e-7, -1.2e-6, 1.9e-6, "+4.00e-07 [-1.20e-06, +1.90e-06]"),
        (2e-9, 1e-9, 3e-9, "+2.00e-09 [+1.00e-09, +3.00e-09]"),
    ],
)
def test_differences_carry_signs(estimate, low, high, text):
    assert format_difference(estimate, low, high) == text
