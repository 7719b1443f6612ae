"""Selectors, interventions and frontiers, from cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.errors import ConfigError, DataError
from harness.evaluation.unlearning import (
    SELECTORS,
    Clamp,
    Firings,
    SequenceGate,
    Setting,
    area_under,
    best_within,
    bootstrap,
    by_attribution,
    by_forget_rate,
    by_information,
    by_ratio,
    hull_of,
    random_matched,
    settings_of,
)
from harness.interfaces.codes import dense
from harness.interfaces.sae import RaggedCodes


def ragged(rows: list[list[float]]) -> RaggedCodes:
    found = torch.tensor(rows)
    row, latent = found.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=len(rows)).cumsum(0)])
    return RaggedCodes(latent, offsets, found[row, latent])


def firings(rates: list[float], size: float = 1.0) -> Firings:
    fired = 1000 * torch.tensor(rates, dtype=torch.float64)
    return Firings(n_tokens=1000, fired=fired, total=size * fired, squares=size**2 * fired)


def test_firings_are_counted_over_parts():
    found = Firings.of([ragged([[0, 2.0, 0], [1.0, 4.0, 0]]), ragged([[0, 0, 0], [3.0, 0, 0]])], 3)
    assert found.n_tokens == 4
    assert found.rate.tolist() == [0.5, 0.5, 0.0]
    assert found.mean_active.tolist() == [2.0, 3.0, 0.0]
    assert found.squares.tolist() == [10.0, 20.0, 0.0]
    with pytest.raises(DataError, match="without a token"):
        Firings.of([], 3)


def test_latents_common_on_retain_texts_are_dropped_and_the_rest_come_by_forget_rate():
    forget, retain = firings([0.5, 0.2, 0.3, 0.3, 0.0]), firings([0.010, 0.0, 0.009, 0.0, 0.0])
    assert by_forget_rate(forget, retain, 0.01).tolist() == [2, 3, 1], "a rate equal to the threshold is too high"
    assert by_forget_rate(forget, retain, 0.011).tolist() == [0, 2, 3, 1]


def test_the_ratio_takes_the_upper_share_of_those_that_fire_on_forget_texts():
    forget, retain = firings([0.4, 0.2, 0.1, 0.3, 0.0]), firings([0.4, 0.1, 0.0, 0.1, 0.5])
    # Ratios 1, 2, infinite, 3; latent 4 never fires on forget texts.
    assert by_ratio(forget, retain, 0.5).tolist() == [3, 1, 2]
    assert by_ratio(forget, retain, 0.9).tolist() == [3, 2]
    assert by_ratio(firings([0.0]), firings([0.1]), 0.5).tolist() == []


def test_information_prefers_the_latent_that_tells_the_corpora_apart():
    forget, retain = firings([0.9, 0.9, 0.2, 0.1]), firings([0.8, 0.0, 0.0, 0.3])
    assert by_information(forget, retain, 1.0).tolist() == [1, 2, 0], "the last fires more on retain texts"
    assert by_information(forget, retain, 0.5).tolist() == [1, 2]


def test_attribution_prefers_what_helps_to_predict_and_needs_an_lm():
    forget, retain = firings([0.9, 0.9, 0.2, 0.1]), firings([0.0, 0.3, 0.0, 0.0])
    known = replace(forget, attribution=lambda: torch.tensor([0.1, 5.0, 0.3, -1.0], dtype=torch.float64))
    assert by_attribution(known, retain, 0.3).tolist() == [2, 0], "1 fires too often, 3 does harm"
    with pytest.raises(ConfigError, match="needs a language model"):
        by_attribution(forget, retain, 0.3)
    assert set(SELECTORS) == {"rate", "ratio", "information", "attribution"}


def test_a_matched_set_is_distinct_and_of_other_latents_that_fire():
    forget, retain = firings([0.5, 0.5, 0.1, 0.1, 0.0, 0.1]), firings([0.0, 0.0, 0.0, 0.01, 0.0, 0.02])
    found = random_matched(torch.tensor([0, 1]), forget, retain, torch.Generator().manual_seed(0))
    assert len(set(found.tolist())) == 2
    assert set(found.tolist()) <= {2, 3, 5}
    few = random_matched(torch.tensor([0, 1, 2, 3, 5]), forget, retain, torch.Generator())
    assert few.tolist() == [], "latent 4 never fires"


def test_a_matched_latent_is_near_in_rate():
    retain = firings([0.3, *(0.001 * i for i in range(30)), *(0.3 + 0.0001 * i for i in range(8))])
    forget = firings([0.5] * 39)
    for seed in range(5):
        assert int(random_matched(torch.tensor([0]), forget, retain, torch.Generator().manual_seed(seed))) > 30


def test_a_clamp_sets_latents_where_they_fire_and_leaves_the_rest():
    codes = ragged([[1.0, 2.0, 0], [0, 3.0, 4.0], [0, 0, 5.0]])
    edited, changed = Clamp(torch.tensor([1, 0]), torch.tensor([-7.0, -9.0])).edit(codes, torch.zeros(3).long())
    assert dense(edited, 3).tolist() == [[-9.0, -7.0, 0], [0, -7.0, 4.0], [0, 0, 5.0]]
    assert changed.tolist() == [True, True, False]
    assert codes.values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0], "the codes given are not edited"


def test_a_clamp_of_nothing_is_refused():
    for latents in ([], [1, 1]):
        with pytest.raises(ConfigError, match="distinct latents"):
            Clamp(torch.tensor(latents, dtype=torch.int64), torch.zeros(len(latents)))
    with pytest.raises(ConfigError):
        Clamp(torch.tensor([1]), torch.zeros(2))


def test_a_gate_lets_an_intervention_through_where_enough_tokens_fire():
    codes = ragged([[1.0], [0], [1.0], [1.0], [0], [0]])
    sequence = torch.tensor([4, 4, 9, 9, 9, 4])
    inner = Clamp(torch.tensor([0]), torch.tensor([-2.0]))
    edited, changed = SequenceGate(inner, 0.5).edit(codes, sequence)
    assert changed.tolist() == [False, False, True, True, False, False], "one of three is not more than half"
    assert dense(edited, 1).squeeze(1).tolist() == [1.0, 0, -2.0, -2.0, 0, 0]


def test_settings_are_all_combinations_and_know_their_units():
    settings = settings_of([("rate", 0.01), ("ratio", 0.9)], [1, 2], [1.0, 3.0], "mean")
    assert len(settings) == 8
    assert settings[0] == Setting(selector="rate", threshold=0.01, n=1, strength=1.0, unit="mean")
    forget, retain = firings([0.5, 0.2], size=2.0), firings([0.0, 0.0])
    last = settings[3]
    clamp = last.clamp(last.latents(forget, retain), forget, retain)
    assert clamp is not None
    assert clamp.latents.tolist() == [0, 1]
    assert clamp.values.tolist() == [-6.0, -6.0], "three means of 2"
    (absolute,) = settings_of([("rate", 0.01)], [1], [25], "absolute")
    clamp = absolute.clamp(torch.tensor([1]), forget, retain)
    assert clamp is not None
    assert clamp.values.tolist() == [-25.0]
    assert absolute.clamp(torch.tensor([], dtype=torch.int64), forget, retain) is None
    with pytest.raises(ConfigError, match="known are rate, ratio, information"):
        settings_of([("rates", 0.01)], [1], [1.0], "mean")
    with pytest.raises(ConfigError, match="a number of them from 1"):
        settings_of([("rate", 0.01)], [0], [1.0], "mean")


def test_the_best_setting_keeps_within_its_budget_or_is_none():
    gain, cost = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.0, 0.01, 0.2])
    assert best_within(gain, cost, 0.01) == 1
    assert best_within(gain, cost, 1.0) == 2
    assert best_within(gain, torch.ones(3), 0.01) == -1
    assert best_within(-gain, cost, 1.0) == -1, "what gains nothing is not chosen"


def test_the_hull_holds_the_settings_that_no_mixture_beats():
    cost, gain = torch.tensor([0.0, 0.2, 0.3, 0.6, 0.9]), torch.tensor([0.3, 0.7, 0.6, 0.9, 0.1])
    assert hull_of(cost, gain) == [0, 1, 3]
    assert hull_of(torch.tensor([0.5]), torch.tensor([0.4])) == [], "below the line from nothing to all"
    assert hull_of(torch.empty(0), torch.empty(0)) == []
    assert hull_of(torch.tensor([-0.1, 0.0]), torch.tensor([0.2, 0.5])) == [1]


def test_the_area_is_one_half_without_a_setting_and_one_for_a_perfect_one():
    none = torch.empty(0, dtype=torch.float64)
    assert float(area_under(none, none)) == 0.5
    assert float(area_under(torch.tensor([0.0]), torch.tensor([1.0]))) == 1.0
    assert float(area_under(torch.tensor([0.5]), torch.tensor([0.5]))) == 0.5
    assert float(area_under(torch.tensor([1.0]), torch.tensor([0.0]))) == 0.0
    # Two settings, given in any order, each row by itself.
    cost, gain = torch.tensor([[0.5, 0.0], [0.2, 0.4]]), torch.tensor([[1.0, 0.5], [0.4, 0.8]])
    wanted = [0.5 * 0.75 + 0.5, 0.2 * 0.2 + 0.2 * 0.6 + 0.6 * 0.9]
    assert area_under(cost, gain).tolist() == pytest.approx(wanted)


def test_the_bootstrap_has_the_standard_error_of_a_mean():
    values = torch.arange(100, dtype=torch.float64)
    interval = bootstrap((100,), lambda w: w @ values / 100, torch.Generator().manual_seed(0))
    assert interval.stderr == pytest.approx(float(values.std()) / 10, rel=0.1)
    assert interval.low < 49.5 < interval.high
    assert interval.high - interval.low == pytest.approx(3.92 * interval.stderr, rel=0.1)
