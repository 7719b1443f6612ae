"""The moving maximum is one, the sigmoid's argument has no units, and the scale is the share of the loss it says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sae_harness_temporal.strength import AdaptiveFactor, RelativeScale

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


def test_the_scale_makes_strength_a_share_of_the_reconstruction_loss():
    scale = RelativeScale()
    assert scale.update(loss=50.0, penalty=2.0) == 25.0
    assert scale.update(loss=50.0, penalty=1.0) * 1.5 == pytest.approx(50.0)  # the mean of 2 and 1


def test_the_scale_follows_the_loss_and_not_the_penalty():
    scale = RelativeScale()
    for _ in range(RelativeScale.REFERENCE_BATCHES):
        scale.update(50.0, 2.0)
    assert scale.update(loss=10.0, penalty=0.1) == pytest.approx(5.0)


def test_without_a_penalty_there_is_no_scale():
    scale = RelativeScale()
    assert scale.update(50.0, 0.0) == 0.0
    assert scale.update(50.0, 2.0) == 25.0


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
