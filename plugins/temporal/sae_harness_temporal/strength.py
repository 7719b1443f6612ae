"""How strong the penalty is: scale and adaptive factor, on detached numbers with their own state.

Everything here takes and gives Python floats: no gradient can flow through a weight, so the optimiser is never paid
to worsen the reconstruction that a weight depends on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.training.relative_scale import RelativeScale


class AdaptiveFactor:
    """alpha = sigmoid(beta (M - R) / s): half at the worst recent reconstruction loss R, towards 1 below it.

    M is by default a true moving maximum, M <- max(R, mu M + (1 - mu) R): never below the last R, so alpha lies in
    [.5, 1). `window_max` is the maximum of the last `window` losses; `ema` their exponential average, below which R
    lies half of the time. s is the running standard deviation of R with the same memory, which makes the sigmoid's
    argument dimensionless; with gap `none` it is 1.
    """

    def __init__(
        self, beta: float, momentum: float, tracker: str = "max_decay", gap: str = "sd", window: int = 100
    ) -> None:
        self.beta, self.momentum = beta, momentum
        self.tracker, self.gap, self.window = tracker, gap, window
        self.maximum: float | None = None
        self._mean = self._squares = self._weight = 0.0
        self._recent: list[float] = []

    def update(self, loss: float) -> float:
        """Take in the reconstruction loss of a batch; alpha for that batch."""
        mu = self.momentum
        self.maximum = self._tracked(loss)
        # Exponentially weighted mean and squares, divided by the sum of the weights: right from the second
        # batch on, where an average that starts at the first loss gives a far too small s and so an alpha of 1.
        self._weight = mu * self._weight + 1
        shift = loss - self._mean
        self._mean += shift / self._weight
        self._squares = mu * self._squares + shift * (loss - self._mean)
        if self.gap == "none":
            return _sigmoid(self.beta * (self.maximum - loss))
        if self.deviation == 0.0:
            return 0.5
        return _sigmoid(self.beta * (self.maximum - loss) / self.deviation)

    def _tracked(self, loss: float) -> float:
        """M with this loss taken in."""
        mu, before = self.momentum, self.maximum
        if self.tracker == "window_max":
            self._recent = [*self._recent, loss][-self.window :]
            return max(self._recent)
        if before is None:
            return loss
        mean = mu * before + (1 - mu) * loss
        return mean if self.tracker == "ema" else max(loss, mean)

    @property
    def deviation(self) -> float:
        """Running standard deviation of the loss; 0 before two different ones were seen."""
        return math.sqrt(max(0.0, self._squares / self._weight)) if self._weight else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        state = {"maximum": self.maximum, "mean": self._mean, "squares": self._squares, "weight": self._weight}
        return {**state, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.maximum = state["maximum"]
        self._mean, self._squares, self._weight = (float(state[k] or 0.0) for k in ("mean", "squares", "weight"))
        self._recent = [float(loss) for loss in state["recent"]]


class RelativeImprovement:
    """1 + rho · max(0, 1 - R / R_0): 1 while the reconstruction is no better than it was, 1 + rho at a loss of 0.

    R_0 is the mean loss over `steps` steps from step `start` on (counted from 0); until it is known the factor is 1.
    """

    def __init__(self, rho: float, start: int, steps: int) -> None:
        self.rho, self.start, self.steps = rho, start, steps
        self._seen, self._sum = 0, 0.0

    @property
    def reference(self) -> float | None:
        """R_0; None while it is not known."""
        return self._sum / self.steps if self._seen >= self.start + self.steps else None

    def update(self, loss: float) -> float:
        """Take in the reconstruction loss of a batch; the factor for that batch."""
        if self.start <= self._seen < self.start + self.steps:
            self._sum += loss
        self._seen += 1
        reference = self.reference
        return 1.0 if not reference else 1 + self.rho * max(0.0, 1 - loss / reference)

    def state_dict(self) -> dict[str, float | int]:
        """What a resumed run needs."""
        return {"seen": self._seen, "sum": self._sum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self._seen, self._sum = int(state["seen"]), float(state["sum"])


class Average:
    """Exponential average of a factor, from its first value on; with momentum 0 the factor itself."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.value: float | None = None

    def update(self, factor: float) -> float:
        """Take in a factor; the average."""
        mu, before = self.momentum, self.value
        self.value = factor if before is None or mu == 0.0 else mu * before + (1 - mu) * factor
        return self.value


class Strength:
    """strength · alpha · scale for each batch, by the options; keeps all trackers."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.factor = AdaptiveFactor(options.beta, options.momentum, options.tracker, options.gap, options.window)
        self.improvement = RelativeImprovement(options.rho, options.reference_start, options.reference_steps)
        self.average = Average(options.alpha_momentum)
        self.scale = RelativeScale()
        self.alpha = 1.0
        """Of the last batch."""

    def update(self, loss: float, penalty: float) -> float:
        """The weight of a batch with this reconstruction loss and penalty."""
        options = self.options
        alpha = 1.0
        if options.adaptive == "sigmoid":
            alpha = self.factor.update(loss)
        elif options.adaptive == "relative":
            alpha = self.improvement.update(loss)
        self.alpha = self.average.update(alpha)
        scale = self.scale.update(loss, penalty) if options.scale == "relative" else 1.0
        return options.strength * self.alpha * scale

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "factor": self.factor.state_dict(),
            "improvement": self.improvement.state_dict(),
            "average": self.average.value,
            "scale": self.scale.state_dict(),
            "alpha": self.alpha,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.factor.load_state_dict(state["factor"])
        self.improvement.load_state_dict(state["improvement"])
        self.average.value = state["average"]
        self.scale.load_state_dict(state["scale"])
        self.alpha = float(state["alpha"])


def _sigmoid(value: float) -> float:
    """1 / (1 + e^-value) without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    small = math.exp(value)
    return small / (1 + small)
