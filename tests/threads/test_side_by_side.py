"""Pieces of work on several threads give what one thread gives."""

from __future__ import annotations

import threading

import pytest
import torch

from harness.threads.side_by_side import one_thread_each, side_by_side
from harness.training.sparse_ops import top_k


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces(threads):
    assert side_by_side(lambda n: n * n, list(range(10))) == [n * n for n in range(10)]
    assert side_by_side(lambda n: n, []) == []


def test_each_thread_computes_alone_and_without_gradient(threads):
    def state(_):
        return threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()

    found = side_by_side(state, list(range(6)))
    assert not any(grad for _, _, grad in found)
    if threads > 1:
        assert {own for _, own, _ in found} == {1}
        assert len({name for name, _, _ in found}) <= threads
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_a_single_piece_too_gets_one_thread_and_may_take_gradients(threads):
    def state(_):
        return torch.get_num_threads(), torch.is_grad_enabled()

    assert one_thread_each(state, [0]) == [(1, True)]
    assert one_thread_each(state, list(range(5))) == [(1, True)] * 5
    assert one_thread_each(lambda n: n * n, list(range(9))) == [n * n for n in range(9)]
    assert torch.get_num_threads() == threads


def test_all_pieces_end_before_an_error_reaches_the_caller(threads):
    if threads == 1:
        pytest.skip("one thread stops at the error")
    ended = []

    def work(n):
        if n == 0:
            raise ZeroDivisionError
        ended.append(n)

    with pytest.raises(ZeroDivisionError):
        one_thread_each(work, [0, 1, 2, 3])
    assert sorted(ended) == [1, 2, 3]


def test_an_error_reaches_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda n: 1 // n, [2, 1, 0, 3])


def test_top_k_spread_over_threads_finds_what_torch_finds(threads):
    rows = torch.randn(1025, 1024, generator=torch.Generator().manual_seed(0))
    values, indices = top_k(rows, 16)
    assert torch.equal(values.sort(1).values, rows.topk(16).values.sort(1).values)
    assert torch.equal(rows.gather(1, indices), values)
