"""The analyses run on an SAE of two levels, refuse one of one level, and give what can be counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from sae_harness_hierarchical_unlearning.analyses import (
    child_entropy,
    hierarchy,
    level_interaction,
    purity,
    selectivity,
    to_dot,
)
from sae_harness_hierarchical_unlearning.links import Links

from harness import DataError, SAEConfig, TrainingLog

LOG = TrainingLog()


def number(value: object) -> float:
    """A value of a table that must be a number."""
    assert isinstance(value, (int, float)), value
    return float(value)


@pytest.fixture(scope="module")
def trained(make_job, stream):
    from harness.training.fit import fit

    names = ("prefixes", "unlearning", "mixture", "linked")
    jobs = [make_job(f"hierarchical_{name}", lr=1e-2) for name in names]
    return [r.sae.eval() for r in fit(jobs, stream, n_steps=150, batch_size=256, dead_after_tokens=5120)]


@pytest.mark.parametrize("analysis", [hierarchy, level_interaction, selectivity])
@pytest.mark.parametrize("which", [0, 1, 2, 3])
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


def links_of(both, n_tokens, latent, concept):
    """Of a matrix [n_concepts, d_sae]."""
    parent, child = both.nonzero(as_tuple=True)
    return Links(
        n_tokens=n_tokens, latent=latent, concept=concept, parent=parent, child=child, both=both[parent, child]
    )


def test_a_latent_with_one_concept_has_no_entropy():
    both = torch.tensor([[4.0, 2.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    links = links_of(both, 10, torch.tensor([4.0, 4.0, 0.0]), torch.tensor([6.0, 2.0]))
    assert child_entropy(links).tolist() == [0.0, 1.0, 0.0]


def test_purity_is_the_share_of_own_children():
    """Latents 0 and 1 are children of concept 0, latent 2 of concept 1, latent 3 of none."""
    both = torch.tensor([[6.0, 2.0, 2.0, 50.0], [0.0, 1.0, 3.0, 50.0], [0.0, 0.0, 0.0, 9.0]], dtype=torch.float64)
    links = links_of(both, 99, both.sum(0), torch.tensor([10.0, 10.0, 9.0]))
    assert purity(links, torch.tensor([0, 0, 1, -1])).tolist() == [0.8, 0.75, 0.0]


def test_concepts_that_are_the_trees_are_told_so(world, context, feature_sae):
    """With the features themselves as latents, the first, a root, as the only concept."""
    with torch.no_grad():
        sae = feature_sae
        sae.config = SAEConfig(architecture="features", d_in=32, d_sae=24, options={"concept_share": 1 / 24})
        result = hierarchy(sae, context, LOG)
    row = dict(zip(result.tables["concepts"].columns, result.tables["concepts"].rows[0], strict=True))
    assert (row["concept"], row["tree"], row["tree_share"]) == (0, 0, 1.0)
    children = {found[0] for found in result.tables["children"].rows}
    parent = context.truth.parent
    assert {int(i) for i in (parent == 0).nonzero().squeeze(1)} <= children
    assert number(result.values["mean_tree_rate"]) < 0.6


def test_dot_names_each_edge_once():
    dot = to_dot(torch.tensor([1, -1, 1]), torch.tensor([0.9, 0.0, 0.75]))
    assert dot.count("->") == 2
    assert 'c1 -> f0 [label="0.90"]' in dot
    assert 'c1 -> f2 [label="0.75"]' in dot
    assert dot.startswith("digraph")
    assert dot.endswith("}")
