"""Multiple-choice questions and texts in files of one's own, in the form WMDP and MMLU are published in. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

SIDES = ("forget", "retain")

_LICENCES = """\
WMDP questions (cais/wmdp, MIT) and MMLU (cais/mmlu, MIT) can be had without asking:
  hf download cais/wmdp --repo-type dataset --include 'wmdp-bio/*'
  hf download cais/mmlu --repo-type dataset --include 'high_school_geography/*'
The forget corpus (cais/wmdp-bio-forget-corpus) is gated: log in at huggingface.co, accept its terms on the data set's
page, run `hf auth login`, then: hf download cais/wmdp-bio-forget-corpus --repo-type dataset"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalQuestion:
    """A question with its options."""

    subject: str
    """Name of its file, without the ending."""
    question: str
    choices: tuple[str, ...]
    answer: int
    """Which of the choices is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFiles:
    """Questions and texts of both sides."""

    questions: Mapping[str, tuple[LocalQuestion, ...]]
    """By side: forget, retain."""
    texts: Mapping[str, tuple[str, ...]]
    """By side."""
    sha256: str
    """Of the files' contents and names."""


def read_local(folder: Path) -> LocalFiles:
    """What lies in a folder as questions/forget, questions/retain, texts/forget and texts/retain.

    Questions have `question`, `choices` and `answer` (a number from 0, or its letter), as WMDP and MMLU have; texts
    have `text`. Files are .jsonl (a row a line), .json (a list of rows) or .parquet; those of texts may be .txt too,
    one text a file. Others are not looked at.

    Raises:
        DataError: a folder or its files are missing, or a row has another form.
    """
    digest = hashlib.sha256()
    questions: dict[str, tuple[LocalQuestion, ...]] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for side in SIDES:
        asked = _files(folder / "questions" / side, (".jsonl", ".json", ".parquet"), digest)
        questions[side] = tuple(_question(path, row, at) for path in asked for at, row in _rows(path))
        told = _files(folder / "texts" / side, (".jsonl", ".json", ".parquet", ".txt"), digest)
        texts[side] = tuple(_text(path, row, at) for path in told for at, row in _rows(path))
        for what, found in (("questions", questions[side]), ("texts", texts[side])):
            if not found:
                raise DataError(f"The files in {folder / what / side} hold no row.")
    return LocalFiles(questions=questions, texts=texts, sha256=digest.hexdigest())


def _files(folder: Path, endings: tuple[str, ...], digest: Any) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in endings) if folder.is_dir() else []
    if not found:
        raise DataError(f"No {', '.join(endings)} file in {folder}. Put the data there.\n{_LICENCES}")
    for path in found:
        digest.update(f"{folder.parent.name}/{folder.name}/{path.relative_to(folder).as_posix()}".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return found


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, row) of a file."""
    try:
        if path.suffix == ".txt":
            rows: Any = [{"text": path.read_text(encoding="utf-8")}]
        elif path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        if not isinstance(rows, list):
            raise ValueError("it is no list of rows")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    yield from enumerate(rows, start=1)


def _question(path: Path, row: Any, at: int) -> LocalQuestion:
    try:
        question, choices, answer = row["question"], tuple(row["choices"]), row["answer"]
        if isinstance(answer, str):
            answer = "ABCDEFGH".index(answer.strip().upper()) if len(answer.strip()) == 1 else -1
        told = [question, *choices]
        wrong = isinstance(answer, bool) or not 0 <= answer < len(choices) or not 2 <= len(choices) <= 8
        if wrong or not all(isinstance(text, str) and text.strip() for text in told):
            raise ValueError("an answer that is no choice, or an empty text")
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"Row {at} of {path} is no question ({error!r}): it needs `question`, 2 to 8 `choices` and `answer`, the "
            "number of the right one from 0, as WMDP and MMLU have."
        ) from error
    return LocalQuestion(subject=path.stem, question=question, choices=choices, answer=int(answer))


def _text(path: Path, row: Any, at: int) -> str:
    text = row.get("text") if isinstance(row, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"Row {at} of {path} has no `text`.")
    return text
