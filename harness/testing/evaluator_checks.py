"""Checks of evaluators, on planted data with a tiny language model. Each raises ConformanceError."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..errors import ConformanceError, DataError
from ..interfaces.evaluator import EvalContext, Evaluator
from ..interfaces.sae import SAE
from ..interfaces.specs import EvaluatorSpec, MetricValue
from ..plugins import Provided
from .bench import require
from .fixtures import identity_sae, random_sae, tiny_store
from .observed import Observed, Uncounted, global_seed, random_states
from .texts import planted_rows

BOUND_TOLERANCE = 1e-6
BATCH_TOLERANCE = 1e-4
"""Relative: float32 products of other sizes round otherwise; a mean of batch means is off by far more."""

Metrics = Mapping[str, MetricValue]


class EvaluatorBench:
    """Runs one evaluator on planted data: 4 documents of 3 sequences."""

    def __init__(self, provided: Provided[EvaluatorSpec]) -> None:
        self.provided = provided

    @property
    def spec(self) -> EvaluatorSpec:
        """What it declares."""
        return self.provided.spec

    def context(self, batch_sequences: int = 12) -> Observed:
        """A new context; without a language model, and without an SAE of another seed, unless the spec needs one."""
        context = Observed(
            batch_sequences=batch_sequences,
            language_model="language_model" in self.spec.needs,
            rows=planted_rows(self.spec),
        )
        return context.beside(random_sae(1)) if "twin" in self.spec.needs else context  # type: ignore[return-value]

    def run(self, sae: SAE, context: EvalContext | None = None) -> Metrics:
        """Evaluate as the core does: without gradient and in eval mode."""
        evaluator: Evaluator = self.provided.load()({})
        with torch.no_grad():
            return evaluator.evaluate(sae.eval(), self.context() if context is None else context)


def spec_is_complete(bench: EvaluatorBench) -> None:
    """Summary, and of each metric a formula, a version from 1, a direction, a unit, and bounds that hold its chance."""
    spec = bench.spec
    require(bool(spec.summary.strip()), f"Evaluator {spec.name!r} has no summary.")
    target = bench.provided.load()
    require(issubclass(target, Evaluator), f"{spec.target} is no subclass of harness.Evaluator.")
    names = [metric.name for metric in spec.metrics]
    require(len(set(names)) == len(names), f"Evaluator {spec.name!r} declares a metric twice: {sorted(names)}.")
    for metric in spec.metrics:
        require(bool(metric.formula.strip()), f"Metric {metric.name!r} has no formula.")
        require(bool(metric.unit.strip()), f"Metric {metric.name!r} has no unit: '1' where it has no dimension.")
        require(
            isinstance(metric.version, int) and metric.version >= 1,
            f"Metric {metric.name!r} has version {metric.version!r}: start at 1.",
        )
        require(metric.better in ("higher", "lower", "none"), f"Metric {metric.name!r}: better={metric.better!r}.")
        low, high = _bounds(metric.bounds)
        require(low < high, f"Metric {metric.name!r} has bounds {metric.bounds}: the first must be the smaller.")
        fits = metric.chance is None or low <= metric.chance <= high
        require(fits, f"Metric {metric.name!r} has chance {metric.chance} outside its bounds {metric.bounds}.")


def declared_metrics_are_returned(bench: EvaluatorBench) -> None:
    """Exactly the declared metrics come back, each a finite MetricValue over at least one unit."""
    declared = {metric.name for metric in bench.spec.metrics}
    for sae in (random_sae(), identity_sae()):
        metrics = bench.run(sae)
        missing, extra = sorted(declared - set(metrics)), sorted(set(metrics) - declared)
        require(not missing, f"The evaluator does not return {', '.join(missing)}, which its spec declares.")
        require(not extra, f"The evaluator returns {', '.join(extra)}, which its spec does not declare.")
        for name, measured in metrics.items():
            require(isinstance(measured, MetricValue), f"{name} is a {type(measured).__name__}: return a MetricValue.")
            whole = isinstance(measured.n, int) and measured.n >= 1
            require(whole, f"{name} rests on n={measured.n!r} units: give a whole number from 1.")
            error = measured.stderr
            require(
                error is None or (math.isfinite(error) and error >= 0),
                f"{name} has stderr {error}: give a finite number from 0, or None where the formula has none.",
            )


def values_lie_within_their_bounds(bench: EvaluatorBench) -> None:
    """On a random and on an identity SAE each value lies within the metric's declared bounds."""
    for sae in (random_sae(), identity_sae()):
        metrics = bench.run(sae)
        for spec in bench.spec.metrics:
            low, high = _bounds(spec.bounds)
            slack = BOUND_TOLERANCE * max(1.0, *(abs(b) for b in (low, high) if math.isfinite(b)), 0.0)
            value = metrics[spec.name].value
            require(
                low - slack <= value <= high + slack,
                f"{spec.name} is {value:.6g}, outside its declared bounds {spec.bounds}: one of the two is wrong.",
            )


def the_sae_is_left_as_it_was(bench: EvaluatorBench) -> None:
    """Weights, training mode and requires_grad of the SAE are as before."""
    sae = random_sae()
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    bench.run(sae)
    for name, value in sae.state_dict().items():
        require(torch.equal(value, weights[name]), f"The evaluator changes {name} of the SAE: work on a copy.")
    modes = [module.training for module in sae.modules()] + [p.requires_grad for p in sae.parameters()]
    require(not any(modes), "The evaluator leaves the SAE in training mode or requiring gradients.")


def the_data_are_left_as_they_were(bench: EvaluatorBench) -> None:
    """Tokens, mask, documents and activations are not edited: the next SAE is measured on them."""
    context, untouched = bench.context(), tiny_store(1, n_sequences=12)
    bench.run(random_sae(), context)
    store = context.store
    for name in ("tokens", "mask", "document"):
        same = torch.equal(getattr(store, name), getattr(untouched, name))
        require(same, f"The evaluator edits the {name} of the data: work on a copy.")
    same = torch.equal(store.sequences(0, 12), untouched.sequences(0, 12))
    require(same, "The evaluator edits the activations of the data: work on a copy.")


def grad_mode_is_left_as_it_was(bench: EvaluatorBench) -> None:
    """Gradients are off before and after."""
    sae, context = random_sae(), bench.context()
    evaluator: Evaluator = bench.provided.load()({})
    with torch.no_grad():
        evaluator.evaluate(sae, context)
        off = not torch.is_grad_enabled()
    require(off, "The evaluator leaves gradients switched on: use `with torch.enable_grad():` around what needs them.")


def the_global_random_state_is_left_as_it_was(bench: EvaluatorBench) -> None:
    """The generators of torch, numpy and random are not drawn from nor seeded."""
    before = random_states()
    bench.run(random_sae())
    for name, state in random_states().items():
        require(
            state == before[name],
            f"The evaluator uses the global random state of {name}: use context.generator(purpose).",
        )


def the_same_value_comes_twice(bench: EvaluatorBench) -> None:
    """Two evaluations of one SAE agree to the bit, in one context and in two, whatever the global random state."""
    context, sae = bench.context(), random_sae()
    with global_seed(1):
        first = bench.run(sae, context)
    with global_seed(2):
        others = {"in the same context": bench.run(sae, context), "in a new context": bench.run(sae)}
    for where, again in others.items():
        for name, measured in first.items():
            require(
                (measured.value, measured.stderr, measured.n) == (again[name].value, again[name].stderr, again[name].n),
                f"{name} is {measured.value!r} and, evaluated again {where}, {again[name].value!r}: draw random "
                "numbers from context.generator(purpose), and keep no state between calls.",
            )


def values_do_not_depend_on_the_batch_size(bench: EvaluatorBench) -> None:
    """Batches of 1, 5 and 12 sequences give the same values."""
    wanted = bench.run(random_sae(), bench.context(12))
    for size in (1, 5):
        found = bench.run(random_sae(), bench.context(size))
        for name, measured in wanted.items():
            require(
                math.isclose(found[name].value, measured.value, rel_tol=BATCH_TOLERANCE, abs_tol=BATCH_TOLERANCE / 10),
                f"{name} is {measured.value:.6g} in batches of 12 sequences and {found[name].value:.6g} in batches of "
                f"{size}: add up sums over tokens and divide at the end, do not average batches.",
            )


def empty_data_are_refused(bench: EvaluatorBench) -> None:
    """Without sequences, and without a counted token, it raises DataError; there is no value to give."""
    for what, masked in (("there are no sequences", False), ("every token is masked", True)):
        context = Uncounted(language_model="language_model" in bench.spec.needs, masked=masked)
        try:
            metrics = bench.run(random_sae(), context)
        except DataError:
            continue
        except Exception as error:
            raise ConformanceError(
                f"Where {what}, the evaluator raises {type(error).__name__} ({error}): raise DataError."
            ) from error
        given = {name: measured.value for name, measured in metrics.items()}
        require(not context.asked, f"Where {what}, the evaluator gives {given}: raise DataError.")


def the_language_model_is_used_as_declared(bench: EvaluatorBench) -> None:
    """The LM is run if and only if the spec needs `language_model`."""
    context = bench.context()
    if context.lm is None:
        try:
            bench.run(random_sae(), context)
        except DataError as error:
            raise ConformanceError(
                f"Evaluator {bench.spec.name!r} fails where there is no language model ({error}): if it uses "
                "context.language_model, declare needs={'language_model'}."
            ) from error
        return
    bench.run(random_sae(), context)
    require(
        context.lm.n_calls > 0,
        f"Evaluator {bench.spec.name!r} declares needs={{'language_model'}} and never runs it: it would be skipped, "
        "without need, on data that have none.",
    )


EVALUATOR_CHECKS = (
    spec_is_complete,
    declared_metrics_are_returned,
    values_lie_within_their_bounds,
    the_sae_is_left_as_it_was,
    the_data_are_left_as_they_were,
    grad_mode_is_left_as_it_was,
    the_global_random_state_is_left_as_it_was,
    the_same_value_comes_twice,
    values_do_not_depend_on_the_batch_size,
    empty_data_are_refused,
    the_language_model_is_used_as_declared,
)


def _bounds(bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = bounds
    return -math.inf if low is None else low, math.inf if high is None else high
