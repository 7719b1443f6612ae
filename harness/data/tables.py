"""Tables: rows of plain data (words, questions, entities) in a folder, with the hash of what is in them. No torch."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .labelled import INDEX

_ROWS = "rows.jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of one kind, in an order that means nothing but is kept."""

    rows: tuple[Mapping[str, Any], ...]
    """Of JSON's types."""
    licence: str
    source: str
    """Where the rows come from."""
    sha256: str = field(init=False)
    """Of the rows."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"A table of {self.source} has no rows: what was read is not what was expected.")
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode())
        object.__setattr__(self, "sha256", digest.hexdigest())

    def lines(self) -> list[str]:
        """Each row as a line of JSON with sorted keys."""
        return [json.dumps(row, sort_keys=True) + "\n" for row in self.rows]


def write_table(folder: Path, table: Table, index: Mapping[str, Any]) -> None:
    """Write a table in the form `load_table` reads; `index` is what else is to be known of it."""
    body = "".join(table.lines()).encode("ascii")
    (folder / _ROWS).write_bytes(gzip.compress(body, compresslevel=6, mtime=0))
    about = {"n": len(table.rows), "licence": table.licence, "source": table.source, "rows_sha256": table.sha256}
    (folder / INDEX).write_text(json.dumps({**index, "table": about}, indent=1) + "\n", encoding="utf-8")


def load_table(root: Path, name: str) -> Table:
    """A fetched table.

    Raises:
        DataError: it is not there, or a file of it is not what its index says.
    """
    folder = root / name
    if not (folder / INDEX).is_file():
        raise DataError(f"Table {name!r} is not in {folder}: run: sae-harness fetch {name}")
    try:
        about = json.loads((folder / INDEX).read_text(encoding="utf-8"))["table"]
        with gzip.open(folder / _ROWS, "rb") as file:
            rows = tuple(json.loads(line) for line in file)
        table = Table(rows=rows, licence=about["licence"], source=about["source"])
        if table.sha256 != about["rows_sha256"]:
            raise ValueError(f"its rows have sha256 {table.sha256}, its index says {about['rows_sha256']}")
    except (OSError, EOFError, ValueError, KeyError, TypeError, DataError) as error:
        raise DataError(
            f"Table {name!r} in {folder} cannot be read ({type(error).__name__}: {error}). Remove the folder, then "
            f"run: sae-harness fetch {name}"
        ) from error
    return table
