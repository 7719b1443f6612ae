"""Codes around a change of document, in the kit's planted world, where a token's code shows in the next one's."""

from __future__ import annotations

import json

import pytest
import torch
from sae_harness_temporal.boundaries import EventBoundaries, _balanced, _old, _partners, cut

from harness import DataError, RaggedCodes, TrainingLog
from harness.testing import random_sae
from harness.testing.observed import Observed


@pytest.fixture
def context() -> Observed:
    return Observed(batch_sequences=12, language_model=True, n_sequences=96)


def test_beginnings_get_partners_of_other_documents(context):
    halves = cut(context)
    assert len(halves.before) == len(halves.after) == 96
    assert halves.half == 8
    assert not bool((halves.document == halves.document[halves.partner]).any())
    first = next(iter(context.batches()))
    assert halves.before[0] == "".join(f" {token}" for token in first.tokens[0, 1:9].tolist())
    assert halves.after[0] == "".join(f" {token}" for token in first.tokens[0, 9:17].tolist())


def test_every_continuation_is_read_after_both_beginnings(context):
    with torch.no_grad():
        found = EventBoundaries().run(random_sae(), context, TrainingLog(method="mine", seed=2))
    json.dumps(found.to_json(), allow_nan=False)
    assert found.values["sequences"] == 96
    assert found.series["offset/difference"] == [float(n) for n in range(8)]
    # In the planted world an activation holds its own token and the one before: a change is felt on the first token of
    # the continuation (another token before it), on the second as the distance to the first, and then no more.
    added = found.series["distance/difference"]
    assert added[0] != 0.0
    assert added[1] != 0.0
    assert added[2:] == pytest.approx([0.0] * 6, abs=1e-6)
    assert found.values["distance_added/boundary"] == added[0]
    assert found.values["old_latents_added/first_8"] != 0.0


def test_partners_are_a_permutation_that_changes_the_document(context):
    document = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    partner = _partners(document, context)
    assert sorted(partner.tolist()) == list(range(7))
    assert not bool((document == document[partner]).any())
    kept = _balanced(torch.tensor([5, 5, 5, 5, 1, 5, 2]))
    assert kept.tolist() == [0, 1, 4, 6]
    assert _balanced(torch.zeros(3, dtype=torch.int64)).tolist() == []


def test_old_latents_are_those_of_the_last_tokens_before():
    codes = RaggedCodes(torch.tensor([1, 2, 3, 1, 4]), torch.tensor([0, 1, 2, 3, 5, 5]), torch.ones(5))
    shares = _old(codes, 2)
    assert shares[:4].tolist() == [1.0, 1.0, 0.0, 0.5]
    assert bool(shares[4].isnan())


def test_without_text_it_says_so(make_context, world):
    with pytest.raises(DataError, match="no tokenizer"):
        EventBoundaries().run(random_sae(), make_context(world.sequences(4, 40, seed=5)), TrainingLog())
