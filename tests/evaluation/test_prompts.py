"""Prompts on the embedded LM: tokens know their part, and running on agrees with running the whole text."""

from __future__ import annotations

import pytest
import torch

from harness.activations.language_model import load_language_model
from harness.activations.sources import resolve_lm
from harness.artefacts.cache import Cache
from harness.config import LMConfig
from harness.errors import DataError, NonFiniteError
from harness.evaluation.prompts import prompt_logits, prompt_logprobs
from harness.evaluation.texts import TextData

HOOK = "blocks.1.hook_resid_post"
PROMPTS = (
    ("The river", " flows to the", " sea"),
    ("A dog", " sleeps"),
    ("In the summer of the year", " they came", "."),
)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    config = LMConfig(source="package:harness.builtin.tiny")
    return load_language_model(config, resolve_lm(config, tmp_path_factory.mktemp("lm")))


def data(lm, folder, cache=None, **options) -> TextData:
    return TextData(lm, hookpoint=HOOK, lm_identity={"lm": "tiny"}, collections=folder, cache=cache, **options)


def by_prompt(batches, values) -> dict[int, list[float]]:
    """Of each prompt, the values at its own tokens."""
    found = {}
    for batch, value in zip(batches, values, strict=True):
        for row, index in enumerate(batch.index.tolist()):
            found[index] = value[row][batch.part[row] >= 0].tolist()
    return found


def test_each_token_knows_its_part(lm, tmp_path):
    batches = list(data(lm, tmp_path).prompt_batches(PROMPTS, None))
    seen = {}
    for batch in batches:
        for row, index in enumerate(batch.index.tolist()):
            assert int(batch.part[row, 0]) == -1, "BOS is of no part"
            for number, part in enumerate(PROMPTS[index]):
                own = batch.tokens[row][batch.part[row] == number]
                assert lm.tokenizer.decode(own) == part
                assert int(batch.tokens[row, batch.last_of(number)[row]]) == int(own[-1])
            seen[index] = True
    assert sorted(seen) == [0, 1, 2]


def test_log_probabilities_are_those_of_the_whole_text(lm, tmp_path):
    batches = list(data(lm, tmp_path).prompt_batches(PROMPTS, None))
    found = by_prompt(batches, [prompt_logprobs(lm, HOOK, batch, batch.activations) for batch in batches])
    bos = lm.tokenizer.bos_token_id if lm.tokenizer.bos_token_id is not None else lm.tokenizer.eos_token_id
    for index, prompt in enumerate(PROMPTS):
        ids = [bos, *(i for part in prompt for i in lm.tokenizer([part], add_special_tokens=False)["input_ids"][0])]
        plain = lm.logits(torch.tensor([ids])).log_softmax(-1)[0]
        wanted = [float(plain[place, token]) for place, token in enumerate(ids[1:])]
        assert found[index] == pytest.approx(wanted, abs=2e-4)


def test_logits_follow_the_named_token_and_feel_a_replacement_before_it(lm, tmp_path):
    batch = next(iter(data(lm, tmp_path).prompt_batches(PROMPTS[:1], None)))
    last = batch.last_of(2)
    clean = prompt_logits(lm, HOOK, batch, batch.activations, last)
    assert clean.shape == (1, lm.vocab_size)
    zeroed = batch.replaced(batch.part == 0, torch.zeros(int((batch.part == 0).sum()), lm.d_model))
    assert float((prompt_logits(lm, HOOK, batch, zeroed, last) - clean).abs().max()) > 0.01
    later = batch.replaced(batch.part == 2, torch.zeros(int((batch.part == 2).sum()), lm.d_model))
    before = batch.last_of(1)
    torch.testing.assert_close(
        prompt_logits(lm, HOOK, batch, later, before), prompt_logits(lm, HOOK, batch, batch.activations, before)
    )
    with pytest.raises(NonFiniteError):
        prompt_logits(lm, HOOK, batch, batch.activations * float("nan"), last)


def test_activations_come_from_the_cache_the_second_time(lm, tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache")
    first = list(data(lm, tmp_path, cache).prompt_batches(PROMPTS, 4))
    monkeypatch.setattr(lm, "ragged_batches", lambda *_: pytest.fail("the LM was run again"))
    again = list(data(lm, tmp_path, cache).prompt_batches(PROMPTS, 4))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.activations, b.activations)
        assert torch.equal(a.tokens, b.tokens)
    assert all(int((batch.part >= 0).sum(1).max()) <= 4 for batch in first)


def test_a_prompt_without_a_token_and_no_prompt_are_refused(lm, tmp_path):
    with pytest.raises(DataError, match="no token"):
        list(data(lm, tmp_path).prompt_batches([("", "")], None))
    with pytest.raises(DataError, match="at least one"):
        list(data(lm, tmp_path).prompt_batches([], None))
