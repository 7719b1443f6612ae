"""Sums, selections and distances of sparse codes equal the dense ones."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ShapeError
from harness.interfaces.sae import RaggedCodes, SparseCodes
from harness.training.code_distance import l1_difference, ragged, select_tokens, token_sums
from harness.training.kernels import to_dense

D_SAE = 15


def sparse_codes(seed, n=8, k=4):
    g = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(D_SAE, generator=g)[:k] for _ in range(n)])
    return SparseCodes(indices, torch.rand(n, k, generator=g))


def ragged_codes(seed, n=8):
    """As many latents as the token's number, so that the first has none."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.arange(n)
    latents = torch.cat([torch.randperm(D_SAE, generator=g)[:i] for i in range(n)])
    return RaggedCodes(latents, torch.cat([torch.zeros(1).long(), lengths.cumsum(0)]), torch.rand(28, generator=g))


@pytest.mark.parametrize("make", [sparse_codes, ragged_codes])
def test_distance_equals_the_dense_one_with_its_gradient(make):
    a, b = make(1), make(2)
    for codes in (a, b):
        codes.values.requires_grad_()
    wanted = (to_dense(a, D_SAE) - to_dense(b, D_SAE)).abs().sum(1)
    found = l1_difference(a, b)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (a.values, b.values)),
        torch.autograd.grad(wanted.square().sum(), (a.values, b.values)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_codes_of_both_kinds_can_be_subtracted():
    a, b = sparse_codes(1), ragged_codes(2)
    torch.testing.assert_close(l1_difference(a, b), (to_dense(a, D_SAE) - to_dense(b, D_SAE)).abs().sum(1))


def test_equal_codes_have_no_distance():
    for codes in (sparse_codes(3), ragged_codes(3)):
        assert l1_difference(codes, codes).abs().max() == 0
        assert l1_difference(ragged(codes), codes).abs().max() == 0


def test_codes_without_any_latent():
    empty = RaggedCodes(torch.zeros(0).long(), torch.zeros(4).long(), torch.zeros(0))
    assert l1_difference(empty, empty).tolist() == [0.0] * 3
    assert token_sums(empty).tolist() == [0.0] * 3


def test_different_numbers_of_tokens_are_refused():
    with pytest.raises(ShapeError, match="8 and 5 tokens"):
        l1_difference(ragged_codes(1), ragged_codes(1, 8)._replace(offsets=torch.zeros(6).long()))


@pytest.mark.parametrize("make", [sparse_codes, ragged_codes])
def test_sums_and_selections_equal_the_dense_ones(make):
    codes = make(5)
    torch.testing.assert_close(token_sums(codes), to_dense(codes, D_SAE).sum(1))
    rows = torch.tensor([True, False] * 4)
    torch.testing.assert_close(to_dense(select_tokens(codes, rows), D_SAE), to_dense(codes, D_SAE)[rows])


@pytest.mark.parametrize("make", [sparse_codes, ragged_codes])
def test_sums_of_a_function_of_the_values_take_dense_codes_too(make):
    codes = make(6)
    dense = to_dense(codes, D_SAE)
    torch.testing.assert_close(token_sums(codes, torch.square), dense.square().sum(1))
    torch.testing.assert_close(token_sums(dense, torch.square), dense.square().sum(1))
