"""The distances, from hand-computed codes."""

from __future__ import annotations

import math

import pytest
import torch
from sae_harness_temporal.penalties import (
    absolute_distance,
    detached,
    distance_to_nothing,
    euclidean_distance,
    first_latents,
    info_nce,
    latent_sums,
    pick,
    relative_distance,
    select,
    similarity_weighted_distance,
    squared_distance,
    weighted,
)

from harness import SparseCodes
from harness.training.code_distance import ragged
from harness.training.kernels import to_dense

A = SparseCodes(torch.tensor([[0, 3], [5, 1], [2, 4]]), torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]))
B = SparseCodes(torch.tensor([[3, 4], [0, 2], [1, 0]]), torch.tensor([[0.5, 4.0], [1.0, 1.0], [0.0, 0.0]]))
# Row 0: |1| + |2 - .5| + |4| = 6.5 of sums 3 and 4.5; row 1: disjoint, 3 and 2; row 2: both empty.
ABSOLUTE = torch.tensor([6.5, 5.0, 0.0])
RELATIVE = torch.tensor([6.5 / 3.75, 2.0, 0.0])
SQUARED = torch.tensor([1 + 1.5**2 + 16, 9.0 + 1 + 1, 0.0])


def dense(codes):
    assert isinstance(codes, SparseCodes)
    return to_dense(codes, 6)


@pytest.mark.parametrize("form", [lambda c: c, ragged, dense], ids=["sparse", "ragged", "dense"])
def test_distances_of_hand_computed_codes(form):
    torch.testing.assert_close(absolute_distance(form(A), form(B)), ABSOLUTE)
    torch.testing.assert_close(relative_distance(form(A), form(B)), RELATIVE)
    torch.testing.assert_close(squared_distance(form(A), form(B)), SQUARED)
    torch.testing.assert_close(euclidean_distance(form(A), form(B)), SQUARED.sqrt())


def test_equal_codes_are_at_distance_0_in_any_order_of_their_latents():
    flipped = SparseCodes(A.indices.flip(1), A.values.flip(1))
    assert absolute_distance(A, flipped).tolist() == [0.0, 0.0, 0.0]
    assert relative_distance(A, flipped).tolist() == [0.0, 0.0, 0.0]


def test_disjoint_codes_are_at_relative_distance_2_whatever_their_sizes():
    a, b = torch.tensor([[1.0, 0.0, 9.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.0, 0.0]])
    assert relative_distance(a, b).item() == pytest.approx(2.0)


def test_the_relative_distance_does_not_change_with_the_scale_of_the_codes_and_the_absolute_one_does():
    codes = torch.rand(2, 50, 8, generator=torch.Generator().manual_seed(0))
    a, b = codes
    torch.testing.assert_close(relative_distance(0.01 * a, 0.01 * b), relative_distance(a, b))
    torch.testing.assert_close(absolute_distance(0.01 * a, 0.01 * b), 0.01 * absolute_distance(a, b))


def test_sparse_and_dense_gradients_agree():
    def gradients(penalty, form):
        values = [A.values.clone().requires_grad_(), B.values.clone().requires_grad_()]
        codes = [form(SparseCodes(c.indices, v)) for c, v in zip((A, B), values, strict=True)]
        penalty(*codes)[:2].sum().backward()
        # Row 0 has no ties, where the slope is a matter of choice.
        return [torch.as_tensor(v.grad)[:1] for v in values]

    for penalty in (absolute_distance, relative_distance, squared_distance, euclidean_distance):
        for sparse, full in zip(gradients(penalty, lambda c: c), gradients(penalty, dense), strict=True):
            torch.testing.assert_close(sparse, full)


def test_the_euclidean_distance_has_a_finite_gradient_where_the_codes_are_equal():
    values = A.values.clone().requires_grad_()
    euclidean_distance(SparseCodes(A.indices, values), A).sum().backward()
    assert torch.as_tensor(values.grad).abs().sum() == 0.0


@pytest.mark.parametrize("form", [lambda c: c, ragged, dense], ids=["sparse", "ragged", "dense"])
def test_distance_to_the_empty_code(form):
    assert distance_to_nothing(form(A), "abs").tolist() == [3.0, 3.0, 0.0]
    assert distance_to_nothing(form(A), "rel").tolist() == pytest.approx([2.0, 2.0, 0.0])
    assert distance_to_nothing(form(A), "sq").tolist() == [5.0, 9.0, 0.0]
    assert distance_to_nothing(form(A), "l2").tolist() == pytest.approx([5.0**0.5, 3.0, 0.0])


@pytest.mark.parametrize("form", [lambda c: c, ragged, dense], ids=["sparse", "ragged", "dense"])
def test_only_the_first_latents_are_seen_when_asked(form):
    seen = first_latents(form(A), 3, 6), first_latents(form(B), 3, 6)
    # Of the latents 0, 1, 2: row 0 is {0: 1} and {}, row 1 {} and {0: 1, 2: 1}.
    assert absolute_distance(*seen).tolist() == [1.0, 2.0, 0.0]
    whole = form(A)
    assert first_latents(whole, 6, 6) is whole


@pytest.mark.parametrize("form", [lambda c: c, ragged, dense], ids=["sparse", "ragged", "dense"])
def test_codes_are_weighted_summed_picked_and_detached_in_every_form(form):
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert latent_sums(form(A), 6).tolist() == [1.0, 0.0, 0.0, 2.0, 0.0, 3.0]
    assert latent_sums(weighted(form(A), weights), 6).tolist() == [1.0, 0.0, 0.0, 8.0, 0.0, 18.0]
    assert distance_to_nothing(pick(form(A), torch.tensor([1, 0, 0])), "sq").tolist() == [9.0, 5.0, 5.0]
    values = A.values.clone().requires_grad_()
    fixed = detached(form(SparseCodes(A.indices, values)))
    assert not (fixed if isinstance(fixed, torch.Tensor) else fixed.values).requires_grad


def test_the_weighted_distance_follows_the_inputs_cosine():
    x, y = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    found = similarity_weighted_distance(A, B, x, y)
    torch.testing.assert_close(found, ABSOLUTE * torch.tensor([1.0, 0.5**0.5, 0.0]))


@pytest.mark.parametrize("form", [lambda c: c, ragged, dense], ids=["sparse", "ragged", "dense"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_info_nce_of_hand_computed_codes(form, similarity):
    codes = SparseCodes(torch.tensor([[0, 1], [2, 3], [1, 5]]), torch.tensor([[1.0, 1.0], [2.0, 0.5], [3.0, 1.0]]))
    partners = SparseCodes(torch.tensor([[0, 5], [2, 1], [1, 3]]), torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]]))
    documents = torch.tensor([7, 7, 9])
    a, b = dense(codes)[:, :4], dense(partners)[:, :4]
    if similarity == "cosine":
        a, b = a / a.norm(dim=1, keepdim=True) / 0.5, b / b.norm(dim=1, keepdim=True)
    logits = a @ b.t()
    # Rows 0 and 1 are of one document: neither is the other's negative.
    logits[0, 1] = logits[1, 0] = -torch.inf
    expected = -0.5 * (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean()
    found = info_nce(form(codes), form(partners), documents, documents, width=4, similarity=similarity, temperature=0.5)
    torch.testing.assert_close(found, expected)


def test_info_nce_of_codes_that_tell_nothing_is_the_logarithm_of_their_number():
    same, documents = torch.ones(8, 3), torch.arange(8)
    found = info_nce(same, same, documents, documents, width=3, similarity="cosine", temperature=0.1)
    assert found.item() == pytest.approx(math.log(8))


def test_select_keeps_the_rows_asked_for():
    rows = torch.tensor([True, False, True])
    assert torch.equal(dense(select(A, rows)), dense(A)[rows])
    kept = select(dense(A), rows)
    assert isinstance(kept, torch.Tensor)
    assert torch.equal(kept, dense(A)[rows])
    assert select(A, torch.ones(3, dtype=torch.bool)) is A
