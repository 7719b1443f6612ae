"""Texts mixed into training: how much of each, in which order, and never what an evaluation may measure."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.artefacts.cache import Cache
from harness.config import MixConfig, MixedTextConfig, TextConfig
from harness.data.tables import Table, write_table
from harness.data.text import TokenizedText, read_documents, token_inputs, tokenize
from harness.data.text_mix import held_out_rows, table_sha256, trained_rows, training_pages
from harness.data.text_source import resolve_text
from harness.errors import ConfigError, DataError
from harness.evaluation.unlearning_draws import Sizes, draw_from_table

FORGET, RETAIN, GENERAL = range(3)
"""A word's kind is its number modulo 3."""
SEQ_LEN = 8


class WordTokenizer:
    """Word wI is token I; what is no such word is token 0, which is special."""

    all_special_ids = (0,)
    bos_token_id = None
    eos_token_id = None

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> dict[str, Any]:
        return {"input_ids": [[int(w[1:]) if w[1:].isdigit() else 0 for w in text.split()] for text in texts]}


class Provider:
    tokenizer_sha256 = "t" * 64
    tokenizer = WordTokenizer()


def rows(n: int = 400) -> list[dict[str, Any]]:
    """Of each side n rows: three tokens of its kind, the first two of which are its words."""
    found = []
    for number in range(2 * n):
        kind = number % 2
        words = [f"w{3 * i + 3 + kind}" for i in (number, number * 7 % n)]
        found.append(
            {
                "side": ("forget", "retain")[kind],
                "domain": ("animal", "act")[kind],
                "lemmas": sorted({words[0], words[1]} if number % 3 else {words[0]}),
                "text": " ".join([*words, f"w{3 * number + 6000 + kind}"]),
                "question": f"which word {number}",
                "answer": f" {words[0]}",
            }
        )
    return found


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    put(tmp_path / "collections", rows())
    return tmp_path / "collections"


def put(collections: Path, found: Sequence[dict[str, Any]], name: str = "words") -> None:
    (collections / name).mkdir(parents=True)
    write_table(collections / name, Table(rows=tuple(found), licence="free", source="here"), {"sha256": "s"})


@pytest.fixture
def general(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "general.jsonl"
    texts = [" ".join(f"w{3 * rng.randrange(1, 900) + GENERAL}" for _ in range(60)) for _ in range(60)]
    path.write_text("\n".join(json.dumps(text) for text in texts))
    return path


def config(source: Path, *mix: MixConfig, **changes: Any) -> TextConfig:
    values: dict[str, Any] = {
        "source": str(source),
        "seq_len": SEQ_LEN,
        "n_train_tokens": 800,
        "n_eval_sequences": 10,
        "prepend_bos": False,
        **changes,
    }
    return MixedTextConfig(**values, mix=mix) if mix else TextConfig(**values)


def of_table(part: str = "", share: float = 0.2) -> MixConfig:
    return MixConfig(source="table:words", part=part, share=share)


BOTH = (of_table("forget", 0.25), of_table("retain", 0.1))


def tokens_of(found: TextConfig, collections: Path, cache: Path, split: Any = "train") -> TokenizedText:
    source = resolve_text(found, collections)
    return tokenize(found, source, Provider(), split, cache=Cache(cache))


# How much of each, and in which order


def test_each_source_has_its_share_of_the_tokens(general, collections, tmp_path):
    found = tokens_of(config(general, *BOTH), collections, tmp_path / "cache")
    kind = found.tokens[:, 0] % 3
    assert (found.tokens % 3 == kind[:, None]).all(), "a sequence is of one source"
    counted = np.array([(kind == which).sum() * SEQ_LEN for which in (FORGET, RETAIN, GENERAL)])
    asked = np.array([0.25, 0.1, 0.65]) * 800
    assert (counted >= asked).all()
    assert (counted - asked < SEQ_LEN).all()


def test_sources_are_interleaved(general, collections, tmp_path):
    kind = tokens_of(config(general, *BOTH), collections, tmp_path / "cache").tokens[:, 0] % 3
    for part in np.array_split(kind, 4):
        assert set(part.tolist()) == {FORGET, RETAIN, GENERAL}


def test_the_same_mix_gives_the_same_tokens_and_another_gives_others(general, collections, tmp_path):
    first = tokens_of(config(general, *BOTH), collections, tmp_path / "1")
    assert tokens_of(config(general, *BOTH), collections, tmp_path / "2").fingerprint == first.fingerprint
    other = tokens_of(config(general, of_table("forget", 0.3), BOTH[1]), collections, tmp_path / "2")
    assert other.fingerprint != first.fingerprint


def test_held_out_sequences_are_those_of_the_text_alone(general, collections, tmp_path):
    mixed = tokens_of(config(general, *BOTH), collections, tmp_path / "cache", "eval")
    plain = tokens_of(config(general), collections, tmp_path / "cache", "eval")
    assert (mixed.fingerprint, mixed.inputs) == (plain.fingerprint, plain.inputs)


def test_files_can_be_mixed_in_and_keep_their_own_held_out_documents(general, tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text("\n".join(json.dumps({"body": f"w{3 * i + 3} " * 30}) for i in range(40)))
    mix = MixConfig(source=str(path), share=0.5, text_field="body")
    mixed = config(general, mix, eval_fraction=0.5)
    found = tokens_of(mixed, tmp_path, tmp_path / "cache")
    trained = {int(t) // 3 - 1 for t in found.tokens[found.tokens[:, 0] % 3 == FORGET][:, 0]}
    source = resolve_text(mixed, tmp_path).mix[0]
    of_number = {int(d.text.split()[0][1:]) // 3 - 1: d.sha256 for d in read_documents(source)}
    assert trained
    assert all(int(of_number[number][:16], 16) >= 0.5 * 2**64 for number in trained)


def test_a_document_of_two_sources_is_taken_once(general, tmp_path):
    mixed = config(general, MixConfig(source=str(general), share=0.3))
    found = tokens_of(mixed, tmp_path, tmp_path / "cache")
    assert len({row.tobytes() for row in found.tokens}) == len(found)


def test_a_source_too_small_for_its_share_says_what_it_has_and_what_would_do(general, collections, tmp_path):
    asked = config(general, of_table("forget", 0.9), n_train_tokens=3000)
    with pytest.raises(DataError, match=r"'table:words \(forget\)' is too small for its share 0.9") as told:
        tokens_of(asked, collections, tmp_path / "cache")
    said = str(told.value)
    held = int(said.split("it holds ")[1].split()[0])
    assert 0 < held < 2700
    assert "2700 of n_train_tokens 3000" in said
    largest = float(said.split("Lower its share to ")[1].split()[0])
    assert largest == pytest.approx(held / 3000, abs=1e-3)
    tokens_of(config(general, of_table("forget", largest - 0.001), n_train_tokens=3000), collections, tmp_path / "c")


def test_too_little_of_the_text_itself_is_told_too(general, collections, tmp_path):
    with pytest.raises(DataError, match=r"its train split holds \d+ tokens .* n_train_tokens asks for 75000 of them"):
        tokens_of(config(general, of_table("forget", 0.25), n_train_tokens=100_000), collections, tmp_path / "cache")


# Keys


def test_training_keys_hold_the_mix_and_others_do_not(general, collections):
    def inputs(found: TextConfig, split: Any = "train") -> dict[str, Any]:
        source = resolve_text(found, collections)
        return token_inputs(found, source.sha256, "t", split, mix_sha256=source.mix_sha256)

    base = inputs(config(general, *BOTH))
    assert "mix" not in inputs(config(general))
    assert inputs(config(general, *BOTH), "eval") == inputs(config(general), "eval")
    swapped = (of_table("retain", 0.25), of_table("forget", 0.1))
    different = [(BOTH[0],), swapped, (of_table("forget", 0.26), BOTH[1]), (of_table("", 0.25),)]
    assert all(inputs(config(general, *mix)) != base for mix in different)
    noted = MixConfig(source="table:words", part="forget", share=0.25, note="noted")
    assert inputs(config(general, noted, BOTH[1])) == base


def test_keys_hold_the_content_of_a_table(general, collections):
    before = table_sha256(collections, "words")
    put(collections, rows(41), "others")
    assert table_sha256(collections, "others") != before


def test_a_key_without_the_content_of_the_mix_is_refused(general):
    with pytest.raises(ConfigError, match="has 2 sources and 0 content hashes"):
        token_inputs(config(general, *BOTH), "a", "b", "train")


# What must never be trained on


def test_rows_trained_on_and_rows_held_out_share_no_word():
    trained, held_out = trained_rows(rows()), held_out_rows(rows())
    words = [{word for row in part for word in row["lemmas"]} for part in (trained, held_out)]
    assert not words[0] & words[1]
    for part in (trained, held_out):
        assert 0.25 * len(rows()) < len(part) < 0.5 * len(rows())
        assert {row["side"] for row in part} == {"forget", "retain"}


@pytest.mark.parametrize("part", [trained_rows, held_out_rows])
def test_other_rows_and_their_order_move_no_row(part):
    whole, some = part(rows()), part(rows()[::-3])
    assert {row["text"] for row in some} == {row["text"] for row in whole} & {row["text"] for row in rows()[::-3]}


def test_what_a_held_out_row_says_is_not_trained_on_under_another_word():
    found = rows()
    for place, row in enumerate(found):
        said = "a kind of bacteria" if place % 4 == 0 else f"number {place}"
        row["text"] = f"{row['lemmas'][0]}: {said}"
    trained, held_out = trained_rows(found), held_out_rows(found)
    assert any("bacteria" in row["text"] for row in held_out)
    assert not any("bacteria" in row["text"] for row in trained)
    assert len(trained) > 0.75 * 0.25 * len(found)


def test_pages_are_of_one_side_and_hold_each_row_that_may_be_trained_on_once(collections):
    pages = {part: list(training_pages(collections, "words", part)) for part in ("forget", "retain", "")}
    for kind, part in enumerate(("forget", "retain")):
        lines = [line for page in pages[part] for line in page.splitlines()]
        assert sorted(lines) == sorted(row["text"] for row in trained_rows(rows()) if row["side"] == part)
        assert all(int(word[1:]) % 3 == kind for line in lines for word in line.split())
    assert sorted(pages[""]) == sorted(pages["forget"] + pages["retain"])


@pytest.mark.parametrize("seed", range(5))
def test_no_evaluation_seed_draws_what_was_trained_on(general, collections, tmp_path, seed):
    found = tokens_of(config(general, of_table("forget", 0.3), of_table("retain", 0.3)), collections, tmp_path / "c")
    trained = {tuple(row) for row in found.tokens.tolist()}
    seen = set(itertools.chain.from_iterable(trained))
    sizes = Sizes(questions={"forget": 50, "retain": 50}, texts=1000, measured=1000)
    drawn = draw_from_table(
        held_out_rows(rows()),
        lambda texts: [[0] for _ in texts],
        sizes,
        generator=torch.Generator().manual_seed(seed),
    )
    asked = {row["question"]: row for row in rows()}
    of_text = {row["text"]: row for row in rows()}
    used = [of_text[text.text] for text in drawn.texts] + [asked[q.question.prompt] for q in drawn.questions]
    assert len(drawn.texts) > 100
    assert len(drawn.questions) > 20
    # The last token of a row is its own: no sequence trained on holds that of a row that is drawn, nor its words.
    assert not seen & {int(row["text"].split()[-1][1:]) for row in used}
    assert not {word for row in trained_rows(rows()) for word in row["lemmas"]} & {w for r in used for w in r["lemmas"]}


# Errors


def test_a_table_that_is_not_fetched_names_the_command(general, tmp_path):
    with pytest.raises(DataError, match=r"'words' of the text's mix is not in .*: run: sae-harness fetch words"):
        resolve_text(config(general, of_table()), tmp_path)
    with pytest.raises(ConfigError, match="say in which folder tables lie"):
        resolve_text(config(general, of_table()))


def test_what_is_no_table_of_texts_is_refused(general, tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "fetched.json").write_text('{"tasks": []}')
    with pytest.raises(DataError, match="is no table that text could be taken from"):
        resolve_text(config(general, of_table()), tmp_path)
    put(tmp_path, [{"word": "w1"}], "letters")
    with pytest.raises(DataError, match="its rows have word and lack text, side, lemmas"):
        list(training_pages(tmp_path, "letters", ""))


def test_a_part_that_a_table_lacks_is_refused(tmp_path):
    put(tmp_path, [row for row in rows() if row["side"] == "retain"])
    with pytest.raises(DataError, match=r"no texts of part 'forget' to train on; its parts are retain"):
        list(training_pages(tmp_path, "words", "forget"))


def test_a_table_is_no_text_by_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"can be named in text\.mix alone"):
        resolve_text(TextConfig(source="table:words", n_train_tokens=1, n_eval_sequences=1), tmp_path)
