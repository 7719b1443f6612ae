"""The distances, from hand-computed codes."""

from __future__ import annotations

import pytest
import torch
from sae_harness_temporal.penalties import absolute_distance, distance_to_nothing, relative_distance, select

from harness import SparseCodes
from harness.training.kernels import to_dense

A = SparseCodes(torch.tensor([[0, 3], [5, 1], [2, 4]]), torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]))
B = SparseCodes(torch.tensor([[3, 4], [0, 2], [1, 0]]), torch.tensor([[0.5, 4.0], [1.0, 1.0], [0.0, 0.0]]))
# Row 0: |1| + |2 - .5| + |4| = 6.5 of sums 3 and 4.5; row 1: disjoint, 3 and 2; row 2: both empty.
ABSOLUTE = torch.tensor([6.5, 5.0, 0.0])
RELATIVE = torch.tensor([6.5 / 3.75, 2.0, 0.0])


def dense(codes):
    assert isinstance(codes, SparseCodes)
    return to_dense(codes, 6)


@pytest.mark.parametrize("form", [lambda c: c, dense], ids=["sparse", "dense"])
def test_distances_of_hand_computed_codes(form):
    torch.testing.assert_close(absolute_distance(form(A), form(B)), ABSOLUTE)
    torch.testing.assert_close(relative_distance(form(A), form(B)), RELATIVE)


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

    for penalty in (absolute_distance, relative_distance):
        for sparse, full in zip(gradients(penalty, lambda c: c), gradients(penalty, dense), strict=True):
            torch.testing.assert_close(sparse, full)


def test_distance_to_the_empty_code():
    assert distance_to_nothing(A, relative=False).tolist() == [3.0, 3.0, 0.0]
    assert distance_to_nothing(A, relative=True).tolist() == pytest.approx([2.0, 2.0, 0.0])
    assert distance_to_nothing(dense(A), relative=False).tolist() == [3.0, 3.0, 0.0]


def test_select_keeps_the_rows_asked_for():
    rows = torch.tensor([True, False, True])
    assert torch.equal(dense(select(A, rows)), dense(A)[rows])
    kept = select(dense(A), rows)
    assert isinstance(kept, torch.Tensor)
    assert torch.equal(kept, dense(A)[rows])
    assert select(A, torch.ones(3, dtype=torch.bool)) is A
