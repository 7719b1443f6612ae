"""The relative scale: a share of the loss at the start, fixed after ten batches, bounded for a tiny term."""

from __future__ import annotations

import pytest

from harness.training.relative_scale import RelativeScale


def test_the_scale_makes_strength_a_share_of_the_reconstruction_loss():
    scale = RelativeScale()
    assert scale.update(loss=50.0, term=2.0) == 25.0
    assert scale.update(loss=50.0, term=1.0) * 1.5 == pytest.approx(50.0)  # the mean of 2 and 1


def test_the_scale_follows_the_loss_and_not_the_penalty():
    scale = RelativeScale()
    for _ in range(RelativeScale.REFERENCE_BATCHES):
        scale.update(50.0, 2.0)
    assert scale.update(loss=10.0, term=0.1) == pytest.approx(5.0)


def test_without_a_penalty_there_is_no_scale():
    scale = RelativeScale()
    assert scale.update(50.0, 0.0) == 0.0
    assert scale.update(50.0, 2.0) == 25.0


def test_a_term_that_is_all_but_zero_gets_no_weight_without_bound():
    assert RelativeScale(floor=1e-4).update(1.0, 1e-12) == pytest.approx(1e4)
    assert RelativeScale(floor=1e-4).update(1.0, 0.5) == 2.0


def test_a_saved_scale_goes_on_as_it_was():
    scale, again = RelativeScale(), RelativeScale()
    scale.update(1.0, 0.2)
    again.load_state_dict(scale.state_dict())
    assert again.update(1.0, 0.3) == scale.update(1.0, 0.3)
