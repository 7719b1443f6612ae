"""Run evaluators on one SAE: without gradient, each from its own seed, each failure kept as data."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..artefacts.key import source_sha256
from ..errors import ConformanceError, NameClashError, NotEvaluatedError
from ..interfaces.evaluator import Evaluator
from ..interfaces.sae import SAE
from ..interfaces.specs import EvaluatorSpec, MetricSpec, MetricValue, Option
from .context import HARNESS_CODE, StoreEvalContext

_TOLERANCE = 1e-6
"""How far beyond a declared bound rounding may carry a value, relative to the bound (at least to 1)."""


class PlannedEvaluator(NamedTuple):
    """An evaluator to run."""

    spec: EvaluatorSpec
    load: type[Evaluator] | Callable[[], type[Evaluator]]
    """The class, or what imports it."""
    options: Mapping[str, Option]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorOutcome:
    """How one evaluator ended, with its metrics where it is done."""

    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    """Why it failed (exception type and cause, one line) or was skipped."""
    wall_seconds: float = 0.0
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The outcome of every evaluator that was planned, by its name."""

    outcomes: Mapping[str, EvaluatorOutcome]

    @property
    def metrics(self) -> dict[str, MetricValue]:
        """All metrics that were measured; names are unique across evaluators."""
        return {name: value for outcome in self.outcomes.values() for name, value in outcome.metrics.items()}


def evaluate_sae(
    sae: SAE,
    evaluators: Sequence[PlannedEvaluator],
    context: StoreEvalContext,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> EvaluationResult:
    """Run each evaluator on the SAE. An evaluator that fails ends as `failed` with the cause; the others go on.

    The SAE is in eval mode and gradients are off while they run; its mode and the global random state are restored.
    Each evaluator starts from a random state of (seed, its name), so results do not depend on their order.
    `report` is told each failure in one line.

    Raises:
        NameClashError: two of the evaluators have one name or declare one metric.
    """
    _refuse_clashes([planned.spec for planned in evaluators])
    modes = [(module, module.training) for module in sae.modules()]
    outcomes: dict[str, EvaluatorOutcome] = {}
    try:
        sae.eval()
        with context.keeping_codes(sae):
            for planned in evaluators:
                outcome = _run(sae, planned, context)
                outcomes[planned.spec.name] = outcome
                if outcome.status == "failed":
                    report(f"Evaluator {planned.spec.name!r} failed: {outcome.reason}")
    finally:
        for module, training in modes:
            module.training = training
    return EvaluationResult(outcomes=outcomes)


def _run(sae: SAE, planned: PlannedEvaluator, context: StoreEvalContext) -> EvaluatorOutcome:
    spec = planned.spec
    if "language_model" in spec.needs and not context.has_language_model:
        return EvaluatorOutcome(status="skipped", reason="needs a language model, and this data has none")
    if "world" in spec.needs and not context.has_truth:
        return EvaluatorOutcome(status="skipped", reason="needs a synthetic world, whose true features are known")
    if "twin" in spec.needs and not context.has_twin:
        return EvaluatorOutcome(status="skipped", reason="needs an SAE of the same method and another seed")
    if missing := context.missing_texts(spec.reads(planned.options)):
        return EvaluatorOutcome(status="skipped", reason=missing)
    started = time.perf_counter()
    try:
        with torch.no_grad(), _random_state_of(context.seed, spec.name):
            evaluator = _load(planned)(planned.options)
            metrics = dict(evaluator.evaluate(sae, context.scoped(spec.name, _code_sha256(spec))))
            _check(spec, metrics)
    except NotEvaluatedError as error:
        seconds = time.perf_counter() - started
        return EvaluatorOutcome(status="skipped", reason=" ".join(str(error).split()), wall_seconds=seconds)
    except Exception as error:  # noqa: BLE001 - kept in the record and told by `report`; other evaluators go on
        seconds = time.perf_counter() - started
        return EvaluatorOutcome(status="failed", reason=_one_line(error), wall_seconds=seconds)
    return EvaluatorOutcome(status="done", wall_seconds=time.perf_counter() - started, metrics=metrics)


def _load(planned: PlannedEvaluator) -> type[Evaluator]:
    return planned.load if isinstance(planned.load, type) else planned.load()


def _code_sha256(spec: EvaluatorSpec) -> str:
    ours = source_sha256(__name__, only=HARNESS_CODE)
    return hashlib.sha256(f"{ours}:{source_sha256(spec.target)}".encode()).hexdigest()


def _refuse_clashes(specs: Sequence[EvaluatorSpec]) -> None:
    owners: dict[str, str] = {}
    names: set[str] = set()
    for spec in specs:
        if spec.name in names:
            raise NameClashError(f"Evaluator {spec.name!r} is planned twice: each runs once.")
        names.add(spec.name)
        for metric in spec.metrics:
            other = owners.setdefault(metric.name, spec.name)
            if other != spec.name:
                raise NameClashError(
                    f"Metric {metric.name!r} is declared by the evaluators {other!r} and {spec.name!r}: "
                    "a record holds one value a name, so rename one or run them apart."
                )


def _check(spec: EvaluatorSpec, metrics: Mapping[str, MetricValue]) -> None:
    """Raises ConformanceError unless exactly the declared metrics are there, each within its bounds."""
    declared = {metric.name for metric in spec.metrics}
    missing, extra = sorted(declared - set(metrics)), sorted(set(metrics) - declared)
    if missing or extra:
        raise ConformanceError(
            f"Evaluator {spec.name!r} must return exactly the metrics it declares: "
            f"missing {', '.join(missing) or 'none'}; not declared {', '.join(extra) or 'none'}."
        )
    for metric in spec.metrics:
        _check_value(metric, metrics[metric.name])


def _check_value(metric: MetricSpec, measured: MetricValue) -> None:
    if not isinstance(measured, MetricValue):
        raise ConformanceError(f"Metric {metric.name!r} is a {type(measured).__name__}: return a MetricValue.")
    if not math.isfinite(measured.value):
        raise ConformanceError(f"Metric {metric.name!r} is {measured.value}: raise an error instead.")
    lowest, highest = metric.bounds
    below = lowest is not None and measured.value < lowest - _TOLERANCE * max(1.0, abs(lowest))
    above = highest is not None and measured.value > highest + _TOLERANCE * max(1.0, abs(highest))
    if below or above:
        raise ConformanceError(
            f"Metric {metric.name!r} is {measured.value:.6g}, outside its declared bounds {metric.bounds}: "
            "the formula or the bounds are wrong."
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _random_state_of(seed: int, evaluator: str) -> Iterator[None]:
    """Seed the global random number generators for the time of the block; afterwards they are as before."""
    own = int.from_bytes(hashlib.sha256(f"{seed}:{evaluator}".encode()).digest()[:4], "big")
    python, array = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(own)
            np.random.seed(own)
            torch.manual_seed(own)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
