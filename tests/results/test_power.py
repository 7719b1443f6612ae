"""Power: known answers of statsmodels and scipy, and what a simulation gives."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from harness.errors import ConfigError, RecordError
from harness.results.power import (
    Noise,
    chi_square_quantile,
    noise_in_records,
    noise_in_reliability,
    power,
    seeds_needed,
)
from harness.results.record import Taint
from harness.results.reliability import reliability
from harness.results.statistics import paired_difference

STATSMODELS = [
    # (n, effect / sd, TTestPower.power, TTestIndPower.power, TTestPower.power at 0.05 / 9), statsmodels 0.14
    (3, 1.0, 0.1792553937765517, 0.158790870005201, 0.02194699729392201),
    (5, 0.5, 0.140516689990298, 0.10768598979755588, 0.01978635908070311),
    (10, 1.2, 0.9203333855897898, 0.718405376541669, 0.5865777278902804),
    (30, 0.4, 0.5628136071410565, 0.331521678918795, 0.23418823017519358),
    (3, 4.0, 0.9084887436810315, 0.9479377545400748, 0.23776240769902546),
]


@pytest.mark.parametrize(("n", "d", "paired", "unpaired", "corrected"), STATSMODELS)
def test_power_equals_statsmodels(n, d, paired, unpaired, corrected):
    assert power(0.01 * d, 0.01, n) == pytest.approx(paired, abs=1e-9)
    assert power(-0.01 * d, 0.01, n, design="unpaired") == pytest.approx(unpaired, abs=1e-9)
    assert power(0.01 * d, 0.01, n, alpha=0.05 / 9) == pytest.approx(corrected, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 7, 40, 400, 4000])
@pytest.mark.parametrize("d", [0.01, 0.3, 1.0, 3.0])
def test_power_equals_scipys_noncentral_t(n, d):
    t, shift = stats.t.ppf(0.975, n - 1), d * n**0.5
    expected = stats.nct.sf(t, n - 1, shift) + stats.nct.cdf(-t, n - 1, shift)
    assert power(d, 1.0, n) == pytest.approx(expected, abs=1e-7)


def test_seeds_needed_are_statsmodels_rounded_up():
    """TTestPower().solve_power(0.8, power=0.8) is 14.30, TTestIndPower's 25.52."""
    assert seeds_needed(0.8, 1.0) == 15
    assert seeds_needed(-0.8, 1.0, design="unpaired") == 26


def test_a_verdict_needs_three_seeds_however_large_the_effect():
    assert seeds_needed(100.0, 1.0) == 3
    assert seeds_needed(1e-9, 0.0) == 3


def test_an_effect_far_below_the_noise_has_no_number():
    assert seeds_needed(1e-6, 1.0) is None


def test_the_promised_power_is_what_a_simulation_finds():
    n = seeds_needed(1.0, 1.0)
    assert n is not None
    rng, runs, seen = random.Random(11), 3000, 0
    for _ in range(runs):
        a = {s: 1.0 + rng.gauss(0, 1) for s in range(n)}
        seen += paired_difference(a, dict.fromkeys(range(n), 0.0)).excludes_zero()
    assert seen / runs == pytest.approx(power(1.0, 1.0, n), abs=0.02)


@pytest.mark.parametrize("df", [1, 2, 6, 8.5, 100])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.975])
def test_chi_square_equals_scipy(df, p):
    assert chi_square_quantile(p, df) == pytest.approx(stats.chi2.ppf(p, df), rel=1e-9)


def test_the_upper_limit_of_the_noise_covers_the_truth_nine_times_of_ten():
    rng, runs, covered = random.Random(5), 4000, 0
    for _ in range(runs):
        values = [rng.gauss(0, 2.0) for _ in range(4)]
        sd = stats.tstd(values)
        covered += (Noise(sd=float(sd), df=3, design="unpaired", source="").upper() or 0.0) >= 2.0
    assert covered / runs == pytest.approx(0.9, abs=0.01)
    assert Noise(sd=1.0, df=None, design="unpaired", source="").upper() is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: power(1.0, 1.0, 1), "at least 2 seeds"),
        (lambda: power(1.0, -1.0, 3), "not negative"),
        (lambda: power(float("inf"), 1.0, 3), "finite"),
        (lambda: seeds_needed(0.0, 1.0), "other than 0"),
        (lambda: seeds_needed(1.0, 1.0, target=1.0), "power must lie between"),
        (lambda: seeds_needed(1.0, 1.0, alpha=0.0), "alpha must lie between"),
        (lambda: chi_square_quantile(1.0, 2), "0 < p < 1"),
    ],
)
def test_impossible_plans_are_refused(call, told):
    with pytest.raises(ConfigError, match=told):
        call()


def test_noise_is_that_of_a_difference_with_what_seeds_share_taken_out(factory):
    """value = method + seed + residual: the two-way residuals, by hand."""
    residual = {"a": (0.001, -0.002, 0.001), "b": (-0.001, 0.002, -0.001)}
    records = {
        m: factory.make_side(m, lambda s, l0, m=m: 0.3 * s + residual[m][s] + (0.5 if m == "b" else 0.0))
        for m in residual
    }
    found = noise_in_records(records, "fvu")
    # Differences by seed: -0.5 + (0.002, -0.004, 0.002): standard deviation sqrt(24e-6 / 2).
    assert found.sd == pytest.approx((24e-6 / 2) ** 0.5)
    assert (found.df, found.design) == (2, "paired")
    assert "a, b; 3 seeds; mean over log L0 in 8–64" in found.source


def test_one_method_gives_its_own_noise_and_controls_and_tainted_records_do_not_count(factory):
    own = factory.make_side("a", lambda s, l0: (0.1, 0.2, 0.6)[s])
    records = {
        "a": own,
        "random": factory.make_side("random", lambda s, l0: 9.0 * s, control=True),
        "b": factory.make_side("b", lambda s, l0: 5.0 * s, taints=[Taint(rule="F01", reason="copied")]),
        "once": factory.make_side("once", lambda s, l0: 1.0, seeds=(0,)),
    }
    found = noise_in_records(records, "fvu")
    assert found.sd == pytest.approx(0.07**0.5)
    assert (found.df, found.design) == (2, "unpaired")


def test_methods_far_off_in_l0_do_not_join(factory):
    records = {
        "a": factory.make_side("a", lambda s, l0: 0.01 * s),
        "b": factory.make_side("b", lambda s, l0: 0.01 * s),
        "far": factory.make_side("far", lambda s, l0: s**2, l0=lambda s, t: 100.0 * t),
    }
    assert "a, b;" in noise_in_records(records, "fvu").source


def test_without_two_seeds_there_is_no_noise(factory):
    with pytest.raises(RecordError, match=r"no trained method has it at two seeds\. Give .* --sd"):
        noise_in_records({"a": factory.make_side("a", seeds=(0,))}, "fvu")


def test_stored_reliability_gives_the_noise_of_one_method(factory):
    records = factory.make_side("a", lambda s, l0: (0.1, 0.2, 0.6)[s], grid=(32,))
    found = noise_in_reliability([reliability(records, [factory.FVU])], "fvu")
    assert found is not None
    assert found.sd == pytest.approx(0.07**0.5)
    assert found.design == "unpaired"
    assert noise_in_reliability([reliability(records, [factory.FVU])], "cosine") is None
