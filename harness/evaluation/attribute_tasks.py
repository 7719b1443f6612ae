"""Tasks of texts with two attributes or of several classes: which texts are to train, to choose with, and to test on.

Which of the three a text is for follows from its hash with the seed (`data.labelled.sample`), so no text is in two of
them, in one task or in several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.labelled import sample
from ..errors import DataError
from ..interfaces.labelled import LabelledSet, Sizes

__all__ = ["ClassTask", "ClassTasks", "Pair", "PairTexts", "Pairs", "Sizes", "Texts", "classes_of", "pairs_of"]

_PARTS = ("training", "selection", "test")


class Texts(NamedTuple):
    """Texts of one probe, half of them of class 1."""

    texts: Tensor
    """[n] int64: which of the tasks' texts."""
    labels: Tensor
    """[n] float64: 0 or 1."""


class PairTexts(NamedTuple):
    """One part of a pair. Target and spurious attribute are 0 or 1."""

    balanced: Tensor
    """[4 q] int64: q texts of each combination of the attributes."""
    target: Tensor
    """[4 q] float64: the target attribute of `balanced`."""
    spurious: Tensor
    """[4 q] float64."""
    biased: Texts
    """[4 q]: texts on which the two attributes are equal, 2 q each."""

    def probes(self) -> tuple[Texts, Texts, Texts]:
        """Of the probes of the target, of the spurious attribute, and of both at once on biased texts."""
        return Texts(self.balanced, self.target), Texts(self.balanced, self.spurious), self.biased


class Pair(NamedTuple):
    """Two values of the target attribute, crossed with the two of the spurious one."""

    name: str
    """"value 1/value 0" of the target attribute."""
    training: PairTexts
    selection: PairTexts
    test: PairTexts


class Pairs(NamedTuple):
    """Pairs over one list of texts."""

    pairs: tuple[Pair, ...]
    texts: tuple[str, ...]
    left_out: tuple[str, ...]
    """Why each other pair is not among them."""


class ClassTask(NamedTuple):
    """One class against the others of its set."""

    set: str
    name: str
    training: Texts
    selection: Texts
    test: Texts


class ClassTasks(NamedTuple):
    """Classes over one list of texts."""

    tasks: tuple[ClassTask, ...]
    texts: tuple[str, ...]
    left_out: tuple[str, ...]
    """Why each other set is not among them."""


def sha256_of(texts: Sequence[str], parts: Iterable[Tensor]) -> str:
    """Of everything that probes see of some tasks."""
    digest = hashlib.sha256(json.dumps(list(texts)).encode("ascii"))
    for part in parts:
        digest.update(str(tuple(part.shape)).encode() + part.numpy().tobytes())
    return digest.hexdigest()


def pairs_of(
    rows: Sequence[Mapping[str, Any]], *, target: str, spurious: str, sizes: Sizes, seed: int, most: int = 0
) -> Pairs:
    """All pairs of values of the column `target`, crossed with the two values of `spurious`.

    Args:
        rows: each with a "text" and the two columns.
        sizes: texts of each combination of the attributes (q) in each part.
        most: of pairs; 0: all. They are taken in the order of their names.

    Raises:
        DataError: a column is not there, `spurious` has not two values, or no pair has enough texts.
    """
    cells = _cells(rows, (target, spurious))
    signs = sorted({sign for _, sign in cells})
    if len(signs) != 2:
        raise DataError(f"Column {spurious!r} must have two values to be crossed with, got {len(signs)}: {signs[:5]}.")
    drawn: list[tuple[str, list[_Drawn]]] = []
    left_out: list[str] = []
    for one, zero in combinations(sorted({value for value, _ in cells}), 2):
        if most and len(drawn) == most:
            break
        name = f"{one}/{zero}"
        (no, yes) = signs
        corners = [cells.get(key, []) for key in ((one, yes), (zero, no), (one, no), (zero, yes))]
        try:
            drawn.append((name, _draw_pair(name, corners, sizes, seed)))
        except DataError as error:
            left_out.append(str(error))
    if not drawn:
        raise DataError(f"No pair of values of {target!r} has enough texts. {(left_out or ['There is one value.'])[0]}")
    texts = tuple(sorted({text for _, parts in drawn for part in parts for own in part for text in own}))
    place = {text: index for index, text in enumerate(texts)}
    pairs = [Pair(name, *(_pair_texts(part, place) for part in parts)) for name, parts in drawn]
    return Pairs(tuple(pairs), texts, tuple(left_out))


class _Drawn(NamedTuple):
    """The texts of one part of a pair, by (target, spurious): 2 q where they are equal, else q."""

    both: Sequence[str]
    neither: Sequence[str]
    target: Sequence[str]
    spurious: Sequence[str]


def _draw_pair(name: str, corners: Sequence[list[str]], sizes: Sizes, seed: int) -> list[_Drawn]:
    twice = Sizes(train=2 * sizes.train, validation=2 * sizes.validation, test=2 * sizes.test)
    equal = _two(f"{name}, attributes equal", corners[0], corners[1], twice, seed)
    unlike = _two(f"{name}, attributes unlike", corners[2], corners[3], sizes, seed)
    return [_Drawn(*a, *b) for a, b in zip(equal, unlike, strict=True)]


def _two(
    name: str, ones: Sequence[str], zeros: Sequence[str], sizes: Sizes, seed: int
) -> list[tuple[list[str], list[str]]]:
    """(texts of class 1, texts of class 0) to train, choose and test, in a fixed order and exactly as many as asked.

    Raises:
        DataError: there are too few.
    """
    labelled = LabelledSet(
        name=name,
        texts=(*ones, *zeros),
        labels=(1,) * len(ones) + (0,) * len(zeros),
        classes=("0", "1"),
        licence="",
        source="",
    )
    wanted = (sizes.train, sizes.validation, sizes.test)
    found = sample(labelled, sizes, seed)
    parts = found.parts(list(zip(found.texts, found.labels, strict=True)))
    cut = [([text for text, own in part if own], [text for text, own in part if not own]) for part in parts]
    for what, n, (of_one, _) in zip(_PARTS, wanted, cut, strict=True):
        if len(of_one) < n:
            raise DataError(f"{name}: {len(of_one)} {what} texts of the rarer class, {n} are needed.")
    return cut


def _pair_texts(part: _Drawn, place: Mapping[str, int]) -> PairTexts:
    q = len(part.target)
    balanced = [*part.both[:q], *part.neither[:q], *part.target, *part.spurious]
    ones = torch.ones(q, dtype=torch.float64)
    return PairTexts(
        balanced=torch.tensor([place[text] for text in balanced]),
        target=torch.cat([ones, 0 * ones, ones, 0 * ones]),
        spurious=torch.cat([ones, 0 * ones, 0 * ones, ones]),
        biased=_texts(part.both, part.neither, place),
    )


def _texts(ones: Sequence[str], zeros: Sequence[str], place: Mapping[str, int]) -> Texts:
    labels = torch.cat([torch.ones(len(ones)), torch.zeros(len(zeros))]).double()
    return Texts(torch.tensor([place[text] for text in (*ones, *zeros)]), labels)


def classes_of(
    rows: Sequence[Mapping[str, Any]], *, set_column: str, class_column: str, sizes: Sizes, seed: int
) -> ClassTasks:
    """Each class against the others of its set, which give equally many negatives.

    Args:
        rows: each with a "text" and the columns.
        set_column: whose values part the sets; empty: all rows are one set.
        sizes: positives of a class in each part; there are as many negatives.

    Raises:
        DataError: a column is not there, or no set has two classes with enough texts.
    """
    cells = _cells(rows, (set_column, class_column) if set_column else (class_column,))
    drawn: list[tuple[str, str, list[tuple[list[str], list[str]]]]] = []
    left_out: list[str] = []
    for own in sorted({key[:-1] for key in cells}):
        classes = {key[-1]: texts for key, texts in cells.items() if key[:-1] == own}
        name = own[0] if own else class_column
        try:
            drawn += [(name, *found) for found in _draw_set(name, classes, sizes, seed)]
        except DataError as error:
            left_out.append(str(error))
    if not drawn:
        raise DataError(
            f"No set of classes of {class_column!r} has enough texts. {(left_out or ['There is none.'])[0]}"
        )
    texts = tuple(sorted({text for *_, parts in drawn for part in parts for own in part for text in own}))
    place = {text: index for index, text in enumerate(texts)}
    tasks = [ClassTask(name, label, *(_texts(*part, place) for part in parts)) for name, label, parts in drawn]
    return ClassTasks(tuple(tasks), texts, tuple(left_out))


def _draw_set(
    name: str, classes: Mapping[str, list[str]], sizes: Sizes, seed: int
) -> list[tuple[str, list[tuple[list[str], list[str]]]]]:
    """(class, its positives and negatives in each part) of every class of a set."""
    labels = sorted(classes)
    if len(labels) < 2:
        raise DataError(f"Set {name!r} has {len(labels)} class: two are needed.")
    # The draw of a class is the same beside any other, so one partner is enough to have it.
    partners = zip(labels, [*labels[1:], labels[0]], strict=True)
    own = {a: _two(f"{name}: {a}", classes[a], classes[b], sizes, seed) for a, b in partners}
    found = []
    for label in labels:
        parts = []
        for part, n in enumerate((sizes.train, sizes.validation, sizes.test)):
            others = [own[other][part][0] for other in labels if other != label]
            negatives = [texts[i] for i in range(n) for texts in others][:n]
            parts.append((own[label][part][0], negatives))
        found.append((label, parts))
    return found


def _cells(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> dict[tuple[str, ...], list[str]]:
    """The texts of each combination of the columns' values."""
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        missing = [column for column in ("text", *columns) if column not in row]
        if missing:
            raise DataError(f"A row has no {', '.join(missing)}: its columns are {', '.join(sorted(row))}.")
        cells.setdefault(tuple(str(row[column]) for column in columns), []).append(row["text"])
    return cells
