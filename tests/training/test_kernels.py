"""The sparse kernels equal their dense definitions."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ShapeError
from harness.training.kernels import (
    encoder_parameter,
    sparse_decode,
    to_dense,
    topk_autoencode,
    topk_encode,
)

pytestmark = pytest.mark.usefixtures("each_way")


def parameters(d_in=12, d_sae=40, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    W_enc = encoder_parameter(d_in, d_sae).to(dtype).detach()
    W_enc.copy_(make(d_in, d_sae))
    return [t.requires_grad_() for t in (W_enc, make(d_sae), make(d_sae, d_in), make(d_in))]


def dense_definition(x, W_enc, b_enc, W_dec, b_dec, k):
    pre = (x - b_dec) @ W_enc + b_enc
    values, ids = pre.topk(k, dim=-1)
    codes = torch.zeros_like(pre).scatter(1, ids, values.relu())
    return codes, codes @ W_dec + b_dec


@pytest.mark.parametrize("k", [1, 5, 40])
def test_forward_and_gradients_equal_the_dense_definition(k):
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(1))
    sparse, dense = parameters(), parameters()
    codes, x_hat = topk_autoencode(x, *sparse, k)
    wanted_codes, wanted = dense_definition(x, *dense, k)
    target = torch.randn_like(x)
    ((x_hat - target).square().sum() + codes.values.pow(3).sum()).backward()
    ((wanted - target).square().sum() + wanted_codes.pow(3).sum()).backward()
    torch.testing.assert_close(x_hat, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(to_dense(codes, 40), wanted_codes, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(sparse, dense, strict=True):
        scale = theirs.grad.abs().max()
        assert (ours.grad - theirs.grad).abs().max() / scale < 1e-6


def test_gradcheck_in_double():
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = parameters(5, 9, torch.float64, seed=4)

    def f(*args):
        codes, x_hat = topk_autoencode(*args, 3)
        return codes.values.sum(1), x_hat

    assert torch.autograd.gradcheck(f, (x, *weights))


def test_gradients_of_a_fully_masked_latent_are_zero():
    x = torch.randn(8, 12)
    W_enc, b_enc, W_dec, b_dec = parameters()
    b_enc.data[7] = -1e6
    _, x_hat = topk_autoencode(x, W_enc, b_enc, W_dec, b_dec, 4)
    x_hat.square().sum().backward()
    assert W_enc.grad[:, 7].abs().max() == 0
    assert W_dec.grad[7].abs().max() == 0


def test_same_input_gives_the_same_bits():
    x = torch.randn(64, 12)
    grads = []
    for _ in range(2):
        weights = parameters()
        topk_autoencode(x, *weights, 6)[1].square().sum().backward()
        grads.append([w.grad for w in weights])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_decode_of_codes_equals_dense_product():
    weights = parameters()
    codes = topk_encode(torch.randn(9, 12), weights[0], weights[1], weights[3], 5)
    torch.testing.assert_close(
        sparse_decode(codes, weights[2], weights[3]), to_dense(codes, 40) @ weights[2] + weights[3]
    )


def test_the_pre_activation_buffer_can_be_bounded():
    x = torch.randn(50, 12)
    whole, chunked = parameters(), parameters()
    (codes, x_hat), (codes_2, x_hat_2) = (
        topk_autoencode(x, *whole, 6),
        topk_autoencode(x, *chunked, 6, buffer_bytes=7 * 40 * 4),
    )
    torch.testing.assert_close(to_dense(codes, 40), to_dense(codes_2, 40))
    x_hat.square().sum().backward()
    x_hat_2.square().sum().backward()
    for ours, theirs in zip(chunked, whole, strict=True):
        assert (ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max() < 1e-6


@pytest.mark.parametrize("k", [0, 41])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ShapeError, match="k must lie in"):
        topk_autoencode(torch.randn(3, 12), *parameters(), k)
