"""Numbers in prose: what they mean, how far they are rounded, and what is no measurement."""

from __future__ import annotations

import pytest

from harness.results.claims.numbers import one, written


@pytest.mark.parametrize(
    ("text", "value", "step"),
    [
        ("0.79", 0.79, 0.01),
        (".790", 0.79, 0.001),
        ("-1.31", -1.31, 0.01),
        ("−1.31", -1.31, 0.01),
        ("79.0 %", 0.79, 0.001),
        (r"79\%", 0.79, 0.01),
        ("1.2e-3", 1.2e-3, 1e-4),
        (r"1.2 \times 10^{-3}", 1.2e-3, 1e-4),
        ("1.2 × 10^-3", 1.2e-3, 1e-4),
        ("65,536", 65536, 1),
        ("524.3 k", 524_300, 100),
        ("10M", 10e6, 1e6),
        ("five", 5, 1),
    ],
)
def test_a_number_means_what_it_says(text, value, step):
    found = one(text)
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.step == pytest.approx(step)


@pytest.mark.parametrize(
    ("text", "value", "agrees"),
    [
        ("0.79", 0.7890625, True),
        ("0.78", 0.7890625, False),
        ("0.790", 0.7890625, False),
        ("0.5", 0.55, True),
        ("320", 319.994, True),
        ("320.00", 319.994, False),
        ("79 %", 0.7890625, True),
    ],
)
def test_agreement_is_rounding_as_written(text, value, agrees):
    found = one(text)
    assert found is not None
    assert found.agrees(value) is agrees


@pytest.mark.parametrize(
    "text",
    [
        "gemma-2-2b at layer 12, blocks.12 and L0, top-5, TPP@500, v2",
        "see Figure 3, Table 1.2, Section 4 and Runs 1, 2 and 3",
        "as shown before [12] and [3, 4]",
        "Gao et al. 2024, arXiv:2406.04093, of 2024-05-06, in (2023)",
        "1. first\n2. second",
        "## 3.1 Results",
        "the 95 % confidence interval",
        "two of one",
        "licence: [Apache-2.0](LICENSE)",
    ],
)
def test_what_is_no_measurement_is_left_out(text):
    assert [n.text for n in written(text)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from 0.084–0.238 in Runs 1–3", ["0.084", "0.238"]),
        ("0.084-0.238", ["0.084", "0.238"]),
        ("(0.79, 0.98)", ["0.79", "0.98"]),
        ("rises 2x, to 15 %.", ["2", "15 %"]),
        ("L0 of 32 and k=320", ["32", "320"]),
        ("about ~.65", [".65"]),
        ("Run 3 has 0.5", ["0.5"]),
    ],
)
def test_measurements_are_found(text, found):
    assert [n.text for n in written(text)] == found
