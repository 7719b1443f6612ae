"""The kit's planted truth is that of its planted store."""

from __future__ import annotations

import torch

from harness.evaluation.metrics import dense
from harness.testing.fixtures import N_FEATURES, SEQ_LEN, tiny_context, tiny_store, tiny_truth


def test_the_store_is_the_sum_of_its_features_and_a_little_of_the_position():
    store, truth = tiny_store(3, n_sequences=9), tiny_truth(3, n_sequences=9)
    rows = store.sequences(0, 9)[store.mask]
    assert len(truth.codes.offsets) == len(rows) + 1
    rest = (rows - dense(truth.codes, N_FEATURES) @ truth.features).view(9, SEQ_LEN - 1, -1)
    assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-5)
    assert float(rest.norm(dim=-1).mean()) < 0.3 * float(rows.norm(dim=-1).mean())


def test_contexts_carry_it():
    context = tiny_context(n_sequences=6)
    assert context.has_truth
    assert context.truth.n_features == N_FEATURES
