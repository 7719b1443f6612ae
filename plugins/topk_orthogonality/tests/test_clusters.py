"""Planted groups of latents are found again."""

from __future__ import annotations

import pytest
import torch
from sae_harness_topk_orthogonality.clusters import ALONE, clusters

from harness import ConfigError
from harness.training.pairs import pair_statistics


def two_groups():
    """Latents 0 to 4 fire together, 5 to 7 too; 8 fires alone."""
    f = torch.zeros(30, 9)
    f[:15, :5] = 1.0
    f[15:25, 5:8] = 1.0
    f[25:, 8] = 1.0
    found = pair_statistics(f, 9)
    return found, found.count / 15


@pytest.mark.parametrize("method", ["louvain", "components"])
def test_groups_are_numbered_by_size(method):
    found, weights = two_groups()
    assert clusters(found, weights, method=method, n_edges=100, seed=0).tolist() == [0] * 5 + [1] * 3 + [ALONE]


def test_only_the_strongest_edges_count():
    found, weights = two_groups()
    labels = clusters(found, weights, method="components", n_edges=10, seed=0)
    assert labels.tolist() == [0] * 5 + [ALONE] * 4


def test_without_edges_all_are_alone():
    found, weights = two_groups()
    assert set(clusters(found, weights * 0, method="louvain", n_edges=100, seed=0).tolist()) == {ALONE}
    with pytest.raises(ConfigError, match="allowed are louvain, components"):
        clusters(found, weights, method="ward", n_edges=100, seed=0)
