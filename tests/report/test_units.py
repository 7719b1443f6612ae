"""What `n` counts."""

from __future__ import annotations

import pytest

from harness.plugins import load_catalogue
from harness.report import units


def test_every_name_is_that_of_an_evaluator_or_metric():
    """A renamed one would lose its unit in silence. `temporal_stability` is a plugin's."""
    known = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"}).evaluators
    assert set(units._EVALUATORS) - {"temporal_stability"} <= set(known)
    assert set(units._METRICS) <= {metric.name for provided in known.values() for metric in provided.spec.metrics}


@pytest.mark.parametrize(
    ("evaluator", "metric", "unit"),
    [
        ("core", "fvu", "documents"),
        ("core", "latent_density", "latents"),
        ("ground_truth", "recovered", "features"),
        ("tpp", "tpp_n2", "classes"),
        ("tpp", "saebench_tpp_n2", "-"),
        ("of_a_plugin", "mood", "-"),
    ],
)
def test_the_unit_of_a_metric(evaluator, metric, unit):
    assert units.unit_of(evaluator, metric) == unit
