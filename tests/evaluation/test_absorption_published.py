"""SAEBench's probes and choice of latents: steps down the loss it names, and its rules on constructed codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.evaluation.absorption import Letters
from harness.evaluation.absorption_published import (
    _Trainer,
    published_probe,
    published_ranking,
    published_split,
)
from harness.interfaces.sae import RaggedCodes

N, D_SAE = 2000, 600
PART = (torch.arange(N) % 5 - 2).clamp(min=0)
LABELS = torch.stack([torch.arange(N) % 7 == 0, torch.arange(N) % 11 == 0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ragged(dense: Tensor) -> RaggedCodes:
    token, latent = dense.nonzero(as_tuple=True)
    lengths = torch.bincount(token, minlength=len(dense))
    return RaggedCodes(latent, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), dense[token, latent])


def test_the_slope_is_that_of_the_class_balanced_loss():
    y = LABELS.T.float()
    trainer = _Trainer(5, y, 0.0, generator())
    logits = torch.randn(N, 2, generator=generator(), requires_grad=True)
    positive_weight = (N - y.sum(0)) / y.sum(0)
    torch.nn.BCEWithLogitsLoss(pos_weight=positive_weight)(logits, y).backward()
    assert logits.grad is not None
    torch.testing.assert_close(trainer.slope(logits.detach(), y), logits.grad)


def test_an_epoch_sees_each_word_once_and_the_rate_falls_to_its_end():
    trainer = _Trainer(5, LABELS.T.float(), 0.0, generator())
    epochs = list(trainer.batches(700))
    assert len(epochs) == 50 * 3
    assert torch.equal(torch.cat(epochs[:3]).sort().values, torch.arange(N))
    assert trainer._adam.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_probes_learn_letters_and_follow_from_the_seed():
    rows = 3.0 * LABELS.T.float() @ torch.randn(2, 12, generator=generator(1)) + torch.randn(
        N, 12, generator=generator(2)
    )
    none = torch.zeros(2)
    known = Letters(torch.arange(2), rows, LABELS, PART, none, none, none, none)
    one, again, other = (published_probe(known, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)
    logits = rows @ one.weight.T + one.bias
    right = ((logits.T > 0) == LABELS)[:, PART == 2].double().mean(1)
    assert float(right.min()) > 0.95


def codes() -> Tensor:
    # Fifty steps rank what fires seldom and in the letter by chance above the letter's own latents: here none does.
    dense = torch.rand(N, D_SAE, generator=generator(3)) * (torch.rand(N, D_SAE, generator=generator(4)) < 0.02)
    dense[LABELS.any(0)] = 0.0
    half = torch.arange(N) // 7 % 2 == 0
    dense[:, 5], dense[:, 6] = 2.0 * (LABELS[0] & half), 2.0 * (LABELS[0] & ~half)
    dense[:, 9] = 2.0 * LABELS[1]
    return dense


def test_latents_of_a_letter_rank_first_and_are_added_while_f1_rises():
    found = ragged(codes())
    ranking = published_ranking(found, D_SAE, LABELS, PART, generator())
    assert ranking.shape == (2, 10)
    assert set(ranking[0, :2].tolist()) == {5, 6}
    assert ranking[1, 0] == 9
    split = published_split(found, D_SAE, ranking, LABELS, PART)
    assert split.n.tolist() == [2, 1]
    assert split.test_f1.tolist() == [1.0, 1.0]


def test_there_is_always_a_first_latent():
    split = published_split(ragged(torch.zeros(N, D_SAE)), D_SAE, torch.arange(20).view(2, 10), LABELS, PART)
    assert split.n.tolist() == [1, 1]
