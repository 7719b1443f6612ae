"""Tables: what is written is read back, and a damaged one is told with its mend."""

from __future__ import annotations

import gzip

import pytest

from harness.data.tables import Table, load_table, write_table
from harness.errors import DataError

ROWS = ({"word": "tree", "n": 2}, {"word": "été", "n": 1})


def written(root) -> Table:
    table = Table(rows=ROWS, licence="CC0", source="made here")
    (root / "words").mkdir()
    write_table(root / "words", table, {"sha256": "of the package", "cleaning": 1})
    return table


def test_rows_come_back_as_they_were(tmp_path):
    table = written(tmp_path)
    found = load_table(tmp_path, "words")
    assert found == table
    assert found.rows == ROWS
    assert found.licence == "CC0"


def test_an_absent_table_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(DataError, match="sae-harness fetch words"):
        load_table(tmp_path, "words")


def test_changed_rows_are_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "words" / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"word": "tea"}\n'))
    with pytest.raises(DataError, match=r"(?s)its index says.*Remove the folder"):
        load_table(tmp_path, "words")


def test_a_table_without_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        Table(rows=(), licence="", source="nowhere")
