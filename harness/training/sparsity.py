"""The sparsity controller: brings any method whose sparsity is a coefficient to a target L0."""

from __future__ import annotations

import math
from typing import Any

TOLERANCE = 0.05
"""Relative distance from the target within which a run counts as having reached it."""


class SparsityController:
    """Sets the coefficient by proportional-integral control of log L0.

    The error is log(L0 / target), so that a factor of two too dense weighs as much as one too sparse; the
    coefficient is exp(integral + gain * error). Gains are per run, not per step: a short run turns faster.

    The control is on the batch's L0 with an exponential average, without memory of units: it needs no scale.
    """

    def __init__(
        self, target_l0: float, n_steps: int, *, initial: float, gain: float = 1.0, travel: float = 25.0
    ) -> None:
        self.target_l0 = float(target_l0)
        self.gain = gain
        self.rate = travel / n_steps
        self.integral = math.log(initial)
        self.average: float | None = None
        self.decay = max(0.5, 1 - 50.0 / n_steps)

    @property
    def coefficient(self) -> float:
        """Strength of the sparsity term for the next step."""
        if self.average is None:
            return math.exp(self.integral)
        return math.exp(min(25.0, max(-25.0, self.integral + self.gain * self._error())))

    def update(self, l0: float) -> None:
        """Take in the L0 of the step just done."""
        l0 = max(l0, 1e-3)
        self.average = l0 if self.average is None else self.decay * self.average + (1 - self.decay) * l0
        # A run far from its target must not wind the integral up past what it can unwind.
        self.integral += self.rate * max(-1.0, min(1.0, self._error()))
        self.integral = max(-20.0, min(20.0, self.integral))

    @property
    def reached(self) -> bool:
        """Whether the average L0 lies within `TOLERANCE` of the target."""
        return self.average is not None and abs(self.average / self.target_l0 - 1) <= TOLERANCE

    def _error(self) -> float:
        assert self.average is not None
        return math.log(self.average / self.target_l0)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"integral": self.integral, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.integral = state["integral"]
        self.average = state["average"]
