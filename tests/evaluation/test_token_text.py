"""Tokens have a text of their own where there is a tokenizer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.activations.language_model import load_language_model
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import DataError
from harness.testing.fixtures import tiny_context


def with_tokenizer(tokenizer):
    """A context of the kit whose LM has this tokenizer alone."""
    context = tiny_context()
    context._lm = SimpleNamespace(tokenizer=tokenizer)  # type: ignore[assignment]
    return context


def test_the_embedded_lms_tokens_join_to_the_text_they_were_cut_from(tmp_path):
    config = LMConfig(source="package:harness.builtin.tiny")
    tokenizer = load_language_model(config, resolve_lm(config, tmp_path)).tokenizer
    text = "The river flows, slowly.\n to the sea"
    ids = tokenizer([text], add_special_tokens=False)["input_ids"][0]
    pieces = with_tokenizer(tokenizer).token_text(ids)
    assert len(pieces) == len(ids) > 5
    assert "".join(pieces) == text
    assert any(piece.startswith(" ") for piece in pieces)


def test_a_sentencepiece_token_keeps_the_space_its_tokenizer_takes_off():
    class Pieces:
        def convert_ids_to_tokens(self, ids):
            return [("\u2581the", "re", "\u2581")[i] for i in ids]

        def decode(self, ids, **_):
            return ("the", "re", "")[ids[0]]

    assert with_tokenizer(Pieces()).token_text([0, 1, 2]) == [" the", "re", " "]


def test_the_kits_tokens_are_numbers_and_without_an_lm_there_is_no_text():
    assert tiny_context().token_text([3, 41]) == [" 3", " 41"]
    with pytest.raises(DataError, match="tokens have no text"):
        tiny_context(language_model=False).token_text([3])
