from __future__ import annotations

import dataclasses
import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.artefacts.cache import Cache
from harness.config import TextConfig
from harness.data.text import TokenizedText, read_documents, split_of, token_inputs, tokenize
from harness.data.text_source import TextSource, resolve_text
from harness.errors import DataError


class WordTokenizer:
    """Word wI is token I + 3."""

    all_special_ids = (0, 1, 2)
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[2 if w == "</s>" else int(w[1:]) + 3 for w in text.split()] for text in texts]}


class Provider:
    tokenizer_sha256 = "t" * 64

    def __init__(self) -> None:
        self.tokenizer = WordTokenizer()


def _text(rng: random.Random, n_words: int) -> str:
    return " ".join(f"w{rng.randrange(1000)}" for _ in range(n_words))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    return [_text(rng, rng.randrange(5, 60)) for _ in range(120)]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def _config(source: Path | str, **changes: Any) -> TextConfig:
    values: dict[str, Any] = {
        "source": str(source),
        "seq_len": 8,
        "n_train_tokens": 700,
        "n_eval_sequences": 20,
        "eval_fraction": 0.3,
    }
    return TextConfig(**{**values, **changes})


def _tokenize(config: TextConfig, tmp_path: Path, split: Any = "train") -> TokenizedText:
    return tokenize(config, resolve_text(config), Provider(), split, cache=Cache(tmp_path / "cache"))


def _words_of(texts: list[str]) -> list[list[int]]:
    return [[int(w[1:]) + 3 for w in text.split()] for text in texts]


def test_sequences_are_cut_from_one_document_each(corpus: Path, tmp_path: Path, texts: list[str]):
    found = _tokenize(_config(corpus), tmp_path)
    by_hash = {d.sha256: d.text for d in read_documents(resolve_text(_config(corpus)))}
    assert (found.tokens[:, 0] == 1).all()
    assert not found.mask[:, 0].any()
    assert found.mask[:, 1:].all()
    seen = set()
    for row, document in zip(found.tokens.tolist(), found.document.tolist(), strict=True):
        words = _words_of([by_hash[found.document_hashes[document]]])[0]
        starts = [start for start in range(0, len(words) - 6, 7) if words[start : start + 7] == row[1:]]
        assert starts, "a sequence is a whole piece of its document, cut at multiples of its length"
        seen.add((document, starts[0]))
    assert len(seen) == len(found), "no piece comes twice"


def test_as_many_tokens_and_sequences_as_were_asked_for(corpus: Path, tmp_path: Path):
    train, held_out = _tokenize(_config(corpus), tmp_path), _tokenize(_config(corpus), tmp_path, "eval")
    assert 700 <= train.n_tokens < 700 + 7
    assert len(held_out) == 20
    assert train.tokens.dtype == np.int32
    assert train.tokens.shape == train.mask.shape == (len(train), 8)


def test_without_bos_every_token_is_of_the_text(corpus: Path, tmp_path: Path):
    found = _tokenize(_config(corpus, prepend_bos=False), tmp_path)
    assert found.mask.all()
    assert found.tokens.shape[1] == 8


def test_special_tokens_inside_a_text_are_masked_and_not_counted(tmp_path: Path):
    rng = random.Random(1)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(_text(rng, 20) + " </s> " + _text(rng, 20)) for _ in range(40)))
    found = _tokenize(_config(path, n_train_tokens=500), tmp_path)
    assert (found.mask == (found.tokens > 2)).all()
    assert (found.tokens[:, 1:] == 2).any()
    assert found.n_tokens >= 500


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 9), min_size=8, max_size=30), min_size=20, max_size=60),
    fraction=st.floats(0.2, 0.8),
)
def test_training_and_evaluation_never_share_a_document(tmp_path_factory, documents, fraction: float):
    folder = tmp_path_factory.mktemp("documents")
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps(" ".join(f"w{i}" for i in words)) for words in documents))
    config = _config(path, n_train_tokens=7, n_eval_sequences=1, eval_fraction=fraction)
    found = []
    for split in ("train", "eval"):
        try:
            found.append(_tokenize(config, folder, split))
        except DataError:
            return  # hashes put all documents on one side
    train, held_out = found
    assert not set(train.document_hashes) & set(held_out.document_hashes)
    assert all(split_of(h, fraction) == "train" for h in train.document_hashes)
    assert all(split_of(h, fraction) == "eval" for h in held_out.document_hashes)


def test_the_split_follows_the_fraction_and_grows_with_it(texts: list[str], corpus: Path):
    hashes = [d.sha256 for d in read_documents(resolve_text(_config(corpus)))]
    small, large = ({h for h in hashes if split_of(h, f) == "eval"} for f in (0.2, 0.6))
    assert small < large
    assert 0.1 * len(texts) < len(small) < 0.3 * len(texts)


def test_the_order_of_lines_and_of_files_changes_nothing(tmp_path: Path, texts: list[str]):
    tokens = []
    for number, lines in enumerate([texts, texts[::-1]]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join(json.dumps(text) for text in lines))
        tokens.append(_tokenize(_config(path), tmp_path).fingerprint)
    assert tokens[0] == tokens[1]


def test_few_sequences_come_from_many_documents(tmp_path: Path):
    rng = random.Random(2)
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps(_text(rng, 400)) for _ in range(40)))
    found = _tokenize(_config(path, n_eval_sequences=60), tmp_path, "eval")
    one_after_the_other = 60 * 7 / 400
    assert len(found.document_hashes) > 3 * one_after_the_other


def test_tokens_are_made_once_and_the_tokenizer_is_not_read_again(corpus: Path, tmp_path: Path):
    class Unread:
        tokenizer_sha256 = Provider.tokenizer_sha256

        @property
        def tokenizer(self) -> Any:
            raise AssertionError("the tokenizer was loaded")

    config, cache = _config(corpus), Cache(tmp_path / "cache")
    first = tokenize(config, resolve_text(config), Provider(), "train", cache=cache)
    again = tokenize(config, resolve_text(config), Unread(), "train", cache=cache)
    assert np.array_equal(first.tokens, again.tokens)
    assert first.fingerprint == again.fingerprint
    assert first.inputs == again.inputs == token_inputs(config, resolve_text(config).sha256, "t" * 64, "train")


def test_inputs_hold_what_moves_a_token_and_nothing_else(corpus: Path):
    config = _config(corpus)
    base = token_inputs(config, "a", "b", "train")
    for field, value in {
        "seq_len": 9,
        "prepend_bos": False,
        "mask_first": 2,
        "eval_fraction": 0.4,
        "text_field": "body",
        "n_train_tokens": 5,
    }.items():
        assert token_inputs(dataclasses.replace(config, **{field: value}), "a", "b", "train") != base, field
    for field, value in {"note": "n", "source": "elsewhere", "n_eval_sequences": 3}.items():
        assert token_inputs(dataclasses.replace(config, **{field: value}), "a", "b", "train") == base, field
    assert token_inputs(config, "x", "b", "train") != base
    assert token_inputs(config, "a", "x", "train") != base
    assert token_inputs(config, "a", "b", "eval") != base


def test_the_first_positions_can_be_masked(corpus: Path, tmp_path: Path):
    found = _tokenize(_config(corpus, prepend_bos=False, mask_first=3), tmp_path)
    plain = _tokenize(_config(corpus, prepend_bos=False), tmp_path)
    assert not found.mask[:, :3].any()
    assert found.mask[:, 3:].all()
    assert found.n_tokens == found.mask.sum()
    assert (found.tokens[: len(plain)] == plain.tokens).all()


def test_too_little_text_says_how_much_there_is(corpus: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"train split holds \d+ tokens .* n_train_tokens asks for 1000000\. Lower"):
        _tokenize(_config(corpus, n_train_tokens=1_000_000), tmp_path)
    with pytest.raises(DataError, match="eval split holds 0 sequences"):
        _tokenize(_config(corpus, seq_len=100), tmp_path, "eval")
    with pytest.raises(DataError, match="no room"):
        _tokenize(_config(corpus, seq_len=1), tmp_path)


def test_bos_falls_back_on_eos_and_then_is_refused(corpus: Path, tmp_path: Path):
    config, provider = _config(corpus), Provider()
    provider.tokenizer.bos_token_id = None
    found = tokenize(config, resolve_text(config), provider, "train", cache=Cache(tmp_path / "1"))
    assert (found.tokens[:, 0] == 2).all()
    provider.tokenizer.eos_token_id = None
    with pytest.raises(DataError, match="neither a BOS nor an EOS"):
        tokenize(config, resolve_text(config), provider, "train", cache=Cache(tmp_path / "2"))


def test_documents_are_read_from_all_kinds_of_file_each_text_once(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("one\nfile is one document")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n"three"\n{"text": "  "}\n{"text": "two"}\n')
    with gzip.open(tmp_path / "sub" / "c.jsonl.gz", "wt") as file:
        file.write('{"text": "four", "other": 1}\n{"text": "three"}\n')
    (tmp_path / "ignored.csv").write_text("five")
    found = [(d.text, d.source) for d in read_documents(resolve_text(_config(tmp_path)))]
    assert found == [
        ("one\nfile is one document", "a.txt"),
        ("two", "b.jsonl"),
        ("three", "b.jsonl"),
        ("four", "c.jsonl.gz"),
    ]


@pytest.mark.parametrize(("content", "says"), [
    ('{"text": "a"}\n{"text"', "line 2: not JSON"),
    ('{"body": "a"}', r"no string in field 'text'; its fields are body. Set text.text_field"),
    ("[1]", "it is list"),
])  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, content: str, says: str):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        list(read_documents(resolve_text(_config(path))))


def test_a_truncated_gzip_is_named(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz cannot be read"):
        list(read_documents(resolve_text(_config(path))))


def test_a_hub_data_set_is_read_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"body": "one", "label": 1}\n{"body": "two", "label": 0}\n')
    config = _config(f"hub:{folder}", text_field="body")
    source = resolve_text(config)
    assert isinstance(source, TextSource)
    assert [d.text for d in read_documents(source)] == ["one", "two"]
    with pytest.raises(DataError, match="no string in field 'text'"):
        list(read_documents(dataclasses.replace(source, text_field="text")))
