"""Evaluation noise: the bootstrap against the formula, its coverage, and what a comparison shows of it."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean, median, stdev

import pytest

from harness.results.comparison import compare
from harness.results.evaluation_noise import bootstrap_stderr
from harness.results.statistics import t_critical


def draws(seed, mean, sd, n):
    rng = random.Random(seed)
    return [rng.gauss(mean, sd) for _ in range(n)]


UNITS = draws(1, 3, 2, 60)


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    assert bootstrap_stderr(UNITS, draws=4000) == pytest.approx(stdev(UNITS) / 60**0.5, rel=0.03)


def test_the_bootstrap_takes_any_statistic_and_is_the_same_each_time():
    units = draws(2, 3, 2, 600)
    found = bootstrap_stderr(units, median, draws=300)
    assert found == bootstrap_stderr(units, median, draws=300)
    # Of normal values the median's standard error is sqrt(pi / 2) times the mean's.
    assert found == pytest.approx(1.2533 * 2 / 600**0.5, rel=0.4)


def test_one_unit_has_no_noise():
    assert bootstrap_stderr([1.0]) is None


def test_intervals_from_the_bootstrap_cover_the_truth_as_often_as_they_say():
    rng, runs, covered = random.Random(8), 1200, 0
    for run in range(runs):
        units = [rng.expovariate(1.0) if i % 2 else rng.gauss(1, 1) for i in range(80)]
        stderr = bootstrap_stderr(units, draws=150, seed=run)
        assert stderr is not None
        covered += abs(fmean(units) - 1.0) <= t_critical(0.95, 79) * stderr
    assert 0.94 <= covered / runs <= 0.96


def with_noise(records, stderr=None, each=None):
    """The records with a standard error, or values on each unit: (value of the record) + each."""
    found = []
    for record in records:
        entry = record.metrics["fvu"]
        detail = None if each is None else {"each": tuple(entry.value + e for e in each)}
        entry = replace(entry, stderr=stderr(record) if stderr else None, detail=detail)
        found.append(replace(record, metrics={**record.metrics, "fvu": entry}))
    return found


def test_a_sides_noise_is_the_mean_of_its_records_over_log_l0(factory):
    base = with_noise(
        factory.make_side("topk"), stderr=lambda r: {8: 0.01, 16: 0.02, 32: 0.03, 64: 0.04}[r.training.target_l0]
    )
    idea = with_noise(factory.make_side("idea"), stderr=lambda r: 0.05)
    row = compare(idea, base, [factory.FVU]).rows[0]
    assert row.baseline_evaluation_noise == pytest.approx(0.025)
    assert row.candidate_evaluation_noise == pytest.approx(0.05)
    assert row.difference_evaluation_noise is None


def test_noise_between_seeds_and_evaluation_noise_are_kept_apart(factory):
    base = factory.make_side("topk", lambda s, l0: 0.3 + 0.001 * s)
    idea = factory.make_side("idea", lambda s, l0: 0.2 + 0.001 * s * s)
    quiet, loud = (
        compare(with_noise(idea, stderr=e), with_noise(base, stderr=e), [factory.FVU]).rows[0]
        for e in (lambda r: 1e-6, lambda r: 1.0)
    )
    assert (quiet.low, quiet.high, quiet.verdict) == (loud.low, loud.high, loud.verdict)
    assert loud.baseline_evaluation_noise == pytest.approx(1.0)


def test_a_record_without_a_standard_error_leaves_the_noise_open(factory):
    base = with_noise(factory.make_side("topk"), stderr=lambda r: None if r.training.seed == 1 else 0.01)
    row = compare(factory.make_side("idea"), base, [factory.FVU]).rows[0]
    assert row.baseline_evaluation_noise is None


def test_what_both_sides_have_in_common_on_a_unit_cancels_in_the_difference(factory):
    hard = draws(4, 0, 1, 50)
    hard = [h - fmean(hard) for h in hard]
    own = draws(9, 0, 0.01, 50)
    own = [o - fmean(own) for o in own]
    base = with_noise(factory.make_side("topk"), each=hard)
    idea = with_noise(factory.make_side("idea"), each=[h + o for h, o in zip(hard, own, strict=True)])
    row = compare(idea, base, [factory.FVU]).rows[0]
    assert row.difference_evaluation_noise == pytest.approx(stdev(own) / 50**0.5, rel=0.1)


def test_units_whose_mean_is_another_number_are_not_used(factory):
    base = with_noise(factory.make_side("topk"), each=[0.5, 0.7])
    row = compare(base, base, [factory.FVU]).rows[0]
    assert row.difference_evaluation_noise is None
