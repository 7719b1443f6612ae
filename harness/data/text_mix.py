"""Tables as text to train on: which rows are trained on, which are left to be measured on, and pages of rows.

A table's words are of two fixed kinds, by their hash. Trained on are rows all of whose words are of the one kind;
evaluations of a suite that trains on the table see rows all of whose words are of the other; rows with words of both
kinds are used by neither. So nothing that is measured, under whatever evaluation seed, was trained on. A row that says
of its words what a held-out row says of others (`genus Vibrio: a genus of bacteria`) is not trained on either. Loads no
numpy.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import TextConfig
from ..errors import ConfigError, DataError
from .labelled import INDEX
from .tables import load_table

TABLE_TEXT_VERSION = 2
"""Raised by every change that can move a word to the other kind, or a row to another page."""

_TRAINED_WORDS = 0.5
"""Share of the words, by hash, that are trained on."""
_PAGE_ROWS = 64
"""Rows of a page: one row is far shorter than a sequence, and what is cut off a page's end is lost."""
_NEEDED = ("text", "side", "lemmas")


def table_sha256(collections: Path, name: str) -> str:
    """sha256 of a fetched table's rows, as its index says; `load_table` holds the rows to it.

    Raises:
        DataError: it has not been fetched, or is no table.
    """
    index = collections / name / INDEX
    if not index.is_file():
        raise DataError(f"Table {name!r} of the text's mix is not in {index.parent}: run: sae-harness fetch {name}")
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["table"]["rows_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{index.parent} is no table that text could be taken from ({error!r}): a mix can name "
            "table:wordnet-questions. If it was one, remove the folder, then run: sae-harness fetch "
            f"{name}"
        ) from error


def mix_inputs(config: TextConfig, sha256: Sequence[str]) -> list[dict[str, Any]]:
    """What the training sequences depend on besides the text itself; empty without a mix.

    Args:
        sha256: of the content of each source of the mix.

    Raises:
        ConfigError: there are not as many as the mix has sources.
    """
    if len(sha256) != len(config.mix):
        raise ConfigError(
            f"The text's mix has {len(config.mix)} sources and {len(sha256)} content hashes were given: a key without "
            "them would stand for other sequences."
        )
    found = []
    for entry, content in zip(config.mix, sha256, strict=True):
        how = {"part": entry.part, "version": TABLE_TEXT_VERSION} if entry.table else {"text_field": entry.text_field}
        found.append({"text": content, "share": float(entry.share), **how})
    return found


def trained_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The rows that may be trained on. Raises DataError where a row does not say its words (`lemmas`)."""
    measured = {_said(row) for row in held_out_rows(rows)}
    return tuple(row for row in _rows_of(rows, trained=True) if _said(row) not in measured)


def held_out_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The rows left to be measured on: none shares a word or a definition with one that may be trained on."""
    return _rows_of(rows, trained=False)


def _rows_of(rows: Sequence[Mapping[str, Any]], *, trained: bool) -> tuple[Mapping[str, Any], ...]:
    for row in rows:
        if lacking := [name for name in _NEEDED if name not in row]:
            raise DataError(
                f"The table has no texts to train on: its rows have {', '.join(row)} and lack {', '.join(lacking)}. "
                "A mix can name table:wordnet-questions."
            )
    kinds: dict[str, bool] = {word: _is_trained(word) for row in rows for word in row["lemmas"]}
    return tuple(row for row in rows if row["lemmas"] and all(kinds[word] == trained for word in row["lemmas"]))


def _said(row: Mapping[str, Any]) -> str:
    """What a row says of its words; where it names none, all of it."""
    words, _, definition = row["text"].partition(": ")
    return definition or words


def _is_trained(word: str) -> bool:
    digest = hashlib.sha256(f"trained:{word}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < _TRAINED_WORDS * 2**64


def training_pages(collections: Path, name: str, part: str) -> Iterator[str]:
    """The texts of a table that may be trained on, one a line, in pages of one side and domain. Order is by hash.

    Args:
        part: side of the rows; empty for all.

    Raises:
        DataError: the table has not been fetched, is damaged, or has no texts of that part.
    """
    rows = load_table(collections, name).rows
    of_kind: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in trained_rows(rows):
        if part in ("", row["side"]):
            of_kind[row["side"], row.get("domain", "")].append(row["text"])
    if not of_kind:
        sides = ", ".join(sorted({row["side"] for row in rows}))
        raise DataError(f"Table {name!r} has no texts of part {part!r} to train on; its parts are {sides}.")
    for kind in sorted(of_kind):
        texts = sorted(of_kind[kind], key=_order)
        for start in range(0, len(texts), _PAGE_ROWS):
            yield "\n".join(texts[start : start + _PAGE_ROWS])


def _order(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
