"""The moving maximum is one, the sigmoid's argument has no units, and the scale is the share of the loss it says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sae_harness_temporal.options import TemporalOptions
from sae_harness_temporal.strength import AdaptiveFactor, Average, RelativeImprovement, Strength

from harness.training.relative_scale import RelativeScale

LOSSES = (100 - torch.arange(300.0) / 4 + 5 * torch.randn(300, generator=torch.Generator().manual_seed(0))).tolist()


def test_the_maximum_is_never_below_the_last_loss():
    factor = AdaptiveFactor(beta=5.0, momentum=0.99)
    for loss in LOSSES:
        factor.update(loss)
        assert factor.maximum is not None
        assert factor.maximum >= loss


def test_the_maximum_forgets_at_the_rate_of_its_momentum():
    factor = AdaptiveFactor(beta=5.0, momentum=0.9)
    factor.update(10.0)
    factor.update(0.0)
    assert factor.maximum == pytest.approx(9.0)
    factor.update(20.0)
    assert factor.maximum == 20.0


def test_alpha_is_a_half_at_the_maximum_and_larger_below_it():
    factor = AdaptiveFactor(beta=5.0, momentum=0.99)
    assert factor.update(3.0) == 0.5
    assert factor.update(3.0) == 0.5
    assert factor.update(9.0) == 0.5  # a new maximum
    assert factor.update(8.9) > 0.5
    assert all(0.5 <= factor.update(loss) <= 1.0 for loss in LOSSES)


def test_alpha_is_the_sigmoid_of_standard_deviations_below_the_maximum():
    factor = AdaptiveFactor(beta=2.0, momentum=0.5)
    for loss in (4.0, 8.0, 6.0):
        alpha = factor.update(loss)
    # Weights 1/4, 1/2, 1 of the losses 4, 8, 6: mean 44/7; the maximum fell from 8 half the way to 6.
    mean = 44 / 7
    deviation = math.sqrt(((4 - mean) ** 2 / 4 + (8 - mean) ** 2 / 2 + (6 - mean) ** 2) / 1.75)
    assert factor.maximum == 7.0
    assert factor.deviation == pytest.approx(deviation)
    assert alpha == pytest.approx(1 / (1 + math.exp(-2.0 * (7.0 - 6.0) / deviation)))


def test_alpha_does_not_depend_on_the_units_of_the_loss():
    one, other = AdaptiveFactor(5.0, 0.99), AdaptiveFactor(5.0, 0.99)
    for loss in LOSSES:
        assert one.update(loss) == pytest.approx(other.update(1000 * loss), rel=1e-6)


@pytest.mark.parametrize("split", [0, 1, 7])
def test_a_saved_state_goes_on_to_the_bit(split):
    factor, scale = AdaptiveFactor(5.0, 0.99), RelativeScale()
    for loss in LOSSES[:split]:
        factor.update(loss)
        scale.update(loss, loss / 30)
    resumed_factor, resumed_scale = AdaptiveFactor(5.0, 0.99), RelativeScale()
    resumed_factor.load_state_dict(json.loads(json.dumps(factor.state_dict())))
    resumed_scale.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    for loss in LOSSES[split:]:
        assert resumed_factor.update(loss) == factor.update(loss)
        assert resumed_scale.update(loss, loss / 30) == scale.update(loss, loss / 30)


@pytest.mark.parametrize("tracker", ["max_decay", "window_max"])
def test_every_maximum_is_at_least_the_last_loss_and_the_average_is_none(tracker):
    factor, mean = AdaptiveFactor(5.0, 0.99, tracker=tracker), AdaptiveFactor(5.0, 0.99, tracker="ema")
    below = 0
    for loss in LOSSES:
        assert factor.update(loss) >= 0.5
        assert factor.maximum is not None
        assert factor.maximum >= loss
        mean.update(loss)
        assert mean.maximum is not None
        below += mean.maximum < loss
    assert below > 0


def test_the_window_forgets_a_loss_when_it_has_passed():
    factor = AdaptiveFactor(5.0, 0.99, tracker="window_max", window=3)
    seen = []
    for loss in (9.0, 1.0, 2.0, 3.0, 2.0):
        factor.update(loss)
        seen.append(factor.maximum)
    assert seen == [9.0, 9.0, 9.0, 3.0, 3.0]


def test_without_a_scale_large_losses_make_a_step_function():
    steps, smooth = AdaptiveFactor(5.0, 0.99, gap="none"), AdaptiveFactor(5.0, 0.99)
    alphas = [(steps.update(loss), smooth.update(loss)) for loss in LOSSES]
    assert sum(0.51 < a < 0.999 for a, _ in alphas) < 0.1 * len(alphas)
    assert sum(0.51 < b < 0.999 for _, b in alphas) > 0.2 * len(alphas)


def test_the_improvement_is_measured_against_the_mean_of_its_reference_steps():
    factor = RelativeImprovement(rho=2.0, start=1, steps=2)
    assert [factor.update(loss) for loss in (100.0, 8.0)] == [1.0, 1.0]
    assert factor.reference is None
    assert factor.update(12.0) == 1.0  # the reference is 10; 12 is no improvement
    assert factor.reference == 10.0
    assert factor.update(5.0) == 2.0
    assert factor.update(0.0) == 3.0


def test_an_average_with_no_memory_is_the_factor_itself():
    plain, slow = Average(0.0), Average(0.5)
    assert [plain.update(x) for x in (1.0, 3.0)] == [1.0, 3.0]
    assert [slow.update(x) for x in (1.0, 3.0)] == [1.0, 2.0]


@pytest.mark.parametrize("adaptive", ["sigmoid", "const", "relative"])
def test_a_strength_is_resumed_to_the_bit(adaptive):
    options = TemporalOptions(adaptive=adaptive, tracker="window_max", alpha_momentum=0.9, reference_start=5)
    whole, first = Strength(options), Strength(options)
    expected = [whole.update(loss, loss / 30) for loss in LOSSES]
    found = [first.update(loss, loss / 30) for loss in LOSSES[:40]]
    second = Strength(options)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [second.update(loss, loss / 30) for loss in LOSSES[40:]]
    assert found == expected
