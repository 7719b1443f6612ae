from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harness.builtin.evaluators.core import CoreEvaluator
from harness.builtin.evaluators.specs import CORE, EVALUATORS
from harness.errors import ConfigError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE

PLAN = [PlannedEvaluator(CORE, CoreEvaluator, {})]


def measure(sae: SAE, context: StoreEvalContext) -> dict[str, float]:
    outcome = evaluate_sae(sae, PLAN, context).outcomes["core"]
    assert outcome.status == "done", outcome.reason
    return {name: measured.value for name, measured in outcome.metrics.items()}


def test_identity_is_perfect(copying):
    values = measure(copying.Scaled(1.0), copying.make_context())
    assert values["fvu"] <= 1e-12
    assert values["explained_variance"] == pytest.approx(1.0, abs=1e-12)
    assert values["mse"] <= 1e-12
    assert values["cosine"] == pytest.approx(1.0, abs=1e-12)
    assert values["l2_ratio"] == pytest.approx(1.0, abs=1e-12)
    assert values["relative_reconstruction_bias"] == pytest.approx(1.0, abs=1e-12)
    assert (values["l0"], values["dead_latent_fraction"], values["latent_density"]) == (copying.D_IN, 0.0, 1.0)


def test_zero_explains_nothing(copying):
    values = measure(copying.Scaled(0.0), copying.make_context())
    assert values["fvu"] > 1.0  # the activations have a mean, which zero does not predict
    assert (values["cosine"], values["l2_ratio"], values["relative_reconstruction_bias"]) == (0.0, 0.0, 0.0)


def test_shrinkage_shows_in_ratio_and_bias_and_not_in_cosine(copying):
    values = measure(copying.Scaled(0.5), copying.make_context())
    assert values["l2_ratio"] == pytest.approx(0.5, abs=1e-6)
    assert values["relative_reconstruction_bias"] == pytest.approx(0.5, abs=1e-6)
    assert values["cosine"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_values_do_not_depend_on_the_batch_size(copying, size):
    whole = measure(copying.Scaled(0.8, 0.1), copying.make_context())
    parts = measure(copying.Scaled(0.8, 0.1), copying.make_context(batch_sequences=size))
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def test_values_do_not_depend_on_the_order_of_sequences(copying):
    store = copying.make_store(copying.CopyingLM())
    order = torch.randperm(copying.N_SEQ, generator=torch.Generator().manual_seed(0))
    mixed = copying.MemoryStore(store.activations[order], store.tokens[order], store.mask[order], store.document[order])
    straight = measure(copying.Scaled(0.8, 0.1), copying.make_context(store=store))
    for name, value in measure(copying.Scaled(0.8, 0.1), copying.make_context(store=mixed)).items():
        assert value == pytest.approx(straight[name], rel=1e-5, abs=1e-9), name


def test_it_needs_no_lm(copying):
    store = copying.make_store(copying.CopyingLM())
    without = StoreEvalContext(store, hookpoint="here", data_id="d", seed=0)
    sae = copying.Scaled(0.8, 0.1)
    assert measure(sae, without) == measure(sae, copying.make_context(store=store))


def test_a_batch_without_counted_tokens_counts_for_nothing(copying):
    store = copying.make_store(copying.CopyingLM())
    store.mask[3] = False
    values = measure(copying.Scaled(0.8, 0.1), copying.make_context(store=store, batch_sequences=1))
    whole = measure(copying.Scaled(0.8, 0.1), copying.make_context(store=store))
    assert values["fvu"] == pytest.approx(whole["fvu"], rel=1e-9)


def test_standard_errors_are_over_documents(copying):
    metrics = evaluate_sae(copying.Scaled(0.8, 0.1), PLAN, copying.make_context()).metrics
    for name in ("l0", "fvu", "explained_variance"):
        assert metrics[name].n == 5, name
    assert (metrics["fvu"].stderr or 0.0) > 0.0
    assert metrics["explained_variance"].stderr == metrics["fvu"].stderr
    assert metrics["dead_latent_fraction"].n == copying.D_IN


def test_a_reconstruction_of_nan_is_a_failure(copying):
    outcome = evaluate_sae(copying.Scaled(float("nan")), PLAN, copying.make_context()).outcomes["core"]
    assert outcome.reason == "NonFiniteError: NaN or infinite values in the reconstruction."


def test_options_are_refused():
    with pytest.raises(ConfigError, match="takes no options, got ablation"):
        CoreEvaluator({"ablation": "mean"})


def test_every_metric_says_how_to_read_it():
    assert CORE in EVALUATORS
    specs = {metric.name: metric for metric in CORE.metrics}
    assert {name for name, metric in specs.items() if not metric.compared} == {"l0", "explained_variance", "mse"}
    assert {name for name, metric in specs.items() if metric.better == "none"} == {
        "l0",
        "l2_ratio",
        "relative_reconstruction_bias",
        "latent_density",
    }
    assert all(metric.version == 1 and metric.formula for metric in CORE.metrics)
    assert not CORE.needs


def test_specs_load_no_torch():
    code = "import sys; import harness.builtin.evaluators.specs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
