"""Split latents and absorption of constructed codes, beside the published rules written out word by word."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.errors import DataError
from harness.evaluation.absorption import (
    Letters,
    absorbed,
    balanced,
    counted_letters,
    decoded,
    f1,
    letters_of,
    said_words,
    split_latents,
)
from harness.evaluation.absorption_words import Drawn
from harness.interfaces.sae import RaggedCodes
from harness.testing.fixtures import identity_sae, random_sae

N, D_SAE = 300, 40
PART = (torch.arange(N) % 5).clamp(max=2)  # a fifth trains, a fifth chooses, three fifths are measured on


def ragged(dense: Tensor) -> RaggedCodes:
    token, latent = dense.nonzero(as_tuple=True)
    lengths = torch.bincount(token, minlength=len(dense))
    return RaggedCodes(latent, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), dense[token, latent])


def labels_of(share: float = 0.3) -> Tensor:
    return torch.rand(2, N, generator=torch.Generator().manual_seed(1)) < share


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(N, D_SAE, generator=generator) * (torch.rand(N, D_SAE, generator=generator) < 0.1)


def test_f1_is_that_of_the_confusion_matrix():
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0, 0.0], [-1.0] * 5])
    labels = torch.tensor([[True, False, True, False, True], [False] * 5])
    assert f1(logits, labels).tolist() == [pytest.approx(2 / 5), 0.0]


def test_balanced_weights_give_each_class_half():
    labels = labels_of(0.1)
    weights = balanced(labels)
    torch.testing.assert_close((weights * labels).sum(1), torch.full((2,), N / 2, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), torch.full((2,), float(N), dtype=torch.float64))


def test_one_latent_that_is_the_letter_is_found_alone():
    labels, codes = labels_of(), noise()
    codes[:, 7] = 3.0 * labels[0]
    codes[:, 9] = 0.1 * labels[1]
    found = split_latents(ragged(codes), D_SAE, labels, PART)
    assert found.latents[:, 0].tolist() == [7, 9]
    assert found.n.tolist() == [1, 1]
    assert found.validation_f1.tolist() == found.test_f1.tolist() == [1.0, 1.0]


def test_two_halves_of_a_letter_are_both_found():
    labels, codes = labels_of(), noise()
    half = torch.arange(N) // 5 % 2 == 0
    codes[:, 7] = 3.0 * (labels[0] & half)
    codes[:, 9] = 2.0 * (labels[0] & ~half)
    found = split_latents(ragged(codes), D_SAE, labels, PART)
    assert found.n[0] == 2
    assert set(found.latents[0, :2].tolist()) == {7, 9}
    assert found.test_f1[0] == 1.0


def test_a_latent_that_says_what_another_said_is_not_taken():
    labels, codes = labels_of(), noise()
    half = torch.arange(N) // 5 % 2 == 0
    # The pair agrees on the larger share, so that by itself each twin ranks above the other half.
    codes[:, 7] = codes[:, 8] = 3.0 * (labels[0] & (half | (torch.arange(N) % 3 == 0)))
    codes[:, 9] = 2.0 * (labels[0] & ~half & (torch.arange(N) % 3 != 0))
    found = split_latents(ragged(codes), D_SAE, labels, PART)
    assert found.latents[0, :2].tolist() == [7, 9]
    assert found.n[0] == 2


def test_a_latent_that_says_the_opposite_is_not_taken():
    labels = labels_of()
    codes = torch.zeros(N, D_SAE)
    codes[:, 3] = (~labels[0]).float()
    found = split_latents(ragged(codes), D_SAE, labels, PART)
    assert found.latents[0].tolist() == [-1] * 10
    assert (found.n[0], found.validation_f1[0], found.test_f1[0]) == (0, 0.0, 0.0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_latents_that_never_change_are_no_split_latents(value):
    codes = torch.full((N, D_SAE), value)
    assert split_latents(ragged(codes), D_SAE, labels_of(), PART).n.tolist() == [0, 0]


def test_the_unit_of_a_latent_does_not_matter():
    labels, codes = labels_of(), noise()
    codes[:, :6] += 0.3 * labels[0][:, None] * (torch.arange(N)[:, None] % 6 == torch.arange(6))
    units = torch.logspace(-3, 3, D_SAE)
    plain, scaled = (split_latents(ragged(codes * unit), D_SAE, labels, PART) for unit in (1.0, units))
    assert torch.equal(plain.latents, scaled.latents)
    torch.testing.assert_close(plain.test_f1, scaled.test_f1)


def published_rule(activations, cosines, projection, main):
    """(fraction, full) of one word, as SAEBench 0.6.0 writes it."""
    projections = activations * cosines
    by_main = float(projections[main].sum())
    others = torch.ones(len(activations), dtype=torch.bool)
    others[main] = False
    others &= (cosines >= 0.1) & (projections > 0)
    top = float(projections[others].topk(min(3, int(others.sum()))).values.sum())
    if by_main >= projection or top / projection < 0.4:
        fraction = 0.0
    elif by_main <= 0:
        fraction = 1.0
    else:
        taken = min(top, projection - by_main)
        fraction = min(max(taken / (taken + by_main), 0.0), 1.0)
    best = int(projections.argmax())
    full = bool((activations[main] < 1e-8).all()) and float(cosines[best]) >= 0.025 and projection >= 0
    return fraction, full and float(projections[best]) / projection >= 0.4


def test_absorption_is_the_published_rule_on_random_words():
    generator = torch.Generator().manual_seed(3)
    n, n_letters = 4000, 5
    dense = torch.rand(n, D_SAE, generator=generator) * (torch.rand(n, D_SAE, generator=generator) < 0.08)
    cosine = 0.4 * torch.randn(n_letters, D_SAE, generator=generator).double()
    letter = torch.randint(n_letters, (n,), generator=generator)
    projection = 0.5 * torch.randn(n, generator=generator).double() + 0.4
    split = torch.full((n_letters, 4), -1)
    split[:, 0], split[1, 1], split[3, :4] = torch.arange(n_letters), 9, torch.tensor([20, 21, 22, 23])
    found = absorbed(ragged(dense), letter, projection, cosine, cosine, split)
    rules = [
        published_rule(row, cosine[own], p, split[own][split[own] >= 0])
        for row, own, p in zip(dense.double(), letter.tolist(), projection.tolist(), strict=True)
    ]
    torch.testing.assert_close(found.fraction, torch.tensor([fraction for fraction, _ in rules]).double())
    assert found.full.tolist() == [full for _, full in rules]
    assert 100 < int(found.full.sum()) < n - 100
    partial = (found.fraction > 0) & (found.fraction < 1)
    assert int(partial.sum()) > 50


def test_words_without_any_active_latent_are_not_absorbed():
    found = absorbed(
        ragged(torch.zeros(3, D_SAE)),
        torch.zeros(3, dtype=torch.int64),
        torch.ones(3, dtype=torch.float64),
        torch.ones(1, D_SAE, dtype=torch.float64),
        torch.ones(1, D_SAE, dtype=torch.float64),
        torch.tensor([[2, -1]]),
    )
    assert not found.full.any()
    assert not found.fraction.any()


def test_a_decoder_is_read_along_directions():
    directions = torch.nn.functional.normalize(torch.randn(3, 16, dtype=torch.float64), dim=1)
    found = decoded(random_sae(), directions)
    rows = random_sae().decoder_directions().double()
    torch.testing.assert_close(found.writes, directions @ rows.T)
    torch.testing.assert_close(found.cosine, found.writes, rtol=1e-6, atol=1e-6)
    assert not found.bias.any()
    # Latents without a decoder row write nothing, and have no cosine.
    assert not decoded(identity_sae(), directions).cosine[:, 32:].any()


def words(n_per_letter: int, d: int, *, strength: float = 4.0) -> tuple[Tensor, Drawn]:
    generator = torch.Generator().manual_seed(4)
    letter = torch.arange(4).repeat_interleave(n_per_letter)
    rows = torch.randn(len(letter), d, generator=generator) + strength * torch.eye(d)[letter]
    part = (torch.arange(len(letter)) % 5 - 2).clamp(min=0)
    return rows, Drawn(torch.arange(len(letter)), letter, part)


@pytest.mark.parametrize("d", [8, 300], ids=["more words than dimensions", "fewer words than dimensions"])
def test_probes_find_each_letters_direction(d):
    known = letters_of(*words(60, d, strength=12.0))
    assert (known.letter.tolist(), known.labels.sum(1).tolist()) == ([0, 1, 2, 3], [60] * 4)
    torch.testing.assert_close(known.directions.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert known.directions[:, :4].argmax(1).tolist() == [0, 1, 2, 3]
    assert float(known.test_f1.min()) > 0.9
    letter, word = said_words(known.labels, known.logits, known.part)
    assert bool((known.part[word] == 2).all())
    assert bool(known.labels[letter, word].all())


def test_a_probe_is_the_same_in_any_units():
    rows, drawn = words(30, 10)
    one, other = letters_of(rows, drawn), letters_of(100 * rows + 7, drawn)
    torch.testing.assert_close(one.directions, other.directions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.validation_f1, other.validation_f1)


def known_of(validation_f1: list[float]) -> Letters:
    n = len(validation_f1)
    labels = torch.eye(n, dtype=torch.bool)
    values = torch.tensor(validation_f1, dtype=torch.float64)
    ones = torch.ones(n, dtype=torch.int64)
    return Letters(
        torch.arange(n), torch.zeros(n, 2), labels, 2 * ones, torch.zeros(n, 2), labels.double(), values, values
    )


def test_letters_count_by_the_lms_probes_alone():
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    known = known_of([0.61] * 20 + [0.6] * 6)
    assert counted_letters(known, alphabet).tolist() == [True] * 20 + [False] * 6
    with pytest.raises(DataError, match=r"19 letters have .* 20 are needed of 26\. F1 by letter, .*: a 0\.61"):
        counted_letters(known_of([0.61] * 19 + [0.6] * 7), alphabet)


def test_a_letter_whose_probe_says_no_test_word_does_not_count():
    known = known_of([0.9] * 3)
    silent = known._replace(logits=known.logits * torch.tensor([[1.0], [1.0], [0.0]]))
    with pytest.raises(DataError, match="2 letters have"):
        counted_letters(silent, "abc")
    assert counted_letters(known, "abc").all()
    assert math.ceil(20 / 26 * 3) == 3
