"""Each check of trainers catches a trainer that is broken in just that way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from harness.builtin.trainers.relu import ReluTrainer
from harness.builtin.trainers.topk import TopKOptions, TopKTrainer
from harness.errors import ConformanceError
from harness.interfaces.specs import Preset
from harness.interfaces.trainer import LossTerms, Options, Trainer, TrainerOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class IdeaOptions(Options):
    strength: float = 0.1


class Idea(Trainer):
    """A sound extension: an L1 term on the codes."""

    options_type = IdeaOptions

    def loss(self, sae, batch, state):
        terms = self.base.loss(sae, batch, state)
        return terms.plus("size", terms.codes.values.sum(-1).mean(), self.options.strength)


PRESETS = {
    "off": Preset(options={"strength": 0.0}, control=True, summary="Without the idea."),
    "strong": Preset(options={"strength": 0.5}, summary="More of it."),
}


def test_a_sound_extension_passes_everything(kit):
    kit.trainer(Idea, extends=("topk",), sparsity="base", presets=PRESETS)
    checks = kit.checks()
    assert {check.spec for check in checks} == {"mine", "mine@off", "mine@strong"}
    for check in checks:
        check()


# -- the spec


def test_a_missing_summary_is_caught(kit):
    with pytest.raises(ConformanceError, match="has no summary"):
        kit.trainer(TopKTrainer, summary=" ").run("spec_is_complete")


def test_a_preset_without_summary_is_caught(kit):
    with pytest.raises(ConformanceError, match="mine@a has no summary"):
        kit.trainer(TopKTrainer, presets={"a": Preset(options={"lr": 0.01})}).run("spec_is_complete")


def test_an_untrained_method_that_is_no_control_is_caught(kit):
    with pytest.raises(ConformanceError, match="control=True"):
        kit.trainer(TopKTrainer, trained=False).run("spec_is_complete")


def test_a_class_that_is_no_trainer_is_caught(kit):
    with pytest.raises(ConformanceError, match="is no subclass of"):
        kit.trainer(Preset).run("spec_is_complete")


class LooseOptions(TopKOptions):
    extra: int = 3


@dataclass(frozen=True, kw_only=True)
class ListOptions(TopKOptions):
    sizes: list = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RequiredOptions(TopKOptions):
    size: int


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (LooseOptions, "must be decorated"),
        (ListOptions, "'sizes'"),
        (RequiredOptions, "'size'"),
        (dict, "must be a dataclass"),
        (IdeaOptions, "extends TrainerOptions"),
    ],
)
def test_options_that_are_no_frozen_dataclass_of_plain_values_are_caught(kit, options, match):
    kit.trainer(type("Loose", (TopKTrainer,), {"options_type": options}))
    with pytest.raises(ConformanceError, match=match):
        kit.run("options_are_a_frozen_dataclass_with_defaults")


@pytest.mark.parametrize(("options", "match"), [(TrainerOptions, "beta1, beta2"), (TopKOptions, "aux_k_fraction")])
def test_options_that_hide_those_of_the_base_are_caught(kit, options, match):
    kit.trainer(type("Greedy", (Idea,), {"options_type": options}), extends=("topk",), sparsity="base")
    with pytest.raises(ConformanceError, match=match):
        kit.run("options_do_not_collide_with_the_base")


class FixedK(TopKTrainer):
    def sae_options(self, target_l0):
        return {"k": 4}


class IgnoresTheCoefficient(ReluTrainer):
    def loss(self, sae, batch, state):
        return super().loss(sae, batch, replace(state, coefficient=0.1))


@pytest.mark.parametrize(
    ("cls", "spec", "match"),
    [
        (FixedK, {}, "must depend on the target L0"),
        (TopKTrainer, {"sparsity": "none"}, "must not depend"),
        (IgnoresTheCoefficient, {"sae": "relu", "sparsity": "coefficient"}, "state.coefficient"),
        (ReluTrainer, {"sae": "relu", "sparsity": "target"}, "state.target_l0"),
    ],
)
def test_sparsity_set_otherwise_than_declared_is_caught(kit, cls, spec, match):
    with pytest.raises(ConformanceError, match=match):
        kit.trainer(cls, **spec).run("sparsity_is_set_as_declared")


# -- the loss


def broken(change):
    """A TopKTrainer whose terms go through `change(terms, batch, state)`."""

    class Broken(TopKTrainer):
        def loss(self, sae, batch, state):
            return change(super().loss(sae, batch, state), batch, state)

    return Broken


def with_value(terms, name, value):
    return replace(terms, values={**terms.values, name: value})


class Doubled(LossTerms):
    @property
    def total(self):
        return 2 * LossTerms.total.fget(self)


def undetached_weight(terms, batch, state):
    """Fault F36: the weight of the penalty is computed from the reconstruction loss, with its gradient."""
    alpha = torch.sigmoid(-terms.values["sse"])
    return terms.plus("penalty", alpha * terms.codes.values.sum(-1).mean(), 1.0)


def tensor_weight(terms, batch, state):
    return replace(terms, weights={**terms.weights, "sse": torch.sigmoid(terms.values["sse"])})


def edits_the_batch(terms, batch, state):
    batch.activations.mul_(2)
    return terms


BROKEN_LOSSES = {
    "a vector for a term": (
        lambda t, b, s: with_value(t, "sse", t.values["sse"].expand(2)),
        "loss_terms_are_finite_scalars",
        "0-dimensional",
    ),
    "a term that is infinite once latents are dead": (
        lambda t, b, s: with_value(t, "aux", t.values["aux"] / (~s.dead).all().float()),
        "loss_terms_are_finite_scalars",
        "'aux' is",
    ),
    "a weight that is a tensor": (tensor_weight, "weights_are_numbers_of_the_same_names", "must be a float"),
    "a weight that is missing": (
        lambda t, b, s: replace(t, weights={"sse": 1.0}),
        "weights_are_numbers_of_the_same_names",
        "one weight a term",
    ),
    "a total that is not the sum": (
        lambda t, b, s: Doubled(values=t.values, weights=t.weights, codes=t.codes, reconstruction=t.reconstruction),
        "loss_terms_sum_to_total",
        "sum to",
    ),
    "a weight with a gradient": (undetached_weight, "no_gradient_flows_through_a_weight", "d total / d sse"),
    "an edited batch": (edits_the_batch, "the_batch_is_not_edited", "batch.activations"),
    "codes of the wrong shape": (
        lambda t, b, s: replace(t, codes=t.codes.values),
        "codes_and_reconstruction_have_their_shapes",
        "codes must be",
    ),
    "a reconstruction of the wrong shape": (
        lambda t, b, s: replace(t, reconstruction=t.reconstruction[:, 1:]),
        "codes_and_reconstruction_have_their_shapes",
        "reconstruction must be",
    ),
    "a detached reconstruction": (
        lambda t, b, s: replace(t, reconstruction=t.reconstruction.detach()),
        "codes_and_reconstruction_have_their_shapes",
        "no gradient",
    ),
    "a loss of the wrong sign": (
        lambda t, b, s: replace(t, weights={**t.weights, "sse": -1.0}),
        "training_improves_the_reconstruction",
        "must fall",
    ),
}


@pytest.mark.parametrize("name", BROKEN_LOSSES)
def test_a_broken_loss_is_caught(kit, name):
    change, check, match = BROKEN_LOSSES[name]
    with pytest.raises(ConformanceError, match=match):
        kit.trainer(broken(change)).run(check)


class Unmoved(TopKTrainer):
    """Its decoder is never reached by a gradient."""

    def loss(self, sae, batch, state):
        codes = sae.encode(batch.activations)
        x_hat = codes @ sae.W_dec.detach() + sae.b_dec
        sse = (x_hat - batch.activations).square().sum(-1).mean()
        return LossTerms(values={"sse": sse}, weights={"sse": 1.0}, codes=codes, reconstruction=x_hat)


def test_a_parameter_without_gradient_is_caught(kit):
    with pytest.raises(ConformanceError, match="No gradient reaches W_dec"):
        kit.trainer(Unmoved).run("gradients_reach_every_parameter")


@pytest.mark.parametrize(("chosen", "match"), [(lambda p: p[1:], "leaves out W_enc"), (lambda p: [*p, p[0]], "twice")])
def test_wrong_parameter_groups_are_caught(kit, chosen, match):
    class Groups(TopKTrainer):
        def parameter_groups(self, sae):
            return [{"params": chosen(list(sae.parameters()))}]

    with pytest.raises(ConformanceError, match=match):
        kit.trainer(Groups).run("parameter_groups_hold_every_parameter_once")


class MeanOverNothing(TopKTrainer):
    def loss(self, sae, batch, state):
        terms = super().loss(sae, batch, state)
        return terms.plus("pairs", terms.codes.values[batch.has_previous].sum(-1).mean(), 0.1)


def test_a_mean_over_no_pairs_is_caught(kit):
    with pytest.raises(ConformanceError, match="0/0"):
        kit.trainer(MeanOverNothing, needs={"pairs"}).run("a_batch_of_document_starts_is_no_special_case")


def test_pairs_that_are_used_and_not_declared_are_told(kit):
    class Undeclared(TopKTrainer):
        def loss(self, sae, batch, state):
            terms = super().loss(sae, batch, state)
            return terms.plus("step", (batch.activations - batch.previous).norm(dim=1).mean(), 0.1)

    with pytest.raises(TypeError, match="NoneType"):
        kit.trainer(Undeclared).run("loss_terms_are_finite_scalars")


# -- training


class GlobalNoise(TopKTrainer):
    def loss(self, sae, batch, state):
        noisy = replace(batch, activations=batch.activations + torch.randn_like(batch.activations))
        return super().loss(sae, noisy, state)


class SharedCounter(TopKTrainer):
    """Counts the steps of all its objects together."""

    steps = 0

    def loss(self, sae, batch, state):
        steps = SharedCounter.steps = 0 if state.step == 0 else SharedCounter.steps + 1
        terms = super().loss(sae, batch, state)
        return terms.plus("size", terms.codes.values.sum(-1).mean(), 0.001 * steps)


@pytest.mark.parametrize(("cls", "match"), [(GlobalNoise, "state.generator"), (SharedCounter, "beside another")])
def test_training_that_is_not_reproducible_is_caught(kit, cls, match):
    with pytest.raises(ConformanceError, match=match):
        kit.trainer(cls).run("training_twice_gives_the_same_sae")


class Forgetful(TopKTrainer):
    """Has a running average, and does not save it."""

    average = 0.0

    def loss(self, sae, batch, state):
        terms = super().loss(sae, batch, state)
        self.average = 0.9 * self.average + 0.1 * float(terms.values["sse"].detach())
        return terms.plus("size", terms.codes.values.sum(-1).mean(), 0.01 * self.average)


class Remembering(Forgetful):
    def state_dict(self):
        return {"average": self.average}

    def load_state_dict(self, state):
        self.average = state["average"]


def test_state_that_is_not_saved_is_caught(kit):
    with pytest.raises(ConformanceError, match="state_dict"):
        kit.trainer(Forgetful).run("an_interrupted_run_resumes_to_the_bit")


def test_state_that_is_saved_is_taken_up(kit):
    kit.trainer(Remembering).run("an_interrupted_run_resumes_to_the_bit")


def test_a_preset_without_the_idea_must_be_marked(kit):
    unmarked = {"off": Preset(options={"strength": 0.0}, summary="Without the idea.")}
    kit.trainer(Idea, extends=("topk",), sparsity="base", presets=unmarked)
    kit.run("only_controls_equal_their_base", "mine")
    with pytest.raises(ConformanceError, match="mine@off trains to the same SAE as its base 'topk'"):
        kit.run("only_controls_equal_their_base", "mine@off")


class Nothing(Trainer):
    options_type = IdeaOptions

    def loss(self, sae, batch, state):
        return self.base.loss(sae, batch, state)


def test_an_extension_that_adds_nothing_is_caught(kit):
    with pytest.raises(ConformanceError, match="Its term does nothing"):
        kit.trainer(Nothing, extends=("topk",), sparsity="base").run("only_controls_equal_their_base")


def test_an_invalid_option_of_a_preset_is_told(kit):
    presets = {"a": Preset(options={"strenght": 1.0}, summary="s")}
    kit.trainer(Idea, extends=("topk",), sparsity="base", presets=presets)
    with pytest.raises(Exception, match="unknown option 'strenght'"):
        kit.run("loss_terms_are_finite_scalars", "mine@a")


# -- controls that are not trained


class GlobalStart(TopKTrainer):
    def initialise(self, sae, sample, target_l0, generator):
        sae.W_dec.data.add_(torch.randn(sae.W_dec.shape))


class NotFinite(TopKTrainer):
    def initialise(self, sae, sample, target_l0, generator):
        sae.b_dec.data.div_(0.0)


@pytest.mark.parametrize(("cls", "match"), [(GlobalStart, "`generator` alone"), (NotFinite, "b_dec is not finite")])
def test_a_broken_control_is_caught(kit, cls, match):
    kit.trainer(cls, trained=False, control=True)
    with pytest.raises(Exception, match=match):
        kit.run("initialise_gives_a_finite_sae_and_no_step_is_taken")
