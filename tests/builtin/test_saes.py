"""The built-in architectures against values worked out by hand, and the straight-through gradients."""

from __future__ import annotations

import math

import pytest
import torch

from harness import ConfigError, SAEConfig
from harness.builtin.saes.april import AprilSAE
from harness.builtin.saes.batchtopk import BatchTopKSAE
from harness.builtin.saes.gated import GatedSAE
from harness.builtin.saes.jumprelu import JumpReLUFunction, JumpReLUSAE, StepFunction
from harness.builtin.saes.matryoshka import MatryoshkaSAE
from harness.builtin.saes.relu import ReluSAE
from harness.builtin.saes.topk import TopKSAE

KINDS = {
    "relu": ReluSAE,
    "topk": TopKSAE,
    "jumprelu": JumpReLUSAE,
    "batchtopk": BatchTopKSAE,
    "matryoshka": MatryoshkaSAE,
    "gated": GatedSAE,
    "april": AprilSAE,
}
OPTIONS = {"topk": ("k",), "batchtopk": ("k",), "matryoshka": ("k", "groups")}


def make(kind: str, d_in: int = 2, d_sae: int = 3, k: int = 2):
    given = {"k": k, "groups": "1/3,2/3"}
    options = {name: given[name] for name in OPTIONS.get(kind, ())}
    return KINDS[kind](SAEConfig(architecture=kind, d_in=d_in, d_sae=d_sae, options=options))


def by_hand(kind: str, **options):
    """Pre-activations of x = (x0, x1) are (x0 - 1, x1, x0 - 1 + x1 - 0.5)."""
    sae = make(kind, **options)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, 0.0, -0.5]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        sae.b_dec.copy_(torch.tensor([1.0, 0.0]))
        if kind == "jumprelu":
            sae.log_threshold.copy_(torch.tensor([0.5, 1.0, 2.0]).log())
        if kind in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(2.0)
        if kind == "gated":
            sae.r_mag.copy_(torch.tensor([0.0, math.log(2.0), 0.0]))
            sae.b_mag.copy_(torch.tensor([-0.5, 0.0, 1.0]))
    return sae


X = torch.tensor([[4.0, 2.0], [0.0, 1.0], [1.4, -3.0]])


def test_relu_known_answer():
    sae = by_hand("relu")
    assert torch.allclose(sae.encode(X), torch.tensor([[3.0, 2.0, 4.5], [0.0, 1.0, 0.0], [0.4, 0.0, 0.0]]))
    assert torch.allclose(sae(X)[0], torch.tensor([3 + 4.5 * 0.6 + 1, 2 + 4.5 * 0.8]))


def test_topk_keeps_the_largest_and_only_positive_ones():
    sae = by_hand("topk", k=2)
    assert torch.allclose(sae.encode(X), torch.tensor([[3.0, 0.0, 4.5], [0.0, 1.0, 0.0], [0.4, 0.0, 0.0]]))
    assert torch.allclose(by_hand("topk", k=1).encode(X)[0], torch.tensor([0.0, 0.0, 4.5]))


def test_topk_with_all_latents_is_relu():
    assert torch.equal(by_hand("topk", k=3).encode(X), by_hand("relu").encode(X))


def test_topk_sparse_and_dense_codes_agree():
    sae = by_hand("topk")
    codes = sae.encode_sparse(X)
    dense = torch.zeros(3, 3).scatter_add(1, codes.indices, codes.values)
    assert torch.equal(dense, sae.encode(X))


def test_jumprelu_passes_what_exceeds_its_threshold_unchanged():
    sae = by_hand("jumprelu")
    assert torch.allclose(sae.threshold, torch.tensor([0.5, 1.0, 2.0]))
    # 1 does not exceed 1, 0.4 does not exceed 0.5.
    expected = torch.tensor([[3.0, 2.0, 4.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(sae.encode(X), expected)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("k", [0, -1, 4, 1.0, True, None, "2"])
def test_a_k_that_cannot_be_is_refused(kind, k):
    with pytest.raises(ConfigError, match=r"integer in \[1, d_sae = 3\]"):
        make(kind, k=k)


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_batchtopk_passes_what_exceeds_its_one_threshold(kind):
    # 2 does not exceed 2.
    expected = torch.tensor([[3.0, 0.0, 4.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(by_hand(kind).encode(X), expected)


def test_a_threshold_of_zero_makes_batchtopk_relu():
    sae = by_hand("batchtopk")
    sae.threshold.zero_()
    assert torch.equal(sae.encode(X), by_hand("relu").encode(X))


def test_gateds_gate_decides_and_its_magnitude_is_scaled_and_shifted():
    # Gates are (3, 2, 4.5), (-1, 1, -0.5), (0.4, -3, -3.1). Magnitudes are gate - 0.5; twice the gate; and, without the
    # gate's bias of -0.5, gate + 0.5 + 1. At the third token the first gate is open and the magnitude negative.
    expected = torch.tensor([[2.5, 4.0, 6.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(by_hand("gated").encode(X), expected)


def test_april_is_relu_with_free_rows():
    assert torch.equal(by_hand("april").encode(X), by_hand("relu").encode(X))
    assert not AprilSAE.unit_norm_decoder


SPARSE = sorted(KINDS.keys() - {"topk"})


@pytest.mark.parametrize("kind", SPARSE)
def test_ragged_codes_hold_the_active_latents_alone(kind):
    sae = make(kind, d_in=6, d_sae=12, k=3)
    generator = torch.Generator().manual_seed(0)
    sae.reset_parameters(generator)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if kind in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(0.7)
    x = torch.randn(50, 6, generator=generator)
    codes, dense = sae.encode_sparse(x), sae.encode(x)
    assert torch.equal(codes.offsets.diff(), (dense > 0).sum(1))
    assert torch.equal(codes.latents, dense.nonzero()[:, 1])
    assert torch.allclose(codes.values, dense[dense > 0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_leading_shape_is_kept(kind):
    sae = by_hand(kind)
    x = torch.randn(2, 5, 2)
    assert sae.encode(x).shape == (2, 5, 3)
    assert torch.allclose(sae(x).view(10, 2), sae(x.view(10, 2)))
    assert sae(x[0, 0]).shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_weights_and_unit_decoder_rows(kind):
    one, other, third = (make(kind, d_in=6, d_sae=12) for _ in range(3))
    for sae, seed in ((one, 5), (other, 5), (third, 6)):
        sae.reset_parameters(torch.Generator().manual_seed(seed))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.W_dec, third.W_dec)
    assert torch.allclose(one.W_dec.norm(dim=1), torch.ones(12))
    assert torch.equal(one.W_enc, one.W_dec.t())
    assert torch.equal(one.decoder_directions(), one.W_dec)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_a_folded_scale_acts_on_unscaled_input(kind, scale):
    sae = make(kind, d_in=6, d_sae=12, k=3)
    generator = torch.Generator().manual_seed(0)
    sae.reset_parameters(generator)
    with torch.no_grad():
        sae.b_enc.normal_(generator=generator)
        sae.b_dec.normal_(generator=generator)
        if kind in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(0.5)
        if kind == "gated":
            sae.b_mag.normal_(generator=generator)
    x = torch.randn(50, 6, generator=generator)
    before = sae(scale * x) / scale
    codes = sae.encode(scale * x) / scale
    sae.fold_input_scale(scale)
    assert torch.allclose(sae(x), before, atol=1e-5)
    assert torch.allclose(sae.encode(x), codes, atol=1e-5)


# Straight-through gradients. θ = (1, 2), ε = 0.5: the window of the first is (0.75, 1.25), of the second (1.75, 2.25).

THETA = torch.tensor([1.0, 2.0], dtype=torch.float64)
Z = torch.tensor([[0.5, 1.7], [0.8, 1.8], [0.99, 2.2], [1.2, 2.26], [1.3, 3.0], [0.0, 0.0]], dtype=torch.float64)
UPSTREAM = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0], [13.0, 17.0], [19.0, 23.0], [29.0, 31.0]]).double()
EPSILON = 0.5


def gradients(function):
    z, theta = Z.clone().requires_grad_(), THETA.clone().requires_grad_()
    out = function.apply(z, theta, EPSILON)
    out.backward(UPSTREAM)
    return out.detach(), z.grad, theta.grad


def test_the_jumps_gradients_follow_the_formulas():
    out, of_z, of_theta = gradients(JumpReLUFunction)
    passed = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [0, 0]], dtype=torch.float64)
    assert torch.equal(out, Z * passed)
    assert torch.equal(of_z, UPSTREAM * passed)
    # Inside the windows lie rows 1, 2, 3 of the first and 1, 2 of the second.
    assert torch.allclose(of_theta, torch.tensor([-(1 / 0.5) * (3 + 7 + 13), -(2 / 0.5) * (5 + 11)]).double())


def test_the_steps_gradients_follow_the_formulas():
    out, of_z, of_theta = gradients(StepFunction)
    assert out.sum(0).tolist() == [2.0, 3.0]
    assert of_z is None
    assert torch.allclose(of_theta, torch.tensor([-(1 / 0.5) * (3 + 7 + 13), -(1 / 0.5) * (5 + 11)]).double())


def test_the_windows_edges_are_outside():
    z = torch.tensor([[0.75, 1.75], [1.25, 2.25]], dtype=torch.float64)
    theta = THETA.clone().requires_grad_()
    StepFunction.apply(z, theta, EPSILON).sum().backward()
    assert theta.grad.tolist() == [0.0, 0.0]


def test_away_from_the_windows_the_gradients_are_the_true_ones():
    z = torch.tensor([[0.2, 3.0], [1.9, 0.4], [-1.0, 2.9]], dtype=torch.float64, requires_grad=True)
    theta = THETA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z, t: JumpReLUFunction.apply(z, t, EPSILON), (z, theta), eps=1e-5)


def test_a_threshold_cannot_become_negative():
    sae = by_hand("jumprelu")
    with torch.no_grad():
        sae.log_threshold.sub_(1e3)
    assert bool((sae.threshold >= 0).all())


def test_jumprelu_starts_at_a_threshold_of_a_tenth():
    sae = make("jumprelu")
    sae.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.allclose(sae.threshold, torch.full((3,), 0.1))
    assert sae.log_threshold[0].item() == pytest.approx(math.log(0.1))
