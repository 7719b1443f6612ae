"""A method at small sizes: what the checks of trainers and SAEs are made on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..activations.samplers import Kind, Sampler
from ..artefacts.key import canonical_json
from ..errors import ConformanceError
from ..interfaces.batch import ActivationBatch
from ..interfaces.sae import SAE
from ..interfaces.specs import Option
from ..interfaces.trainer import LossTerms, Trainer, TrainState
from ..methods import Method, build, resolve_method
from ..plugins import Catalogue, load_target
from ..training.fit import FitJob, FitResult, StepReport, fit
from .fixtures import D_IN, D_SAE, TINY_WORLD, K, planted_batches, tiny_store

N_STEPS = 60
BATCH_SIZE = 128
DEAD_AFTER_TOKENS = 10 * BATCH_SIZE
"""So early that terms for dead latents act within the sixty steps."""


def require(condition: bool, message: str) -> None:
    """Raises ConformanceError with `message` unless the condition holds."""
    if not condition:
        raise ConformanceError(message)


class MethodBench:
    """Builds and trains one method on planted data, d_in 16, d_sae 64, L0 4; the result is kept for all checks."""

    def __init__(
        self,
        catalogue: Catalogue,
        name: str,
        *,
        label: str,
        overrides: Mapping[str, Option] | None = None,
        kind: Kind | None = None,
    ) -> None:
        """`name` as `resolve_method` takes it; `kind` replaces the stream that the method's needs ask for."""
        self.catalogue = catalogue
        self.name = name
        self.label = label
        self.overrides = dict(overrides or {})
        self._kind: Kind | None = kind

    @cached_property
    def method(self) -> Method:
        """The method against what is installed."""
        found = resolve_method(self.catalogue, self.name, overrides=self.overrides)
        if "world" not in found.needs:
            return found
        told = {"world": canonical_json(TINY_WORLD), **self.overrides}
        return resolve_method(self.catalogue, self.name, overrides=told)

    @property
    def kind(self) -> Kind:
        """The stream the core gives it."""
        if self._kind is not None:
            return self._kind
        needs = self.method.needs
        if "contiguous" in needs:
            return "contiguous"
        if "pairs" in needs:
            return "pairs"
        return "iid"

    @property
    def trained(self) -> bool:
        """Whether steps are taken."""
        return self.method.spec.trained

    def build(self, target_l0: int = K) -> tuple[Trainer, SAE]:
        """A new trainer and an SAE that is not filled."""
        return build(self.method, d_in=D_IN, d_sae=D_SAE, target_l0=target_l0)

    def start(self, seed: int = 0) -> tuple[Trainer, SAE]:
        """A new trainer and SAE as they are before the first step."""
        trainer, sae = self.build()
        generator = torch.Generator().manual_seed(seed)
        sae.reset_parameters(generator)
        trainer.initialise(sae, self.batch(0), K, generator)
        return trainer, sae

    def batch(self, index: int) -> ActivationBatch:
        """A training batch [128, 16] of the kind the method needs."""
        return self.stream().batch(index)

    def stream(self) -> Sampler:
        """The training stream."""
        return planted_batches(self.kind, batch_size=BATCH_SIZE)

    def held_out(self) -> Tensor:
        """[512, 16]: rows of other text, scaled as in training."""
        return Sampler(tiny_store(1), batch_size=512, seed=0).batch(0).activations

    def state(
        self, *, step: int = 0, dead: Tensor | None = None, coefficient: float = 0.1, target_l0: int = K
    ) -> TrainState:
        """What the loop would tell the trainer."""
        return TrainState(
            step=step,
            n_steps=N_STEPS,
            tokens_seen=step * BATCH_SIZE,
            target_l0=target_l0,
            coefficient=coefficient if self.method.sparsity == "coefficient" else 0.0,
            dead=torch.zeros(D_SAE, dtype=torch.bool) if dead is None else dead,
            generator=torch.Generator().manual_seed(step),
        )

    def losses(self) -> list[LossTerms]:
        """Losses of a new SAE at four places of a run, the last two with half of the latents dead."""
        trainer, sae = self.start()
        half = torch.arange(D_SAE) % 2 == 0
        states = [
            self.state(step=0),
            self.state(step=N_STEPS // 3),
            self.state(step=2 * N_STEPS // 3, dead=half),
            self.state(step=N_STEPS - 1, dead=half),
        ]
        return [trainer.loss(sae, self.batch(i), state) for i, state in enumerate(states)]

    def job(self, seed: int = 0) -> FitJob:
        """A new job for the core's loop."""
        trainer, sae = self.build()
        return FitJob(
            label=self.label,
            sae=sae,
            trainer=trainer,
            seed=seed,
            target_l0=K,
            sparsity=self.method.sparsity,
            trained=self.trained,
        )

    def fit(
        self,
        *seeds: int,
        resume_folder: Path | None = None,
        save_every_s: float = 60.0,
        progress: Callable[[StepReport], None] | None = None,
    ) -> list[FitResult]:
        """Train one SAE a seed for sixty steps, as a cohort; the other arguments are those of `fit`."""
        return fit(
            [self.job(seed) for seed in seeds],
            self.stream(),
            n_steps=N_STEPS,
            batch_size=BATCH_SIZE,
            dead_after_tokens=DEAD_AFTER_TOKENS,
            resume_folder=resume_folder,
            save_every_s=save_every_s,
            progress=progress,
        )

    @cached_property
    def result(self) -> FitResult:
        """Seed 0 after sixty steps; not to be edited (see `trained_sae`)."""
        return self.fit(0)[0]

    def trained_sae(self) -> SAE:
        """A copy of the SAE of `result`, in eval mode and without gradients."""
        return copy.deepcopy(self.result.sae).requires_grad_(False).eval()

    def sae_class(self) -> type[SAE]:
        """The class of the method's SAE architecture."""
        return load_target(self.method.sae.target)
