"""The compiled sums over slots equal products with the sparse matrix, and refuse what would reach outside a table."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ShapeError
from harness.interfaces.sae import RaggedCodes
from harness.training import sparse_ops
from harness.training.kernels import sparse_decode

pytest.importorskip("numba")
compiled = pytest.importorskip("harness.training.native.compiled")

N, M, D = 40, 23, 37


def slots(seed=0, n=N, m=M):
    """Columns, rows, weights of 150 slots, several of one column in a row and one column without any."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, n, (150,), generator=g).sort().values
    columns = torch.randint(0, m - 1, (150,), generator=g)
    return columns, rows, torch.randn(150, generator=g)


def matrix(columns, rows, weights):
    return torch.zeros(N, M).index_put_((rows, columns), weights, accumulate=True)


@pytest.mark.parametrize("index_type", [torch.int32, torch.int64])
def test_groups_are_a_stable_sort_by_column(index_type):
    columns, rows, _ = slots()
    order, named, offsets = compiled.group(columns.to(index_type), rows, M)
    wanted = torch.sort(columns, stable=True)
    assert torch.equal(order, wanted.indices)
    assert torch.equal(named.long(), rows[order])
    assert offsets.tolist() == [int((columns < c).sum()) for c in range(M + 1)]


def test_groups_of_equally_long_rows_name_the_row():
    columns = torch.randint(0, M, (5 * 7,))
    order, named, _ = compiled.group(columns, 7, M)
    assert torch.equal(named.long(), order // 7)


def test_both_gradients_and_the_totals_are_dense_products():
    columns, rows, weights = slots()
    grad, table = torch.randn(N, D), torch.randn(M, D)
    groups = compiled.group(columns, rows, M)
    grad_values, grad_table = compiled.decode_gradients(grad, weights, *groups, table)
    torch.testing.assert_close(grad_values, (grad @ table.t())[rows, columns])
    torch.testing.assert_close(grad_table, matrix(columns, rows, weights).t() @ grad)
    torch.testing.assert_close(compiled.segment_dots(grad, *groups, table), grad_values)
    sums, totals = compiled.gather(weights, *groups, grad)
    torch.testing.assert_close(sums, grad_table)
    torch.testing.assert_close(totals, matrix(columns, rows, weights).sum(0))
    assert sums[M - 1].abs().max() == 0  # the column without a slot


def test_a_transposed_table_gets_its_gradient_too():
    columns, rows, weights = slots()
    grad, table = torch.randn(N, D), torch.randn(D, M).t()
    _, found = compiled.decode_gradients(grad, weights, *compiled.group(columns, rows, M), table)
    torch.testing.assert_close(found, matrix(columns, rows, weights).t() @ grad)


def test_threads_change_nothing():
    g = torch.Generator().manual_seed(1)
    columns = torch.randint(0, 300, (4000,), generator=g)
    rows = torch.randint(0, 500, (4000,), generator=g).sort().values
    weights, grad, table = (torch.randn(*s, generator=g) for s in ((4000,), (500, 256), (300, 256)))
    groups = compiled.group(columns, rows, 300)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            dots = compiled.segment_dots(grad, *groups, table)
            found.append((*compiled.decode_gradients(grad, weights, *groups, table), dots))
            found[-1] += compiled.gather(weights, *groups, grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_fired_latents_are_those_with_a_positive_value():
    values = torch.tensor([[1.0, 0.0], [-2.0, 3.0]])
    found, n = compiled.fired(values, torch.tensor([[4, 1], [2, 4]]), 6)
    assert found.tolist() == [False, False, False, False, True, False]
    assert n == 2


@pytest.mark.parametrize("bad", [-1, M])
def test_an_index_outside_the_table_is_refused(bad):
    columns, rows, weights = slots()
    columns[3] = bad
    with pytest.raises(ShapeError, match=rf"\[0, {M}\), got .*{bad}"):
        compiled.group(columns, rows, M)
    with pytest.raises(ShapeError, match="codes' indices"):
        compiled.fired(weights, columns, M)
    columns[3] = 0
    groups = compiled.group(columns, rows, M)
    for short in (torch.randn(N - 5, D),):
        with pytest.raises(ShapeError):
            compiled.gather(weights, *groups, short)
        with pytest.raises(ShapeError):
            compiled.decode_gradients(short, weights, *groups, torch.randn(M, D))


def test_codes_that_name_an_unknown_latent_fail_as_an_error_not_a_crash():
    codes = RaggedCodes(torch.tensor([0, 9]), torch.tensor([0, 1, 2]), torch.ones(2, requires_grad=True))
    W_dec = torch.randn(4, 3, requires_grad=True)
    with pytest.raises((ShapeError, RuntimeError, IndexError)):
        sparse_decode(codes, W_dec, torch.zeros(3)).sum().backward()


def test_only_float32_on_the_cpu_without_a_gradient_is_taken():
    plain = torch.randn(3)
    assert sparse_ops.native_ops(plain) is compiled
    assert sparse_ops.native_ops(plain.double()) is None
    assert sparse_ops.native_ops(plain, plain.bfloat16()) is None
    with_gradient = torch.randn(3, requires_grad=True)
    assert sparse_ops.native_ops(with_gradient) is None
    with torch.no_grad():
        assert sparse_ops.native_ops(with_gradient) is compiled


def test_top_k_of_numbers_with_a_gradient_passes_it_on():
    rows = torch.randn(3, 400, requires_grad=True)
    values, indices = sparse_ops.top_k(rows, 2)
    values.sum().backward()
    assert torch.equal(rows.grad, torch.zeros(3, 400).scatter_(1, indices, 1.0))
