"""Schedules as pure functions of the step: every length is a share of the total, never a fixed number."""

from __future__ import annotations

from ..errors import ConfigError


def learning_rate_factor(step: int, n_steps: int, *, warmup_fraction: float, decay_fraction: float) -> float:
    """What the peak learning rate is multiplied by at `step` (0-based): a linear rise, a plateau, a linear fall to 0.

    Raises:
        ConfigError: a fraction is outside [0, 1], or both together exceed 1.
    """
    if not (0 <= warmup_fraction <= 1 and 0 <= decay_fraction <= 1 and warmup_fraction + decay_fraction <= 1):
        raise ConfigError(
            f"warmup_fraction {warmup_fraction} and decay_fraction {decay_fraction} must lie in [0, 1] "
            "and sum to at most 1."
        )
    warmup = warmup_fraction * n_steps
    decay = decay_fraction * n_steps
    rise = (step + 1) / warmup if warmup > 0 else 1.0
    fall = (n_steps - step) / decay if decay > 0 else 1.0
    return min(1.0, rise, fall)
