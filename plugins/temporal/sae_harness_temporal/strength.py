"""How strong the penalty is: scale and adaptive factor, on detached numbers with their own state.

Everything here takes and gives Python floats: no gradient can flow through a weight, so the optimiser is never paid
to worsen the reconstruction that a weight depends on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping


class AdaptiveFactor:
    """alpha = sigmoid(beta (M - R) / s): half at the worst recent reconstruction loss R, towards 1 below it.

    M is a true moving maximum, M <- max(R, mu M + (1 - mu) R): never below the last R, so alpha lies in [.5, 1). s is
    the running standard deviation of R with the same memory, which makes the sigmoid's argument dimensionless.
    """

    def __init__(self, beta: float, momentum: float) -> None:
        self.beta, self.momentum = beta, momentum
        self.maximum: float | None = None
        self._mean = self._squares = self._weight = 0.0

    def update(self, loss: float) -> float:
        """Take in the reconstruction loss of a batch; alpha for that batch."""
        mu = self.momentum
        self.maximum = loss if self.maximum is None else max(loss, mu * self.maximum + (1 - mu) * loss)
        # Exponentially weighted mean and squares, divided by the sum of the weights: right from the second
        # batch on, where an average that starts at the first loss gives a far too small s and so an alpha of 1.
        self._weight = mu * self._weight + 1
        shift = loss - self._mean
        self._mean += shift / self._weight
        self._squares = mu * self._squares + shift * (loss - self._mean)
        if self.deviation == 0.0:
            return 0.5
        return 1 / (1 + math.exp(-self.beta * (self.maximum - loss) / self.deviation))

    @property
    def deviation(self) -> float:
        """Running standard deviation of the loss; 0 before two different ones were seen."""
        return math.sqrt(max(0.0, self._squares / self._weight)) if self._weight else 0.0

    def state_dict(self) -> dict[str, float | None]:
        """What a resumed run needs."""
        return {"maximum": self.maximum, "mean": self._mean, "squares": self._squares, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Take up a saved state."""
        self.maximum = state["maximum"]
        self._mean, self._squares, self._weight = (float(state[k] or 0.0) for k in ("mean", "squares", "weight"))


class RelativeScale:
    """R / R_T0: multiplies a strength so that strength .05 makes the term 5 % of the reconstruction loss at the start.

    R is the batch's own reconstruction loss, R_T0 the mean of the penalty over the first batches, then fixed.
    - R follows the run, because it falls by an order of magnitude (and by more for ReLU, whose untrained
      reconstruction overshoots): with a fixed R the penalty would dominate the end of the run.
    - R_T0 stays, because dividing by the running penalty would raise the weight whenever the penalty falls: the
      method would then chase log R_T, and a lower R_T would no longer mean a smaller share of the loss.
    """

    REFERENCE_BATCHES = 10
    """Few: with the learning rate's warm-up the SAE has hardly moved. Enough to average a batch's noise."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, loss: float, penalty: float) -> float:
        """R / R_T0 with this batch's loss and penalty taken in; 0 while no penalty above 0 was seen."""
        if self._count < self.REFERENCE_BATCHES and penalty > 0:
            self._sum += penalty
            self._count += 1
        return loss * self._count / self._sum if self._count else 0.0

    def state_dict(self) -> dict[str, float | int]:
        """What a resumed run needs."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Take up a saved state."""
        self._sum, self._count = float(state["sum"]), int(state["count"])
