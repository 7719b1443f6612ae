"""Links: what is counted, on codes written by hand and against the whole matrix."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning import links as module
from sae_harness_hierarchical_unlearning.links import LIFT, Links, largest

CODES = [
    [1.0, 0.0, 2.0, 0.0, 0.0],
    [1.0, 0.0, 2.0, 3.0, 0.0],
    [0.0, 1.0, 0.0, 3.0, 0.0],
    [0.0, 0.0, 2.0, 0.0, 4.0],
    [0.0, 0.0, 0.0, 0.0, 4.0],
    [0.0, 0.0, 0.0, 0.0, 4.0],
]


def pairs(found, values):
    return dict(zip(zip(found.parent.tolist(), found.child.tolist(), strict=True), values.tolist(), strict=True))


def test_links_count_what_is_active_together(codes_of):
    found = Links.of(codes_of(CODES), codes_of([row[:2] for row in CODES]), 5, 2)
    assert pairs(found, found.both) == {(0, 0): 2, (0, 2): 2, (0, 3): 1, (1, 1): 1, (1, 3): 1}
    assert pairs(found, found.given_child())[0, 2] == 2 / 3
    assert pairs(found, found.given_parent())[0, 3] == 1 / 2
    assert pairs(found, found.lift())[0, 2] == 2.0, "2/3 where the concept is active on 1/3 of the tokens"
    assert found.with_parents(found.both, torch.tensor([0, -1, 0, 1, 1])).tolist() == [2, 0, 2, 1, 0]
    assert found.of_children(found.both).tolist() == [2, 1, 2, 2, 0]
    assert found.of_parents(found.both).tolist() == [5, 2]


def test_the_first_of_equals_is_the_largest():
    best, place = largest(torch.tensor([1.0, 3.0, 3.0, 2.0]), torch.tensor([0, 2, 2, 0]), 4)
    assert best.tolist() == [2.0, 0.0, 3.0, 0.0]
    assert place.tolist() == [3, 0, 1, 0]


@pytest.fixture
def planted(codes_of):
    """Codes [400, 30] and concepts [400, 6], on some tokens none, in twelve patterns: many shares are equal."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(12, (400,), generator=generator)
    codes = (torch.rand(12, 30, generator=generator) < 0.15).float()[drawn]
    concepts = (torch.rand(12, 6, generator=generator) < 0.3).float()[drawn]
    codes[7:11], concepts[9:30] = 0.0, 0.0
    return codes, concepts, codes_of(codes.tolist()), codes_of(concepts.tolist())


@pytest.mark.parametrize("at_once", [1, 50, 2**22])
def test_pairs_are_counted_as_the_matrix_is(planted, monkeypatch, at_once):
    codes, concepts, ragged_codes, ragged_concepts = planted
    whole = Links.of(ragged_codes, ragged_concepts, 30, 6)
    wanted = concepts.double().t() @ codes.double()
    assert torch.equal(whole.both, wanted[wanted > 0])
    monkeypatch.setattr(module, "_DENSE", 0)
    monkeypatch.setattr(module, "_PAIRS", at_once)
    alone = Links.of(ragged_codes, ragged_concepts, 30, 6)
    for name in ("latent", "concept", "parent", "child", "both"):
        assert torch.equal(getattr(alone, name), getattr(whole, name)), name


@pytest.mark.parametrize("with_strength", [False, True])
def test_parents_are_those_of_the_whole_matrix(planted, with_strength):
    codes, concepts, ragged_codes, ragged_concepts = planted
    found = Links.of(ragged_codes, ragged_concepts, 30, 6)
    both = concepts.double().t() @ codes.double()
    given = both / both.new_tensor(codes.sum(0).tolist()).clamp_min(1)
    strength = torch.rand(6, 30, generator=torch.Generator().manual_seed(1)) if with_strength else torch.ones(6, 30)
    lift = given / concepts.double().mean(0)[:, None]
    wanted = []
    for latent in range(30):
        score = (given * strength.double())[:, latent].tolist()
        best = score.index(max(score))
        wanted.append(best if max(score) > 0 and lift[best, latent] >= LIFT else -1)
    assert found.parents(strength[found.parent, found.child]).tolist() == wanted
    assert -1 in wanted
    assert len(set(wanted)) > 3


def test_no_tokens_have_no_links(codes_of):
    empty = codes_of([[0.0, 0.0]])
    found = Links.of(empty, empty, 2, 2)
    assert len(found.both) == 0
    assert found.parents().tolist() == [-1, -1]
