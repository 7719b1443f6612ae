"""What lies in an artefact's folder: its manifest, and whether the files are what it says."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CacheError, CorruptArtefactError
from .key import artefact_key, canonical_json, file_sha256

MANIFEST = "manifest.json"
_KEYS = frozenset({"kind", "key", "version", "inputs", "files", "created"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One artefact in the cache."""

    kind: str
    key: str
    path: Path
    bytes: int
    created: datetime
    last_used: datetime


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact: kind, key, version, inputs in full, files with sha256 and bytes, created.

    Raises:
        CorruptArtefactError: it is missing, or no manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtefactError(f"{folder} has no readable {MANIFEST} ({error}).") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= _KEYS:
        raise CorruptArtefactError(f"{folder / MANIFEST} is not a manifest: keys are missing.")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(
        isinstance(f, dict) and {"sha256", "bytes"} <= f.keys() for f in files.values()
    ):
        raise CorruptArtefactError(f"{folder / MANIFEST} is not a manifest: its list of files is not one.")
    return manifest


def write_manifest(folder: Path, kind: str, key: str, inputs: Mapping[str, Any], version: int) -> None:
    """Write the manifest of a filled folder and bring everything in it to the disk."""
    if (folder / MANIFEST).exists():
        raise CacheError(f"The producer of {kind} wrote a file named {MANIFEST}, which is the cache's own: rename it.")
    files = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in _files(folder).items()}
    manifest = {
        "kind": kind,
        "key": key,
        "version": version,
        "inputs": json.loads(canonical_json(inputs)),
        "files": files,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "harness_version": __version__,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def find_fault(folder: Path, kind: str, key: str) -> str | None:
    """What the cheap check finds wrong with a folder: its manifest, its list of files, their sizes."""
    try:
        manifest = read_manifest(folder)
    except CorruptArtefactError as error:
        return str(error)
    if (manifest["kind"], manifest["key"]) != (kind, key):
        return f"its manifest is of {manifest['kind']} {manifest['key']}"
    listed = manifest["files"]
    try:
        files = _files(folder)
        sizes = {name: path.stat().st_size for name, path in files.items()}
    except FileNotFoundError as error:
        return f"a file vanished ({error.filename})"
    if missing := sorted(listed.keys() - files.keys()):
        return f"missing file {missing[0]}"
    if extra := sorted(files.keys() - listed.keys()):
        return f"file {extra[0]} is not in its manifest"
    for name, size in sizes.items():
        if size != listed[name]["bytes"]:
            return f"{name} has {size} bytes instead of {listed[name]['bytes']}"
    return None


def find_content_fault(folder: Path, kind: str, key: str) -> str | None:
    """What only reading everything finds: a file's sha256, or inputs that do not give the key."""
    manifest = read_manifest(folder)
    if artefact_key(kind, manifest["inputs"], manifest["version"]) != key:
        return "the inputs in its manifest do not give its key"
    for name, path in _files(folder).items():
        if file_sha256(path) != manifest["files"][name]["sha256"]:
            return f"{name} has another sha256 than in its manifest"
    return None


def read_entry(kind: str, key: str, path: Path) -> Entry:
    """The listing of one artefact, readable or not."""
    stamp = path / MANIFEST if (path / MANIFEST).exists() else path
    last_used = datetime.fromtimestamp(stamp.stat().st_mtime, timezone.utc)
    try:
        created = datetime.fromisoformat(read_manifest(path)["created"])
    except (CorruptArtefactError, ValueError):
        created = last_used  # told by `verify`; here it is only listed
    return Entry(kind=kind, key=key, path=path, bytes=folder_bytes(path), created=created, last_used=last_used)


def _files(folder: Path) -> dict[str, Path]:
    """Relative path to path of all files but the manifest."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    files.pop(MANIFEST, None)
    return files


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder, which need not exist."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # its owner may be writing and renaming
            total += path.stat().st_size if path.is_file() else 0
    return total


def fsync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
