"""SAEBench's eight probing sets, out of data sets of the hub or local copies of them. Loads no torch.

Classes, columns, splits and what is skipped are those of sae-bench 0.6 (`dataset_info.py`, `dataset_utils.py`). Differs
in that each text is kept once, texts of two classes of a set are left out, and of more texts than are wanted those of
the smallest hash are kept (of a stream, the first).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..interfaces.labelled import LabelledSet, normal_form
from .tables import Table

TRAIN, TEST = "train", "test"
PER_CLASS: Mapping[str, int] = {TRAIN: 4000, TEST: 1000}
"""Texts of a class that are kept: twice what SAEBench's probes are given, so that other seeds draw others."""
_MOST_CHARACTERS = 4000
"""Of a text: SAEBench reads its first 128 tokens."""

_PROFESSIONS = (
    *("accountant", "architect", "attorney", "chiropractor", "comedian", "composer", "dentist", "dietitian", "dj"),
    *("filmmaker", "interior_designer", "journalist", "model", "nurse", "painter", "paralegal", "pastor"),
    *("personal_trainer", "photographer", "physician", "poet", "professor", "psychologist", "rapper"),
    *("software_engineer", "surgeon", "teacher", "yoga_teacher"),
)
_CATEGORIES = (
    *("All_Beauty", "Toys_and_Games", "Cell_Phones_and_Accessories", "Industrial_and_Scientific", "Gift_Cards"),
    *("Musical_Instruments", "Electronics", "Handmade_Products", "Arts_Crafts_and_Sewing", "Baby_Products"),
    *("Health_and_Household", "Office_Products", "Digital_Music", "Grocery_and_Gourmet_Food", "Sports_and_Outdoors"),
    *("Home_and_Kitchen", "Subscription_Boxes", "Tools_and_Home_Improvement", "Pet_Supplies", "Video_Games"),
    *("Kindle_Store", "Clothing_Shoes_and_Jewelry", "Patio_Lawn_and_Garden", "Unknown", "Books", "Automotive"),
    *("CDs_and_Vinyl", "Beauty_and_Personal_Care", "Amazon_Fashion", "Magazine_Subscriptions", "Software"),
    *("Health_and_Personal_Care", "Appliances", "Movies_and_TV"),
)
_TEST_BELOW = "33333333"
"""Texts of a streamed set whose hash is below this (one in five) are for testing."""
_GENDERS = ("male", "female")
_ENDINGS = {
    "C": (".c", ".h"),
    "Python": (".py",),
    "HTML": (".html",),
    "Java": (".java",),
    "PHP": (".php", ".php3", ".php4", ".php5", ".phps", ".phpt"),
}
"""Language -> endings of its files, as the loading script of codeparrot/github-code tells languages apart."""
_CODE_SKIPPED, _CODE_LEAST = 150, 384
"""Characters of a file that are skipped (its licence), and that must be left."""
_PAIRS = {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"}
"""Language -> the parallel corpus that its sentences are read from."""


@dataclass(frozen=True, slots=True)
class HubRow:
    """What is read of a row."""

    text: str
    label: str
    """The class."""
    other: str = ""
    """The second attribute, balanced within the class; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """One of SAEBench's sets."""

    published: str
    """SAEBench's name of it."""
    repository: str
    classes: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], HubRow | None]
    """A row of the repository; None for what is not used."""
    licence: str
    others: tuple[str, ...] = ("",)
    """Values of the second attribute."""
    configurations: tuple[str, ...] = ("",)
    """Of the repository; all are read."""
    streamed: bool = False
    """Too large to be downloaded: read from the start until there is enough. It has no test split."""
    enough: tuple[str, ...] = ()
    """The files of the repository that hold enough; empty where all are needed."""


Rows = Callable[[HubSet, str, str], Iterable[Mapping[str, Any]]]
"""Rows of (set, configuration, split)."""


def _bios(row: Mapping[str, Any]) -> HubRow:
    return HubRow(row["hard_text"], _PROFESSIONS[int(row["profession"])], _GENDERS[int(row["gender"])])


def _review(row: Mapping[str, Any]) -> HubRow:
    return HubRow(row["text"], _CATEGORIES[int(row["category"])], f"{float(row['rating']):.1f}")


def _rating(row: Mapping[str, Any]) -> HubRow:
    return HubRow(row["text"], f"{float(row['rating']):.1f}")


def _code(row: Mapping[str, Any]) -> HubRow | None:
    """The script of the repository names languages by the ending of the path; its files hold the path alone."""
    code = row["code"] if "code" in row else row["content"]
    language = row.get("language") or next(
        (name for name, endings in _ENDINGS.items() if str(row["path"]).endswith(endings)), ""
    )
    return HubRow(code[_CODE_SKIPPED:], language) if len(code) > _CODE_SKIPPED + _CODE_LEAST else None


def _news(row: Mapping[str, Any]) -> HubRow:
    return HubRow(row["text"], ("World", "Sports", "Business", "Sci/Tech")[int(row["label"])])


def _translation(row: Mapping[str, Any]) -> HubRow:
    """`language` is put into the row by the reader: the corpus is of two."""
    return HubRow(row["translation"][row["language"]], row["language"])


def _bios_set(number: int, classes: tuple[int, ...]) -> HubSet:
    return HubSet(
        published=f"LabHC/bias_in_bios_class_set{number}",
        repository="LabHC/bias_in_bios",
        classes=tuple(_PROFESSIONS[index] for index in classes),
        others=_GENDERS,
        read=_bios,
        licence="MIT",
    )


_AMAZON = "canrager/amazon_reviews_mcauley_1and5"

SETS: Mapping[str, HubSet] = {
    "bias-in-bios-1": _bios_set(1, (0, 1, 2, 6, 9)),
    "bias-in-bios-2": _bios_set(2, (11, 13, 14, 18, 19)),
    "bias-in-bios-3": _bios_set(3, (20, 21, 22, 25, 26)),
    "amazon-reviews": HubSet(
        published=_AMAZON,
        repository=_AMAZON,
        classes=tuple(_CATEGORIES[index] for index in (1, 2, 3, 5, 6)),
        others=("1.0", "5.0"),
        read=_review,
        licence="that of its source (Amazon reviews, McAuley lab)",
    ),
    "amazon-sentiment": HubSet(
        published=f"{_AMAZON}_sentiment",
        repository=_AMAZON,
        classes=("1.0", "5.0"),
        read=_rating,
        licence="that of its source (Amazon reviews, McAuley lab)",
    ),
    "github-code": HubSet(
        published="codeparrot/github-code",
        repository="codeparrot/github-code",
        classes=tuple(_ENDINGS),
        read=_code,
        streamed=True,
        enough=("data/train-0000*",),
        licence="that of each file",
    ),
    "ag-news": HubSet(
        published="fancyzhx/ag_news",
        repository="fancyzhx/ag_news",
        classes=("World", "Sports", "Business", "Sci/Tech"),
        read=_news,
        licence="that of its source, for research",
    ),
    "europarl": HubSet(
        published="Helsinki-NLP/europarl",
        repository="Helsinki-NLP/europarl",
        classes=tuple(_PAIRS),
        configurations=tuple(_PAIRS.values()),
        read=_translation,
        streamed=True,
        enough=tuple(f"{pair}/*" for pair in _PAIRS.values()),
        licence="that of its source (European Parliament)",
    ),
}
"""SAEBench's eight sets, by our name of each."""

ATTRIBUTES: Mapping[str, tuple[HubSet, tuple[str, str]]] = {
    "bias-in-bios-attributes": (
        HubSet(
            published="LabHC/bias_in_bios",
            repository="LabHC/bias_in_bios",
            classes=tuple(_PROFESSIONS[index] for index in (1, 2, 11, 13, 21, 22, 25, 26)),
            others=_GENDERS,
            read=_bios,
            licence="MIT",
        ),
        ("profession", "gender"),
    ),
    "amazon-attributes": (
        HubSet(
            published=_AMAZON,
            repository=_AMAZON,
            classes=tuple(_CATEGORIES[index] for index in (1, 3, 6, 11, 18, 24, 26, 30)),
            others=("1.0", "5.0"),
            read=_review,
            licence="that of its source (Amazon reviews, McAuley lab)",
        ),
        ("category", "rating"),
    ),
}
"""The two-attribute tables of SAEBench's SCR: the classes of its four pairs each, and the names of the columns."""


def read_set(hub: HubSet, rows: Rows, per_class: Mapping[str, int] = PER_CLASS) -> list[tuple[str, HubRow]]:
    """(split, row) of what is kept of a set: of a class as many as `per_class` says at most, and as many with one value
    of the second attribute as with the other.

    Raises:
        DataError: a row has another form, or a class has no text of a split.
    """
    found = _once(_streamed(hub, rows, per_class) if hub.streamed else _all(hub, rows))
    kept: list[tuple[str, HubRow]] = []
    for split in (TRAIN, TEST):
        for label in hub.classes:
            cells = [
                sorted(
                    (row for where, row in found if (where, row.label, row.other) == (split, label, other)), key=_draw
                )
                for other in hub.others
            ]
            n = min(per_class[split] // len(cells), *map(len, cells))
            if not n:
                raise DataError(f"{hub.published} has no {split} text of {label}: is it the whole data set?")
            kept += [(split, row) for cell in cells for row in cell[:n]]
    return kept


def classes_table(sets: Mapping[HubSet, list[tuple[str, HubRow]]]) -> Table:
    """Rows {"text", "set", "class", "attribute", "split"} of some sets, as `tpp` and `saebench_sparse_probing` read
    them; the attribute is what a class is balanced by, empty where there is none."""
    return Table(
        rows=tuple(
            {"text": row.text, "set": hub.published, "class": row.label, "attribute": row.other, "split": split}
            for hub, found in sets.items()
            for split, row in found
        ),
        licence="; ".join(dict.fromkeys(hub.licence for hub in sets)),
        source=", ".join(dict.fromkeys(hub.repository for hub in sets)),
    )


def attributes_table(hub: HubSet, columns: tuple[str, str], found: list[tuple[str, HubRow]]) -> Table:
    """Rows {"text", COLUMN, COLUMN, "split"}, as `scr` reads them."""
    return Table(
        rows=tuple({"text": row.text, columns[0]: row.label, columns[1]: row.other, "split": at} for at, row in found),
        licence=hub.licence,
        source=hub.repository,
    )


def labelled_set(hub: HubSet, found: list[tuple[str, HubRow]]) -> LabelledSet:
    """The set for `sparse_probing`, which splits by the texts' hashes and not as published."""
    return LabelledSet(
        name=hub.published,
        texts=tuple(row.text for _, row in found),
        labels=tuple(hub.classes.index(row.label) for _, row in found),
        classes=hub.classes,
        licence=hub.licence,
        source=hub.repository,
    )


def _all(hub: HubSet, rows: Rows) -> Iterator[tuple[str, HubRow]]:
    for split in (TRAIN, TEST):
        for configuration in hub.configurations:
            for row in _rows(hub, rows, configuration, split):
                if row.label in hub.classes and row.other in hub.others:
                    yield split, row


def _streamed(hub: HubSet, rows: Rows, per_class: Mapping[str, int]) -> Iterator[tuple[str, HubRow]]:
    """The first rows of each class, parted into training and test by the hash of their text."""
    most, counts = 2 * sum(per_class.values()), Counter[str]()
    for configuration in hub.configurations:
        wanted = [label for label in hub.classes if _PAIRS.get(label, configuration) == configuration]
        for row in _rows(hub, rows, configuration, TRAIN):
            if row.label in wanted and counts[row.label] < most:
                counts[row.label] += 1
                yield (TEST if _draw(row) < _TEST_BELOW else TRAIN), row
                if all(counts[label] >= most for label in wanted):
                    break


def _once(found: Iterable[tuple[str, HubRow]]) -> list[tuple[str, HubRow]]:
    """Each text once, the first; none that is of two classes, or has two values of the second attribute."""
    first: dict[str, tuple[str, HubRow]] = {}
    contradicted: set[str] = set()
    for split, row in found:
        form = normal_form(row.text)
        _, known = first.setdefault(form, (split, row))
        if (known.label, known.other) != (row.label, row.other):
            contradicted.add(form)
    return [kept for form, kept in first.items() if form not in contradicted]


def _draw(row: HubRow) -> str:
    """Digits to order texts by."""
    return hashlib.sha256(f"hub:{normal_form(row.text)}".encode("utf-8", "surrogatepass")).hexdigest()


def _rows(hub: HubSet, rows: Rows, configuration: str, split: str) -> Iterator[HubRow]:
    languages = [language for language, pair in _PAIRS.items() if pair == configuration]
    for number, given in enumerate(rows(hub, configuration, split)):
        try:
            row = hub.read({**given, "language": languages[0]} if languages else given)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"Row {number} of {hub.repository} {configuration} {split} has another form than SAEBench reads "
                f"({type(error).__name__}: {error}); its columns are {', '.join(map(str, given))}."
            ) from error
        if row is not None and row.text.strip():
            yield HubRow(row.text[:_MOST_CHARACTERS], row.label, row.other)
