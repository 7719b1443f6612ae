"""Parents, gates and clamps of two levels, on codes written by hand."""

from __future__ import annotations

import torch
from sae_harness_hierarchical_unlearning.levels import (
    Coordinated,
    GatedClamp,
    PrefixLevels,
    StackedLevels,
    levels_of,
    parents_of,
)
from sae_harness_hierarchical_unlearning.links import Links

from harness.evaluation.metrics import dense
from harness.evaluation.unlearning import Clamp

# Latents 0 and 1 are concepts; 2 fires with 0 alone, 3 with either, 4 by itself.
CODES = [
    [1.0, 0.0, 2.0, 0.0, 0.0],
    [1.0, 0.0, 2.0, 3.0, 0.0],
    [0.0, 1.0, 0.0, 3.0, 0.0],
    [0.0, 0.0, 2.0, 0.0, 4.0],
    [0.0, 0.0, 0.0, 0.0, 4.0],
    [0.0, 0.0, 0.0, 0.0, 4.0],
]
LEVELS = PrefixLevels(2)
SEQUENCE = torch.arange(6)


def links(codes):
    return Links.of(codes, LEVELS.concepts(codes), 5, 2)


def test_parents_need_a_lift_and_concepts_have_none(codes_of):
    found = links(codes_of(CODES))
    # Latent 3 goes with both, and half of its firings are no more than 2 · P(concept 0); the first of equals is taken.
    assert parents_of(LEVELS, found).tolist() == [-1, -1, 0, -1, -1]
    assert found.parents(lift=1.5).tolist() == [0, 1, 0, 0, -1]
    assert found.parents(lift=2.1)[2] == -1


def test_link_strength_chooses_among_concepts(codes_of):
    strength = torch.zeros(2, 5)
    strength[1, 3] = 1.0
    found = links(codes_of(CODES))
    assert found.parents(strength[found.parent, found.child]).tolist() == [-1, -1, -1, 1, -1]


def test_a_gate_is_open_where_the_parent_is_active_and_for_orphans(codes_of):
    codes, parents = codes_of(CODES), torch.tensor([-1, -1, 0, 1, -1])
    clamp = Clamp(torch.tensor([2, 3, 4]), torch.tensor([-5.0, -6.0, -7.0]))
    found = GatedClamp(clamp, LEVELS, parents).edit(codes, SEQUENCE)
    edited = dense(found.codes, 5)
    assert edited[:, 2].tolist() == [-5.0, -5.0, 0.0, 2.0, 0.0, 0.0], "not at token 3, where concept 0 is silent"
    assert edited[:, 3].tolist() == [0.0, 3.0, -6.0, 0.0, 0.0, 0.0]
    assert edited[:, 4].tolist() == [0.0, 0.0, 0.0, -7.0, -7.0, -7.0]
    assert found.changed.tolist() == [True, True, True, True, True, True]


def test_both_levels_clamp_and_others_stay(codes_of):
    codes, parents = codes_of(CODES), torch.tensor([-1, -1, 0, 1, -1])
    gated = GatedClamp(Clamp(torch.tensor([2]), torch.tensor([-5.0])), LEVELS, parents)
    concepts = LEVELS.clamp(Clamp(torch.tensor([0]), torch.tensor([-1.0])), parents)
    edited = dense(Coordinated(gated, concepts).edit(codes, SEQUENCE).codes, 5)
    assert edited[:2].tolist() == [[-1, 0, -5, 0, 0], [-1, 0, -5, 3, 0]]
    assert torch.equal(edited[2:], torch.tensor(CODES)[2:])


def stacked(start):
    """A stacked SAE of one link: latent 0 makes concept 0 active, which leads one to expect latents 1 and 2."""
    sae = start("hierarchical_unlearning", n_concepts=2, k_concepts=1).sae
    with torch.no_grad():
        for parameter in (sae.W_up, sae.b_up, sae.W_down, sae.b_down):
            parameter.zero_()
        sae.W_up[0, 0] = 1.0
        sae.W_down[0, 1], sae.W_down[0, 2] = 1.0, 0.5
        sae.code_size.fill_(2.0)
    return sae.eval()


def test_a_concept_of_a_stacked_sae_takes_what_it_led_to_from_its_children(start, codes_of):
    sae = stacked(start)
    levels = levels_of(sae)
    assert isinstance(levels, StackedLevels)
    rows = torch.zeros(3, 64)
    rows[0, :3] = torch.tensor([4.0, 5.0, 6.0])
    rows[1, 1] = 5.0
    rows[2, 0] = 4.0
    codes = codes_of(rows.tolist())
    assert dense(levels.concepts(codes), 2).tolist() == [[2.0, 0.0], [0.0, 0.0], [2.0, 0.0]]
    parents = torch.full((64,), -1)
    parents[1] = 0
    with torch.no_grad():
        found = levels.clamp(Clamp(torch.tensor([0]), torch.tensor([-1.0])), parents).edit(codes, torch.arange(3))
    edited = dense(found.codes, 64)
    assert edited[0, :3].tolist() == [4.0, 1.0, 6.0], "size 2 · concept 2 · link 1 less; latent 2 is no child"
    assert torch.equal(edited[1:], rows[1:]), "the concept is silent, or the child is"
    assert found.changed.tolist() == [True, False, False]
