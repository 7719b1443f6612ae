"""The analyses run on an SAE of two levels, refuse one of one level, and give what can be counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from sae_harness_hierarchical_unlearning.analyses import (
    child_entropy,
    hierarchy,
    level_interaction,
    selectivity,
    to_dot,
)
from sae_harness_hierarchical_unlearning.levels import Links

from harness import DataError, TrainingLog

LOG = TrainingLog()


@pytest.fixture(scope="module")
def trained(make_job, stream):
    from harness.training.fit import fit

    jobs = [make_job("hierarchical_prefixes", lr=1e-2), make_job("hierarchical_unlearning", lr=1e-2)]
    return [r.sae.eval() for r in fit(jobs, stream, n_steps=150, batch_size=256, dead_after_tokens=5120)]


@pytest.mark.parametrize("analysis", [hierarchy, level_interaction, selectivity])
@pytest.mark.parametrize("which", [0, 1])
def test_results_are_plain_and_their_axes_labelled(analysis, which, trained, context):
    with torch.no_grad():
        result = analysis(trained[which], context, LOG)
    json.dumps(result.to_json(), allow_nan=False)
    assert result.values
    assert result.figures
    for figure in result.figures:
        assert all((panel.x_label and panel.y_label) or figure.name == "tree" for panel in figure.panels)


@pytest.mark.parametrize("analysis", [hierarchy, level_interaction])
def test_one_level_is_refused(analysis, make_job, context):
    sae = make_job("topk").sae
    sae.reset_parameters(torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="one level"):
        analysis(sae.eval(), context, LOG)


def test_what_both_do_is_what_each_does_and_the_rest(trained, context):
    with torch.no_grad():
        values = level_interaction(trained[0], context, LOG).values
    for kind in ("removed", "disturbed"):
        parts = sum(float(values[f"{kind}/{name}"] or 0.0) for name in ("base", "concept", "non_additive"))
        assert values[f"{kind}/coordinated"] == pytest.approx(parts)


def test_a_latent_with_one_concept_has_no_entropy():
    both = torch.tensor([[4.0, 2.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    links = Links(n_tokens=10, latent=torch.tensor([4.0, 4.0, 0.0]), concept=torch.tensor([6.0, 2.0]), both=both)
    assert child_entropy(links).tolist() == [0.0, 1.0, 0.0]


def test_dot_names_each_edge_once():
    dot = to_dot(torch.tensor([1, -1, 1]), torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.0, 0.75]]))
    assert dot.count("->") == 2
    assert 'c1 -> f0 [label="0.90"]' in dot
    assert 'c1 -> f2 [label="0.75"]' in dot
    assert dot.startswith("digraph")
    assert dot.endswith("}")
