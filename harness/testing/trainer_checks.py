"""Checks of trainers: the spec, the loss, and what training must give. Each raises ConformanceError."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..interfaces.batch import ActivationBatch
from ..interfaces.sae import SAE, RaggedCodes, SparseCodes
from ..interfaces.trainer import Options, Trainer, TrainerOptions
from ..plugins import load_target
from ..training.checkpoint import sae_id
from ..training.fit import StepReport
from .bench import BATCH_SIZE, N_STEPS, MethodBench, require
from .fixtures import D_IN, D_SAE, K

_STOP_AT = 8
"""Each step until then is saved, to disk."""
_OPTION_TYPES = (bool, int, float, str, type(None))


def spec_is_complete(bench: MethodBench) -> None:
    """Spec and presets have summaries, the class is a Trainer, and a method that is not trained is a control."""
    spec = bench.method.spec
    require(bool(spec.summary.strip()), f"Method {spec.name!r} has no summary: say in one line what it is.")
    for name, preset in spec.presets.items():
        require(bool(preset.summary.strip()), f"Preset {spec.name}@{name} has no summary: say what it is for.")
    target = load_target(spec.target)
    require(issubclass(target, Trainer), f"{spec.name!r} names {spec.target}, which is no subclass of harness.Trainer.")
    require(
        spec.trained or spec.control,
        f"Method {spec.name!r} has trained=False: such a method is a control and must say control=True.",
    )


def options_are_a_frozen_dataclass_with_defaults(bench: MethodBench) -> None:
    """`options_type` is a frozen dataclass of plain values, each with a default."""
    options = _options_type(bench.method.spec.target)
    standalone = not bench.method.spec.extends
    wanted = TrainerOptions if standalone else Options
    require(
        isinstance(options, type) and issubclass(options, wanted) and dataclasses.is_dataclass(options),
        f"{options} must be a dataclass that extends {wanted.__name__}.",
    )
    frozen = options.__dataclass_params__.frozen and "__dataclass_params__" in vars(options)  # type: ignore[attr-defined]
    require(frozen, f"{options.__name__} must be decorated with @dataclass(frozen=True, slots=True, kw_only=True).")
    for field in dataclasses.fields(options):
        require(
            isinstance(field.default, _OPTION_TYPES),
            f"Option {field.name!r} of {options.__name__} needs a default that is a bool, int, float, str or None: "
            "it is stored in records and set from the command line.",
        )


def options_do_not_collide_with_the_base(bench: MethodBench) -> None:
    """A trainer that extends another shares no option name with any of its bases, and has none called `base`."""
    spec = bench.method.spec
    own = {field.name for field in dataclasses.fields(_options_type(spec.target))}
    require("base" not in own, f"Method {spec.name!r} has an option 'base': that name chooses the base trainer.")
    for base in spec.extends:
        target = bench.catalogue.trainer(base).spec.target
        shared = sorted(own & {field.name for field in dataclasses.fields(_options_type(target))})
        require(
            not shared,
            f"Method {spec.name!r} and its base {base!r} both have the option {', '.join(shared)}: the base's could "
            "not be set. Rename yours, and subclass Options, not TrainerOptions.",
        )


def sparsity_is_set_as_declared(bench: MethodBench) -> None:
    """What the spec's `sparsity` names does set the sparsity: the option k, the coefficient, or the target."""
    method = bench.method
    if method.sparsity in ("k", "none"):
        options = [dict(bench.build(target_l0)[0].sae_options(target_l0)) for target_l0 in (K, K + 2)]
        differ, wanted = options[0] != options[1], method.sparsity == "k"
        require(
            differ == wanted,
            f"sparsity is {method.sparsity!r}, so sae_options must {'' if wanted else 'not '}depend on the target L0; "
            f"for {K} and {K + 2} it gives {options[0]} and {options[1]}.",
        )
        return
    totals = []
    for factor in (1, 3):
        trainer, sae = bench.start()
        state = bench.state(coefficient=0.1 * factor, target_l0=K * factor)
        totals.append(float(trainer.loss(sae, bench.batch(0), state).total.detach()))
    which = "coefficient" if method.sparsity == "coefficient" else "target_l0"
    require(totals[0] != totals[1], f"sparsity is {method.sparsity!r}, but the loss does not depend on state.{which}.")


def loss_terms_are_finite_scalars(bench: MethodBench) -> None:
    """Every term is a 0-dimensional tensor with a finite value, with dead latents and without."""
    for terms in bench.losses():
        require(len(terms.values) > 0, "The loss has no terms.")
        for name, value in terms.values.items():
            require(
                isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point(),
                f"Loss term {name!r} must be a 0-dimensional floating-point tensor, got {_described(value)}.",
            )
            require(math.isfinite(float(value.detach())), f"Loss term {name!r} is {float(value.detach())}.")


def weights_are_numbers_of_the_same_names(bench: MethodBench) -> None:
    """`weights` has exactly the names of `values`, and holds finite Python numbers, never tensors."""
    for terms in bench.losses():
        names, weighted = sorted(terms.values), sorted(terms.weights)
        require(names == weighted, f"values are named {names} and weights {weighted}: give one weight a term.")
        for name, weight in terms.weights.items():
            require(
                isinstance(weight, (int, float)) and not isinstance(weight, bool),
                f"The weight of {name!r} is {_described(weight)}: it must be a float (an adaptive weight too, or the "
                "optimiser is paid to change it). Use float(tensor.detach()).",
            )
            require(math.isfinite(weight), f"The weight of {name!r} is {weight}.")


def loss_terms_sum_to_total(bench: MethodBench) -> None:
    """`total` is the sum of weight times value."""
    for terms in bench.losses():
        parts = [float(value.detach()) * float(terms.weights[name]) for name, value in terms.values.items()]
        total, wanted = float(terms.total.detach()), math.fsum(parts)
        scale = max(1e-6, sum(map(abs, parts)))
        require(
            abs(total - wanted) <= 1e-5 * scale, f"total is {total:.7g}, the terms sum to {wanted:.7g}: {terms.weights}"
        )


def no_gradient_flows_through_a_weight(bench: MethodBench) -> None:
    """d total / d term is the term's weight: no weight depends, by a gradient, on a term."""
    for terms in bench.losses():
        total = terms.total
        for name, value in terms.values.items():
            if not value.requires_grad:
                continue
            (slope,) = torch.autograd.grad(total, value, retain_graph=True, allow_unused=True)
            found, weight = 0.0 if slope is None else float(slope), float(terms.weights[name])
            require(
                abs(found - weight) <= 1e-5 * max(1.0, abs(weight)),
                f"d total / d {name} is {found:.6g}, but its weight is {weight:.6g}: another term or weight is "
                f"computed from {name}. Detach it there.",
            )


def gradients_reach_every_parameter(bench: MethodBench) -> None:
    """Every parameter that requires a gradient gets a finite one that is not zero, in at least one of four losses."""
    trainer, sae = bench.start()
    half = torch.arange(D_SAE) % 2 == 0
    reached: set[str] = set()
    for i in range(4):
        sae.zero_grad(set_to_none=True)
        state = bench.state(step=i * N_STEPS // 4, dead=half if i >= 2 else None)
        trainer.loss(sae, bench.batch(i), state).total.backward()
        for name, parameter in sae.named_parameters():
            if parameter.grad is None:
                continue
            require(bool(torch.isfinite(parameter.grad).all()), f"The gradient of {name} is not finite.")
            if bool((parameter.grad != 0).any()):
                reached.add(name)
    missed = [name for name, p in sae.named_parameters() if p.requires_grad and name not in reached]
    require(
        not missed,
        f"No gradient reaches {', '.join(missed)}: use it in the loss, or declare it with requires_grad=False.",
    )


def parameter_groups_hold_every_parameter_once(bench: MethodBench) -> None:
    """`parameter_groups` hands each parameter that requires a gradient to the optimiser, once."""
    trainer, sae = bench.start()
    given = [id(p) for group in trainer.parameter_groups(sae) for p in group["params"]]
    missed = [name for name, p in sae.named_parameters() if p.requires_grad and id(p) not in given]
    require(not missed, f"parameter_groups leaves out {', '.join(missed)}: they would never move.")
    require(len(set(given)) == len(given), "parameter_groups names a parameter twice: it would take two steps.")


def the_batch_is_not_edited(bench: MethodBench) -> None:
    """Loss and gradient leave the batch as it was: other SAEs of the cohort train on the same tensors."""
    trainer, sae = bench.start()
    batch, untouched = bench.batch(0), bench.batch(0)
    total = trainer.loss(sae, batch, bench.state()).total
    _require_equal(batch, untouched)  # before the gradient too: autograd's own error would not name the batch
    total.backward()
    _require_equal(batch, untouched)


def _require_equal(batch: ActivationBatch, untouched: ActivationBatch) -> None:
    for field in dataclasses.fields(ActivationBatch):
        now, before = getattr(batch, field.name), getattr(untouched, field.name)
        same = now is before if before is None else torch.equal(now, before)
        require(same, f"The loss edits batch.{field.name}: use operations that do not end in _.")


def codes_and_reconstruction_have_their_shapes(bench: MethodBench) -> None:
    """The loss gives codes [n, d_sae] (or sparse ones) and a reconstruction [n, d_in], both with their gradient."""
    for terms in bench.losses():
        codes = terms.codes
        values = codes if isinstance(codes, Tensor) else codes.values
        if isinstance(codes, SparseCodes):
            fits = codes.indices.shape == values.shape and values.ndim == 2 and values.shape[0] == BATCH_SIZE
        elif isinstance(codes, RaggedCodes):
            fits = codes.latents.shape == values.shape and len(codes.offsets) == BATCH_SIZE + 1
        else:
            fits = tuple(values.shape) == (BATCH_SIZE, D_SAE)
        require(fits, f"codes must be [{BATCH_SIZE}, {D_SAE}] or sparse [{BATCH_SIZE}, k], got {list(values.shape)}.")
        wanted = (BATCH_SIZE, D_IN)
        found = tuple(terms.reconstruction.shape)
        require(found == wanted, f"reconstruction must be {list(wanted)}, got {list(found)}.")
        for name, tensor in (("codes", values), ("reconstruction", terms.reconstruction)):
            require(
                tensor.requires_grad, f"{name} carry no gradient: trainers that extend this one use it. Do not detach."
            )


def a_batch_of_document_starts_is_no_special_case(bench: MethodBench) -> None:
    """A batch in which no row has a previous token gives a finite loss and finite gradients."""
    if bench.kind != "pairs":
        return
    trainer, sae = bench.start()
    batch = bench.batch(0)
    require(batch.previous is not None, "The stream of this kind carries no previous tokens: declare needs={'pairs'}.")
    starts = dataclasses.replace(
        batch,
        position=torch.zeros_like(batch.position),
        previous=torch.zeros_like(batch.activations),
        has_previous=torch.zeros(len(batch), dtype=torch.bool),
    )
    total = trainer.loss(sae, starts, bench.state()).total
    total.backward()
    finite = all(bool(torch.isfinite(p.grad).all()) for p in sae.parameters() if p.grad is not None)
    require(
        bool(torch.isfinite(total.detach())) and finite,
        "Loss or gradient is not finite where no row has a previous token: the mean over an empty set is 0/0.",
    )


def training_improves_the_reconstruction(bench: MethodBench) -> None:
    """Sixty steps on planted features lower the squared error on held-out rows."""
    rows = bench.held_out()
    before, after = (_error(sae, rows) for sae in (bench.start()[1], bench.trained_sae()))
    require(
        after < before,
        f"The squared error a held-out token goes from {before:.4g} to {after:.4g} in {N_STEPS} steps: it must fall. "
        "Is the sign of each term right, and lr neither 0 nor too large?",
    )


def training_twice_gives_the_same_sae(bench: MethodBench) -> None:
    """Equal seeds give equal SAEs, whatever the global random state and whatever else trains in the cohort."""
    wanted = sae_id(bench.result.sae)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        alone, cohort = bench.fit(0)[0], bench.fit(1, 0)
    require(
        sae_id(alone.sae) == wanted,
        "Training twice with one seed gives two SAEs: draw random numbers from state.generator alone.",
    )
    require(
        sae_id(cohort[1].sae) == wanted,
        "Training beside another SAE gives another result than alone: keep no state outside the trainer's own object.",
    )


def an_interrupted_run_resumes_to_the_bit(bench: MethodBench) -> None:
    """A run stopped after a few steps and taken up by a new trainer ends as one that was never interrupted."""

    def stop(report: StepReport) -> None:
        if report.step == _STOP_AT:
            raise _Stopped

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(_Stopped):
            bench.fit(0, resume_folder=Path(folder), save_every_s=0.0, progress=stop)
        resumed = bench.fit(0, resume_folder=Path(folder))[0]
    require(
        sae_id(resumed.sae) == sae_id(bench.result.sae),
        "A resumed run ends with another SAE: whatever changes from step to step belongs in state_dict and "
        "load_state_dict (call super() in both).",
    )


def only_controls_equal_their_base(bench: MethodBench) -> None:
    """A method or preset that trains to its base's SAE to the bit has no idea in it: a preset must say control=True
    (or faulty=True), and the method itself must differ."""
    method = bench.method
    if method.base is None:
        return
    own = {field.name for field in dataclasses.fields(_options_type(method.spec.target))} | {"base"}
    overrides = {name: value for name, value in method.options.items() if name not in own}
    base = MethodBench(bench.catalogue, method.base.name, label=method.base.name, overrides=overrides, kind=bench.kind)
    equal = sae_id(base.result.sae) == sae_id(bench.result.sae)
    marked = method.chosen_preset.control or method.chosen_preset.faulty or method.spec.control
    require(
        marked or not equal,
        f"{bench.label} trains to the same SAE as its base {method.base.name!r}, to the bit. "
        + ("Mark the preset with control=True." if method.preset else "Its term does nothing: is its weight 0?"),
    )


def initialise_gives_a_finite_sae_and_no_step_is_taken(bench: MethodBench) -> None:
    """A method with trained=False is made by `initialise` alone: finite weights, no step, the same again each time."""
    result = bench.result
    for name, value in result.sae.state_dict().items():
        require(bool(torch.isfinite(value).all()), f"initialise leaves {name} not finite.")
    require(
        result.steps == 0 and result.final_loss is None, f"{result.steps} steps were taken in spite of trained=False."
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        again = bench.fit(0)[0]
    require(
        sae_id(again.sae) == sae_id(result.sae),
        "initialise gives two SAEs for one seed: draw random numbers from `generator` alone.",
    )


SPEC_CHECKS = (
    spec_is_complete,
    options_are_a_frozen_dataclass_with_defaults,
    options_do_not_collide_with_the_base,
    sparsity_is_set_as_declared,
)
TRAINED_CHECKS = (
    loss_terms_are_finite_scalars,
    weights_are_numbers_of_the_same_names,
    loss_terms_sum_to_total,
    no_gradient_flows_through_a_weight,
    gradients_reach_every_parameter,
    parameter_groups_hold_every_parameter_once,
    the_batch_is_not_edited,
    codes_and_reconstruction_have_their_shapes,
    a_batch_of_document_starts_is_no_special_case,
    training_improves_the_reconstruction,
    training_twice_gives_the_same_sae,
    an_interrupted_run_resumes_to_the_bit,
    only_controls_equal_their_base,
)
UNTRAINED_CHECKS = (initialise_gives_a_finite_sae_and_no_step_is_taken,)


class _Stopped(Exception):
    """Stands for the kill of a run."""


def _options_type(target: str) -> type:
    return load_target(target).options_type  # type: ignore[attr-defined]


@torch.no_grad()
def _error(sae: SAE, rows: Tensor) -> float:
    return float((sae(rows) - rows).square().sum(-1).mean())


def _described(value: object) -> str:
    return (
        f"a tensor {list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    )
