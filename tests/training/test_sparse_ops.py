"""Sums over segments and top-k equal their plain definitions."""

from __future__ import annotations

import pytest
import torch

from harness.interfaces.codes import token_of_slot
from harness.interfaces.sae import RaggedCodes
from harness.training.sparse_ops import SlotsByColumn, dots_by_chunks, segment_sum, slot_dots, top_k

pytestmark = pytest.mark.usefixtures("each_way")


def ragged_list(n=7, m=11, seed=0, index_type=torch.int64):
    """Columns and offsets of n segments with 0 to 6 slots; the third is empty."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 7, (n,), generator=g)
    lengths[2] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    columns = torch.cat([torch.randperm(m, generator=g)[:length] for length in lengths.tolist()])
    return columns.to(index_type), offsets.to(index_type)


def segment_of(columns, offsets):
    return token_of_slot(RaggedCodes(columns, offsets, torch.zeros(len(columns))))


def as_matrix(columns, offsets, weights, m):
    matrix = torch.zeros(len(offsets) - 1, m, dtype=weights.dtype)
    matrix[segment_of(columns, offsets), columns.long()] = weights
    return matrix


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
def test_segment_sum_is_a_product_with_the_sparse_matrix(index_type):
    columns, offsets = ragged_list(index_type=index_type)
    weights, table = torch.randn(len(columns)), torch.randn(11, 5)
    wanted = as_matrix(columns, offsets, weights, 11) @ table
    found = segment_sum(columns, offsets, weights, table)
    torch.testing.assert_close(found, wanted)
    assert found[2].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slot_dots_are_the_entries_of_the_dense_product(dtype):
    columns, offsets = ragged_list()
    grad, table = torch.randn(7, 5, dtype=dtype), torch.randn(11, 5, dtype=dtype)
    segments = segment_of(columns, offsets)
    slots = SlotsByColumn(columns, segments, 11)
    wanted = (grad @ table.t())[segments, columns]
    torch.testing.assert_close(slot_dots(grad, slots, offsets, table), wanted)
    # The public way, taken where the private operation does not reach.
    torch.testing.assert_close(dots_by_chunks(grad, columns, segments, table, chunk=4), wanted)


def test_half_precision_dots_take_the_public_way():
    columns, offsets = ragged_list()
    grad, table = torch.randn(7, 5).bfloat16(), torch.randn(11, 5).bfloat16()
    slots = SlotsByColumn(columns, segment_of(columns, offsets), 11)
    wanted = (grad.float() @ table.float().t())[segment_of(columns, offsets), columns]
    torch.testing.assert_close(slot_dots(grad, slots, offsets, table).float(), wanted, rtol=0.05, atol=0.05)


def test_grouping_by_column_is_the_transposed_matrix():
    columns, offsets = ragged_list()
    weights, table = torch.randn(len(columns)), torch.randn(7, 5)
    slots = SlotsByColumn(columns, segment_of(columns, offsets), 11)
    matrix = as_matrix(columns, offsets, weights, 11)
    torch.testing.assert_close(slots.gather(weights, table), matrix.t() @ table)
    torch.testing.assert_close(slots.totals(weights), matrix.sum(0))


def test_no_slots_at_all_give_zeros():
    columns, offsets = torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    slots = SlotsByColumn(columns, segment_of(columns, offsets), 6)
    assert segment_sum(columns, offsets, torch.zeros(0), torch.randn(6, 5)).tolist() == torch.zeros(3, 5).tolist()
    assert slots.gather(torch.zeros(0), torch.randn(3, 5)).abs().sum() == 0
    assert slot_dots(torch.randn(3, 5), slots, offsets, torch.randn(6, 5)).shape == (0,)


@pytest.mark.parametrize(("m", "k"), [(64, 1), (64, 4), (256, 3), (1024, 16), (4096, 32), (100, 5), (17, 17)])
def test_top_k_finds_what_torch_finds(m, k):
    rows = torch.randn(33, m, generator=torch.Generator().manual_seed(m + k))
    values, indices = top_k(rows, k)
    assert torch.equal(values.sort(1).values, rows.topk(k).values.sort(1).values)
    assert torch.equal(rows.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_top_k_of_equal_values_names_each_place_once():
    rows = torch.zeros(3, 1024)
    rows[:, 5] = 1.0
    values, indices = top_k(rows, 16)
    assert values.sum(1).tolist() == [1.0] * 3
    assert all(len(set(row)) == 16 and 5 in row for row in indices.tolist())


def test_top_k_does_not_hide_nan():
    rows = torch.randn(2, 1024)
    rows[1, 700] = float("nan")
    values, _ = top_k(rows, 4)
    assert not values[0].isnan().any()
    assert values[1].isnan().sum() == 1
