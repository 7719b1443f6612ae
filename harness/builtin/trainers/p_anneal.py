"""ReLU with an L_p penalty whose p falls during training (Karvonen et al. 2024, arXiv:2408.00113)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ActivationBatch, ConfigError, LossTerms, Trainer, TrainerOptions, TrainState
from harness.training.active import active_latents
from harness.training.code_distance import token_sums

from .common import squared_error, start_at_median


@dataclass(frozen=True, slots=True, kw_only=True)
class PAnnealOptions(TrainerOptions):
    """Options of `p_anneal`."""

    penalty: str = "lp^p"
    """`lp^p`: sum of f^p; `lp`: its (1/p)-th power."""
    p_end: float = 0.2
    """The last p; the first is 1."""
    anneal_start: float = 0.15
    """Share of the steps before p begins to fall."""
    anneal_end: float = 0.8
    """Share of the steps at which p is at its end: by default where the learning rate begins to fall, so that the
    sparsity controller settles on the last p."""
    n_updates: int = 10
    """In how many equal steps p falls."""
    queue_length: int = 10
    """Steps over which the penalties of the old and the new p are averaged before p changes."""

    def __post_init__(self) -> None:
        for name, is_allowed, range_ in (
            ("penalty", self.penalty in ("lp^p", "lp"), "lp^p or lp"),
            ("p_end", 0 < self.p_end <= 1, "in (0, 1]"),
            ("anneal_start", 0 <= self.anneal_start < self.anneal_end, "in [0, anneal_end)"),
            ("anneal_end", self.anneal_end <= 1, "at most 1"),
            ("n_updates", self.n_updates >= 1, "at least 1"),
            ("queue_length", self.queue_length >= 1, "at least 1"),
        ):
            if not is_allowed:
                raise ConfigError(f"p_anneal: option {name} is {getattr(self, name)!r}; it must be {range_}.")


class PAnnealTrainer(Trainer):
    """SSE + coefficient · factor · mean over tokens of ||f||_p^p, with p from 1 to p_end; decoder rows of norm 1.

    As p changes, the factor is multiplied by the ratio of the penalty at the old p to that at the new one, both
    averaged over the last steps: the term keeps its size. The sparsity controller sets the coefficient meanwhile.
    """

    options_type = PAnnealOptions

    def __init__(self, options: Any, base: Any = None) -> None:
        super().__init__(options, base)
        self._restart()

    def _restart(self) -> None:
        self.level, self.factor = 0, 1.0
        self.queue: list[list[float]] = []
        self._seen: list[float] | None = None

    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        self._restart()
        start_at_median(sae.b_dec, sample)

    def p(self, level: int) -> float:
        """The exponent after `level` of the n_updates changes."""
        return 1.0 - (1.0 - self.options.p_end) * level / self.options.n_updates

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        x = batch.activations
        active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=0.0)
        values = active.z.relu()
        codes = active.codes(values)
        x_hat = active.decode(values, sae.W_dec, sae.b_dec)
        penalty = self.penalty(codes, self.p(self.level))
        self._seen = None
        if self.level < self.options.n_updates:
            with torch.no_grad():
                self._seen = [float(penalty), float(self.penalty(codes, self.p(self.level + 1)))]
        return LossTerms(
            values={"sse": squared_error(x, x_hat), "lp": penalty},
            weights={"sse": 1.0, "lp": state.coefficient * self.factor},
            codes=codes,
            reconstruction=x_hat,
        )

    def penalty(self, codes: Any, p: float) -> Tensor:
        """0-dimensional: mean over tokens of the sum of f^p, or of its (1/p)-th power."""
        sums = token_sums(codes, lambda f: _power(f, p))
        return sums.mean() if self.options.penalty == "lp^p" else _power(sums, 1 / p).mean()

    def after_step(self, sae: Any, state: TrainState) -> None:
        if self._seen is None:
            return
        self.queue = [*self.queue, self._seen][-self.options.queue_length :]
        if self.level >= self._due((state.step + 1) / state.n_steps):
            return
        old, new = (sum(column) / len(self.queue) for column in zip(*self.queue, strict=True))
        self.factor *= old / new if old > 0 and new > 0 else 1.0
        self.level += 1
        self.queue = []  # what it holds is of other exponents

    def _due(self, progress: float) -> int:
        """How many changes of p are due once this share of the steps is done."""
        start, end, n = self.options.anneal_start, self.options.anneal_end, self.options.n_updates
        # 1e-9: three tenths of the way are three of ten changes, however the division rounds.
        return min(n, max(0, int(n * (progress - start) / (end - start) + 1e-9)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "level": self.level, "factor": self.factor, "queue": self.queue}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.level, self.factor = int(state["level"]), float(state["factor"])
        self.queue = [list(pair) for pair in state["queue"]]


def _power(f: Tensor, exponent: float) -> Tensor:
    """f^exponent of numbers >= 0. The gradient at 0 is 0: that of f^p would be infinite, and NaN beside a zero."""
    positive = f > 0
    return torch.where(positive, torch.where(positive, f, 1.0).pow(exponent), 0.0)
