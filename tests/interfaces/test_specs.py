"""Who may be told the answers: only a control, and it says so in its spec."""

from __future__ import annotations

import pytest

from harness import EvaluatorSpec, MetricSpec, TrainerSpec
from harness.errors import PluginError

METRIC = MetricSpec(name="found", better="higher", formula="features found")


def trainer(**changes) -> TrainerSpec:
    return TrainerSpec(**{"name": "mine", "target": "a.b:C", "sae": "topk", "summary": "s", **changes})


def test_a_control_may_be_told_the_world():
    assert trainer(needs={"world"}, control=True).needs == {"world"}


def test_a_method_that_is_ranked_may_not():
    with pytest.raises(PluginError, match="'mine' needs 'world', the answers themselves: only a control"):
        trainer(needs={"world"})


def test_an_evaluator_may_need_a_world():
    spec = EvaluatorSpec(name="truth", target="a.b:C", metrics=(METRIC,), summary="s", needs=frozenset({"world"}))
    assert spec.needs == {"world"}
    with pytest.raises(PluginError, match=r"needs \['worlds'\]: allowed are \['language_model', 'twin', 'world'\]"):
        EvaluatorSpec(name="truth", target="a.b:C", metrics=(METRIC,), summary="s", needs=frozenset({"worlds"}))
