"""Ablating latents: the sum over pooled codes is the token-level definition, and probes are the ones they should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.errors import DataError
from harness.evaluation.codes import encode
from harness.evaluation.concept_ablation import (
    PooledCodes,
    Probes,
    accuracy,
    decoder_products,
    effects_of,
    fit_probes,
    fit_published_probes,
    logits_after,
    mean_rows,
    padded_codes,
    published_choice,
    require_linear,
    strongest,
)
from harness.evaluation.probes import fit_logistic
from harness.interfaces.sae import SAE
from harness.testing.fixtures import D_IN, D_SAE, identity_sae, random_sae

LENGTHS = (3, 1, 7, 2, 5)


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    """Rows [18, D_IN] of five texts, and the text of each."""
    rows = torch.randn(sum(LENGTHS), D_IN, generator=torch.Generator().manual_seed(3))
    return rows, torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))


@pytest.fixture
def probe() -> Probes:
    generator = torch.Generator().manual_seed(4)
    return Probes(torch.randn(1, D_IN, generator=generator).double(), torch.tensor([0.3], dtype=torch.float64))


def biased(sae: SAE) -> SAE:
    """Writes a constant besides: its codes at 0 are not 0, as those of an SAE with an encoder bias."""
    encode_without, decode_without = sae.encode, sae.decode
    offset = torch.linspace(-1, 1, D_IN)
    sae.encode = lambda x: encode_without(x + offset)
    sae.decode = lambda codes: decode_without(codes) - offset
    return sae


def by_tokens(sae: SAE, rows: Tensor, latents: Tensor, *, masked: Tensor | None = None) -> Tensor:
    """The plain definition: encode, set the latents to 0, decode, add the error; rows [..., D_IN]."""
    codes = sae.encode(rows)
    error = rows - sae.decode(codes)
    left = codes.clone()
    left[..., latents] = 0.0
    after = sae.decode(left) + error
    return after if masked is None else after * masked[..., None]


@pytest.mark.parametrize("make", [random_sae, identity_sae, lambda: biased(random_sae(1))])
def test_taking_pooled_contributions_away_is_ablating_every_token(make: Callable[[], SAE], texts, probe: Probes):
    sae, (rows, text) = make(), texts
    pooled = PooledCodes(D_SAE)
    pooled.add(encode(sae, rows), text)
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(5))[:30]
    before = probe.logits(mean_rows([(rows, text)], len(LENGTHS))[None])[0]
    features = pooled.features(torch.arange(len(LENGTHS)))[:, order]
    products = decoder_products(sae, probe.weights)[order, 0]
    ns = (0, 1, 7, 30, 500)
    found = logits_after(before, features, products, ns)
    for n, own in zip(ns, found, strict=True):
        plain = mean_rows([(by_tokens(sae, rows, order[:n]), text)], len(LENGTHS))
        torch.testing.assert_close(own, probe.logits(plain[None])[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0], found[3])


def test_padding_that_is_not_masked_again_shifts_the_pool_as_published(texts, probe: Probes):
    """The published function on texts padded with zeros, and the same with the padding masked after ablation."""
    sae, (rows, text), length = biased(random_sae(1)), texts, 9
    padded = torch.zeros(len(LENGTHS), length, D_IN)
    kept = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    padded[kept] = rows
    pooled = PooledCodes(D_SAE)
    pooled.add(encode(sae, rows), text)
    at_zero = sae.encode(torch.zeros(1, D_IN))[0]
    order = at_zero.argsort(descending=True)[:10]
    assert float(at_zero[order[0]]) > 0, "the SAE must fire on zeros for the fault to show"
    n_tokens = torch.tensor(LENGTHS)
    before = probe.logits(mean_rows([(rows, text)], len(LENGTHS))[None])[0]
    features, products = (
        pooled.features(torch.arange(len(LENGTHS)))[:, order],
        decoder_products(sae, probe.weights)[order, 0],
    )
    published = logits_after(before, padded_codes(features, at_zero[order], n_tokens, length), products, (10,))[0]
    ours = logits_after(before, features, products, (10,))[0]
    for found, masked in ((published, None), (ours, kept)):
        plain = by_tokens(sae, padded, order, masked=masked).sum(1) / n_tokens[:, None]
        torch.testing.assert_close(found, probe.logits(plain[None])[0], rtol=1e-5, atol=1e-5)
    shift = (published - ours).abs()
    assert int(shift.argmax()) == 1, "the shortest text has the most padding"
    assert float(shift.max()) > 0.1


def test_an_sae_that_does_not_add_up_its_directions_is_refused(texts):
    sae = random_sae()
    require_linear(biased(random_sae()), texts[0])
    decode = sae.decode
    sae.decode = lambda codes: decode(codes).tanh()
    with pytest.raises(DataError, match="not a sum of its decoder directions"):
        require_linear(sae, texts[0])


def test_probes_are_the_regressions_of_the_chosen_c_on_standardised_dimensions():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 120, 6, generator=generator) * torch.tensor([1.0, 50.0, 0.1, 1.0, 1.0, 0.0])
    labels = (x[..., 0] + 0.02 * x[..., 1] + torch.randn(2, 120, generator=generator) > 0).double()
    (training, selection), (known, chosen) = x.split(80, dim=1)[:2], labels.split(80, dim=1)[:2]
    probes = fit_probes(training, known, selection, chosen)
    scale = training.std(1, correction=0, keepdim=True).clamp(min=1e-9) * 5**0.5  # five of six dimensions vary
    centred = (training - training.mean(1, keepdim=True)) / scale
    centred[..., 5] = 0.0
    fits = [
        fit_logistic(centred, known, torch.ones_like(known), torch.full((2,), c)).logits(centred)
        for c in (0.01, 0.1, 1.0, 10.0, 100.0)
    ]
    own = probes.logits(training)
    for index in range(2):
        assert any(torch.allclose(own[index], fit[index], atol=1e-5) for fit in fits)
    assert bool((accuracy(probes.logits(selection), chosen) > 0.65).all())


def test_published_probes_take_the_steps_of_torch():
    """Against torch's own AdamW and autograd, on the same draws; the epoch is the best on the test texts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 40, 5, generator=generator)
    labels = (x[..., 0] + 0.3 * x[..., 1] > 0.1).double()
    test, wanted = x[:, 20:], labels[:, 20:]
    probes = fit_published_probes(x[:, :20], labels[:, :20], test, wanted, torch.Generator().manual_seed(9))

    draws = torch.Generator().manual_seed(9)
    w = torch.nn.Parameter((torch.rand(1, 6, generator=draws) * 2 - 1) / 5**0.5)
    optimizer = torch.optim.AdamW([w], lr=1e-3)
    best, kept = 0.0, None
    for _ in range(20):
        order = torch.rand(1, 20, generator=draws).argsort(1)[0]
        for index in order.split(16):
            logits = x[0, index] @ w[0, :5] + w[0, 5]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[0, index].float())
            optimizer.zero_grad()
            (loss + 1e-3 * w[:, :5].abs().sum()).backward()
            optimizer.step()
        found = float(((test[0] @ w[0, :5] + w[0, 5] > 0) == (wanted[0] > 0)).float().mean())
        if found > best:
            best, kept = found, w.detach().clone()
    assert kept is not None
    torch.testing.assert_close(probes.weights[0].float(), kept[0, :5], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probes.bias[0].float(), kept[0, 5], rtol=1e-4, atol=1e-6)


def test_effects_are_the_published_products():
    pooled = torch.tensor([[2.0, 0.0, 1.0, 3.0], [4.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    labels, products = torch.tensor([1, 1, 0, 0]), torch.tensor([1.0, 5.0, 9.0, -1.0], dtype=torch.float64)
    scr = effects_of(pooled, labels, products, positive_only=False)
    tpp = effects_of(pooled, labels, products, positive_only=True)
    assert scr.tolist() == [2.0, 2.5, 0.0, 2.0]
    assert tpp.tolist() == [2.0, 0.0, 0.0, -2.0]


def test_ours_stops_where_effects_end_and_the_published_choice_goes_on():
    effects = torch.tensor([0.0, -2.0, 3.0, 0.0, 1.0], dtype=torch.float64)
    assert strongest(effects, 4).tolist() == [2, 4]
    assert strongest(effects, 1).tolist() == [2]
    assert published_choice(effects, 4).tolist() == [2, 4, 0], "three are not 0, and a 0 is taken before the negative"


def test_latents_of_no_effect_change_nothing(texts, probe: Probes):
    sae, (rows, text) = identity_sae(), texts
    pooled = PooledCodes(D_SAE)
    pooled.add(encode(sae, rows), text)
    unused = torch.arange(2 * D_IN, D_SAE)
    before = probe.logits(mean_rows([(rows, text)], len(LENGTHS))[None])[0]
    features = pooled.features(torch.arange(len(LENGTHS)))[:, unused]
    after = logits_after(before, features, decoder_products(sae, probe.weights)[unused, 0], (2, 20))
    assert torch.equal(after[0], before)
    assert torch.equal(after[1], before)
