"""Gated SAEs: the three terms, and what their gradients reach."""

from __future__ import annotations

import pytest
import torch

from harness import ActivationBatch, SAEConfig, TrainState
from harness.builtin.saes.gated import GatedSAE
from harness.builtin.trainers.common import squared_error
from harness.builtin.trainers.gated import GatedOptions, GatedTrainer


@pytest.fixture
def rows():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[-1.5, 0.0], ids=["sparse", "dense"])
def sae(request):
    """Few gates open with the bias at -1.5, half of them at 0: the two paths of the step."""
    made = GatedSAE(SAEConfig(architecture="gated", d_in=6, d_sae=12))
    generator = torch.Generator().manual_seed(0)
    made.reset_parameters(generator)
    with torch.no_grad():
        made.b_enc.fill_(request.param)
        made.r_mag.normal_(0, 0.3, generator=generator)
        made.b_mag.normal_(0, 0.3, generator=generator)
        made.b_dec.normal_(0, 0.3, generator=generator)
    return made


def loss(sae, rows, coefficient=0.5):
    n = len(rows)
    batch = ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))
    state = TrainState(
        step=0,
        n_steps=10,
        tokens_seen=0,
        target_l0=3,
        coefficient=coefficient,
        dead=torch.zeros(12, dtype=torch.bool),
        generator=torch.Generator(),
    )
    return GatedTrainer(GatedOptions()).loss(sae, batch, state)


def dense_terms(sae, rows):
    """The paper's definition, term by term."""
    gate = (rows - sae.b_dec) @ sae.W_enc + sae.b_enc
    magnitude = ((rows - sae.b_dec) @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag).relu()
    codes = (gate > 0) * magnitude
    via_gate = gate.relu() @ sae.W_dec.detach() + sae.b_dec.detach()
    return {
        "sse": squared_error(rows, codes @ sae.W_dec + sae.b_dec),
        "l1": gate.relu().sum(1).mean(),
        "aux": squared_error(rows, via_gate),
    }


def test_terms_are_those_of_the_paper(sae, rows):
    terms, wanted = loss(sae, rows), dense_terms(sae, rows)
    assert terms.weights == {"sse": 1.0, "l1": 0.5, "aux": 1.0}
    for name, value in wanted.items():
        assert terms.values[name].item() == pytest.approx(value.item(), rel=1e-5)


def test_gradients_are_those_of_the_paper(sae, rows):
    for name in ("sse", "l1", "aux"):
        found = torch.autograd.grad(loss(sae, rows).values[name], list(sae.parameters()), allow_unused=True)
        wanted = torch.autograd.grad(dense_terms(sae, rows)[name], list(sae.parameters()), allow_unused=True)
        for (which, p), mine, theirs in zip(sae.named_parameters(), found, wanted, strict=True):
            mine, theirs = (torch.zeros_like(p) if g is None else g for g in (mine, theirs))
            assert torch.allclose(mine, theirs, atol=1e-5), (name, which)


def test_the_gates_own_error_does_not_move_the_decoder_or_the_magnitudes(sae, rows):
    moved = ("W_dec", "r_mag", "b_mag")
    grads = torch.autograd.grad(loss(sae, rows).values["aux"], [getattr(sae, n) for n in moved], allow_unused=True)
    assert all(g is None or not bool(g.any()) for g in grads)


def test_the_reconstruction_does_not_move_the_gates_bias(sae, rows):
    (grad,) = torch.autograd.grad(loss(sae, rows).values["sse"], [sae.b_enc])
    assert float(grad.abs().max()) < 1e-5  # a step has no gradient


def test_the_penalty_shrinks_gates_and_not_magnitudes(sae, rows):
    magnitudes = (sae.r_mag, sae.b_mag, sae.W_dec)
    grads = torch.autograd.grad(loss(sae, rows).values["l1"], magnitudes, allow_unused=True)
    assert all(g is None or not bool(g.any()) for g in grads)


def test_codes_in_training_are_those_of_the_sae(sae, rows):
    terms = loss(sae, rows)
    assert torch.allclose(terms.reconstruction, sae(rows), atol=1e-5)
    values = terms.codes if isinstance(terms.codes, torch.Tensor) else terms.codes.values
    assert int((values > 0).sum()) == int((sae.encode(rows) > 0).sum())
