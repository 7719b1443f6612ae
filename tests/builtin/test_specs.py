"""What the built-in plugin declares holds together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import SAE, Evaluator, Trainer
from harness.builtin import plugin
from harness.plugins import load_target

SAES = {spec.name: spec for spec in plugin.register_saes()}
TRAINERS = {spec.name: spec for spec in plugin.register_trainers()}
EVALUATORS = {spec.name: spec for spec in plugin.register_evaluators()}


@pytest.mark.parametrize("spec", [*SAES.values(), *TRAINERS.values(), *EVALUATORS.values()], ids=lambda s: s.target)
def test_every_target_is_a_class_of_its_kind(spec):
    kind = {"SAESpec": SAE, "TrainerSpec": Trainer, "EvaluatorSpec": Evaluator}[type(spec).__name__]
    assert issubclass(load_target(spec.target), kind)


@pytest.mark.parametrize("spec", TRAINERS.values(), ids=lambda s: s.name)
def test_every_method_names_an_architecture_of_ours(spec):
    assert spec.sae in SAES
    assert spec.summary
    assert spec.control or spec.reference


def test_the_controls_are_those_that_are_not_trained():
    assert {n for n, s in TRAINERS.items() if s.control} == {
        "identity",
        "random",
        "pca",
        "oracle",
        "permuted_decoder",
    }
    assert {n for n, s in TRAINERS.items() if "world" in s.needs} == {"oracle", "permuted_decoder"}
    assert all(spec.control is not spec.trained for spec in TRAINERS.values())


def test_the_ways_to_set_l0():
    assert {n: s.sparsity for n, s in TRAINERS.items() if s.trained} == {
        "topk": "k",
        "relu": "coefficient",
        "jumprelu": "target",
        "batchtopk": "k",
        "matryoshka": "k",
        "gated": "coefficient",
        "april": "coefficient",
        "p_anneal": "coefficient",
    }


def test_sparse_codes_are_offered_where_the_spec_says_so():
    for spec in SAES.values():
        overridden = load_target(spec.target).encode_sparse is not SAE.encode_sparse
        assert overridden is spec.sparse


def test_listing_the_built_ins_loads_no_torch():
    code = (
        "import sys\nfrom harness.builtin import plugin\n"
        "[*plugin.register_saes(), *plugin.register_trainers(), *plugin.register_evaluators()]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
