"""The compiled selections find what torch finds, in rows of every length and kind."""

from __future__ import annotations

import pytest
import torch

from harness.training.sparse_ops import pairs_above, top_k, top_k_biased

pytest.importorskip("numba")
compiled = pytest.importorskip("harness.training.native.compiled")

ROWS = {
    "normal": lambda n, m, g: torch.randn(n, m, generator=g),
    "few distinct values": lambda n, m, g: torch.randint(0, 3, (n, m), generator=g).float(),
    "mostly zeros": lambda n, m, g: torch.randn(n, m, generator=g).clamp_min(2.0) - 2.0,
    "all below zero": lambda n, m, g: -torch.rand(n, m, generator=g) - 1.0,
    "one huge number": lambda n, m, g: torch.randn(n, m, generator=g).index_fill_(1, torch.tensor([m // 3]), 1e30),
    "infinities": lambda n, m, g: torch.randn(n, m, generator=g).index_fill_(1, torch.tensor([0, m - 1]), float("inf")),
    "negative infinities": lambda n, m, g: torch.full((n, m), float("-inf")),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(("m", "k"), [(3, 2), (255, 1), (256, 256), (257, 8), (1000, 32), (1536, 40), (4096, 300)])
def test_top_k_finds_the_largest_of_row_plus_bias(kind, m, k):
    g = torch.Generator().manual_seed(m + k)
    rows, bias = ROWS[kind](9, m, g), torch.randn(m, generator=g)
    values, indices = compiled.top_k(rows, bias, k)
    whole = rows + bias
    assert torch.equal(values.sort(1).values, whole.topk(k).values.sort(1).values)
    assert torch.equal(whole.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("place", [0, 130, 511, 512])
@pytest.mark.parametrize("m", [200, 513])
def test_nan_anywhere_is_left_to_torch(m, place):
    rows = torch.randn(2, m)
    rows[1, min(place, m - 1)] = float("nan")
    assert compiled.top_k(rows, torch.zeros(m), 3) is None
    assert top_k(rows, 3)[0][1].isnan().sum() == 1


def test_bias_is_added_once_on_both_ways():
    rows, bias = torch.randn(5, 600), torch.randn(600)
    wanted = (rows + bias).topk(7).values.sort(1).values
    assert torch.equal(top_k_biased(rows.clone(), bias, 7)[0].sort(1).values, wanted)
    nan = rows.clone()
    nan[0, 0] = float("nan")  # goes through the compiled kernel first
    assert torch.equal(top_k_biased(nan, bias, 7)[0][1:].sort(1).values, wanted[1:])


@pytest.mark.parametrize("m", [63, 64, 65, 1000])
def test_pairs_above_are_those_above_in_token_order(m):
    g = torch.Generator().manual_seed(m)
    rows, bias, above = (torch.randn(*shape, generator=g) for shape in ((11, m), (m,), (m,)))
    rows[4], rows[6, 0] = -1e9, float("nan")
    cells = (rows + bias) > above
    columns, values, counts = compiled.pairs_above(rows, bias, above, rows.numel())
    assert torch.equal(columns, cells.nonzero()[:, 1])
    assert torch.equal(values, (rows + bias)[cells])
    assert torch.equal(counts, cells.sum(1))
    assert compiled.pairs_above(rows, bias, above, int(cells.sum()) - 1) is None


def test_too_many_pairs_leave_the_sum_behind():
    rows, bias = torch.randn(4, 50), torch.randn(50)
    given = rows.clone()
    assert pairs_above(given, bias, float("-inf"), 10) is None
    assert torch.equal(given, rows + bias)


def test_no_rows_give_nothing():
    values, indices = compiled.top_k(torch.zeros(0, 300), torch.zeros(300), 2)
    assert values.shape == indices.shape == (0, 2)
    columns, _, counts = compiled.pairs_above(torch.zeros(0, 30), torch.zeros(30), torch.zeros(30), 5)
    assert len(columns) == len(counts) == 0


def test_threads_change_nothing():
    rows, bias = torch.randn(700, 1024), torch.randn(1024)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((*compiled.top_k(rows, bias, 9), *compiled.pairs_above(rows, bias, bias, rows.numel())))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
