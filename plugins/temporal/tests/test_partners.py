"""Which token each is compared with, on rows in document order."""

from __future__ import annotations

import pytest
import torch
from sae_harness_temporal.partners import of_pairs, of_rows, starts_of_rows

from harness import ActivationBatch, ConfigError

# Two sequences of document 4 (the second begins again at 1), a gap at a special token, then document 5.
DOCUMENT = torch.tensor([4, 4, 4, 4, 4, 4, 5, 5, 5])
POSITION = torch.tensor([6, 7, 1, 2, 4, 5, 1, 2, 3])


@pytest.fixture
def batch() -> ActivationBatch:
    return ActivationBatch(activations=torch.arange(9.0)[:, None], document=DOCUMENT, position=POSITION)


def found(batch, partner, lag=1, seed=0):
    partners = of_rows(batch, partner, lag, torch.Generator().manual_seed(seed))
    now = partners.valid.nonzero().squeeze(1).tolist()
    assert partners.rows is not None
    assert torch.equal(partners.x[:, 0], partners.rows.float())
    assert torch.equal(partners.document, DOCUMENT[partners.rows])
    return list(zip(now, partners.rows.tolist(), strict=True))


def test_the_previous_token_is_the_row_above_where_it_is_the_token_before(batch):
    assert found(batch, "previous") == [(1, 0), (3, 2), (5, 4), (7, 6), (8, 7)]


def test_a_lag_counts_tokens_and_not_rows(batch):
    assert found(batch, "previous", lag=2) == [(8, 6)]  # rows 2 and 4 are 2 rows, but 3 tokens apart


def test_an_earlier_partner_is_any_earlier_token_of_the_sequence(batch):
    seen = {pair for seed in range(60) for pair in found(batch, "earlier", seed=seed)}
    within = [(0, 1), (2, 3, 4, 5), (6, 7, 8)]
    assert seen == {(now, before) for rows in within for now in rows for before in rows if before < now}


def test_a_shuffled_partner_is_never_the_own_one(batch):
    own = dict(found(batch, "previous"))
    for seed in range(20):
        pairs = found(batch, "shuffled", seed=seed)
        assert sorted(before for _, before in pairs) == sorted(own.values())
        assert all(own[now] != before for now, before in pairs)


def test_sequences_start_where_documents_change_or_positions_fall(batch):
    assert starts_of_rows(batch).nonzero().squeeze(1).tolist() == [2, 6]


def test_a_batch_without_pairs_is_refused(batch):
    with pytest.raises(ConfigError, match="stream of the kind 'pairs'"):
        of_pairs(batch, "previous", torch.Generator())
