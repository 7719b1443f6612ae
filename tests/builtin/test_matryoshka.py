"""Matryoshka BatchTopK: groups, the error of each prefix, and their mean, taken once."""

from __future__ import annotations

import pytest
import torch

from harness import ActivationBatch, ConfigError, SAEConfig, TrainState
from harness.builtin.saes.matryoshka import MatryoshkaSAE, prefix_sizes
from harness.builtin.trainers.batchtopk import BatchTopKTrainer
from harness.builtin.trainers.common import squared_error
from harness.builtin.trainers.matryoshka import MatryoshkaOptions, MatryoshkaTrainer


@pytest.fixture
def rows():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def made(k: int = 3, d_sae: int = 12, **options):
    trainer = MatryoshkaTrainer(MatryoshkaOptions(**{"groups": "1/4,1/4,1/2", **options}))
    sae = MatryoshkaSAE(SAEConfig(architecture="matryoshka", d_in=6, d_sae=d_sae, options=trainer.sae_options(k)))
    sae.reset_parameters(torch.Generator().manual_seed(0))
    return trainer, sae


def loss(trainer, sae, rows, dead=()):
    n = len(rows)
    batch = ActivationBatch(activations=rows, document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n))
    mask = torch.zeros(sae.config.d_sae, dtype=torch.bool)
    mask[list(dead)] = True
    state = TrainState(
        step=0, n_steps=10, tokens_seen=0, target_l0=3, coefficient=0.0, dead=mask, generator=torch.Generator()
    )
    return trainer.loss(sae, batch, state)


def errors_by_hand(sae, rows):
    """[n_groups + 1]: SSE of the bias alone, then of each prefix, densely."""
    z = sae.pre_activations(rows).relu()
    codes = z * (z >= z.flatten().sort(descending=True).values[sae.k * len(rows) - 1])
    prefixes = [codes[:, :size] @ sae.W_dec[:size] + sae.b_dec for size in (0, *sae.prefixes)]
    return torch.stack([squared_error(rows, x_hat) for x_hat in prefixes])


@pytest.mark.parametrize(
    ("groups", "d_sae", "sizes"),
    [
        ("1/16,1/16,1/8,1/4,1/2", 64, (4, 8, 16, 32, 64)),
        ("1/32,1/16,1/8,1/4,17/32", 64, (2, 6, 14, 30, 64)),
        ("0.2,0.8", 10, (2, 10)),
        ("1", 5, (5,)),
        ("1/3,2/3", 10, (3, 10)),
    ],
)
def test_groups_are_shares_of_the_latents(groups, d_sae, sizes):
    assert prefix_sizes(groups, d_sae) == sizes


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("1/2,1/4", "must sum to 1"),
        ("1/2,1/2,0", "must be positive numbers"),
        ("half,half", "must be positive numbers"),
        ("1/0,1", "must be positive numbers"),
        ("", "must be positive numbers"),
        ("1/16,1/16,7/8", "leave one empty"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups, told):
    with pytest.raises(ConfigError, match=told):
        prefix_sizes(groups, 12)


def test_one_weight_a_group_is_asked_for():
    with pytest.raises(ConfigError, match="2 weights for 3 groups"):
        made(group_weights="1,2")


def test_the_reconstruction_term_is_the_mean_over_prefixes_taken_once(rows):
    trainer, sae = made()
    terms = loss(trainer, sae, rows, dead=[1, 7])
    errors = errors_by_hand(sae, rows)
    assert terms.values["sse"].item() == pytest.approx(errors[1:].mean().item(), rel=1e-5)
    assert terms.weights == {"sse": 1.0, "aux": pytest.approx(1 / 32)}
    assert squared_error(rows, terms.reconstruction).item() == pytest.approx(errors[-1].item(), rel=1e-5)


def test_weights_are_relative(rows):
    errors = errors_by_hand(made()[1], rows)[1:]
    wanted = (errors * torch.tensor([1.0, 2.0, 5.0])).sum().item() / 8
    for weights in ("1,2,5", "0.25,1/2,5/4"):
        trainer, sae = made(group_weights=weights)
        assert loss(trainer, sae, rows).values["sse"].item() == pytest.approx(wanted, rel=1e-5)


def test_the_bias_may_count_as_a_prefix(rows):
    trainer, sae = made(bias_only=True)
    wanted = errors_by_hand(sae, rows).mean().item()
    assert loss(trainer, sae, rows).values["sse"].item() == pytest.approx(wanted, rel=1e-5)


def test_gradients_are_those_of_the_dense_definition(rows):
    trainer, sae = made()
    loss(trainer, sae, rows).values["sse"].backward()
    sparse = [p.grad.clone() for p in sae.parameters()]
    sae.zero_grad()
    errors_by_hand(sae, rows)[1:].mean().backward()
    for mine, wanted in zip(sparse, (p.grad for p in sae.parameters()), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)


def test_one_group_is_batchtopk(rows):
    trainer, sae = made(groups="1")
    mine = loss(trainer, sae, rows, dead=[0])
    plain = loss(BatchTopKTrainer(BatchTopKTrainer.options_type()), sae, rows, dead=[0])
    assert mine.total.item() == pytest.approx(plain.total.item(), rel=1e-6)


def test_tokens_without_a_code_decode_to_the_bias():
    _, sae = made()
    sae.threshold.fill_(1e6)
    with torch.no_grad():
        sae.b_dec.fill_(0.5)
    prefixes = sae.decode_prefixes(sae.encode_sparse(torch.ones(4, 6)))
    assert prefixes.shape == (4, 3, 6)
    assert bool((prefixes == 0.5).all())


def test_earlier_latents_learn_from_more_prefixes(rows):
    """The first group's decoder gradient is that of three errors, the last group's of one."""
    trainer, sae = made(groups="1/2,1/2")
    loss(trainer, sae, rows).values["sse"].backward()
    got = sae.W_dec.grad.clone()
    sae.zero_grad()
    (errors_by_hand(sae, rows)[-1] / 2).backward()
    assert torch.allclose(got[6:], sae.W_dec.grad[6:], atol=1e-5)
    assert not torch.allclose(got[:6], sae.W_dec.grad[:6], atol=1e-3)
