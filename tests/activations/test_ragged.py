from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.activations.language_model import LanguageModel
from harness.activations.ragged import RaggedActivations, length_buckets, pad_right
from harness.errors import ConfigError, DataError

FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen2", "qwen3", "mistral")
HOOKS = ["blocks.0.hook_mlp_out", "blocks.2.hook_resid_pre"]
LMOf = Callable[[str], LanguageModel]

lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def _cost(lengths: list[int], buckets: list[list[int]], batch_cost: int) -> int:
    return sum(len(b) * max(lengths[i] for i in b) + batch_cost for b in buckets)


def test_sequences_of_like_length_run_together_longest_first():
    lengths = torch.tensor([3, 10, 3, 9, 10])
    assert [b.tolist() for b in length_buckets(lengths, 30)] == [[1, 4, 3], [0, 2]]
    assert [b.tolist() for b in length_buckets(lengths, 20, batch_cost=1)] == [[1, 4], [3], [0, 2]]
    assert [b.tolist() for b in length_buckets(lengths, 1000, batch_cost=10**6)] == [[1, 4, 3, 0, 2]]
    assert [b.tolist() for b in length_buckets(lengths, 1, batch_cost=0)] == [[1], [4], [3], [0], [2]]
    assert length_buckets(torch.tensor([], dtype=torch.int64), 8) == []


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of, budget=st.integers(1, 200), batch_cost=st.integers(0, 100))
def test_every_sequence_is_in_one_batch_within_the_budget(lengths: list[int], budget: int, batch_cost: int):
    buckets = [b.tolist() for b in length_buckets(torch.tensor(lengths), budget, batch_cost=batch_cost)]
    assert sorted(itertools.chain(*buckets)) == list(range(len(lengths)))
    for bucket in buckets:
        assert len(bucket) == 1 or len(bucket) * max(lengths[i] for i in bucket) <= budget
    sizes = [lengths[i] for i in itertools.chain(*buckets)]
    assert sizes == sorted(lengths, reverse=True)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9), batch_cost=st.integers(0, 20))
def test_no_other_cut_of_the_sorted_sequences_is_cheaper(lengths: list[int], batch_cost: int):
    budget = 24
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    cheapest = min(
        _cost(lengths, cut, batch_cost)
        for n_cuts in range(len(lengths))
        for at in itertools.combinations(range(1, len(lengths)), n_cuts)
        for cut in [[order[a:b] for a, b in itertools.pairwise((0, *at, len(lengths)))]]
        if all(len(b) == 1 or len(b) * lengths[b[0]] <= budget for b in cut)
    )
    buckets = [b.tolist() for b in length_buckets(torch.tensor(lengths), budget, batch_cost=batch_cost)]
    assert _cost(lengths, buckets, batch_cost) == cheapest


def test_bad_lengths_and_budgets_are_told():
    with pytest.raises(ConfigError, match="tokens_per_batch must be at least 1, got 0"):
        length_buckets(torch.tensor([1]), 0)
    with pytest.raises(DataError, match="Sequence 1 has no token"):
        length_buckets(torch.tensor([1, 0]), 8)


def test_padding_is_on_the_right():
    tokens, mask = pad_right([torch.tensor([5, 6]), torch.tensor([7], dtype=torch.int32)])
    assert tokens.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_ragged_activations_are_a_sequence_of_views():
    ragged = RaggedActivations(torch.arange(12.0).view(6, 2), torch.tensor([0, 3, 4, 6]))
    assert len(ragged) == 3
    assert ragged.lengths.tolist() == [3, 1, 2]
    assert [item.shape[0] for item in ragged] == [3, 1, 2]
    assert torch.equal(ragged[1], torch.tensor([[6.0, 7.0]]))
    assert torch.equal(ragged[-1], ragged[2])
    assert [item.shape[0] for item in ragged[1:]] == [1, 2]
    padded, mask = ragged.padded()
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert torch.equal(padded[mask], ragged.values)
    assert not padded[~mask].any()
    with pytest.raises(IndexError, match="no number 3"):
        ragged[3]


def _sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 60, (n,), generator=generator) for n in (5, 31, 1, 12, 5, 30, 2, 17, 8, 11)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_sequence_is_as_if_run_alone(lm_of: LMOf, family: str):
    lm, sequences = lm_of(family), _sequences()
    found = lm.activations_of(sequences, HOOKS, tokens_per_batch=64)
    assert list(found) == HOOKS
    for hookpoint in HOOKS:
        assert found[hookpoint].lengths.tolist() == [len(s) for s in sequences]
        for sequence, activations in zip(sequences, found[hookpoint], strict=True):
            alone = lm.capture(sequence[None], [hookpoint])[hookpoint][0]
            torch.testing.assert_close(activations, alone, atol=1e-5, rtol=1e-5)


def test_batches_are_zero_at_padding_and_within_the_budget(lm_of: LMOf):
    lm, sequences = lm_of("gpt2"), _sequences()
    batches = list(lm.ragged_batches(sequences, HOOKS, tokens_per_batch=64))
    assert sorted(i for b in batches for i in b.index.tolist()) == list(range(len(sequences)))
    assert any(not bool(b.mask.all()) for b in batches)
    for batch in batches:
        assert batch.tokens.numel() <= 64
        for row, i in enumerate(batch.index.tolist()):
            assert torch.equal(batch.tokens[row][batch.mask[row]], sequences[i])
        for hookpoint in HOOKS:
            activations = batch.activations[hookpoint]
            assert activations.shape == (*batch.tokens.shape, 16)
            assert activations[batch.mask].abs().sum(-1).min() > 0
            assert not activations[~batch.mask].any()


def test_the_budget_does_not_change_the_order_or_the_values(lm_of: LMOf):
    lm, sequences = lm_of("llama"), _sequences()
    told: list[tuple[int, int]] = []
    small = lm.activations_of(sequences, HOOKS, tokens_per_batch=1, progress=lambda *done: told.append(done))
    large = lm.activations_of(sequences, HOOKS)
    for hookpoint in HOOKS:
        torch.testing.assert_close(small[hookpoint].values, large[hookpoint].values, atol=1e-5, rtol=1e-5)
    assert told == [(i + 1, 10) for i in range(10)]


def test_sequences_that_cannot_be_run_are_told(lm_of: LMOf):
    lm = lm_of("llama")
    with pytest.raises(DataError, match="no sequence"):
        lm.activations_of([], HOOKS)
    with pytest.raises(DataError, match="Sequence 1 has no token"):
        lm.activations_of([torch.tensor([3]), torch.tensor([], dtype=torch.int64)], HOOKS)
    with pytest.raises(DataError, match="33 tokens are too long"):
        lm.activations_of([torch.full((33,), 3)], HOOKS)
    with pytest.raises(ConfigError, match="tokens_per_batch"):
        lm.activations_of([torch.tensor([3])], HOOKS, tokens_per_batch=0)
