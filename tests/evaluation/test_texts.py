"""Activations of texts: those of running each text alone, made once, and addressed by what made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from harness.activations.ragged import RaggedBatch, length_buckets, pad_right
from harness.artefacts.cache import Cache
from harness.data.labelled import LabelledSet, Sizes, write_collection
from harness.data.tables import Table, write_table
from harness.data.text_mix import held_out_rows
from harness.errors import DataError
from harness.evaluation.texts import TextData

TEXTS = ("a b c d e", "b", "c a", "e d c b a b c d e")


class LetterTokenizer:
    """a … e are 1 … 5, <s> is 0, <x> is 6 and special too; other words are unknown: 7."""

    all_special_ids = (0, 6)
    bos_token_id = 0
    eos_token_id = None
    ids: ClassVar = {"<s>": 0, **{letter: 1 + i for i, letter in enumerate("abcde")}, "<x>": 6}

    def __call__(self, texts: Sequence[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[self.ids.get(word, 7) for word in text.split()] for text in texts]}


class CountingLM:
    """Of a token: itself, its position, and the sum of the tokens so far."""

    tokenizer_sha256 = "letters"

    def __init__(self) -> None:
        self.tokenizer = LetterTokenizer()
        self.n_sequences = 0

    def ragged_batches(self, sequences: Sequence[Tensor], hookpoints: Sequence[str]) -> Iterator[RaggedBatch]:
        for index in length_buckets(torch.tensor([len(s) for s in sequences]), 8):
            tokens, mask = pad_right([sequences[i] for i in index.tolist()])
            self.n_sequences += len(index)
            place = torch.arange(tokens.shape[1]).expand_as(tokens)
            values = torch.stack([tokens, place, tokens.cumsum(1)], dim=-1).float()
            yield RaggedBatch(index=index, tokens=tokens, mask=mask, activations=dict.fromkeys(hookpoints, values))


def make(lm: CountingLM, folder: Path | None = None, **options) -> TextData:
    given = {"hookpoint": "here", "lm_identity": {"lm": "one"}, "collections": folder or Path("nowhere"), **options}
    return TextData(lm, cache=None if folder is None else Cache(folder / "cache"), **given)


def rows_of(data: TextData, texts: Sequence[str] = TEXTS, **bounds) -> list[list[list[float]]]:
    found: list[list[list[float]]] = [[] for _ in texts]
    for part in data.activations(texts, **{"max_tokens": 8, "last_tokens": 8, **bounds}):
        for row, text in zip(part.rows.tolist(), part.text.tolist(), strict=True):
            found[text].append(row)
    return found


def test_each_text_has_the_activations_of_running_it_alone():
    lm = CountingLM()
    together = rows_of(make(lm))
    assert together[2] == [[3.0, 1.0, 3.0], [1.0, 2.0, 4.0]], "BOS stands before and is not counted"
    for text, rows in zip(TEXTS, together, strict=True):
        assert rows_of(make(lm), [text]) == [rows]


def test_the_last_tokens_are_read_in_the_context_of_more():
    rows = rows_of(make(CountingLM()), max_tokens=4, last_tokens=2)
    assert rows[0] == [[4.0, 3.0, 2 + 3 + 4], [5.0, 4.0, 2 + 3 + 4 + 5]]
    assert rows[1] == [[2.0, 1.0, 2.0]], "a short text is whole"


def test_special_tokens_are_not_counted():
    assert rows_of(make(CountingLM()), ["a <x> b"]) == [[[1.0, 1.0, 1.0], [2.0, 3.0, 9.0]]]
    with pytest.raises(DataError, match="has no token that counts"):
        rows_of(make(CountingLM()), ["a", "<x>"])


def test_where_a_suite_counts_no_early_token_an_opening_stands_before():
    rows = rows_of(make(CountingLM(), prepend_bos=False, mask_first=3), ["b"])
    assert [row[:2] for row in rows[0]] == [[2.0, 3.0]], "the text's first token is the fourth"


def test_activations_are_made_once_and_kept(tmp_path: Path):
    lm = CountingLM()
    first = rows_of(make(lm, tmp_path))
    assert lm.n_sequences == len(TEXTS)
    assert rows_of(make(lm, tmp_path)) == first
    assert lm.n_sequences == len(TEXTS)


@pytest.mark.parametrize(
    "options", [{"lm_identity": {"lm": "two"}}, {"hookpoint": "there"}, {"prepend_bos": False}, {"mask_first": 2}]
)
def test_nothing_stale_is_returned(tmp_path: Path, options):
    lm = CountingLM()
    rows_of(make(lm, tmp_path))
    rows_of(make(lm, tmp_path, **options))
    assert lm.n_sequences == 2 * len(TEXTS)


def test_samples_are_kept_and_follow_the_collection_and_the_seed(tmp_path: Path):
    (tmp_path / "numbers").mkdir()
    sizes = Sizes(train=8, validation=8, test=8)

    def write(n: int) -> None:
        texts = tuple(f"text {i}" for i in range(n))
        labels = tuple(i % 3 for i in range(n))
        labelled = LabelledSet(
            name="thirds", texts=texts, labels=labels, classes=("x", "y", "z"), licence="CC0", source="made"
        )
        write_collection(tmp_path / "numbers", [labelled], {})

    write(300)
    data = make(CountingLM(), tmp_path)
    first = data.samples("numbers", sizes, 0)
    assert [task.name for task in first] == ["thirds_x", "thirds_y", "thirds_z"]
    assert make(CountingLM(), tmp_path).samples("numbers", sizes, 0) == first
    assert data.samples("numbers", sizes, 1) != first
    write(330)
    assert make(CountingLM(), tmp_path).samples("numbers", sizes, 0) != first


def test_a_collection_that_is_not_there_is_told_with_the_mend(tmp_path: Path):
    data = make(CountingLM(), tmp_path)
    assert data.missing([]) == ""
    assert data.missing(["vader"]) == "labelled texts 'vader' are not here: run: sae-harness fetch vader"
    with pytest.raises(DataError, match="run: sae-harness fetch vader"):
        data.samples("vader", Sizes(train=8, validation=8, test=8), 0)


def test_no_text_is_refused():
    with pytest.raises(DataError, match="no text"):
        rows_of(make(CountingLM()), [])


def test_of_a_table_that_is_trained_on_only_what_is_held_out_is_given(tmp_path: Path):
    rows = tuple({"text": f"text {i}", "side": "forget", "lemmas": [f"word{i}"]} for i in range(40))
    for name in ("trained", "other"):
        (tmp_path / name).mkdir()
        write_table(tmp_path / name, Table(rows=rows, licence="free", source="here"), {"sha256": "s"})
    data = make(CountingLM(), tmp_path, trained_tables={"trained"})
    assert data.table("other") == rows
    assert data.table("trained") == held_out_rows(rows)
    assert 0 < len(data.table("trained")) < len(rows)
