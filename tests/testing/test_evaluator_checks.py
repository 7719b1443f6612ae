"""Each check of evaluators catches an evaluator that is broken in just that way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from harness.errors import ConformanceError, DataError
from harness.interfaces.evaluator import Evaluator
from harness.interfaces.specs import MetricSpec, MetricValue

METRIC = MetricSpec(name="error", better="lower", formula="mean of (x - x_hat)^2", bounds=(0.0, None))


class Sound(Evaluator):
    """Mean squared error per element."""

    def evaluate(self, sae, context):
        total, n = 0.0, 0
        for batch in context.batches():
            rows = batch.rows()
            total += float((sae(rows) - rows).double().square().sum())
            n += rows.numel()
        if n == 0:
            raise DataError("no tokens")
        return {"error": MetricValue(value=total / n, n=n)}


def test_a_sound_evaluator_passes_everything(kit):
    kit.evaluator(Sound)
    for check in kit.checks():
        check()


class Missing(Sound):
    def evaluate(self, sae, context):
        return {}


class Extra(Sound):
    def evaluate(self, sae, context):
        return {**super().evaluate(sae, context), "more": MetricValue(value=1.0, n=1)}


class Bare(Sound):
    def evaluate(self, sae, context):
        return {"error": 1.0}


class NoUnits(Sound):
    def evaluate(self, sae, context):
        return {"error": MetricValue(value=1.0, n=0)}


class NegativeError(Sound):
    def evaluate(self, sae, context):
        return {"error": MetricValue(value=1.0, n=1, stderr=-1.0)}


class OutOfBounds(Sound):
    def evaluate(self, sae, context):
        return {"error": MetricValue(value=-super().evaluate(sae, context)["error"].value - 1, n=1)}


class EditsWeights(Sound):
    def evaluate(self, sae, context):
        for parameter in sae.parameters():
            parameter.mul_(2)
        return super().evaluate(sae, context)


class LeavesTraining(Sound):
    def evaluate(self, sae, context):
        sae.train()
        return super().evaluate(sae, context)


class EditsTokens(Sound):
    def evaluate(self, sae, context):
        for batch in context.batches():
            batch.tokens.zero_()
        return super().evaluate(sae, context)


class GradientsOn(Sound):
    def evaluate(self, sae, context):
        torch.set_grad_enabled(True)
        return super().evaluate(sae, context)


class DrawsTorch(Sound):
    def evaluate(self, sae, context):
        torch.randn(1)
        return super().evaluate(sae, context)


class DrawsNumpy(Sound):
    def evaluate(self, sae, context):
        np.random.rand()
        return super().evaluate(sae, context)


class SeedsPython(Sound):
    def evaluate(self, sae, context):
        random.seed(0)
        return super().evaluate(sae, context)


class Noisy(Sound):
    def evaluate(self, sae, context):
        found = super().evaluate(sae, context)["error"]
        return {"error": MetricValue(value=found.value + float(torch.rand(())), n=found.n)}


class BatchMeans(Sound):
    """The mean of the batches' maxima."""

    def evaluate(self, sae, context):
        found = [float((sae(batch.rows()) - batch.rows()).square().max()) for batch in context.batches()]
        return {"error": MetricValue(value=sum(found) / len(found), n=len(found))}


class Sentinel(Sound):
    def evaluate(self, sae, context):
        try:
            return super().evaluate(sae, context)
        except DataError:
            return {"error": MetricValue(value=0.0, n=1)}


class UsesLM(Sound):
    def evaluate(self, sae, context):
        for batch in context.batches():
            context.language_model.logits(batch.tokens)
        return super().evaluate(sae, context)


BROKEN = [
    (Missing, "declared_metrics_are_returned", "does not return error"),
    (Extra, "declared_metrics_are_returned", "returns more"),
    (Bare, "declared_metrics_are_returned", "is a float"),
    (NoUnits, "declared_metrics_are_returned", "n=0"),
    (NegativeError, "declared_metrics_are_returned", "stderr -1"),
    (OutOfBounds, "values_lie_within_their_bounds", "outside its declared bounds"),
    (EditsWeights, "the_sae_is_left_as_it_was", "changes W_dec"),
    (LeavesTraining, "the_sae_is_left_as_it_was", "training mode"),
    (EditsTokens, "the_data_are_left_as_they_were", "edits the tokens"),
    (GradientsOn, "grad_mode_is_left_as_it_was", "switched on"),
    (DrawsTorch, "the_global_random_state_is_left_as_it_was", "of torch"),
    (DrawsNumpy, "the_global_random_state_is_left_as_it_was", "of numpy"),
    (SeedsPython, "the_global_random_state_is_left_as_it_was", "of random"),
    (Noisy, "the_same_value_comes_twice", "evaluated again"),
    (BatchMeans, "values_do_not_depend_on_the_batch_size", "in batches of 1"),
    (BatchMeans, "empty_data_are_refused", "raises ZeroDivisionError"),
    (Sentinel, "empty_data_are_refused", "raise DataError"),
    (UsesLM, "the_language_model_is_used_as_declared", "declare needs"),
]


@pytest.mark.parametrize(("cls", "check", "match"), BROKEN, ids=[f"{cls.__name__}-{check}" for cls, check, _ in BROKEN])
def test_a_broken_evaluator_is_caught(kit, cls, check, match):
    with pytest.raises(ConformanceError, match=match):
        kit.evaluator(cls).run(check)


def test_a_language_model_that_is_declared_and_not_used_is_caught(kit):
    kit.evaluator(Sound, needs={"language_model"})
    with pytest.raises(ConformanceError, match="never runs it"):
        kit.run("the_language_model_is_used_as_declared")


def test_a_language_model_that_is_declared_and_used_passes(kit):
    kit.evaluator(UsesLM, needs={"language_model"}).run("the_language_model_is_used_as_declared")


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        ((METRIC, METRIC), "declares a metric twice"),
        ((MetricSpec(name="error", better="lower", formula="f", version=0),), "version 0"),
        ((MetricSpec(name="error", better="lower", formula="f", unit=""),), "no unit"),
        ((MetricSpec(name="error", better="lower", formula="f", bounds=(1.0, 0.0)),), "the first must be the smaller"),
        ((MetricSpec(name="error", better="lower", formula="f", bounds=(0.0, 1.0), chance=2.0),), "chance 2.0 outside"),
    ],
)
def test_an_incomplete_metric_is_caught(kit, metrics, match):
    with pytest.raises(ConformanceError, match=match):
        kit.evaluator(Sound, metrics=metrics).run("spec_is_complete")


def test_an_evaluator_without_summary_is_caught(kit):
    with pytest.raises(ConformanceError, match="no summary"):
        kit.evaluator(Sound, summary="").run("spec_is_complete")
