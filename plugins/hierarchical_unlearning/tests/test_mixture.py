"""Parents and children: shapes and codes by hand, where gradients go, topk to the bit, what a silent parent does."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning.levels import MixtureLevels, levels_of
from sae_harness_hierarchical_unlearning.mixture import cross_cosines

from harness import ConfigError, SparseCodes
from harness.evaluation.metrics import dense
from harness.evaluation.unlearning import Clamp
from harness.training.kernels import to_dense

NAME = "hierarchical_mixture"
TOP = {"W_enc", "b_enc", "W_dec", "b_dec"}
LOW = {"W_down", "W_child", "b_child", "atoms", "W_up"}


def gradients(job, value):
    job.sae.zero_grad(set_to_none=True)
    value.backward(retain_graph=True)
    return {key for key, p in job.sae.named_parameters() if p.grad is not None and p.grad.any()}


def test_a_family_is_a_parent_and_its_children_and_the_rest_is_unused(make_job):
    sae = make_job(NAME).sae
    assert (sae.n_parents, sae.n_children) == (4, 15)
    assert sae.parents().tolist() == [-1] * 4 + [0] * 15 + [1] * 15 + [2] * 15 + [3] * 15
    uneven = make_job(f"{NAME}@hsae").sae
    assert uneven.n_parents == 3, "64 = 3 · 17 + 13"
    assert uneven.parents()[-13:].tolist() == [-1] * 13


@pytest.mark.parametrize(("k", "levels"), [(4, (2, 2)), (5, (3, 2)), (1, (1, 0))])
def test_half_of_the_latents_of_a_token_are_parents(make_job, stream, k, levels):
    sae = make_job(NAME, k=k).sae
    sae.reset_parameters(torch.Generator().manual_seed(0))
    codes = sae.encode_sparse(stream.batch(1).activations)
    assert (sae.k_parents, sae.k_children) == levels
    assert codes.indices.shape[1] == k


def test_codes_equal_the_definition(start, stream):
    sae, x = start(NAME).sae, stream.batch(1).activations[:50]
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        wanted = torch.zeros(50, 64)
        for row, token in enumerate(x - sae.b_dec):
            parents = (token @ sae.W_enc + sae.b_enc).relu().topk(2)
            for value, p in zip(parents.values, parents.indices.tolist(), strict=True):
                wanted[row, p] = value
                if value > 0:
                    pre = sae.W_child[p] @ (token @ sae.W_down[:, 4 * p : 4 * p + 4]) + sae.b_child[p]
                    wanted[row, 4 + 15 * p + int(pre.argmax())] = pre.max().relu()
        codes = sae.encode_sparse(x)
        assert torch.allclose(to_dense(codes, 64), wanted, atol=1e-5)
        assert all(len(set(row)) == 4 for row in codes.indices.tolist()), "no latent is named twice"
        n = sae.n_parents
        children = SparseCodes(codes.indices[:, 2:], codes.values[:, 2:])
        directions = sae.decoder_directions()
        assert torch.allclose(sae.decode_children(children), wanted[:, n:] @ directions[n:], atol=1e-5)


def test_each_latent_writes_a_direction_of_norm_1(make_job, train):
    [result] = train([make_job(f"{NAME}@hsae", lr=1e-2)], 20)
    norms = result.sae.decoder_directions().norm(dim=1)
    assert torch.allclose(norms[:51], torch.ones(51), atol=1e-5)
    assert not bool(norms[51:].any())


def test_each_term_reaches_its_own_weights(start, loss_of, stream):
    job = start(NAME, cross_weight=0.1, l1_weight=0.1)
    terms = loss_of(job, stream.batch(1))
    assert terms.weights["sse"] == 1.0
    assert gradients(job, terms.values["sse"]) == TOP | LOW
    assert gradients(job, terms.values["parents_sse"]) == TOP
    assert gradients(job, terms.values["cross_cosines"]) == {"W_enc", "W_dec"}
    assert gradients(job, terms.values["l1"]) == {"W_enc", "b_enc", "b_dec", "W_down", "W_child", "b_child"}


def test_dead_children_are_moved_by_the_residual_alone(start, stream):
    from harness import TrainState

    job = start(NAME)
    dead = torch.zeros(64, dtype=torch.bool)
    dead[10:] = True
    state = TrainState(
        step=0, n_steps=100, tokens_seen=0, coefficient=0.0, target_l0=4, dead=dead, generator=torch.Generator()
    )
    terms = job.trainer.loss(job.sae, stream.batch(1), state)
    assert gradients(job, terms.values["child_aux"]) <= LOW | {"b_dec"}
    job.sae.zero_grad(set_to_none=True)
    terms.values["child_aux"].backward()
    moved = job.sae.W_child.grad.flatten(0, 1).any(1)
    assert bool(moved.any())
    assert not bool(moved[:6].any()), "children that fire are not moved"


def test_without_children_it_is_topk_to_the_bit(make_job, train):
    ours, topk = train([make_job(f"{NAME}@off"), make_job("topk")], 30)
    assert ours.sae.state_dict().keys() == topk.sae.state_dict().keys()
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(ours.sae.state_dict()[name], value), name
    assert levels_of(ours.sae) is None


def test_parents_alone_do_better_with_their_term(make_job, train, stream):
    ours, without = train([make_job(NAME, lr=1e-2, parents_weight=w) for w in (1.0, 0.0)], 150)
    rows = stream.batch(500).activations

    def error(sae) -> float:
        codes = sae.encode(rows)
        codes[:, sae.n_parents :] = 0
        return float((sae.decode(codes) - rows).square().sum(-1).mean())

    with torch.no_grad():
        assert error(ours.sae) < error(without.sae)


def test_orthogonality_is_the_mean_of_squares_between_others():
    W_enc = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    W_dec = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    # cos(e0, d1) = 0 and cos(e1, d0) = .8; cosines of a parent with itself are left out.
    assert float(cross_cosines(W_enc, W_dec)) == pytest.approx(2 * 0.64 / 2)


def test_a_silent_parent_silences_its_children(make_job, codes_of):
    levels = levels_of(make_job(NAME).sae)
    assert isinstance(levels, MixtureLevels)
    rows = torch.zeros(2, 64)
    rows[0, [0, 1, 5, 20]] = torch.tensor([2.0, 3.0, 1.0, 4.0])
    rows[1, [1, 22]] = torch.tensor([2.0, 1.0])
    codes = codes_of(rows.tolist())
    assert dense(levels.concepts(codes), 4).tolist() == [[2.0, 3.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]
    found = levels.clamp(Clamp(torch.tensor([0]), torch.tensor([-5.0])), levels.known_parents())
    edited = found.edit(codes, torch.arange(2))
    wanted = rows.clone()
    wanted[0, 0], wanted[0, 5] = -5.0, 0.0
    assert torch.equal(dense(edited.codes, 64), wanted)
    assert edited.changed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"children": 64}, "families of 1"), ({"subspace": 0}, "subspace is 0"), ({"l1_weight": -1.0}, "l1_weight is -1")],
)
def test_options_that_make_no_sense_are_refused(make_job, options, message):
    with pytest.raises(ConfigError, match=message):
        make_job(NAME, **options)
