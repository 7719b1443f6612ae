"""Codes as active latents, against the dense codes they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harness.errors import NonFiniteError
from harness.evaluation import codes as codes_module
from harness.evaluation.codes import CodeMemo, Decoder, dense, encode, n_active, take, token_of_slot
from harness.interfaces.sae import SAE, RaggedCodes, SAEConfig, SparseCodes

D_IN, D_SAE = 5, 40


class Rectified(SAE):
    """x̂ = relu(x W + b) W_dec + b_dec, with few active latents; `edit` makes its decoder any other function."""

    def __init__(self, edit=None) -> None:
        super().__init__(SAEConfig(architecture="rectified", d_in=D_IN, d_sae=D_SAE))
        generator = torch.Generator().manual_seed(0)
        self.W_enc = nn.Parameter(torch.randn(D_IN, D_SAE, generator=generator))
        self.b_enc = nn.Parameter(torch.full((D_SAE,), -7.0))
        self.W_dec = nn.Parameter(torch.randn(D_SAE, D_IN, generator=generator))
        self.b_dec = nn.Parameter(torch.randn(D_IN, generator=generator))
        self.edit = edit or (lambda x_hat: x_hat)
        self.n_encoded = self.n_decoded = 0

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        self.n_encoded += len(x)
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, codes):
        self.n_decoded += len(codes)
        return self.edit(codes @ self.W_dec + self.b_dec)

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return self.W_dec


class Ragged(Rectified):
    """The same codes, each token's latents in falling order, and one slot that is not used."""

    def encode_sparse(self, x):
        values = self.encode(x)
        tokens, places = (values.flip(1) > 0).nonzero(as_tuple=True)
        latents = D_SAE - 1 - places
        lengths = torch.bincount(tokens, minlength=len(x))
        lengths[-1] += 1
        return RaggedCodes(
            torch.cat([latents, (values[-1] == 0).nonzero()[0]]),
            torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            torch.cat([values[tokens, latents], torch.zeros(1)]),
        )


class Slots(Rectified):
    """The three largest of each token, in no order; slots may be unused."""

    def encode(self, x):
        kept = super().encode(x).topk(3, dim=1)
        return torch.zeros(len(x), D_SAE).scatter(1, kept.indices, kept.values)

    def encode_sparse(self, x):
        kept = super().encode(x).topk(3, dim=1)
        return SparseCodes(kept.indices, kept.values)


@pytest.fixture
def rows() -> Tensor:
    return 2.0 * torch.randn(30, D_IN, generator=torch.Generator().manual_seed(1))


def is_canonical(codes: RaggedCodes) -> bool:
    cells = token_of_slot(codes) * D_SAE + codes.latents
    return bool((cells[1:] > cells[:-1]).all()) and not bool((codes.values == 0).any())


@pytest.mark.parametrize("kind", [Rectified, Ragged, Slots])
def test_sparse_codes_are_the_dense_ones_without_their_zeros(kind, rows):
    sae = kind()
    codes = encode(sae, rows)
    assert is_canonical(codes)
    assert torch.equal(dense(codes, D_SAE), sae.encode(rows))
    assert torch.equal(n_active(codes), (sae.encode(rows) != 0).sum(1))
    assert 0 < len(codes.values) < 30 * D_SAE / 8


def test_negative_codes_are_kept(rows):
    sae = Rectified()
    sae.encode = lambda x: (x @ sae.W_enc) * (x @ sae.W_enc < -3.0)
    codes = encode(sae, rows)
    assert bool((codes.values < 0).any())
    assert torch.equal(dense(codes, D_SAE), sae.encode(rows))


def test_dense_codes_are_made_in_chunks(rows, monkeypatch):
    whole = encode(Rectified(), rows)
    monkeypatch.setattr(codes_module, "_CODE_ELEMENTS", 7 * D_SAE)
    parts = encode(Rectified(), rows)
    assert torch.equal(parts.latents, whole.latents)
    assert torch.equal(parts.offsets, whole.offsets)
    assert torch.allclose(parts.values, whole.values, atol=1e-5)


@pytest.mark.parametrize("kind", [Rectified, Ragged, Slots])
def test_no_token_has_no_codes(kind):
    codes = encode(kind(), torch.zeros(0, D_IN))
    assert dense(codes, D_SAE).shape == (0, D_SAE)
    assert Decoder(kind())(codes).shape == (0, D_IN)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_codes_that_are_not_finite_are_refused(bad, rows):
    rows[3, 2] = bad
    with pytest.raises(NonFiniteError, match="codes"):
        encode(Rectified(), rows)


def test_taking_tokens_repeats_and_reorders_them(rows):
    codes = encode(Rectified(), rows)
    tokens = torch.tensor([4, 4, 0, 29, 7])
    assert torch.equal(dense(take(codes, tokens), D_SAE), dense(codes, D_SAE)[tokens])
    assert len(take(codes, tokens[:0]).values) == 0


def test_decoding_is_that_of_the_sae_from_few_rows_of_it(rows):
    sae = Rectified()
    codes = encode(sae, rows)
    decode = Decoder(sae)
    sae.n_decoded = 0
    assert torch.allclose(decode(codes), sae.decode(sae.encode(rows)), rtol=1e-5, atol=1e-5)
    assert sae.n_decoded < 2 * len(rows)  # the comparison's own, and some tokens to try


def clamped(x_hat):
    return x_hat.clamp(-3.0, 3.0)


def scaled(x_hat):
    return 1.5 * x_hat


def rectified(x_hat):
    return x_hat.relu()


@pytest.mark.parametrize("edit", [clamped, scaled, rectified, torch.tanh])
def test_a_decoder_that_is_no_sum_of_directions_is_called_itself(edit, rows):
    sae = Rectified(edit)
    codes = encode(sae, rows)
    assert torch.allclose(Decoder(sae)(codes), sae.decode(sae.encode(rows)), atol=1e-5)


def test_many_active_latents_are_decoded_by_a_product(rows):
    sae = Rectified()
    with torch.no_grad():
        sae.b_enc.zero_()
    codes = encode(sae, rows)
    sae.n_decoded = 0
    decode = Decoder(sae)
    assert torch.allclose(decode(codes), sae.decode(sae.encode(rows)), atol=1e-5)
    assert sae.n_decoded == 1 + len(rows) + len(rows)


def test_the_memo_makes_the_codes_of_its_sae_once_and_lets_go_of_them(rows):
    sae, memo = Rectified(), CodeMemo(1 << 20)
    with memo.keeping(sae):
        first, again = (memo.get(sae, 0, lambda: encode(sae, rows)) for _ in range(2))
        assert sae.n_encoded == 30
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(first, again, strict=True))
        assert memo.used_bytes > 0
    assert memo.used_bytes == 0
    memo.get(sae, 0, lambda: encode(sae, rows))
    assert sae.n_encoded == 60


def test_the_memo_gives_no_codes_of_another_sae_or_of_other_weights(rows):
    sae, memo = Rectified(), CodeMemo(1 << 20)
    with memo.keeping(sae):
        memo.get(sae, 0, lambda: encode(sae, rows))
        other = copy.deepcopy(sae)
        with torch.no_grad():
            other.W_enc.mul_(2.0)
            assert torch.equal(memo.get(other, 0, lambda: encode(other, rows)).values, encode(other, rows).values)
            sae.W_enc.mul_(3.0)
        assert torch.equal(memo.get(sae, 0, lambda: encode(sae, rows)).values, encode(sae, rows).values)


def test_the_memo_keeps_what_fits(rows):
    sae = Rectified()
    codes = encode(sae, rows)
    size = 8 * len(codes.values) + 8 * len(codes.offsets)
    memo = CodeMemo(size + size // 2)
    with memo.keeping(sae):
        sae.n_encoded = 0
        for _ in range(2):
            for index in range(2):
                memo.get(sae, index, lambda: encode(sae, rows))
        assert sae.n_encoded == 3 * 30
        assert memo.used_bytes == size
