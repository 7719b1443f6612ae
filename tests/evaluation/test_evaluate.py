from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from harness.errors import DataError, NameClashError
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.evaluator import Evaluator
from harness.interfaces.sae import SAE, SAEConfig
from harness.interfaces.specs import EvaluatorSpec, MetricSpec, MetricValue


class Double(SAE):
    """x to 2x, with dropout in training so that the mode shows."""

    def __init__(self) -> None:
        super().__init__(SAEConfig(architecture="double", d_in=4, d_sae=4))
        self.weight = torch.nn.Parameter(torch.tensor(2.0))
        self.dropout = torch.nn.Dropout()

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        return self.dropout(x) * self.weight

    def decode(self, codes):
        return codes

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return torch.eye(4)


class Norm(Evaluator):
    """Mean norm of the reconstruction, and a global random number."""

    def evaluate(self, sae, context):
        norms = torch.cat([sae(batch.rows()).norm(dim=1) for batch in context.batches()])
        assert not norms.requires_grad
        return {"norm": MetricValue(value=norms.mean().item(), n=len(norms))}


class Noise(Evaluator):
    def evaluate(self, sae, context):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return {"noise": MetricValue(value=noise, n=1)}


class Broken(Evaluator):
    def evaluate(self, sae, context):
        raise DataError("no documents\nhere")


class Bug(Evaluator):
    def evaluate(self, sae, context):
        raise ZeroDivisionError("division by zero")


class Interrupted(Evaluator):
    def evaluate(self, sae, context):
        raise KeyboardInterrupt


class Extra(Evaluator):
    def evaluate(self, sae, context):
        return {"extra": MetricValue(value=0.0, n=1), "more": MetricValue(value=0.0, n=1)}


class Bare(Evaluator):
    def evaluate(self, sae, context):
        return {"bare": 0.5}


class Given(Evaluator):
    def evaluate(self, sae, context):
        return {"given": MetricValue(value=float(self.options["value"]), n=1)}  # type: ignore[arg-type]


def planned(cls, *, bounds=(None, None), needs=(), metrics=None, options=None, loader=None) -> PlannedEvaluator:
    name = cls.__name__.lower()
    names = metrics or (name,)
    spec = EvaluatorSpec(
        name=name,
        target="harness.evaluation.evaluate:Any",
        metrics=tuple(MetricSpec(name=m, better="none", formula="any", bounds=bounds) for m in names),
        summary="Any.",
        needs=frozenset(needs),
    )
    return PlannedEvaluator(spec, loader or cls, options or {})


def test_metrics_of_all_evaluators_are_gathered(make_context, store):
    result = evaluate_sae(Double(), [planned(Norm), planned(Noise)], make_context())
    assert result.metrics["norm"].value == pytest.approx(2 * store.activations[store.mask].norm(dim=1).mean().item())
    assert {name: o.status for name, o in result.outcomes.items()} == {"norm": "done", "noise": "done"}


def test_a_class_may_be_loaded_late(make_context):
    result = evaluate_sae(Double(), [planned(Norm, loader=lambda: Norm)], make_context())
    assert result.outcomes["norm"].status == "done"


def test_a_failure_is_kept_as_data_told_and_the_others_go_on(make_context):
    told: list[str] = []
    result = evaluate_sae(Double(), [planned(Broken), planned(Bug), planned(Norm)], make_context(), report=told.append)
    assert result.outcomes["broken"].reason == "DataError: no documents here"
    assert result.outcomes["bug"].reason == "ZeroDivisionError: division by zero"
    assert [result.outcomes[n].status for n in ("broken", "bug", "norm")] == ["failed", "failed", "done"]
    assert set(result.metrics) == {"norm"}
    assert told == [
        "Evaluator 'broken' failed: DataError: no documents here",
        "Evaluator 'bug' failed: ZeroDivisionError: division by zero",
    ]


def test_a_class_that_does_not_import_is_a_failure(make_context):
    def load():
        raise ModuleNotFoundError("No module named 'absent'")

    result = evaluate_sae(Double(), [planned(Norm, loader=load)], make_context())
    assert result.outcomes["norm"].reason == "ModuleNotFoundError: No module named 'absent'"


def test_an_interrupt_passes(make_context):
    with pytest.raises(KeyboardInterrupt):
        evaluate_sae(Double(), [planned(Interrupted)], make_context())


def test_needing_an_absent_language_model_is_skipped_with_the_reason(make_context):
    result = evaluate_sae(Double(), [planned(Norm, needs=["language_model"])], make_context())
    assert result.outcomes["norm"].status == "skipped"
    assert "language model" in result.outcomes["norm"].reason
    assert result.metrics == {}


def test_undeclared_and_missing_metrics_fail(make_context):
    result = evaluate_sae(Double(), [planned(Extra, metrics=("extra", "absent"))], make_context())
    assert result.outcomes["extra"].status == "failed"
    assert "missing absent; not declared more" in result.outcomes["extra"].reason
    assert result.metrics == {}


def test_a_bare_number_fails(make_context):
    result = evaluate_sae(Double(), [planned(Bare)], make_context())
    assert "ConformanceError: Metric 'bare' is a float" in result.outcomes["bare"].reason


@pytest.mark.parametrize(("value", "status"), [(0.0, "done"), (1.0, "done"), (1.0 + 1e-9, "done"), (1.01, "failed")])
def test_a_value_outside_its_bounds_fails(make_context, value, status):
    plan = planned(Given, bounds=(0.0, 1.0), options={"value": value})
    outcome = evaluate_sae(Double(), [plan], make_context()).outcomes["given"]
    assert outcome.status == status
    if status == "failed":
        assert "outside its declared bounds (0.0, 1.0)" in outcome.reason


def test_mode_gradients_and_random_state_are_as_before(make_context):
    sae = Double().train()
    sae.dropout.eval()
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    evaluate_sae(sae, [planned(Noise), planned(Broken)], make_context())
    assert sae.training
    assert not sae.dropout.training
    assert torch.is_grad_enabled()
    assert sae.weight.requires_grad
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_results_do_not_depend_on_the_order_of_evaluators(make_context):
    forth = evaluate_sae(Double(), [planned(Noise), planned(Norm)], make_context())
    torch.rand(5)
    back = evaluate_sae(Double(), [planned(Norm), planned(Noise)], make_context())
    assert forth.metrics == back.metrics
    assert evaluate_sae(Double(), [planned(Noise)], make_context(seed=9)).metrics != forth.metrics


def test_two_evaluators_of_one_metric_are_refused(make_context):
    with pytest.raises(NameClashError, match="'norm' and 'noise'"):
        evaluate_sae(Double(), [planned(Norm), planned(Noise, metrics=("norm",))], make_context())
