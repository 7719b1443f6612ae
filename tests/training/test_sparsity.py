"""The controller that brings a coefficient to a target L0."""

from __future__ import annotations

import math

import pytest

from harness.training.sparsity import TOLERANCE, SparsityController


def drive(plant, target: float, n_steps: int = 400, initial: float = 0.1) -> tuple[SparsityController, list[float]]:
    """Run a controller on a plant that gives the L0 of a coefficient."""
    controller = SparsityController(target, n_steps, initial=initial)
    seen = []
    for _ in range(n_steps):
        seen.append(plant(controller.coefficient))
        controller.update(seen[-1])
    return controller, seen


@pytest.mark.parametrize("target", [4.0, 32.0, 128.0])
@pytest.mark.parametrize("initial", [0.001, 0.1, 10.0])
def test_a_plant_that_answers_at_once_ends_on_target(target, initial):
    controller, seen = drive(lambda c: 40.0 / c**0.5, target, initial=initial)
    assert seen[-1] == pytest.approx(target, rel=TOLERANCE)
    assert controller.reached


def test_a_plant_that_answers_slowly_ends_on_target():
    state = {"l0": 500.0}

    def plant(coefficient: float) -> float:
        state["l0"] += 0.1 * (20.0 / coefficient**0.5 - state["l0"])
        return state["l0"]

    controller, seen = drive(plant, 16.0, n_steps=600)
    assert seen[-1] == pytest.approx(16.0, rel=TOLERANCE)
    assert controller.reached


def test_too_dense_raises_the_coefficient_and_too_sparse_lowers_it():
    for l0, rises in ((64.0, True), (4.0, False)):
        controller = SparsityController(16, 100, initial=0.1)
        before = controller.coefficient
        controller.update(l0)
        assert (controller.coefficient > before) is rises


def test_a_factor_too_dense_weighs_as_much_as_one_too_sparse():
    dense, sparse = (SparsityController(16, 100, initial=1.0) for _ in range(2))
    dense.update(32.0)
    sparse.update(8.0)
    assert dense.coefficient * sparse.coefficient == pytest.approx(1.0)


def test_on_target_it_stays():
    controller = SparsityController(16, 100, initial=0.3)
    for _ in range(50):
        controller.update(16.0)
    assert controller.coefficient == pytest.approx(0.3)
    assert controller.reached


def test_a_plant_that_cannot_reach_is_told_and_the_coefficient_stays_finite():
    controller, _ = drive(lambda c: 100.0, 10.0, n_steps=2000)
    assert not controller.reached
    assert math.isfinite(controller.coefficient)
    dead, _ = drive(lambda c: 0.0, 10.0, n_steps=2000)
    assert not dead.reached
    assert 0 < dead.coefficient < 1e-6


def test_before_the_first_step_nothing_is_reached():
    assert not SparsityController(16, 100, initial=0.1).reached


def test_a_resumed_controller_goes_on_to_the_bit():
    one, other = (SparsityController(16, 100, initial=0.1) for _ in range(2))
    for l0 in (40.0, 30.0, 22.5):
        one.update(l0)
    other.load_state_dict(one.state_dict())
    for l0 in (18.0, 15.0):
        one.update(l0)
        other.update(l0)
    assert (one.coefficient, one.reached) == (other.coefficient, other.reached)
