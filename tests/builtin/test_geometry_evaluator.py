"""The geometry and seed_stability evaluators on planted SAEs."""

from __future__ import annotations

import pytest
import torch

from harness import ConfigError, DataError
from harness.builtin.evaluators.geometry import GeometryEvaluator, SeedStabilityEvaluator
from harness.builtin.evaluators.geometry_specs import GEOMETRY, SEED_STABILITY
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.testing.fixtures import identity_sae, random_sae, tiny_context


def measured(sae, twin=None, seed=0):
    planned = [
        PlannedEvaluator(GEOMETRY, GeometryEvaluator, {}),
        PlannedEvaluator(SEED_STABILITY, SeedStabilityEvaluator, {}),
    ]
    return evaluate_sae(sae, planned, tiny_context(seed).beside(twin))


def test_the_identity_has_opposite_rows_and_an_encoder_that_is_its_decoder():
    metrics = measured(identity_sae()).metrics
    assert metrics["encoder_decoder_cosine"].value == pytest.approx(1.0)
    assert metrics["decoder_nearest_cosine"].value == pytest.approx(0.0)
    # 32 latents: each of 16 axes and its opposite, of 31 others one has |cosine| 1.
    assert metrics["decoder_mean_cosine"].value == pytest.approx(1 / 31)
    assert sum(metrics["decoder_nearest_cosine"].detail["counts"]) == 32


def test_an_sae_is_its_own_twin_and_another_random_one_is_less():
    same = measured(random_sae(0), random_sae(0)).metrics
    other = measured(random_sae(0), random_sae(1)).metrics
    assert (same["twin_share"].value, same["twin_cosine"].value) == (1.0, pytest.approx(1.0))
    assert other["twin_share"].value < 0.9
    assert other["twin_cosine"].value < 0.95


def test_without_another_seed_stability_is_skipped_and_says_why():
    outcome = measured(random_sae()).outcomes["seed_stability"]
    assert (outcome.status, outcome.reason) == ("skipped", "needs an SAE of the same method and another seed")
    with pytest.raises(DataError, match="another seed"):
        SeedStabilityEvaluator().evaluate(random_sae(), tiny_context())


def test_the_evaluation_seed_moves_the_meta_sae_alone():
    a, b = (measured(random_sae(), random_sae(1), seed).metrics for seed in (0, 1))
    moved = {name for name in a if a[name].value != b[name].value}
    assert moved == {"composition", "composition_by_chance"}


def test_an_sae_in_which_nothing_fires_is_refused():
    sae = random_sae()
    sae.encode = lambda x: x.new_zeros(*x.shape[:-1], 64)  # type: ignore[method-assign]
    with torch.no_grad(), pytest.raises(DataError, match="no latent fires"):
        GeometryEvaluator().evaluate(sae, tiny_context())


def test_options_are_refused():
    with pytest.raises(ConfigError, match="no options, got k"):
        GeometryEvaluator({"k": 3})
