"""What the course of codes is measured by, from series whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from sae_harness_temporal import measures
from sae_harness_temporal.sequences import Series, shuffled

from harness.evaluation.context import StoreEvalContext


def series(codes: torch.Tensor, mask: torch.Tensor | None = None) -> Series:
    n, length, n_latents = codes.shape
    whole = torch.ones(n, length, dtype=torch.bool) if mask is None else mask
    return Series(codes * whole[..., None], whole, torch.arange(n), torch.arange(n_latents))


def sticky(stay: float, n: int = 60, length: int = 64, rate: float = 0.3) -> Series:
    """On-off latents that stay as they are with probability `stay`, else are drawn anew: autocorrelation stay^lag."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.rand(n, 8, generator=generator) < rate]
    for _ in range(length - 1):
        fresh = torch.rand(n, 8, generator=generator) < rate
        kept = torch.rand(n, 8, generator=generator) < stay
        states.append(torch.where(kept, states[-1], fresh))
    return series(torch.stack(states, 1).float())


def test_autocorrelation_of_a_chain_falls_geometrically():
    found = measures.lag_sums(sticky(0.8)).autocorrelation().mean(0)
    for lag in (1, 2, 5, 10):
        assert found[lag - 1].item() == pytest.approx(0.8**lag, abs=0.04)


def test_sums_of_sequences_can_be_weighted_anew():
    whole = sticky(0.5)
    twice = Series(whole.codes[[0, 0, 3]], whole.mask[[0, 0, 3]], torch.tensor([0, 0, 3]), whole.latents)
    weights = torch.zeros(60)
    weights[0], weights[3] = 2, 1
    torch.testing.assert_close(
        measures.lag_sums(whole).autocorrelation(weights), measures.lag_sums(twice).autocorrelation()
    )


def test_a_constant_latent_has_no_correlation():
    assert not measures.lag_sums(series(torch.ones(3, 40, 2))).autocorrelation().any()


def test_tokens_that_are_not_counted_make_no_pairs():
    codes = torch.tensor([1.0, 1.0, 5.0, 1.0])[None, :, None].expand(1, 4, 1)
    mask = torch.tensor([[True, True, False, True]])
    found = series(codes, mask)
    assert measures.lag_sums(found).pairs[0, :4].tolist() == [3, 1, 1, 1]
    assert measures.dwell_counts(found)[:3].tolist() == [1, 1, 0]
    assert measures.flips(found).tolist() == [0.0]


def test_runs_flips_and_jaccard_of_a_hand_made_series():
    first, second = [1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1]
    found = series(torch.tensor([first, second]).t()[None].float())
    assert measures.dwell_counts(found)[:4].tolist() == [1, 2, 1, 0]
    # Firings with a token before: first 1, 3, 4, 5 (one after silence), second 1, 2, 5 (two after silence).
    torch.testing.assert_close(measures.flips(found), torch.tensor([1 / 4, 2 / 3]))
    # Sets: {1}, {1,2}, {2}, {1}, {1}, {1,2}.
    assert measures.jaccard(found)[0].item() == pytest.approx((1 / 2 + 1 / 2 + 0 + 1 + 1 / 2) / 5)
    assert measures.relative_distance(found) == pytest.approx((1 / 1.5 + 1 / 1.5 + 2 + 0 + 1 / 1.5) / 5)
    assert measures.total_variation(found) == pytest.approx(5 / 6.5)


def test_slow_series_grow_with_the_scale_and_lie_at_low_frequencies():
    slow, fast = sticky(0.95), sticky(0.0)
    scales = torch.tensor([float(scale) for scale in measures.SCALES])
    assert measures.multiscale(fast).mean(1).tolist() == pytest.approx([1.0] * 4, abs=0.06)
    assert (measures.multiscale(slow).mean(1) > 0.8 * scales).all()
    frequencies, power = measures.spectrum(slow)
    assert frequencies[-1].item() == 0.5
    torch.testing.assert_close(power.sum(0), torch.ones(8))
    low = power[frequencies <= 0.1].sum(0).mean()
    assert low > 0.7 > 0.4 > measures.spectrum(fast)[1][frequencies <= 0.1].sum(0).mean()


def test_shuffling_keeps_how_often_latents_fire_and_nothing_else(make_context):
    found = sticky(0.8)
    context: StoreEvalContext = make_context(torch.zeros(2, 3, 4))
    null = shuffled(found, context)
    assert torch.equal(null.codes.sum((0, 1)), found.codes.sum((0, 1)))
    assert measures.lag_sums(null).autocorrelation().abs().mean() < 0.03
    assert torch.equal(shuffled(found, context).codes, null.codes)


def test_only_whole_sequences_enter_a_spectrum():
    mask = torch.ones(4, 20, dtype=torch.bool)
    mask[:, 0] = False
    mask[2, 7] = False
    found = series(torch.rand(4, 20, 3), mask)
    assert found.whole().shape == (3, 19, 3)
    assert math.isfinite(float(measures.spectrum(found)[1].sum()))
