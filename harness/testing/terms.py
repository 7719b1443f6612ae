"""Checks of a loss term by term: does each act, on what, and are the numbers it is steered by what they are called?

They are about faults that leave the sum of the loss sound: a term that is 0 because nothing passes its filter, one that
moves what it does not name, a moving maximum that is a moving average, a schedule of a quantity with units. A preset
marked faulty reproduces such a fault and is not held to them. Each check raises ConformanceError.

What a trainer says of itself in `diagnostics` is read by name:
- `selected`, or a name that ends in `_selected`: how many pairs, latents or tokens a term acts on.
- `<term>_maximum`: a moving maximum of a loss term; `loss_maximum` is one of the first term, the reconstruction loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..interfaces.batch import ActivationBatch
from ..interfaces.sae import SAE
from ..interfaces.trainer import LossTerms
from ..training.fit import StepReport, fit
from .bench import BATCH_SIZE, DEAD_AFTER_TOKENS, N_STEPS, MethodBench, require
from .fixtures import D_IN, D_SAE

_SPIKE = 4.0
"""By so much a batch is larger than the others, where a tracker is to follow it."""
_SCALES = (0.1, 10.0)
"""Units in which schedules are tried: an sse of d_in 16 then has the size of one of d_in .16 and 1600."""
_PROBES = 24
"""Batches a schedule is followed over: more than the ten after which a `RelativeScale` is settled."""


@dataclass(slots=True)
class TermTrace:
    """What was seen of each term in a run of the kit."""

    values: dict[str, list[float]] = field(default_factory=dict)
    """Of each loss in which the term was there, without its weight."""
    weights: dict[str, list[float]] = field(default_factory=dict)
    reached: dict[str, set[str]] = field(default_factory=dict)
    """Names of the parameters with a gradient other than 0, in any of the losses."""
    through_codes: set[str] = field(default_factory=set)
    """Terms with a gradient through the batch's codes."""
    told: list[Mapping[str, float]] = field(default_factory=list)
    """`diagnostics` after each step."""

    def acting(self) -> list[str]:
        """Terms that are part of the loss: not those that are only logged, with a weight of 0 and a value."""
        return [t for t, w in self.weights.items() if any(w) or not any(self.values[t])]


_TRACES: WeakKeyDictionary[MethodBench, TermTrace] = WeakKeyDictionary()


def every_term_acts(bench: MethodBench) -> None:
    """No term is exactly 0 at every step of a run and with dead latents too: nothing passes its filter (F38)."""
    if _reproduces_a_fault(bench):
        return
    trace = _trace(bench)
    for term in trace.acting():
        n = len(trace.values[term])
        require(
            any(trace.values[term]),
            f"Loss term {term!r} is exactly 0 in all {n} losses of {N_STEPS} steps, and with half of the latents dead: "
            "it never acts. If it selects what it acts on, does anything pass? Two columns that are equal must have "
            "correlation 1, and harness.training.pairs has a selection that is tested for it.",
        )


def every_term_moves_something(bench: MethodBench) -> None:
    """Each term that is not 0 has a gradient with respect to a parameter (F38, F39)."""
    if _reproduces_a_fault(bench):
        return
    trace = _trace(bench)
    for term in trace.acting():
        require(
            not any(trace.values[term]) or bool(trace.reached[term]),
            f"Loss term {term!r} has a value and no gradient reaches any parameter from it: it changes the reported "
            "loss and nothing else. Is it detached, or computed under no_grad?",
        )


def orthogonality_is_of_directions(bench: MethodBench) -> None:
    """A term that is called an orthogonality moves weights [d_sae, d_in], not codes: the penalty on codes suppresses
    firing together instead of overlap (F39)."""
    if _reproduces_a_fault(bench):
        return
    trace = _trace(bench)
    shapes = {name: tuple(p.shape) for name, p in bench.build()[1].named_parameters()}
    for term in trace.acting():
        if "ortho" not in term.lower() or not any(trace.values[term]):
            continue
        moved = {name for name in trace.reached[term] if shapes.get(name) in ((D_SAE, D_IN), (D_IN, D_SAE))}
        others = sorted(trace.reached[term] - moved)
        through = "the codes" if term in trace.through_codes else ", ".join(others)
        require(
            bool(moved) and not through,
            f"Loss term {term!r} acts through {through or 'no weight [d_sae, d_in]'}: an orthogonality is of decoder "
            "or encoder directions alone. Penalise harness.training.pair_penalties.pair_cosines(sae.W_dec, i, j), "
            "or call the term by what it does.",
        )


def selections_select(bench: MethodBench) -> None:
    """A trainer that tells how many it selected has selected some at one step of a run at least (F38)."""
    if _reproduces_a_fault(bench):
        return
    told = _trace(bench).told
    for name in sorted({n for row in told for n in row if n == "selected" or n.endswith("_selected")}):
        most = max(row.get(name, 0.0) for row in told)
        require(
            most > 0,
            f"diagnostics tell {name} = {most:g} at each of {len(told)} steps: the term acts on nothing. Compare what "
            "is selected from with the filter's limits: a correlation divided once too often passes none.",
        )


def moving_maxima_are_maxima(bench: MethodBench) -> None:
    """What is called the maximum of a loss is never below the loss just seen, on a batch far above the others (F35)."""
    if _reproduces_a_fault(bench):
        return
    trainer, sae = bench.start()
    for step in range(8):
        batch = bench.batch(step)
        if step in (3, 6):
            batch = _scaled(batch, _SPIKE)
        terms = trainer.loss(sae, batch, bench.state(step=step))
        seen = {name: float(value.detach()) for name, value in terms.values.items()}
        seen["loss"] = next(iter(seen.values()))
        for name, found in trainer.diagnostics().items():
            term = name.removesuffix("_maximum")
            if term == name or term not in seen:
                continue
            require(
                found >= seen[term] * (1 - 1e-5),
                f"diagnostics tell {name} = {found:.6g} after a step with {term} = {seen[term]:.6g}: that is an "
                "average. A moving maximum is max(last, decay · before + (1 - decay) · last), or the largest of a "
                "window.",
            )


def schedules_have_no_units(bench: MethodBench) -> None:
    """A weight that changes from batch to batch changes alike whatever the scale of the activations (F37).

    The same batches are shown in other units, to the same SAE in those units. Each term's weight, or its weighted
    value, may then be larger or smaller by one factor, which is the same at every batch; a sigmoid of a loss is not.
    """
    if _reproduces_a_fault(bench):
        return
    reference = _schedule(bench, 1.0)
    for scale in _SCALES:
        found = _schedule(bench, scale)
        for term, rows in reference.items():
            weights = [weight for weight, _ in rows]
            if term not in found or len(found[term]) != len(rows) or _is_constant(weights):
                continue
            ratios = [[_ratio(new[i], old[i]) for new, old in zip(found[term], rows, strict=True)] for i in (0, 1)]
            require(
                any(_is_constant(r) for r in ratios),
                f"The weight of {term!r} follows another course when the activations are {scale:g} times as large: it "
                f"was {_span(ratios[0])} times the weight in the first units, over {len(rows)} batches. What it is "
                "computed from has units: divide by the quantity's own spread or size first.",
            )


TERM_CHECKS = (
    every_term_acts,
    every_term_moves_something,
    orthogonality_is_of_directions,
    selections_select,
    moving_maxima_are_maxima,
)
DEFAULT_TERM_CHECKS = (schedules_have_no_units,)
"""Of the method as it is by default: presets may be settings as published, whose units are theirs."""


def _reproduces_a_fault(bench: MethodBench) -> bool:
    return bench.method.chosen_preset.faulty


def _trace(bench: MethodBench) -> TermTrace:
    """The run of the kit, made once for all checks of a method."""
    if bench not in _TRACES:
        _TRACES[bench] = _made(bench)
    return _TRACES[bench]


def _made(bench: MethodBench) -> TermTrace:
    """Sixty steps, and four losses of a new SAE of which two have dead latents."""
    trace = TermTrace()
    trainer, sae = bench.start()
    half = torch.arange(D_SAE) % 2 == 0
    for i in range(4):
        state = bench.state(step=i * N_STEPS // 4, dead=half if i >= 2 else None)
        _see(trace, trainer.loss(sae, bench.batch(i), state), sae)
    job = bench.job(0)
    loss = job.trainer.loss

    def watched(sae: SAE, batch: ActivationBatch, state: object) -> LossTerms:
        terms = loss(sae, batch, state)  # type: ignore[arg-type]
        _see(trace, terms, sae)
        return terms

    def told(_report: StepReport) -> None:
        trace.told.append(dict(job.trainer.diagnostics()))

    job.trainer.loss = watched  # type: ignore[method-assign]
    fit(
        [job],
        bench.stream(),
        n_steps=N_STEPS,
        batch_size=BATCH_SIZE,
        dead_after_tokens=DEAD_AFTER_TOKENS,
        progress=told,
    )
    return trace


def _see(trace: TermTrace, terms: LossTerms, sae: SAE) -> None:
    """Take in one loss: values, weights, and for terms that have reached nothing yet what they reach."""
    named = [(name, p) for name, p in sae.named_parameters() if p.requires_grad]
    codes = terms.codes if isinstance(terms.codes, Tensor) else terms.codes.values
    for name, value in terms.values.items():
        number = float(value.detach())
        trace.values.setdefault(name, []).append(number)
        trace.weights.setdefault(name, []).append(float(terms.weights[name]))
        reached = trace.reached.setdefault(name, set())
        if reached or not value.requires_grad or number == 0.0:
            continue
        inputs = [*(p for _, p in named), *([codes] if codes.requires_grad else [])]
        found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
        reached |= {n for (n, _), g in zip(named, found, strict=False) if g is not None and bool((g != 0).any())}
        of_codes = found[len(named)] if codes.requires_grad else None
        if of_codes is not None and bool((of_codes != 0).any()):
            trace.through_codes.add(name)


def _scaled(batch: ActivationBatch, scale: float) -> ActivationBatch:
    """The batch in other units."""
    previous = None if batch.previous is None else batch.previous * scale
    return replace(batch, activations=batch.activations * scale, previous=previous)


def _schedule(bench: MethodBench, scale: float) -> dict[str, list[tuple[float, float]]]:
    """Term -> (weight, weighted value) of each batch, for an SAE that is not trained, with batches `scale` times as
    large; the first ten are left out, over which scales settle."""
    trainer, sae = bench.start()
    sae.fold_input_scale(1 / scale)
    found: dict[str, list[tuple[float, float]]] = {}
    for i in range(_PROBES):
        batch = _scaled(bench.batch(i), scale * (1.0 + 0.2 * math.sin(i)))
        terms = trainer.loss(sae, batch, bench.state(step=i))
        if i < 10:
            continue
        for name, weight in terms.weights.items():
            found.setdefault(name, []).append((float(weight), float(weight) * float(terms.values[name].detach())))
    return found


def _ratio(new: float, old: float) -> float:
    """new / old; 1 where both are 0, infinite where only the old one is."""
    return new / old if old else (1.0 if not new else math.inf)


def _is_constant(values: list[float]) -> bool:
    low, high = min(values), max(values)
    return math.isfinite(low) and math.isfinite(high) and high - low <= 1e-2 * max(abs(low), abs(high))


def _span(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"
