"""Lists of English words inside PyPI packages: how they are read. Loads no torch.

The packages are read as archives, never installed or imported.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

from ..errors import DataError
from .tables import Table

_WEB2 = "english_words/data/web2.pickle"
_MIN_LETTERS = 3
"""Shorter ones are mostly names of letters and abbreviations."""


def read_english_words(wheel: Path) -> Table:
    """The lower-case words of three letters and more of Webster's Second International, 1934 (the list `web2` of BSD),
    in alphabetical order: rows of a `word` and its first `letter`.

    Capitalised entries, which are names there, and words with other characters than a to z are left out. The list has
    few plurals and few inflected verbs.

    Raises:
        DataError: the archive does not hold them.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = _Plain(io.BytesIO(archive.read(_WEB2))).load()
        if not isinstance(found, set) or not all(isinstance(word, str) for word in found):
            raise ValueError("it is no set of words")
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{wheel} does not hold the word list {_WEB2} ({error}).") from error
    words = sorted(word for word in found if len(word) >= _MIN_LETTERS and word.isascii() and word.isalpha())
    return Table(
        rows=tuple({"word": word, "letter": word[0]} for word in words if word.islower()),
        licence="public domain (1934); the package says MIT",
        source="Webster's Second International, as FreeBSD's web2, in the package english-words",
    )


class _Plain(pickle.Unpickler):
    """Reads numbers, strings and containers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        """Refused."""
        raise pickle.UnpicklingError(f"it names {module}.{name}, and a list of words names nothing")
