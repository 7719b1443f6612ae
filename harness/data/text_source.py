"""Where text lies: `package:`, local, `hub:` and `table:` sources resolved to files and a content hash. No numpy."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..artefacts.key import file_sha256
from ..config import TABLE, MixConfig, TextConfig
from ..errors import ConfigError, DataError
from .text_mix import table_sha256

_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """A text that was found, and the hash that stands for its content."""

    name: str
    sha256: str
    files: tuple[Path, ...] = ()
    """The files, sorted; empty where `dataset` is read instead."""
    dataset: str = ""
    """Hub id or local folder for `datasets.load_dataset`; empty where `files` are read."""
    revision: str = ""
    """Commit of a hub data set."""
    text_field: str = "text"
    table: str = ""
    """Name of a fetched table, whose rows are read instead."""
    collections: Path = Path()
    """The folder of the table's folder."""
    part: str = ""
    """Of the table; empty for all."""
    mix: tuple[TextSource, ...] = ()
    """What is mixed into this for training, in the order of the config's."""

    @property
    def mix_sha256(self) -> tuple[str, ...]:
        """Content hash of each text that is mixed in."""
        return tuple(source.sha256 for source in self.mix)


def package_folder(package: str) -> Path | None:
    """The folder of an importable package, or None; the package's own code is not run."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def files_sha256(files: Iterable[Path], root: Path) -> str:
    """sha256 over the sorted (name relative to `root`, sha256 of the content) of `files`."""
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        digest.update(f"{name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def resolve_text(config: TextConfig, collections: Path | None = None) -> TextSource:
    """Find the text of `config.source`, and those of its mix, and hash their content.

    A single file is known by its bytes alone, a folder also by the names in it, a hub data set by its commit, a table
    by its rows.

    Args:
        collections: the folder that `sae-harness fetch` fills with tables.

    Raises:
        DataError: a source does not exist or holds no text file.
        ConfigError: the mix names a table, and there is no folder of tables.
    """
    main = _resolve(config)
    return replace(main, mix=tuple(_resolve_mixed(entry, collections) for entry in config.mix)) if config.mix else main


def _resolve_mixed(config: MixConfig, collections: Path | None) -> TextSource:
    if not config.table:
        return _resolve(config)
    if collections is None:
        raise ConfigError(f"{config.label} is a table: say in which folder tables lie (collections).")
    sha256 = table_sha256(collections, config.table)
    return TextSource(name=config.label, sha256=sha256, table=config.table, collections=collections, part=config.part)


def _resolve(config: TextConfig | MixConfig) -> TextSource:
    if config.source.startswith(TABLE):
        raise ConfigError(f"A table is no text by itself: {config.source!r} can be named in text.mix alone.")
    scheme, _, rest = config.source.partition(":")
    if scheme == "hub" and rest:
        return _resolve_hub(rest, config)
    path = _package_file(rest) if scheme == "package" and rest else Path(config.source).expanduser()
    if not path.exists():
        raise DataError(
            f"Text source {config.source!r} does not exist ({path}). Allowed are package:PACKAGE/FILE, "
            "a local .txt, .jsonl or .jsonl.gz file or a folder of them, or hub:DATASET."
        )
    files = (path,) if path.is_file() else tuple(sorted(p for p in path.rglob("*") if _is_text(p)))
    if not files or not all(_is_text(p) for p in files):
        raise DataError(
            f"Text source {config.source!r} holds no text file: allowed endings are {', '.join(_SUFFIXES)}."
        )
    sha256 = file_sha256(path) if path.is_file() else files_sha256(files, path)
    return TextSource(name=config.source, sha256=sha256, files=files, text_field=config.text_field)


def _is_text(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_SUFFIXES)


def _package_file(rest: str) -> Path:
    """The file of `PACKAGE/FILE`."""
    package, _, file = rest.partition("/")
    folder = package_folder(package)
    if folder is None:
        raise DataError(f"Text source 'package:{rest}': no importable package {package!r}. Install it, then try again.")
    if not file:
        raise DataError(f"Text source 'package:{rest}' names no file: write it as package:PACKAGE/FILE.")
    return folder / file


def _resolve_hub(dataset: str, config: TextConfig | MixConfig) -> TextSource:
    """A data set for `datasets`: a local folder by its files, a hub id by its commit."""
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
        if not files:
            raise DataError(f"Text source {config.source!r}: the folder {folder} is empty.")
        sha256, revision = files_sha256(files, folder), ""
        dataset = str(folder)
    else:
        revision = config.revision or _hub_commit(dataset)
        sha256 = hashlib.sha256(f"hub:{dataset}@{revision}".encode()).hexdigest()
    return TextSource(
        name=config.source, sha256=sha256, dataset=dataset, revision=revision, text_field=config.text_field
    )


def _hub_commit(dataset: str) -> str:
    """The commit a hub data set's main branch is at now: a branch name would be no identity."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(dataset).sha
    except Exception as error:
        raise DataError(
            f"Text source 'hub:{dataset}' cannot be reached ({type(error).__name__}: {error}). "
            "Use a machine with a network, or give text.revision (a commit) of a data set already in the local "
            "hub cache, or hub:FOLDER of local files."
        ) from error
    if not commit:
        raise DataError(f"Text source 'hub:{dataset}' has no commit on the hub: give text.revision.")
    return commit
