"""Codes as a sparse matrix: the same numbers as the dense one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.evaluation.code_matrix import CodeMatrix
from harness.interfaces.sae import RaggedCodes

D_SAE = 9


def ragged(dense: Tensor) -> RaggedCodes:
    token, latent = dense.nonzero(as_tuple=True)
    lengths = torch.bincount(token, minlength=len(dense))
    return RaggedCodes(latent, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), dense[token, latent])


@pytest.fixture
def dense() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(7, D_SAE, generator=generator)
    codes *= torch.rand(7, D_SAE, generator=generator) < 0.4
    codes[3] = 0.0
    codes[:, 5] = 0.0
    return codes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_the_dense_matrix(dense, dtype):
    tokens = torch.tensor([6, 0, 3, 3, 1])
    matrix, wanted = CodeMatrix(ragged(dense), D_SAE, tokens), dense[tokens].to(dtype)
    weights, values = torch.randn(D_SAE, 3, dtype=dtype), torch.randn(5, 3, dtype=dtype)
    torch.testing.assert_close(matrix.times(weights), wanted @ weights)
    torch.testing.assert_close(matrix.transposed_times(values), wanted.T @ values)
    torch.testing.assert_close(matrix.squared().transposed_times(values), wanted.square().T @ values)


def test_columns_come_in_the_order_asked_for(dense):
    matrix = CodeMatrix(ragged(dense), D_SAE, torch.arange(7))
    assert torch.equal(matrix.columns(torch.tensor([8, 0, 5])), dense[:, [8, 0, 5]].double())


def test_codes_of_nothing_are_a_matrix_of_zeros():
    matrix = CodeMatrix(ragged(torch.zeros(4, D_SAE)), D_SAE, torch.arange(4))
    assert not matrix.times(torch.ones(D_SAE, 2)).any()
    assert matrix.transposed_times(torch.ones(4, 2)).shape == (D_SAE, 2)
    assert not matrix.columns(torch.arange(3)).any()
