"""The Trainer interface: a plugin is its loss; the loop, seeds, dead-latent counts and saving belong to the core."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .batch import ActivationBatch
from .sae import SAE, RaggedCodes, SparseCodes
from .specs import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """What the loop tells a trainer at each step."""

    step: int
    """0-based."""
    n_steps: int
    tokens_seen: int
    target_l0: int | None
    """The L0 this SAE is to reach; None where the method's L0 cannot be set."""
    coefficient: float
    """Strength of the sparsity term: set by the sparsity controller, or 0 where the method has none."""
    dead: Tensor
    """[d_sae] bool: latents that have not fired for `dead_after_tokens`."""
    generator: torch.Generator
    """The trainer's own random numbers: seeded, saved and resumed by the loop."""

    @property
    def progress(self) -> float:
        """Share of all steps done, in [0, 1)."""
        return self.step / self.n_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """A loss as named terms. `total` is the sum of weight times value, in the order given."""

    values: Mapping[str, Tensor]
    """Each a 0-dimensional tensor."""
    weights: Mapping[str, float]
    """Weights of the same names. They are numbers, not tensors: no gradient flows through a weight."""
    codes: SparseCodes | RaggedCodes | Tensor
    """Codes of the batch with their gradient, [n, d_sae] or sparse: the loop counts firings from them, and
    trainers that extend this one penalise them. A method may give dense codes while many latents are active and
    ragged ones later; `harness.training.code_distance.token_sums` sums all three."""
    reconstruction: Tensor
    """[n, d_in]."""

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised."""
        total = None
        for name, value in self.values.items():
            weight = self.weights[name]
            part = value if weight == 1.0 else value * weight
            total = part if total is None else total + part
        assert total is not None, "a loss has at least one term"
        return total

    def plus(self, name: str, value: Tensor, weight: float) -> LossTerms:
        """These terms and one more. A weight of 0 leaves the loss as it is, to the bit."""
        if weight == 0.0:
            value = value.detach()
        return LossTerms(
            values={**self.values, name: value},
            weights={**self.weights, name: weight},
            codes=self.codes,
            reconstruction=self.reconstruction,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Hyperparameters of a trainer: subclass it with your own fields, each with a default. All are stored in the
    record. A trainer that extends another subclasses this one; the optimiser's options are then the base's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerOptions(Options):
    """Hyperparameters of a trainer that stands alone: those of the optimiser, and its own."""

    lr: float = 1e-3
    """Adam's learning rate at its peak (inputs have mean norm sqrt(d_in))."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    warmup_fraction: float = 0.05
    """Share of the steps over which lr rises linearly from 0."""
    decay_fraction: float = 0.2
    """Share of the steps at the end over which lr falls linearly to 0."""


class Trainer(ABC):
    """A method's loss.

    Built as `Class(options, base)`: `options` an instance of `options_type`, `base` the trainer it extends
    (None unless the spec says `extends`). Constructors store; they read nothing.
    """

    options_type: ClassVar[type[Options]] = TrainerOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        self.options = options
        self.base = base

    def optimiser_options(self) -> TrainerOptions:
        """The optimiser's options: the base's where this trainer extends one."""
        return self.options if self.base is None else self.base.optimiser_options()

    def sae_options(self, target_l0: int | None) -> Mapping[str, Option]:
        """Options of the SAE for this target L0; top-k methods give `k`."""
        return {} if self.base is None else self.base.sae_options(target_l0)

    def initialise(self, sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        """Set what depends on data (biases, PCA directions) before the first step.

        `sample` holds some thousand tokens, scaled as in training.
        """
        if self.base is not None:
            self.base.initialise(sae, sample, target_l0, generator)

    @abstractmethod
    def loss(self, sae: SAE, batch: ActivationBatch, state: TrainState) -> LossTerms:
        """The loss on one batch. Must not edit the batch; may use `state.generator` for randomness."""

    def parameter_groups(self, sae: SAE) -> list[dict[str, Any]]:
        """Adam's parameter groups; a group may carry its own `lr_scale`, `betas`, `eps`."""
        if self.base is not None:
            return self.base.parameter_groups(sae)
        return [{"params": [p for p in sae.parameters() if p.requires_grad]}]

    def diagnostics(self) -> Mapping[str, float]:
        """Numbers of the last step for the training log, beside the terms: how strong, how many, how far.

        The conformance kit reads some: `selected` or `*_selected`, how many a term acts on; `<term>_maximum` and
        `loss_maximum`, moving maxima.
        """
        return {} if self.base is None else self.base.diagnostics()

    def after_step(self, sae: SAE, state: TrainState) -> None:
        """Called after the optimiser's step and the decoder's renormalisation."""
        if self.base is not None:
            self.base.after_step(sae, state)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors to resume from (trackers, averages); JSON-able or tensors."""
        return {} if self.base is None else {"base": self.base.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if self.base is not None:
            self.base.load_state_dict(state["base"])
