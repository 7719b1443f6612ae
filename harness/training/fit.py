"""The one training loop: a cohort of SAEs from one stream, each identical to training it alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ConfigError, NonFiniteError
from ..interfaces.batch import ActivationBatch
from ..interfaces.sae import SAE, RaggedCodes, SparseCodes
from ..interfaces.trainer import LossTerms, Trainer, TrainState
from ..threads.side_by_side import one_thread_each
from .allocator import large_blocks_kept
from .checkpoint import load_state, save_state
from .cohort import one_thread
from .optimiser import FusedAdam
from .schedules import learning_rate_factor
from .sparse_ops import fired
from .sparsity import SparsityController

R = TypeVar("R")

SAMPLE_TOKENS = 8192
"""Tokens a trainer sees in `initialise`."""
_SAVE_SHARE = 1 / 20
"""Of the time that may go into saving the cohort's state."""
_SAVE_BYTES_A_SECOND = 2**28
"""How fast the first state is expected to be saved."""


class Stream(Protocol):
    """Batches as a pure function of their index."""

    def batch(self, index: int) -> ActivationBatch:
        """The batch of step `index`, always the same rows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """One SAE to train."""

    label: str
    sae: SAE
    """Built, not yet initialised."""
    trainer: Trainer
    seed: int
    target_l0: int | None
    sparsity: str
    """As in the spec: with `coefficient` the controller sets it, with `target` the loss does; in both cases the
    result says whether the target was reached."""
    trained: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What the progress display shows of the SAE that stepped last."""

    step: int
    n_steps: int
    label: str
    terms: Mapping[str, float]
    l0: float
    n_dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A trained SAE, still in the stream's units (the input scale is not folded in)."""

    sae: SAE
    steps: int
    tokens: int
    final_loss: float | None
    final_terms: Mapping[str, float]
    l0_reached: bool | None
    dead_latents: int
    wall_seconds: float
    log: Sequence[Mapping[str, float]]
    """About a hundred rows over the run: step, each weighted term, l0, dead, coefficient, lr."""


class _Slot:
    """One SAE of the cohort with its optimiser, controller and counters."""

    def __init__(
        self,
        job: FitJob,
        n_steps: int,
        batch_size: int,
        dead_after_tokens: int,
        device: torch.device | str,
        precision: str,
    ) -> None:
        self.job, self.n_steps, self.batch_size = job, n_steps, batch_size
        self.dead_after_tokens, self.device = dead_after_tokens, torch.device(device)
        self.autocast = precision == "bfloat16"
        # On the CPU whatever the device, so that a seed means the same weights everywhere.
        self.generator = torch.Generator().manual_seed(job.seed)
        self.options = job.trainer.optimiser_options()
        self.since_fired = torch.zeros(job.sae.config.d_sae, dtype=torch.int64, device=device)
        self.controller: SparsityController | None = None
        if job.sparsity in ("coefficient", "target"):
            if job.target_l0 is None:
                raise ConfigError(f"{job.label}: a method with sparsity {job.sparsity!r} needs a target L0.")
            self.controller = SparsityController(job.target_l0, n_steps, initial=0.1)
        self.optimiser: FusedAdam | None = None
        self.tail: dict[str, list[float]] = {}
        self.log: list[dict[str, float]] = []
        self.wall_seconds = 0.0

    @property
    def beside_others(self) -> bool:
        """Whether its steps run on one thread each, beside those of the other SAEs, which are as large."""
        config = self.job.sae.config
        return self.device.type == "cpu" and one_thread(self.batch_size, config.d_in, config.d_sae)

    @property
    def state_bytes(self) -> int:
        """About, of its saved state: the weights and Adam's two averages."""
        return 3 * sum(p.numel() * p.element_size() for p in self.job.sae.parameters())

    def initialise(self, sample: ActivationBatch) -> None:
        """Fill the weights from the seed and the sample."""
        job = self.job
        job.sae.reset_parameters(self.generator)
        job.sae.to(self.device)
        job.trainer.initialise(job.sae, sample, job.target_l0, self.generator)
        if job.trained:
            self._build_optimiser()

    def _build_optimiser(self) -> None:
        self.optimiser = FusedAdam(
            self.job.trainer.parameter_groups(self.job.sae),
            beta1=self.options.beta1,
            beta2=self.options.beta2,
            eps=self.options.eps,
            unit_rows=self.job.sae.W_dec if self.job.sae.unit_norm_decoder else None,  # type: ignore[arg-type]
        )

    def step(self, batch: ActivationBatch, step: int) -> StepReport:
        """One optimiser step."""
        started = time.perf_counter()
        job, optimiser = self.job, self.optimiser
        assert optimiser is not None
        dead = self.since_fired >= self.dead_after_tokens
        state = TrainState(
            step=step,
            n_steps=self.n_steps,
            tokens_seen=step * self.batch_size,
            target_l0=job.target_l0,
            coefficient=self.controller.coefficient if self.controller and job.sparsity == "coefficient" else 0.0,
            dead=dead,
            generator=self.generator,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            terms = job.trainer.loss(job.sae, batch, state)
        weighted = self._check_finite(terms, step)
        terms.total.backward()
        factor = self._apply_gradient(optimiser, step)
        job.trainer.after_step(job.sae, state)
        optimiser.zero_grad()  # now, not at the next step: of a whole cohort only those that step hold gradients
        l0 = self._count(terms.codes, len(batch))
        if self.controller:
            self.controller.update(l0)
        n_dead = int((self.since_fired >= self.dead_after_tokens).sum())
        self.wall_seconds += time.perf_counter() - started
        self._keep(step, weighted, l0, n_dead, state.coefficient, factor)
        return StepReport(step=step, n_steps=self.n_steps, label=job.label, terms=weighted, l0=l0, n_dead=n_dead)

    def _check_finite(self, terms: LossTerms, step: int) -> dict[str, float]:
        weighted = {name: float(value.detach()) * terms.weights[name] for name, value in terms.values.items()}
        bad = [name for name, value in weighted.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"{self.job.label}: loss term {', '.join(bad)} is not finite at step {step} of {self.n_steps}. "
                "Lower lr, or check the activations for outliers."
            )
        return weighted

    def _apply_gradient(self, optimiser: FusedAdam, step: int) -> float:
        options = self.options
        norm = float(optimiser.gradient_norm())
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"{self.job.label}: the gradient is not finite at step {step} of {self.n_steps}. Lower lr."
            )
        factor = learning_rate_factor(
            step, self.n_steps, warmup_fraction=options.warmup_fraction, decay_fraction=options.decay_fraction
        )
        clip = options.grad_clip / norm if 0 < options.grad_clip < norm else 1.0
        optimiser.step(options.lr * factor, clip)
        return factor

    @torch.no_grad()
    def _count(self, codes: SparseCodes | RaggedCodes | Tensor, n: int) -> float:
        """Mean L0 of the batch; brings the firing counts up to date."""
        if isinstance(codes, Tensor):
            active = codes > 0
            found, n_active = active.any(0), int(active.count_nonzero())
        else:
            latents = codes.indices if isinstance(codes, SparseCodes) else codes.latents
            found, n_active = fired(codes.values, latents, len(self.since_fired))
        self.since_fired.add_(n).masked_fill_(found, 0)
        return n_active / n

    def _keep(
        self, step: int, terms: Mapping[str, float], l0: float, n_dead: int, coefficient: float, lr: float
    ) -> None:
        if step >= self.n_steps - max(1, self.n_steps // 20):
            for name, value in terms.items():
                self.tail.setdefault(name, []).append(value)
        if step % max(1, self.n_steps // 100) == 0 or step == self.n_steps - 1:
            row = {"step": float(step), "l0": l0, "dead": float(n_dead), "coefficient": coefficient}
            row |= {"lr": lr * self.options.lr, **{f"term/{k}": v for k, v in terms.items()}}
            self.log.append({**row, **{f"trainer/{k}": v for k, v in self.job.trainer.diagnostics().items()}})

    def result(self) -> FitResult:
        """What training ended with."""
        for name, parameter in self.job.sae.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise NonFiniteError(f"{self.job.label}: parameter {name} is not finite after training. Lower lr.")
        means = {name: sum(values) / len(values) for name, values in self.tail.items()}
        trained = self.job.trained
        return FitResult(
            sae=self.job.sae,
            steps=self.n_steps if trained else 0,
            tokens=self.n_steps * self.batch_size if trained else 0,
            final_loss=sum(means.values()) if trained else None,
            final_terms=means,
            l0_reached=self.controller.reached if self.controller else None,
            dead_latents=int((self.since_fired >= self.dead_after_tokens).sum()),
            wall_seconds=self.wall_seconds,
            log=self.log,
        )

    def state_dict(self) -> dict[str, Any]:
        assert self.optimiser is not None
        return {
            "sae": dict(self.job.sae.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "trainer": self.job.trainer.state_dict(),
            "controller": self.controller.state_dict() if self.controller else {},
            "generator": self.generator.get_state(),
            "since_fired": self.since_fired,
            "tail": self.tail,
            "log": self.log,
            "wall_seconds": self.wall_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.job.sae.load_state_dict(state["sae"])
        self.job.sae.to(self.device)
        self._build_optimiser()
        assert self.optimiser is not None
        self.optimiser.load_state_dict(state["optimiser"])
        self.job.trainer.load_state_dict(state["trainer"])
        if self.controller:
            self.controller.load_state_dict(state["controller"])
        self.generator.set_state(state["generator"])
        self.since_fired = state["since_fired"].to(self.device)
        self.tail, self.log = state["tail"], state["log"]
        self.wall_seconds = state["wall_seconds"]


def fit(
    jobs: Sequence[FitJob],
    stream: Stream,
    *,
    n_steps: int,
    batch_size: int,
    dead_after_tokens: int,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    resume_folder: Path | None = None,
    save_every_s: float = 60.0,
    progress: Callable[[StepReport], None] | None = None,
) -> list[FitResult]:
    """Train every job on the same batches; results in the order of `jobs`. `stream` gives its batches on `device`.

    With precision `bfloat16` the loss makes its matrix products in it (autocast); weights and sums stay float32.

    With `resume_folder`, the cohort's state is saved there about every `save_every_s` seconds, less often where that
    would take more than a twentieth of the time (0: after every step). A run that finds one goes on from it, and ends
    bit-identical to one that was never interrupted.

    Raises:
        NonFiniteError: a loss, gradient or parameter is NaN or infinite; the message names step and term.
    """
    slots = [_Slot(job, n_steps, batch_size, dead_after_tokens, device, precision) for job in jobs]
    trained = [slot for slot in slots if slot.job.trained]
    start = 0
    saved = load_state(resume_folder) if resume_folder is not None and trained else None
    if saved is not None:
        start, tree = saved
        for slot, state in zip(trained, tree["slots"], strict=True):
            slot.load_state_dict(state)
    fresh = slots if saved is None else [slot for slot in slots if not slot.job.trained]
    if fresh:
        sample = _sample(stream, batch_size)
        for _ in _each(fresh, lambda slot: slot.initialise(sample)):
            pass
    with large_blocks_kept():
        _train(trained, stream, start, n_steps, resume_folder, save_every_s, progress)
    return [slot.result() for slot in slots]


def _train(
    slots: Sequence[_Slot],
    stream: Stream,
    start: int,
    n_steps: int,
    resume_folder: Path | None,
    save_every_s: float,
    progress: Callable[[StepReport], None] | None,
) -> None:
    """The steps from `start` on: each batch is read once, then every SAE takes its step."""
    last_save, cost = time.monotonic(), sum(slot.state_bytes for slot in slots) / _SAVE_BYTES_A_SECOND
    for step in range(start, n_steps if slots else 0):
        batch = stream.batch(step)
        for report in _each(slots, partial(_Slot.step, batch=batch, step=step)):
            if progress is not None:
                progress(report)
        pause = save_every_s and max(save_every_s, cost / _SAVE_SHARE)
        due = time.monotonic() - last_save >= pause
        if resume_folder is not None and due and step + 1 < n_steps:
            started = time.monotonic()
            save_state(resume_folder, step + 1, {"slots": [slot.state_dict() for slot in slots]})
            last_save = time.monotonic()
            cost = last_save - started


def _each(slots: Sequence[_Slot], work: Callable[[_Slot], R]) -> Iterable[R]:
    """What `work` gives for each SAE: small ones side by side, others one after the other."""
    beside = bool(slots) and slots[0].beside_others
    return one_thread_each(work, slots) if beside else map(work, slots)


def _sample(stream: Stream, batch_size: int) -> ActivationBatch:
    """The stream's first tokens, for `initialise`."""
    n_batches = max(1, -(-SAMPLE_TOKENS // batch_size))
    batches = [stream.batch(i) for i in range(n_batches)]
    return ActivationBatch(
        activations=torch.cat([b.activations for b in batches]),
        document=torch.cat([b.document for b in batches]),
        position=torch.cat([b.position for b in batches]),
    )
