"""Word lists inside packages: which words are read, and that nothing in a package can run."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest

from harness.data.fetch_labelled import COLLECTIONS, fetch_collection
from harness.data.packaged_words import read_english_words
from harness.data.tables import load_table
from harness.errors import DataError

FOUND = {"pear", "apple", "Anna", "ox", "x-ray", "caf\u00e9", "naïve", "a", "zoo", "PEAR"}


def packed(folder: Path, content: bytes, member: str = "english_words/data/web2.pickle") -> Path:
    """A wheel of the form of the pinned one."""
    path = folder / "english_words.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_lower_case_words_of_three_letters_and_more_are_read_in_order(tmp_path: Path):
    table = read_english_words(packed(tmp_path, pickle.dumps(FOUND)))
    assert table.rows == (
        {"word": "apple", "letter": "a"},
        {"word": "pear", "letter": "p"},
        {"word": "zoo", "letter": "z"},
    )


def test_the_fetched_list_is_the_table_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheel = packed(tmp_path, pickle.dumps(FOUND))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(COLLECTIONS, "words", dataclasses.replace(COLLECTIONS["words"], sha256=sha256))
    fetch_collection("words", tmp_path / "labelled" / "words", file=wheel)
    assert [row["word"] for row in load_table(tmp_path / "labelled", "words").rows] == ["apple", "pear", "zoo"]


class Runs:
    def __reduce__(self):
        return (print, ("this was run",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({Runs()}), "a list of words names nothing"),
        (pickle.dumps(["pear"]), "it is no set of words"),
        (pickle.dumps({1, 2}), "it is no set of words"),
        (pickle.dumps(FOUND)[:20], "does not hold the word list"),
        (b"", "does not hold the word list"),
    ],
    ids=["code", "list", "numbers", "half", "empty"],
)
def test_what_is_no_list_of_words_is_refused(tmp_path: Path, capsys, content: bytes, reason: str):
    with pytest.raises(DataError, match=reason):
        read_english_words(packed(tmp_path, content))
    assert not capsys.readouterr().out


def test_another_archive_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not hold the word list"):
        read_english_words(packed(tmp_path, b"", "other.pickle"))
    (tmp_path / "no.whl").write_bytes(b"no archive")
    with pytest.raises(DataError, match="does not hold the word list"):
        read_english_words(tmp_path / "no.whl")
