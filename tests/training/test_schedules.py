"""The learning rate's rise, plateau and fall."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.training.schedules import learning_rate_factor


def factors(n_steps: int, warmup: float, decay: float) -> list[float]:
    return [
        learning_rate_factor(step, n_steps, warmup_fraction=warmup, decay_fraction=decay) for step in range(n_steps)
    ]


def test_known_values():
    assert factors(10, 0.2, 0.4) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_without_warmup_and_decay_it_is_one():
    assert factors(7, 0.0, 0.0) == [1.0] * 7


def test_all_warmup_and_all_decay():
    assert factors(4, 1.0, 0.0) == [0.25, 0.5, 0.75, 1.0]
    assert factors(4, 0.0, 1.0) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 32, 1000])
def test_it_is_never_zero_and_never_above_one(n_steps):
    assert all(0 < f <= 1 for f in factors(n_steps, 0.05, 0.2))


def test_it_scales_with_the_run():
    assert factors(1000, 0.1, 0.3)[99::100] == pytest.approx([1, 1, 1, 1, 1, 1, 1, 201 / 300, 101 / 300, 1 / 300])


@pytest.mark.parametrize(("warmup", "decay"), [(-0.1, 0.2), (0.1, 1.2), (0.6, 0.6)])
def test_shares_that_cannot_be_are_refused(warmup, decay):
    with pytest.raises(ConfigError, match="sum to at most 1"):
        factors(4, warmup, decay)
