"""The controls come out as known."""

from __future__ import annotations

import pytest
import torch

from harness import ActivationBatch, ConfigError, SAEConfig
from harness.builtin.controls.identity import IdentitySAE, IdentityTrainer
from harness.builtin.controls.pca import PcaSAE, PcaTrainer
from harness.builtin.controls.random import RandomTrainer
from harness.builtin.saes.topk import TopKSAE

D_IN, D_SAE = 6, 16


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    turn, _ = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator))
    return torch.randn(400, D_IN, generator=generator) * spread @ turn + 2.0


def batch_of(rows) -> ActivationBatch:
    n = rows.shape[0]
    return ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))


def made(sae_class, trainer_class, rows, k: int | None = None, seed: int = 0):
    trainer = trainer_class(trainer_class.options_type())
    options = dict(trainer.sae_options(k))
    sae = sae_class(SAEConfig(architecture="x", d_in=D_IN, d_sae=D_SAE, options=options))
    generator = torch.Generator().manual_seed(seed)
    sae.reset_parameters(generator)
    trainer.initialise(sae, batch_of(rows), k, generator)
    return sae


def fvu(sae, rows) -> float:
    return ((rows - sae(rows)).square().sum() / (rows - rows.mean(0)).square().sum()).item()


def test_the_identity_gives_its_input_back_to_the_bit(rows):
    sae = made(IdentitySAE, IdentityTrainer, rows)
    assert torch.equal(sae(rows), rows)
    assert sae.encode(rows).shape == (400, D_SAE)
    assert bool((sae.encode(rows) >= 0).all())
    assert (sae.encode(rows) > 0).sum(1).unique().tolist() == [D_IN]
    assert list(sae.parameters()) == []


def test_the_identitys_directions_write_what_its_codes_say(rows):
    sae = made(IdentitySAE, IdentityTrainer, rows)
    assert torch.equal(sae.encode(rows) @ sae.decoder_directions(), rows)


def test_pca_with_all_components_reconstructs(rows):
    sae = made(PcaSAE, PcaTrainer, rows, k=D_IN)
    assert torch.allclose(sae(rows), rows, atol=1e-4)
    assert fvu(sae, rows) < 1e-10


def test_pca_uses_k_codes_and_more_explain_more(rows):
    found = [made(PcaSAE, PcaTrainer, rows, k=k) for k in range(1, D_IN + 1)]
    errors = [fvu(sae, rows) for sae in found]
    assert errors == sorted(errors, reverse=True)
    for k, sae in enumerate(found, 1):
        assert (sae.encode(rows) > 0).sum(1).unique().tolist() == [k]


def test_pcas_components_are_orthonormal_and_the_first_explains_most(rows):
    sae = made(PcaSAE, PcaTrainer, rows, k=1)
    assert torch.allclose(sae.components @ sae.components.t(), torch.eye(D_IN), atol=1e-5)
    variances = ((rows - rows.mean(0)) @ sae.components.t()).var(0)
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)
    assert torch.allclose(sae.b_dec, rows.mean(0), atol=1e-5)


def test_pca_beyond_its_components_uses_them_all(rows):
    assert made(PcaSAE, PcaTrainer, rows, k=12).k == D_IN


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_folding_the_scale_keeps_what_the_controls_do(rows, scale):
    for sae in (
        made(IdentitySAE, IdentityTrainer, scale * rows),
        made(PcaSAE, PcaTrainer, scale * rows, k=2),
        made(TopKSAE, RandomTrainer, scale * rows, k=2),
    ):
        before = sae(scale * rows) / scale
        sae.fold_input_scale(scale)
        assert torch.allclose(sae(rows), before, atol=1e-4)


def test_random_is_worse_than_pca_and_better_than_nothing(rows):
    random = made(TopKSAE, RandomTrainer, rows, k=2)
    assert fvu(made(PcaSAE, PcaTrainer, rows, k=2), rows) < fvu(random, rows) < 1.05
    assert torch.allclose(random.W_dec.norm(dim=1), torch.ones(D_SAE))


def test_random_differs_by_seed_and_only_by_seed(rows):
    one, other, third = (made(TopKSAE, RandomTrainer, rows, k=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.W_enc, other.W_enc)
    assert not torch.equal(one.W_dec, third.W_dec)


def test_randoms_size_is_the_best_one(rows):
    """The gain is that of least squares on the sample: its reconstruction is orthogonal to what it leaves."""
    sae = made(TopKSAE, RandomTrainer, rows, k=3)
    part, rest = sae(rows) - sae.b_dec, rows - sae(rows)
    assert abs((part * rest).sum().item()) < 1e-3 * part.square().sum().item()


def test_a_dictionary_too_small_for_both_signs_is_refused():
    for sae_class, options in ((IdentitySAE, {}), (PcaSAE, {"k": 2})):
        with pytest.raises(ConfigError, match=r"d_sae >= 2·d_in = 12, got 11"):
            sae_class(SAEConfig(architecture="x", d_in=6, d_sae=11, options=options))


@pytest.mark.parametrize("k", [None, 0, 1.5, True])
def test_pca_refuses_a_k_that_cannot_be(k):
    with pytest.raises(ConfigError, match="integer >= 1"):
        PcaSAE(SAEConfig(architecture="pca", d_in=2, d_sae=4, options={"k": k}))


def test_a_controls_loss_is_never_called(rows):
    trainer = IdentityTrainer(IdentityTrainer.options_type())
    with pytest.raises(ConfigError, match="not trained"):
        trainer.loss(None, batch_of(rows), None)
