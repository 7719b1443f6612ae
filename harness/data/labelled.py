"""Labelled texts: sets for probing, their repairs, and the split that no two texts of one content can straddle.

Loads no torch. A collection is a folder made by `sae-harness fetch` (or by hand, in the same form):

    fetched.json            {"requirement": …, "sha256": …, "tasks": [{"name", "classes", "licence", "source", "n"}, …],
                             "left_out": {task: reason}}
    <task>.jsonl.gz         one text a line: [label, text]
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..artefacts.key import file_sha256
from ..errors import DataError
from ..interfaces.labelled import LabelledSet, Sample, Sizes, normal_form

__all__ = [
    "LabelledSet",
    "Sample",
    "Sizes",
    "binary",
    "collection_sha256",
    "distinct",
    "load_collection",
    "sample",
    "write_collection",
]

INDEX = "fetched.json"
"""Written last; a folder without it is not a finished collection."""

_TRAIN, _VALIDATION = 0.5, 0.75
"""Texts whose hash, as a share of all hashes, lies below the first are for training, below the second for validation,
the rest for testing."""


def distinct(texts: Iterable[str], labels: Iterable[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Each text once, in the order given; blank texts, and those that carry two different labels, are left out."""
    label_of: dict[str, int] = {}
    first: dict[str, str] = {}
    contradicted: set[str] = set()
    for text, label in zip(texts, labels, strict=True):
        form = normal_form(text)
        if form:
            first.setdefault(form, text)
            if label_of.setdefault(form, label) != label:
                contradicted.add(form)
    kept = [form for form in first if form not in contradicted]
    return tuple(first[form] for form in kept), tuple(label_of[form] for form in kept)


def sample(labelled: LabelledSet, sizes: Sizes, seed: int) -> Sample:
    """The texts of a binary set that probes see.

    What a text is for (training, validation, test) follows from its hash with the seed alone. So a text that is in
    many sets is for the same in all of them, and adding texts to a set moves no other one. Among the texts of a class,
    those of the smallest hash are taken: sets with texts in common choose the same ones.

    Raises:
        DataError: the set is not binary, or a part has fewer than `sizes.least` texts of a class.
    """
    if len(labelled.classes) != 2:
        raise DataError(f"Labelled set {labelled.name!r} has {len(labelled.classes)} classes: cut it with `binary`.")
    drawn = {index: _draw(text, seed) for index, text in enumerate(labelled.texts)}
    chosen: list[int] = []
    ends: list[int] = []
    for what, low, high, most in (
        ("training", 0.0, _TRAIN, sizes.train),
        ("validation", _TRAIN, _VALIDATION, sizes.validation),
        ("test", _VALIDATION, math.inf, sizes.test),
    ):
        classes = []
        for label in (0, 1):
            own = [i for i in labelled.of_class(label) if low <= drawn[i][0] < high]
            classes.append(sorted(own, key=lambda i: drawn[i][1])[:most])
        n = min(map(len, classes))
        if n < sizes.least:
            raise DataError(
                f"Task {labelled.name!r} has {n} {what} texts of its rarer class, and needs {sizes.least}: give more "
                "texts or lower the least number."
            )
        chosen += [i for pair in zip(classes[0][:n], classes[1][:n], strict=True) for i in pair]
        ends.append(len(chosen))
    return Sample(
        name=labelled.name,
        texts=tuple(labelled.texts[i] for i in chosen),
        labels=tuple(labelled.labels[i] for i in chosen),
        ends=(ends[0], ends[1], ends[2]),
    )


def binary(labelled: LabelledSet) -> tuple[LabelledSet, ...]:
    """One against the rest, for each class; a binary set as it is."""
    if len(labelled.classes) == 2:
        return (labelled,)
    return tuple(
        LabelledSet(
            name=f"{labelled.name}_{name}",
            texts=labelled.texts,
            labels=tuple(int(own == label) for own in labelled.labels),
            classes=(f"not {name}", name),
            licence=labelled.licence,
            source=labelled.source,
        )
        for label, name in enumerate(labelled.classes)
    )


def load_collection(root: Path, name: str) -> tuple[LabelledSet, ...]:
    """The sets of a fetched collection, by name.

    Raises:
        DataError: the collection is not there, or a file of it is not what its index says.
    """
    folder = root / name
    if not (folder / INDEX).is_file():
        raise DataError(f"Labelled texts {name!r} are not in {folder}: run: sae-harness fetch {name}")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        sets = [_read_set(folder, entry) for entry in index["tasks"]]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Labelled texts in {folder} cannot be read ({type(error).__name__}: {error}). Remove the folder, then "
            f"run: sae-harness fetch {name}"
        ) from error
    return tuple(sorted(sets, key=lambda labelled: labelled.name))


def collection_sha256(root: Path, name: str) -> str:
    """sha256 of a collection's index, which holds those of its texts; empty where it has not been fetched."""
    index = root / name / INDEX
    return file_sha256(index) if index.is_file() else ""


def write_collection(folder: Path, sets: Sequence[LabelledSet], index: dict[str, Any]) -> None:
    """Write sets in the form `load_collection` reads; `index` is what else is to be known of them."""
    for labelled in sets:
        rows = zip(labelled.labels, labelled.texts, strict=True)
        body = "".join(f"{json.dumps(row)}\n" for row in rows).encode("ascii")
        (folder / _file_name(labelled.name)).write_bytes(gzip.compress(body, compresslevel=6, mtime=0))
    tasks = [
        {
            "name": labelled.name,
            "classes": list(labelled.classes),
            "licence": labelled.licence,
            "source": labelled.source,
            "n": len(labelled),
            "sha256": labelled.sha256,
        }
        for labelled in sets
    ]
    (folder / INDEX).write_text(json.dumps({**index, "tasks": tasks}, indent=1) + "\n", encoding="utf-8")


def _read_set(folder: Path, entry: dict[str, Any]) -> LabelledSet:
    with gzip.open(folder / _file_name(entry["name"]), "rb") as file:
        rows = [json.loads(line) for line in file]
    labelled = LabelledSet(
        name=entry["name"],
        texts=tuple(text for _, text in rows),
        labels=tuple(label for label, _ in rows),
        classes=tuple(entry["classes"]),
        licence=entry["licence"],
        source=entry["source"],
    )
    if labelled.sha256 != entry["sha256"]:
        raise ValueError(f"{entry['name']} has sha256 {labelled.sha256}, its index says {entry['sha256']}")
    return labelled


def _file_name(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in task) + ".jsonl.gz"


def _draw(text: str, seed: int) -> tuple[float, str]:
    """Of a text: a number in [0, 1), and other digits to order by."""
    digest = hashlib.sha256(f"{seed}:{normal_form(text)}".encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:16], 16) / 2**64, digest[16:]
