"""Labelled texts: what a set of them is, and the part of one that probes see. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import DataError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Texts, each with one of some classes. No text is in it twice."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    """Of each text, an index into `classes`."""
    classes: tuple[str, ...]
    """Of a binary set: the name of what label 0 stands for, then of label 1."""
    licence: str
    source: str
    """Where the texts come from."""
    sha256: str = field(init=False)
    """Of texts and labels."""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise DataError(
                f"Labelled set {self.name!r} has {len(self.texts)} texts and {len(self.labels)} labels: give one each."
            )
        wrong = set(self.labels) - set(range(len(self.classes)))
        if wrong:
            raise DataError(
                f"Labelled set {self.name!r} has the labels {sorted(wrong)}; its {len(self.classes)} classes allow "
                f"0 to {len(self.classes) - 1}."
            )
        repeated = len(self.texts) - len({normal_form(text) for text in self.texts})
        if repeated:
            raise DataError(
                f"Labelled set {self.name!r} holds {repeated} texts a second time, up to case and spaces: a probe "
                "would be tested on what it was trained on. Clean it with `distinct`."
            )
        digest = hashlib.sha256()
        for label, text in zip(self.labels, self.texts, strict=True):
            digest.update(json.dumps([label, text]).encode())
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __len__(self) -> int:
        return len(self.texts)

    def of_class(self, label: int) -> list[int]:
        """Indices of the texts with this label."""
        return [index for index, own in enumerate(self.labels) if own == label]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many texts of each class a split takes at most, and at least."""

    train: int
    validation: int
    test: int
    least: int = 8
    """A split with fewer texts of a class is no use."""

    def __post_init__(self) -> None:
        if self.least < 2 or min(self.train, self.validation, self.test) < self.least:
            raise DataError(
                f"A split needs at least {max(2, self.least)} texts of each class: got train {self.train}, "
                f"validation {self.validation}, test {self.test}, least {self.least}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The texts of one binary task that probes see. Each part holds as many of one class as of the other."""

    name: str
    texts: tuple[str, ...]
    """Training texts, then validation texts, then test texts."""
    labels: tuple[int, ...]
    """0 or 1."""
    ends: tuple[int, int, int]
    """Where the training, validation and test texts end."""

    def __post_init__(self) -> None:
        parts = self.parts(self.texts)
        seen: set[str] = set()
        for what, part in zip(("training", "validation", "test"), parts, strict=True):
            forms = {normal_form(text) for text in part}
            if seen & forms or len(forms) < len(part):
                raise DataError(
                    f"Task {self.name!r}: a {what} text is in the sample twice, up to case and spaces. A test on texts "
                    "that were trained on proves nothing: clean the set with `distinct`."
                )
            seen |= forms

    def parts(self, of_each: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """Something of each text, cut into training, validation and test."""
        a, b, c = self.ends
        return of_each[:a], of_each[a:b], of_each[b:c]


def normal_form(text: str) -> str:
    """What two texts share that a reader would call the same: all but case and spacing."""
    return " ".join(text.split()).casefold()
