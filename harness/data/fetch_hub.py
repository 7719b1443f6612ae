"""Fetch SAEBench's probing sets from the hub, from the cache of `datasets`, or from a local copy. Loads no torch.

What is kept is a folder that `load_collection` and `load_table` both read: the texts for `sparse_probing`, and the same
as a table for `tpp` and `saebench_sparse_probing`; the two-attribute ones, for `scr`, are a table alone.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, DiskSpaceError, UnknownNameError
from .fetch_labelled import move_into_place
from .hub_sets import ATTRIBUTES, SETS, HubSet, Rows, attributes_table, classes_table, labelled_set, read_set
from .labelled import INDEX, write_collection
from .tables import write_table

ALL = "saebench-probing"
"""Stands for the eight together."""
READING = 1
"""Raised when what is kept of a set changes, so that folders of an older form are refused and not silently used."""
_NEEDED_BYTES = 500_000_000
_FILES = "data/*.parquet"

HUB_COLLECTIONS: Mapping[str, str] = {
    ALL: "SAEBench's eight probing sets: 33 classes in 8 sets",
    **{
        name: f"{hub.published}: {', '.join(hub.classes)}; {hub.licence}"
        for name, hub in {**SETS, **{name: hub for name, (hub, _) in ATTRIBUTES.items()}}.items()
    },
}
"""What can be fetched, by name, and what it is."""


def fetch_hub(name: str, destination: Path, *, source: Path | None = None) -> Path:
    """Put a set into `destination` and return it; does nothing where the folder is already a finished fetch.

    Args:
        source: a folder with copies of the hub's data sets, each in the layout it has there, as SOURCE itself, as
            SOURCE/OWNER/NAME or SOURCE/NAME, or a cache of the hub (datasets--OWNER--NAME). Without it `datasets`
            loads them: over the network, or from its cache.

    Raises:
        UnknownNameError: there is no such set.
        DataError: a data set cannot be had or has another form, or `destination` holds something else.
        DiskSpaceError: too little space is free there.
    """
    if name not in HUB_COLLECTIONS:
        raise UnknownNameError.of("collection", name, HUB_COLLECTIONS)
    if _is_fetched(destination, name):
        return destination
    if destination.exists() and any(destination.iterdir()):
        raise DataError(
            f"{destination} exists, but is no complete fetch of {name} (its {INDEX} is missing or of another version). "
            "Remove it, then fetch again."
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    if free < _NEEDED_BYTES:
        raise DiskSpaceError(
            f"Fetching {name} needs {_NEEDED_BYTES / 1e9:.2f} GB in {destination.parent}, {free / 1e9:.2f} GB are "
            "free. Make room, or put the cache on another disk."
        )
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as work:
        folder = Path(work) / "collection"
        folder.mkdir()
        _write(name, folder, _reader(name, source))
        move_into_place(folder, destination, lambda: _is_fetched(destination, name))
    return destination


def _write(name: str, folder: Path, rows: Rows) -> None:
    index: dict[str, Any] = {"collection": name, "reading": READING, "note": HUB_COLLECTIONS[name]}
    if name in ATTRIBUTES:
        hub, columns = ATTRIBUTES[name]
        write_table(folder, attributes_table(hub, columns, read_set(hub, rows)), index)
        return
    hubs = list(SETS.values()) if name == ALL else [SETS[name]]
    found = {hub: read_set(hub, rows) for hub in hubs}
    write_table(folder, classes_table(found), index)
    # One index for both forms.
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    write_collection(folder, [labelled_set(hub, own) for hub, own in found.items()], index)


def _is_fetched(folder: Path, name: str) -> bool:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return (index["collection"], index["reading"]) == (name, READING)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _reader(name: str, source: Path | None) -> Rows:
    def rows(hub: HubSet, configuration: str, split: str) -> Iterable[Mapping[str, Any]]:
        place = hub.repository if source is None else _copy_of(hub, source)
        try:
            yield from _load(place, configuration, split, stream=hub.streamed)
        except DataError:
            raise
        except Exception as error:  # `datasets` raises whatever its readers and the network raise
            told = " ".join(str(error).split())
            raise DataError(
                f"{hub.repository} cannot be read from {'the hub' if source is None else place} "
                f"({type(error).__name__}: {told[:300]}). {_mend(hub, name)}"
            ) from error

    return rows


def _load(place: str | Path, configuration: str, split: str, *, stream: bool) -> Any:
    """Rows of one split; `place` is a repository of the hub or a folder in the layout of one."""
    import datasets
    import datasets.config

    offline = bool(datasets.config.HF_HUB_OFFLINE)
    if isinstance(place, Path):
        # A folder of the configuration's name says as much as the card of the repository, which a copy may lack.
        folder = place / configuration if configuration and (place / configuration).is_dir() else place
        if next(folder.glob("*.py"), None) is not None:
            # `datasets` reads no loading scripts any more: the files they read lie in `data`.
            return datasets.load_dataset("parquet", data_files=str(folder / _FILES), split=split, streaming=True)
        named = configuration if folder == place and configuration else None
        return datasets.load_dataset(str(folder), named, split=split, streaming=stream)
    if stream and not configuration and not offline:
        # The one of the eight with a loading script.
        files = f"hf://datasets/{place}/{_FILES}"
        return datasets.load_dataset("parquet", data_files=files, split=split, streaming=True)
    # Offline, `datasets` finds what it has downloaded before, whole: streams are in no cache.
    return datasets.load_dataset(place, configuration or None, split=split, streaming=stream and not offline)


def _copy_of(hub: HubSet, source: Path) -> Path:
    """The copy of a repository in a folder.

    Raises:
        DataError: there is none.
    """
    owner, _, own = hub.repository.partition("/")
    cached = source / f"datasets--{owner}--{own}" / "snapshots"
    snapshots = sorted(cached.iterdir(), key=lambda path: path.stat().st_mtime) if cached.is_dir() else []
    for folder in (source / owner / own, source / own, *reversed(snapshots)):
        if folder.is_dir():
            return folder
    if source.is_dir() and source.name in (own, hub.repository.replace("/", "__")):
        return source
    raise DataError(
        f"{source} holds no copy of {hub.repository}: looked for {owner}/{own}, {own} and {cached.parent.name} in it, "
        f"and for a folder named {own}. {_mend(hub, '')}"
    )


def _mend(hub: HubSet, name: str) -> str:
    again = f", then: sae-harness fetch {name} --from FOLDER" if name else ""
    some = "".join(f" --include '{pattern}'" for pattern in hub.enough)
    return (
        f"Where there is a network, run: hf download {hub.repository} --repo-type dataset{some} --local-dir "
        f"FOLDER/{hub.repository}{again}"
    )
