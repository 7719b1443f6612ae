"""Analyses give the known answers of planted cases."""

from __future__ import annotations

import math

import pytest
import torch
from sae_harness_sparsity_guided_orthogonality.analyses import (
    competition_against_cosine,
    competition_graph,
    edges,
    frequency_null,
    spearman,
    threshold_effect,
    top_competitors,
)
from sae_harness_sparsity_guided_orthogonality.change import change_of_competition

from harness import DataError, SparseCodes
from harness.training.pairs import pair_statistics


def two_groups():
    """Codes of 40 tokens: latents 0, 1, 2 fire together, 3 and 4 too, 5 alone, 6 never."""
    f = torch.zeros(40, 7)
    f[:20, :3] = torch.arange(1.0, 21.0)[:, None]
    f[20:30, 3:5] = 1.0
    f[30:, 5] = 1.0
    f[0, 3] = 0.5
    return f


def test_the_graph_has_the_planted_degrees_and_communities():
    found = pair_statistics(two_groups(), 7)
    graph = competition_graph(found, edges(found, threshold=0.5))
    assert graph.degree.tolist() == [2, 2, 2, 1, 1, 0, 0]
    assert graph.community.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert graph.strength[0].item() == pytest.approx(2.0)
    assert graph.weight_counts.sum() == 4
    assert graph.modularity == pytest.approx(0.375, abs=0.02)
    assert graph.total == pytest.approx(3 + 10 / 110**0.5)


def test_a_graph_without_edges_has_no_modularity():
    found = pair_statistics(torch.eye(4), 4)
    graph = competition_graph(found, edges(found))
    assert set(graph.community.tolist()) == {-1}
    assert math.isnan(graph.modularity)


def test_competitors_come_with_the_tokens_of_the_largest_products():
    f = two_groups()
    found = pair_statistics(f, 7)
    table = top_competitors(edges(found, threshold=0.0), f, [0, 5], n=2, n_tokens_shown=3)
    assert [(c.latent, c.c) for c in table[0]] == [(1, pytest.approx(1.0)), (2, pytest.approx(1.0))]
    assert table[0][0].tokens == (19, 18, 17)
    assert table[5] == []
    values, indices = f.topk(4, dim=1)
    assert top_competitors(edges(found, threshold=0.0), SparseCodes(indices, values), [0], n=2)[0][0].latent == 1


def test_competition_against_cosine_is_one_where_rows_follow_it():
    f = two_groups()
    chosen = edges(pair_statistics(f, 7), threshold=0.0)
    W = torch.eye(7)
    W[1] = W[0]
    W[2] = W[0]
    W[4] = torch.tensor([0, 0, 0, 0.8, 0.6, 0, 0])
    found = competition_against_cosine(chosen, W)
    assert found.spearman > 0.9
    assert found.c.shape == found.cosine.shape
    assert competition_against_cosine(chosen, torch.eye(7)).weighed_cosine == 0.0
    assert len(competition_against_cosine(chosen, W, shown=2).c) == 2
    assert spearman(torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 2, 1])) == pytest.approx(-1.0)


def test_the_null_keeps_how_often_latents_fire_and_loses_what_they_share(stream):
    f = torch.cat([stream.codes(seed) for seed in range(8)])
    found = pair_statistics(f, 40, n_tokens=len(f))
    null = frequency_null(f, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(null.fires, found.fires)
    torch.testing.assert_close(null.squares, found.squares)
    twins = found.second == found.first + 1
    assert edges(found, threshold=0.4).c.numel() >= 15
    assert edges(null, threshold=0.4).c.numel() == 0
    assert bool((found.count[twins & (found.first % 2 == 0)] > 60).all())


def test_turning_rows_apart_leaves_the_overlap_as_it_was(stream):
    f = torch.cat([stream.codes(seed) for seed in range(4)])
    same, apart = torch.ones(40, 40) + 0.1 * torch.eye(40), torch.eye(40)
    turned = change_of_competition((f, f), (same, apart))
    assert turned.overlap_ratio == pytest.approx(1.0)
    assert turned.before.weighed_cosine > 0.9 > 1e-6 > turned.after.weighed_cosine
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.stack([column[torch.randperm(len(f), generator=generator)] for column in f.T], dim=1)
    unlinked = change_of_competition((f, shuffled), (same, same))
    assert unlinked.overlap_ratio < 0.2
    assert len(unlinked.after.pairs.c) < len(unlinked.before.pairs.c)
    with pytest.raises(DataError, match="the same tokens"):
        change_of_competition((f, f[:10]), (same, same))


def test_higher_thresholds_leave_fewer_pairs():
    found = pair_statistics(two_groups(), 7)
    table = threshold_effect(found, (0.0, 0.5, 0.99))
    assert [row.n_pairs for row in table] == [7, 4, 3]
    assert table[1].total == pytest.approx(1.5 + 10 / 110**0.5 - 0.5)
    assert table[1].share_of_latents == pytest.approx(5 / 6)
    assert table[2].mean_degree == pytest.approx(1.0)
