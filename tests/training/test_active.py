"""Active latents: the sparse path equals the dense one, and both equal plain autograd."""

from __future__ import annotations

import pytest
import torch

from harness.errors import ConfigError, ShapeError
from harness.interfaces.sae import RaggedCodes
from harness.training.active import active_latents
from harness.training.kernels import encoder_parameter, sparse_decode, to_dense

pytestmark = pytest.mark.usefixtures("each_way")

D_IN, D_SAE, N = 12, 40, 30


def parameters(dtype=torch.float32, d_in=D_IN, d_sae=D_SAE, seed=0):
    g = torch.Generator().manual_seed(seed)
    W_enc = encoder_parameter(d_in, d_sae).to(dtype).detach()
    W_enc.copy_(torch.randn(d_in, d_sae, generator=g))
    rest = [torch.randn(*s, generator=g).to(dtype) for s in ((d_sae,), (d_sae, d_in), (d_in,))]
    return [t.requires_grad_() for t in (W_enc, *rest)]


def relu_loss(x, weights, target, **how):
    W_enc, b_enc, W_dec, b_dec = weights
    active = active_latents(x, W_enc, b_enc, b_dec, above=0.0, **how)
    values = active.z.relu()
    x_hat = active.decode(values, W_dec, b_dec)
    return (x_hat - target).square().sum() + values.pow(3).sum(), active, values


def plain_relu_loss(x, weights, target):
    W_enc, b_enc, W_dec, b_dec = weights
    codes = ((x - b_dec) @ W_enc + b_enc).relu()
    return (codes @ W_dec + b_dec - target).square().sum() + codes.pow(3).sum(), codes


def assert_equal_gradients(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.grad - b.grad).abs().max() / b.grad.abs().max() < 1e-6


@pytest.mark.parametrize("max_density", [0.0, 1.0])
def test_relu_equals_plain_autograd_on_either_path(max_density):
    x, target = torch.randn(2, N, D_IN, generator=torch.Generator().manual_seed(1))
    ours, theirs = parameters(), parameters()
    loss, active, values = relu_loss(x, ours, target, max_density=max_density)
    wanted, codes = plain_relu_loss(x, theirs, target)
    loss.backward()
    wanted.backward()
    assert active.is_dense is (max_density == 0.0)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    made = active.codes(values)
    torch.testing.assert_close(to_dense(made, D_SAE) if isinstance(made, RaggedCodes) else made, codes)
    assert_equal_gradients(ours, theirs)


def test_the_path_is_chosen_by_the_density_found():
    x = torch.randn(N, D_IN)
    W_enc, b_enc, _, b_dec = parameters()
    density = ((x - b_dec) @ W_enc + b_enc > 0).float().mean().item()
    assert 0.2 < density < 0.8
    for limit, dense in ((density + 0.01, False), (density - 0.01, True)):
        assert active_latents(x, W_enc, b_enc, b_dec, above=0.0, max_density=limit).is_dense is dense


def test_a_bound_for_each_latent_and_a_parameter_brought_to_the_pairs():
    x = torch.randn(N, D_IN)
    W_enc, b_enc, _, b_dec = parameters()
    bound = torch.linspace(-1, 3, D_SAE)
    scale = torch.rand(D_SAE, requires_grad=True)
    active = active_latents(x, W_enc, b_enc, b_dec, above=bound, max_density=1.0)
    pre = (x - b_dec) @ W_enc + b_enc
    chosen = pre > bound
    assert torch.equal(to_dense(active.codes(active.z), D_SAE) != 0, chosen)
    (ours,) = torch.autograd.grad((active.z.detach() * active.of(scale)).sum(), scale)
    torch.testing.assert_close(ours, (pre * chosen).sum(0))
    dense = active_latents(x, W_enc, b_enc, b_dec, above=bound, max_density=0.0)
    (theirs,) = torch.autograd.grad((dense.z.detach() * chosen * dense.of(scale)).sum(), scale)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("keep", [1, 60, N * D_SAE])
def test_keep_takes_the_largest_of_the_batch(keep):
    x = torch.randn(N, D_IN)
    W_enc, b_enc, _, b_dec = parameters()
    active = active_latents(x, W_enc, b_enc, b_dec, keep=keep)
    pre = (x - b_dec) @ W_enc + b_enc
    wanted = pre.flatten().topk(keep).values
    torch.testing.assert_close(active.z.sort().values, wanted.sort().values)
    torch.testing.assert_close(pre[to_dense(active.codes(active.z), D_SAE) != 0], active.z)


@pytest.mark.parametrize("max_density", [0.0, 1.0])
def test_gradcheck_in_double(max_density):
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = parameters(torch.float64, 5, 9, seed=4)
    target = torch.zeros_like(x)
    assert torch.autograd.gradcheck(
        lambda *a: relu_loss(a[0], a[1:], target, max_density=max_density)[0], (x, *weights)
    )


def test_chunks_of_tokens_change_nothing():
    x, target = torch.randn(2, N, D_IN)
    whole, chunked = parameters(), parameters()
    relu_loss(x, whole, target, max_density=1.0)[0].backward()
    relu_loss(x, chunked, target, max_density=1.0, buffer_bytes=7 * D_SAE * 4)[0].backward()
    assert_equal_gradients(chunked, whole)


def test_a_batch_without_active_latents_reconstructs_the_bias():
    x = torch.randn(N, D_IN)
    weights = parameters()
    weights[1].data.fill_(-1e6)
    loss, active, values = relu_loss(x, weights, torch.zeros_like(x))
    loss.backward()
    assert values.numel() == 0
    assert torch.equal(active.decode(values, weights[2], weights[3]), weights[3].expand(N, D_IN))
    assert weights[2].grad.abs().max() == 0
    assert isinstance(active.codes(values), RaggedCodes)


def test_ragged_codes_decode_as_the_dense_product():
    W_enc, b_enc, W_dec, b_dec = parameters()
    active = active_latents(torch.randn(N, D_IN), W_enc, b_enc, b_dec, above=0.5, max_density=1.0)
    codes = active.codes(active.z)
    torch.testing.assert_close(sparse_decode(codes, W_dec, b_dec), to_dense(codes, D_SAE) @ W_dec + b_dec)


def test_neither_or_both_ways_to_choose_are_refused():
    W_enc, b_enc, _, b_dec = parameters()
    x = torch.randn(3, D_IN)
    for wrong in ({}, {"above": 0.0, "keep": 3}):
        with pytest.raises(ConfigError, match="either above= or keep="):
            active_latents(x, W_enc, b_enc, b_dec, **wrong)
    with pytest.raises(ShapeError, match="keep must lie in"):
        active_latents(x, W_enc, b_enc, b_dec, keep=3 * D_SAE + 1)
