from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.activations.samplers import Sampler
from harness.activations.store import ActivationStore
from harness.errors import ConfigError

KINDS = ("iid", "pairs", "contiguous")


def _store(n_seq: int = 7, seq_len: int = 6, seed: int = 0) -> ActivationStore:
    """Row r holds r + 1 in its first dimension: every row can be told from its values."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_seq, seq_len, generator=generator) > 0.25
    mask[0, 1] = True
    activations = torch.randn(n_seq, seq_len, 3, generator=generator)
    activations[..., 0] = torch.arange(1, n_seq * seq_len + 1).view(n_seq, seq_len)
    return ActivationStore.from_tensors(activations, mask=mask, document=torch.arange(n_seq) // 2 + 10)


def _rows(store: ActivationStore, values: torch.Tensor) -> list[int]:
    return [round(v / store.scale) - 1 for v in values[:, 0].tolist()]


def _stream(store: ActivationStore, sampler: Sampler, n: int) -> list[int]:
    rows: list[int] = []
    while len(rows) < n:
        rows += _rows(store, next(sampler).activations)
    return rows


stores = st.builds(_store, st.integers(1, 9), st.integers(2, 7), st.integers(0, 99))


@settings(max_examples=40, deadline=None)
@given(store=stores, kind=st.sampled_from(KINDS), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_an_epoch_is_every_counted_token_once(store: ActivationStore, kind, batch_size: int, seed: int):
    n = store.n_tokens
    counted = store.mask.flatten().nonzero().squeeze(1).tolist()
    rows = _stream(store, Sampler(store, batch_size=batch_size, seed=seed, kind=kind), 3 * n)
    for epoch in range(3):
        assert sorted(rows[epoch * n : (epoch + 1) * n]) == counted


@settings(max_examples=40, deadline=None)
@given(store=stores, batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_previous_is_the_token_before_in_the_same_sequence(store: ActivationStore, batch_size: int, seed: int):
    flat = store.rows(torch.arange(len(store) * store.seq_len)) * store.scale
    mask = store.mask.flatten()
    for batch in itertools.islice(Sampler(store, batch_size=batch_size, seed=seed, kind="pairs"), 3):
        assert batch.previous is not None
        assert batch.has_previous is not None
        for i, row in enumerate(_rows(store, batch.activations)):
            expected = row % store.seq_len > 0 and bool(mask[row - 1])
            assert bool(batch.has_previous[i]) is expected
            torch.testing.assert_close(batch.previous[i], flat[row - 1] if expected else torch.zeros(3))


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(KINDS), batch_size=st.integers(1, 40), stop=st.integers(0, 12))
def test_a_resumed_stream_equals_an_uninterrupted_one(kind, batch_size: int, stop: int):
    store = _store()
    whole = [
        b.activations for b in itertools.islice(Sampler(store, batch_size=batch_size, seed=3, kind=kind), stop + 4)
    ]
    first = Sampler(store, batch_size=batch_size, seed=3, kind=kind)
    for _ in range(stop):
        next(first)
    resumed = Sampler(store, batch_size=batch_size, seed=3, kind=kind)
    resumed.seek(first.cursor)
    for expected, batch in zip(whole[stop:], resumed, strict=False):
        assert torch.equal(batch.activations, expected)
    assert torch.equal(resumed.batch(0).activations, whole[0]), "any batch can be had at any time"


def test_iid_and_pairs_share_one_stream():
    store = _store()
    iid, pairs = (Sampler(store, batch_size=5, seed=1, kind=kind) for kind in ("iid", "pairs"))
    for a, b in zip(itertools.islice(iid, 20), pairs, strict=False):
        assert torch.equal(a.activations, b.activations)
        assert torch.equal(a.document, b.document)
        assert torch.equal(a.position, b.position)
        assert a.previous is None
        assert b.previous is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_depends_on_seed_and_epoch(kind):
    store = _store(20, 8)
    n = store.n_tokens
    one, two = (_stream(store, Sampler(store, batch_size=n, seed=seed, kind=kind), 2 * n) for seed in (0, 1))
    assert one[:n] != two[:n]
    assert one[:n] != one[n:]
    assert one[n:] != two[:n], "the second epoch of one seed is not the first of the next"


def test_contiguous_keeps_the_order_in_each_sequence():
    store = _store(20, 8)
    rows = _stream(store, Sampler(store, batch_size=9, seed=0, kind="contiguous"), store.n_tokens)[: store.n_tokens]
    sequences = [list(group) for _, group in itertools.groupby(rows, key=lambda r: r // store.seq_len)]
    assert len(sequences) == int(store.mask.any(dim=1).sum())
    assert all(group == sorted(group) for group in sequences)
    assert [group[0] for group in sequences] != sorted(group[0] for group in sequences)


def test_batches_are_scaled_full_and_know_where_they_came_from():
    store = _store()
    for batch in itertools.islice(Sampler(store, batch_size=13, seed=0, kind="iid"), 6):
        rows = torch.tensor(_rows(store, batch.activations))
        assert len(batch) == 13
        assert torch.equal(batch.position, rows % store.seq_len)
        assert torch.equal(batch.document, store.document[rows // store.seq_len])
        torch.testing.assert_close(batch.activations, store.rows(rows) * store.scale)


def test_drawing_leaves_the_store_and_the_global_random_state_alone():
    store = _store()
    before, state = store.sequences(0, 7), torch.get_rng_state()
    next(Sampler(store, batch_size=40, seed=0, kind="pairs"))
    assert torch.equal(store.sequences(0, 7), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_settings_are_told():
    store = _store()
    with pytest.raises(ConfigError, match="'shuffled': allowed are iid, pairs, contiguous"):
        Sampler(store, batch_size=4, seed=0, kind="shuffled")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        Sampler(store, batch_size=0, seed=0)
    with pytest.raises(ConfigError, match="cursor"):
        Sampler(store, batch_size=4, seed=0).seek(-1)
