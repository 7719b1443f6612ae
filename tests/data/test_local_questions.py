"""One's own questions and texts, in the form of WMDP and MMLU: what is read, and what is told where it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from harness.data.local_questions import read_local
from harness.errors import DataError

FORGET = [
    {"question": "Which virus?", "choices": ["a", "b", "c", "d"], "answer": 2},
    {"question": "Which cell?", "choices": ["e", "f", "g", "h"], "answer": "B"},
]
RETAIN = [{"question": "Which river?", "subject": "geography", "choices": ["i", "j", "k", "l"], "answer": 0}]


def put(folder: Path) -> Path:
    for side in ("forget", "retain"):
        (folder / "questions" / side).mkdir(parents=True)
        (folder / "texts" / side).mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in FORGET)
    (folder / "questions" / "forget" / "wmdp-bio.jsonl").write_text(lines)
    (folder / "questions" / "retain" / "high_school_geography.json").write_text(json.dumps(RETAIN))
    (folder / "texts" / "forget" / "bio-forget-corpus.jsonl").write_text('{"text": "On cells."}\n\n{"text": "On x."}\n')
    table = pyarrow.table({"text": ["On rivers."]})
    pyarrow.parquet.write_table(table, folder / "texts" / "retain" / "wikitext.parquet")
    (folder / "texts" / "retain" / "more.txt").write_text("On hills.")
    return folder


def test_files_of_the_published_form_are_read(tmp_path: Path):
    found = read_local(put(tmp_path))
    first, second = found.questions["forget"]
    assert (first.subject, first.question, first.choices, first.answer) == (
        "wmdp-bio",
        "Which virus?",
        tuple("abcd"),
        2,
    )
    assert second.answer == 1, "a letter names a choice"
    assert [q.subject for q in found.questions["retain"]] == ["high_school_geography"]
    assert found.texts == {"forget": ("On cells.", "On x."), "retain": ("On hills.", "On rivers.")}


def test_their_hash_is_of_contents_and_not_of_the_place(tmp_path: Path):
    one, two = read_local(put(tmp_path / "one")), read_local(put(tmp_path / "two"))
    assert one.sha256 == two.sha256
    (tmp_path / "two" / "texts" / "retain" / "more.txt").write_text("On other hills.")
    assert read_local(tmp_path / "two").sha256 != one.sha256


def test_where_files_are_missing_the_licence_step_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"No \.jsonl, .* in .*questions/forget(.|\n)*accept its terms") as error:
        read_local(tmp_path)
    assert "wmdp-bio-forget-corpus" in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?", "choices": ["a", "b"], "answer": 2},
        {"question": "?", "choices": ["a", "b"], "answer": "Z"},
        {"question": "?", "choices": ["a", "b"], "answer": True},
        {"question": "", "choices": ["a", "b"], "answer": 0},
        {"question": "?", "answer": 0},
        ["?", "a"],
    ],
)
def test_a_row_of_another_form_is_named(tmp_path: Path, row):
    put(tmp_path)
    (tmp_path / "questions" / "retain" / "high_school_geography.json").write_text(json.dumps([RETAIN[0], row]))
    with pytest.raises(DataError, match=r"Row 2 of .*geography\.json is no question"):
        read_local(tmp_path)


def test_a_text_row_without_text_and_a_broken_file_are_named(tmp_path: Path):
    put(tmp_path)
    file = tmp_path / "texts" / "forget" / "bio-forget-corpus.jsonl"
    file.write_text('{"body": "no"}\n')
    with pytest.raises(DataError, match=r"Row 1 of .*corpus\.jsonl has no `text`"):
        read_local(tmp_path)
    file.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_local(tmp_path)
