"""A weight in units of the reconstruction loss: what the strength of an added loss term is multiplied by."""

from __future__ import annotations

from collections.abc import Mapping


class RelativeScale:
    """R / T0: multiplies a strength so that .05 makes the term 5 % of the reconstruction loss R at the start.

    R is the batch's own, T0 the mean of the term over the first batches in which it was above 0, then fixed.
    - R follows the run, because it falls by an order of magnitude (and by more for ReLU, whose untrained
      reconstruction overshoots): with a fixed R the term would dominate the end of the run.
    - T0 stays, because dividing by the running term would raise the weight whenever the term falls: the optimiser
      would then follow the term's logarithm, and a lower term would no longer mean a smaller share of the loss.
    """

    REFERENCE_BATCHES = 10
    """Few: with the learning rate's warm-up the SAE has hardly moved. Enough to average a batch's noise."""

    def __init__(self, floor: float = 0.0) -> None:
        """`floor`: T0 is taken to be at least this, so that a term that is nearly 0 at first gets no huge weight."""
        self._floor = floor
        self._sum, self._count = 0.0, 0

    def update(self, loss: float, term: float) -> float:
        """R / T0 with this batch's loss and term taken in; 0 while no term above 0 was seen."""
        if self._count < self.REFERENCE_BATCHES and term > 0:
            self._sum += term
            self._count += 1
        if not self._count:
            return 0.0
        # In this order while there is no floor: stored SAEs were trained by this arithmetic, to the bit.
        return loss * self._count / self._sum if self._sum >= self._floor * self._count else loss / self._floor

    def state_dict(self) -> dict[str, float | int]:
        """What a resumed run needs."""
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Take up a saved state."""
        self._sum, self._count = float(state["sum"]), int(state["count"])
