from __future__ import annotations

import math

import pytest
import torch

from harness.evaluation.metrics import cross_entropy, fvu, predicting_positions
from harness.testing import TinyLM, identity_sae, planted_batches, random_sae, tiny_context, tiny_store
from harness.testing.fixtures import HOOKPOINT, VOCAB, tiny_activations


def test_a_store_follows_its_seed():
    first, again, other = tiny_store(0), tiny_store(0), tiny_store(1)
    assert torch.equal(first.sequences(0, 96), again.sequences(0, 96))
    assert not torch.equal(first.tokens, other.tokens)


def test_a_store_masks_the_first_token_alone_and_holds_three_sequences_a_document():
    store = tiny_store(0, n_sequences=6)
    assert not store.mask[:, 0].any()
    assert store.mask[:, 1:].all()
    assert store.document.tolist() == [0, 0, 0, 1, 1, 1]


def test_activations_depend_on_the_token_and_the_one_before_it():
    tokens = tiny_store(0).tokens[:1]
    changed = tokens.clone()
    changed[0, 5] = tokens[0, 5] % (VOCAB - 1) + 1
    moved = (tiny_activations(tokens) != tiny_activations(changed)).any(-1)[0].nonzero().flatten()
    assert moved.tolist() == [5, 6]


def test_batches_are_scaled_and_carry_what_the_kind_says():
    iid, pairs = planted_batches().batch(0), planted_batches("pairs").batch(0)
    assert torch.equal(iid.activations, pairs.activations)
    assert (iid.previous, pairs.previous is None) == (None, False)
    many = planted_batches(batch_size=1536).batch(0).activations  # one epoch
    assert float(many.norm(dim=1).mean()) == pytest.approx(math.sqrt(16), rel=1e-4)


def test_ablating_the_hookpoint_raises_the_cross_entropy():
    lm, store = TinyLM(), tiny_store(1)
    keep = predicting_positions(store.mask)
    targets = store.tokens.roll(-1, 1)[keep]
    clean = cross_entropy(lm.logits(store.tokens)[keep], targets).mean()
    ablated = cross_entropy(lm.run_with_replacement(store.tokens, HOOKPOINT, torch.zeros_like)[keep], targets).mean()
    assert float(ablated) == pytest.approx(math.log(VOCAB), abs=1e-5)
    assert float(clean) < float(ablated) - 0.5


def test_replacing_activations_by_themselves_changes_no_logit():
    lm, store = TinyLM(), tiny_store(1)
    given = store.sequences(0, 4)
    logits = lm.run_with_replacement(store.tokens[:4], HOOKPOINT, lambda x: x, activations=given)
    assert torch.equal(logits, lm.logits(store.tokens[:4]))
    with pytest.raises(ValueError, match="'elsewhere'"):
        lm.run_with_replacement(store.tokens[:4], "elsewhere", lambda x: x)


def test_the_identity_is_a_ceiling_and_the_random_sae_a_floor():
    rows = tiny_store(1).sequences(0, 12).flatten(0, 1)
    assert float(fvu(rows, identity_sae()(rows))) == 0.0
    assert float(fvu(rows, random_sae()(rows))) > 0.5
    assert (random_sae().encode(rows) > 0).sum(1).max() == 4


def test_a_context_has_an_lm_unless_told_otherwise():
    assert tiny_context().language_model.vocab_size == VOCAB
    assert not tiny_context(language_model=False).has_language_model
    assert len(list(tiny_context(batch_sequences=5).batches())) == 3
