"""The trainer `temporal`: a base trainer's loss and one more term, the distance to the previous token's code."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import SAE, ActivationBatch, ConfigError, LossTerms, Options, Trainer, TrainState

from .penalties import Codes, absolute_distance, distance_to_nothing, relative_distance, select
from .strength import AdaptiveFactor, RelativeScale

_ALLOWED = {
    "penalty": ("rel", "abs"),
    "scale": ("relative", "absolute"),
    "adaptive": ("sigmoid", "const"),
    "start": ("drop", "zero"),
    "stop_grad": ("none", "prev"),
    "partner": ("previous", "shuffled"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalOptions(Options):
    """Options of `temporal`; those of the base trainer are given beside them."""

    penalty: str = "rel"
    """`rel`: mean over V of sum|f_t - f_p| / (0.5 (||f_t||_1 + ||f_p||_1)), in [0, 2]; `abs`: its numerator alone,
    which shrinking the codes lowers too. V: the tokens with a true previous token of the same document."""
    strength: float = 0.05
    """Weight of the penalty, in the units of `scale`; 0 is the base trainer to the bit."""
    scale: str = "relative"
    """`relative`: the weight is multiplied by R / R_T0 (see `RelativeScale`); `absolute`: it is taken as it is."""
    adaptive: str = "sigmoid"
    """`sigmoid`: multiplied by alpha = sigmoid(beta (M - R) / s) (see `AdaptiveFactor`); `const`: alpha = 1."""
    beta: float = 5.0
    """Steepness of the sigmoid, per standard deviation of R."""
    momentum: float = 0.99
    """Memory of the moving maximum and of the standard deviation, per step."""
    start: str = "drop"
    """Tokens without a previous one: `drop` leaves them out, `zero` measures them against the empty code in a term
    of its own, `temporal_start`. That is an L1 penalty for `abs`, and the constant 2 for `rel`."""
    stop_grad: str = "none"
    """`none`: the penalty moves the codes of both tokens; `prev`: the previous token's code is a fixed target."""
    partner: str = "previous"
    """`shuffled`: the previous token of another row of the batch. The mandatory control."""

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"temporal: option {name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}."
                )
        for name, is_allowed, range_ in (
            ("strength", self.strength >= 0, "at least 0"),
            ("beta", self.beta > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
        ):
            if not is_allowed:
                raise ConfigError(f"temporal: option {name} is {getattr(self, name)}; it must be {range_}.")


class TemporalTrainer(Trainer):
    """The base's loss + strength · scale · alpha · R_T, with R_T the mean distance to the previous token's code.

    The previous token is encoded in a second pass, sparsely where the base's codes are sparse. An empty V makes the
    term 0. Needs a base whose reconstruction term is called `sse`, as `topk` and `relu`.
    """

    options_type = TemporalOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._restart()

    def _restart(self) -> None:
        self.factor = AdaptiveFactor(self.options.beta, self.options.momentum)
        self.scale = RelativeScale()

    def initialise(self, sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        self._restart()
        super().initialise(sae, sample, target_l0, generator)

    def loss(self, sae: SAE, batch: ActivationBatch, state: TrainState) -> LossTerms:
        assert self.base is not None, "the spec says `extends`"
        terms = self.base.loss(sae, batch, state)
        if self.options.strength == 0.0:
            return terms
        if batch.previous is None or batch.has_previous is None:
            raise ConfigError("temporal needs batches with the previous token: use a stream of the kind 'pairs'.")
        partner, valid = self._partner(batch.previous, batch.has_previous, state.generator)
        penalty = self._penalty(sae, terms.codes, partner, valid)
        weight = self._weight(float(terms.values["sse"].detach()), float(penalty.detach()))
        terms = terms.plus("temporal", penalty, weight)
        if self.options.start == "zero":
            terms = terms.plus("temporal_start", self._start(terms.codes, ~batch.has_previous), weight)
        return terms

    def _partner(self, previous: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Activations [n_valid, d_in] to compare with, and the rows [n] bool they belong to."""
        rows = previous if bool(valid.all()) else previous[valid]
        if self.options.partner == "previous":
            return rows, valid
        if len(rows) < 2:
            return rows[:0], torch.zeros_like(valid)
        # One cycle through all rows: none keeps its own previous token, as a plain permutation's fixed points would.
        cycle = torch.randperm(len(rows), generator=generator).to(rows.device)
        source = torch.empty_like(cycle)
        source[cycle] = cycle.roll(1)
        return rows[source], valid

    def _penalty(self, sae: SAE, codes: Codes, partner: Tensor, valid: Tensor) -> Tensor:
        """R_T: a 0-dimensional tensor, 0 where V is empty."""
        if len(partner) == 0:
            return partner.new_zeros(())
        with torch.no_grad() if self.options.stop_grad == "prev" else nullcontext():
            previous = sae.encode(partner) if isinstance(codes, Tensor) else sae.encode_sparse(partner)
        distance = relative_distance if self.options.penalty == "rel" else absolute_distance
        return distance(select(codes, valid), previous).mean()

    def _start(self, codes: Codes, starts: Tensor) -> Tensor:
        """Sum over tokens without a previous one, divided by |V|: each counts as much as a token that has one."""
        if not bool(starts.any()):
            return starts.new_zeros((), dtype=torch.float32)
        distances = distance_to_nothing(select(codes, starts), relative=self.options.penalty == "rel")
        return distances.sum() / max(1, int((~starts).sum()))

    def _weight(self, loss: float, penalty: float) -> float:
        """strength · alpha · (R / R_T0), a number."""
        options = self.options
        alpha = self.factor.update(loss) if options.adaptive == "sigmoid" else 1.0
        scale = self.scale.update(loss, penalty) if options.scale == "relative" else 1.0
        return options.strength * alpha * scale

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "factor": self.factor.state_dict(), "scale": self.scale.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.factor.load_state_dict(state["factor"])
        self.scale.load_state_dict(state["scale"])
