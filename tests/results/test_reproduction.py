"""A record against the same run made again: what is the same, what noise allows, what is not."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import RecordError
from harness.results.record import Record, Taint
from harness.results.reliability import MetricReliability
from harness.results.reproduction import check_reproducible, compare, environment_differences


@pytest.fixture
def record(factory) -> Record:
    """fvu 0.1, standard error 0.01, among others."""
    return factory.make_record(values={"fvu": 0.1})


def moved(record: Record, by: float, **provenance) -> Record:
    """The record with another fvu, made elsewhere."""
    entry = record.metrics["fvu"]
    return dataclasses.replace(
        record,
        metrics={**record.metrics, "fvu": dataclasses.replace(entry, value=entry.value + by)},
        provenance=dataclasses.replace(record.provenance, **provenance),
    )


def row(found):
    return next(row for row in found.rows if row.metric == "fvu")


def noise(evaluation: float | None, seeds: float | None) -> dict[str, MetricReliability]:
    return {
        "fvu": MetricReliability(
            metric="fvu",
            version=1,
            label="usable",
            n_saes=6,
            evaluation_noise=evaluation,
            evaluation_cv=None,
            seed_noise=seeds,
            spread=None,
            smallest={},
            truth="",
            truth_correlation=None,
            order="holds",
        )
    }


def test_in_one_environment_the_last_bit_counts(record):
    assert compare(record, record, record.key).holds
    found = compare(record, moved(record, 1e-17 + 2e-17), record.key)
    assert found.environment == {}
    assert (row(found).verdict, row(found).allowed, row(found).by) == ("outside", 0.0, "same bits")
    assert not found.holds


def test_elsewhere_the_standard_error_allows_what_95_percent_stay_within(record):
    """Two draws of standard error 0.01 differ by less than 1.96 · sqrt 2 · 0.01 = 0.0277 in 95 % of cases."""
    here = moved(record, 0.0277, python="3.13")
    assert row(compare(record, here, record.key)).verdict == "within"
    assert row(compare(record, here, record.key)).by == "standard error"
    assert row(compare(record, moved(record, 0.0278, python="3.13"), record.key)).verdict == "outside"


def test_a_larger_noise_that_is_stored_allows_more(record):
    here = moved(record, -0.05, device="cuda")
    assert row(compare(record, here, record.key)).verdict == "outside"
    assert row(compare(record, here, record.key, reliability=noise(0.02, None))).by == "noise over evaluation seeds"
    assert row(compare(record, here, record.key, reliability=noise(0.001, 0.02))).by == "noise over training seeds"
    assert row(compare(record, here, record.key, reliability=noise(None, 0.02))).verdict == "within"


def test_where_no_noise_is_stored_the_spread_over_stored_seeds_counts(record, factory):
    """0.1 and 0.12: a standard deviation of 0.0141 with one degree of freedom; 12.7 · sqrt 2 · 0.0141 = 0.254."""
    other = factory.make_record(seed=1, values={"fvu": 0.12})
    level = factory.make_record(seed=2, target_l0=8, values={"fvu": 9.0})
    tainted = factory.make_record(seed=3, values={"fvu": 9.0}, taints=[Taint(rule="F01", reason="stale")])
    siblings = [record, other, level, tainted]
    here = moved(record, 0.2541, python="3.13")
    found = row(compare(record, here, record.key, siblings=siblings))
    assert (found.verdict, found.by) == ("within", "noise over 2 stored seeds")
    assert (
        row(compare(record, moved(record, 0.2542, python="3.13"), record.key, siblings=siblings)).verdict == "outside"
    )
    assert row(compare(record, here, record.key, siblings=siblings, reliability=noise(0.01, 0.01))).verdict == "outside"


def test_the_tolerance_is_relative_and_stated(record):
    here = moved(record, 0.04, threads=2)
    found = row(compare(record, here, record.key, tolerance=0.5))
    assert (found.verdict, found.by, found.allowed) == ("within", "50 %", pytest.approx(0.05))


def test_other_inputs_are_another_environment_and_say_what_of_them_changed(record):
    here = moved(record, 0.0, commit="b" * 40)
    assert environment_differences(record, here, record.key) == {}
    told = environment_differences(record, here, "f" * 64)
    assert told == {"inputs": (record.key[:12], "f" * 12), "commit": ("none", "b" * 12)}


def test_another_definition_is_not_compared(record):
    entry = dataclasses.replace(record.metrics["fvu"], version=2)
    here = dataclasses.replace(record, metrics={**record.metrics, "fvu": entry})
    found = row(compare(record, here, record.key))
    assert (found.verdict, found.again) == ("not measured", None)
    assert found.reason == "its definition is version 2 here, 1 in the record"


def test_what_cannot_be_made_again_is_refused(record):
    source = dataclasses.replace(record.provenance, source="theirs.json, sha256 0")
    with pytest.raises(RecordError, match=r"imported from theirs\.json"):
        check_reproducible(dataclasses.replace(record, provenance=source))
    with pytest.raises(RecordError, match="holds no metric"):
        check_reproducible(dataclasses.replace(record, metrics={}))
