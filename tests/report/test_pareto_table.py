"""The table of two frontiers."""

from __future__ import annotations

import pytest

from harness.report.pareto_table import pareto_table
from harness.results.pareto import compare_frontiers


@pytest.fixture
def found(factory):
    base = factory.make_side("topk", lambda s, l0: 1.0 / l0 + 0.05 + 0.001 * s)
    return compare_frontiers(factory.make_side("idea"), base, (factory.L0, factory.FVU))


def test_it_shows_both_sides_and_what_the_numbers_stand_for(found):
    header, volumes, covers, _, *note = pareto_table(found).splitlines()
    assert header.split("  ")[0] == "frontier in l0 and fvu"
    assert volumes.endswith("better")
    assert volumes.startswith("hypervolume")
    assert covers.split()[6:12] == ["0", "±", "0", "1", "±", "0"]
    assert "share of the box from the best values to l0 128" in " ".join(note)


def test_markdown_is_a_table_too(found):
    assert "|:---" in pareto_table(found, "md")
