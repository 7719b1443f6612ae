"""Chunked and whole-Gram penalties equal their dense definitions, value and gradient."""

from __future__ import annotations

import pytest
import torch
from sae_harness_topk_orthogonality import all_pairs
from sae_harness_topk_orthogonality.all_pairs import nearest_in_chunks, whole_gram

from harness import ConfigError
from harness.training.pair_penalties import PENALTIES, penalty


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(all_pairs, "_BLOCK", 5)


@pytest.fixture
def table():
    return torch.randn(17, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def cosines_of(table):
    rows = torch.nn.functional.normalize(table, dim=1)
    return rows @ rows.T


@pytest.mark.parametrize("kind", PENALTIES)
def test_the_whole_gram_is_the_mean_over_all_pairs(kind, table):
    upper = torch.triu_indices(17, 17, 1)
    wanted = penalty(cosines_of(table)[upper[0], upper[1]], kind).mean()
    found = whole_gram(table, kind=kind, margin=0.1)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(3 * value, table)[0] for value in (found, wanted))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", PENALTIES)
def test_one_chunk_takes_each_row_with_its_nearest_of_all(kind, table):
    others = cosines_of(table) - 3 * torch.eye(17, dtype=torch.float64)
    size = others if kind == "relu2" else cosines_of(table).abs() - 3 * torch.eye(17, dtype=torch.float64)
    nearest = others.gather(1, size.argmax(1, keepdim=True)).squeeze(1)
    wanted = penalty(nearest, kind).mean()
    found = nearest_in_chunks(table, chunk=17, kind=kind, margin=0.1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(value, table)[0] for value in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_chunks_are_drawn_anew_and_a_row_left_alone_has_no_part(table):
    generator = torch.Generator().manual_seed(0)
    values = {
        float(nearest_in_chunks(table, chunk=4, kind="sq", margin=0.0, generator=generator).detach()) for _ in range(5)
    }
    assert len(values) == 5
    alone = nearest_in_chunks(table[:1], chunk=4, kind="sq", margin=0.0, generator=generator)
    assert alone.item() == 0.0


def test_a_large_sae_is_refused_with_what_to_use_instead(monkeypatch, table):
    monkeypatch.setattr(all_pairs, "MAX_GRAM", 16)
    with pytest.raises(ConfigError, match="at most 16 latents, this SAE has 17: use pairs='chunked'"):
        whole_gram(table, kind="sq", margin=0.1)
