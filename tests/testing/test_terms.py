"""Each check of single terms catches a trainer that carries the fault, and no sound one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from harness.errors import ConformanceError
from harness.interfaces.specs import Preset
from harness.interfaces.trainer import Options, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class IdeaOptions(Options):
    fault: str = ""


class Extension(Trainer):
    """A base and one more term, sound or broken as the option says."""

    options_type = IdeaOptions

    def __init__(self, options, base=None):
        super().__init__(options, base)
        self.told = {}
        self.held = None

    def initialise(self, sae, sample, target_l0, generator):
        super().initialise(sae, sample, target_l0, generator)
        self.told, self.held = {}, None

    def diagnostics(self):
        return {**super().diagnostics(), **self.told}

    def state_dict(self):
        return {**super().state_dict(), "held": self.held}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.held = state["held"]


def pairs_of(codes, d_sae):
    """[2, p]: pairs of latents that fire together on the first token."""
    ids = codes.indices[0][codes.values[0] > 0]
    return torch.combinations(ids, 2).t()


class Orthogonal(Extension):
    """Squared cosines of decoder rows that fire together."""

    def loss(self, sae, batch, state):
        terms = self.base.loss(sae, batch, state)
        fault = self.options.fault
        i, j = pairs_of(terms.codes, sae.config.d_sae)
        if fault == "selects nothing":
            strength = torch.full((len(i),), 1 / len(batch))  # F38: a correlation of 1, divided by the tokens
            i, j = i[strength > 0.2], j[strength > 0.2]
        self.told = {"selected": float(len(i))}
        if len(i) == 0:
            return terms.plus("orthogonality", sae.W_dec.new_zeros(()), 0.1)
        if fault == "codes":
            dense = terms.codes.values.new_zeros(len(batch), sae.config.d_sae)
            table = dense.scatter(1, terms.codes.indices, terms.codes.values).t()
        elif fault == "codes encoded anew":
            table = sae.encode(batch.activations).t()
        else:
            table = sae.W_dec
        a, b = table[i], table[j]
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)
        value = cosine.square().mean()
        return terms.plus("orthogonality", value.detach() if fault == "detached" else value, 0.1)


class Steered(Extension):
    """An L1 term whose weight follows the reconstruction loss."""

    def loss(self, sae, batch, state):
        terms = self.base.loss(sae, batch, state)
        fault = self.options.fault
        loss = float(terms.values["sse"].detach())
        before = loss if self.held is None else self.held
        mean = 0.9 * before + 0.1 * loss
        self.held = mean if fault == "average" else max(loss, mean)
        gap = 5 * (self.held - loss) / (1.0 if fault == "units" else self.held)
        alpha = 1 / (1 + math.exp(-max(-700.0, min(700.0, gap))))
        self.told = {"loss_maximum": self.held, "alpha": alpha}
        return terms.plus("size", terms.codes.values.sum(-1).mean(), 0.01 * alpha)


def preset(fault, **fields):
    return {"broken": Preset(options={"fault": fault}, summary="With a fault.", **fields)}


@pytest.mark.parametrize(("cls", "base"), [(Orthogonal, "topk"), (Steered, "topk"), (Steered, "batchtopk")])
def test_sound_terms_pass_everything(kit, cls, base):
    kit.trainer(cls, extends=(base,), sparsity="base")
    for check in kit.checks():
        check()


@pytest.mark.parametrize(
    ("cls", "fault", "check", "match"),
    [
        (Orthogonal, "selects nothing", "every_term_acts", "exactly 0 in all"),
        (Orthogonal, "selects nothing", "selections_select", "selected = 0 at each of 60 steps"),
        (Orthogonal, "detached", "every_term_moves_something", "no gradient reaches any parameter"),
        (Orthogonal, "codes", "orthogonality_is_of_directions", "acts through the codes"),
        (Orthogonal, "codes encoded anew", "orthogonality_is_of_directions", "acts through b_dec, b_enc"),
        (Steered, "average", "moving_maxima_are_maxima", "that is an average"),
    ],
)
def test_a_fault_in_a_term_is_caught_and_one_that_is_marked_is_let_be(kit, cls, fault, check, match):
    kit.trainer(cls, extends=("topk",), sparsity="base", presets=preset(fault))
    kit.run(check, "mine")
    with pytest.raises(ConformanceError, match=match):
        kit.run(check, "mine@broken")
    kit.trainer(cls, extends=("topk",), sparsity="base", presets=preset(fault, faulty=True))
    kit.run(check, "mine@broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOptions(Options):
    fault: str = "units"


def test_a_weight_with_units_is_caught_by_default_and_left_to_presets(kit):
    kit.trainer(type("WithUnits", (Steered,), {"options_type": UnitOptions}), extends=("topk",), sparsity="base")
    with pytest.raises(ConformanceError, match="The weight of 'size' follows another course"):
        kit.run("schedules_have_no_units", "mine")
    kit.trainer(Steered, extends=("topk",), sparsity="base", presets=preset("units"))
    assert not [c for c in kit.checks() if c.spec == "mine@broken" and c.name == "schedules_have_no_units"]


class Logged(Extension):
    """Keeps a number in the log, with weight 0."""

    def loss(self, sae, batch, state):
        return self.base.loss(sae, batch, state).plus("mean_norm", batch.activations.norm(dim=1).mean(), 0.0)


def test_a_term_that_is_only_logged_needs_no_gradient(kit):
    kit.trainer(Logged, extends=("topk",), sparsity="base")
    kit.run("every_term_acts")
    kit.run("every_term_moves_something")
