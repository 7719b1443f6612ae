"""Stored baselines as a typed map: `ROOT/<suite>/<method>[@<preset>]/<key>.json` and a manifest of their hashes.

Only what the manifest lists, byte for byte, is ever read. Records are written first and the manifest last, so an
interrupted write is unfinished, never half read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import BaselineError, RecordError
from .record import Record, write_atomically
from .side import method_label, protocol_differences, side_of

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a method's folder holds."""

    suite: str
    method: str
    """Label: `method` or `method@preset`."""
    command: str
    """What made the records."""
    created: str
    """UTC, ISO 8601: when the folder was last added to."""
    harness_version: str
    """Of the records; several are joined by commas."""
    records: dict[str, str]
    """File name -> sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in the store."""

    path: Path
    message: str


class BaselineStore:
    """The baselines under one folder; a folder that is not there is an empty store."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def suites(self) -> tuple[str, ...]:
        """Suites with stored baselines."""
        return tuple(p.name for p in _folders(self.root) if any((q / MANIFEST).is_file() for q in _folders(p)))

    def methods(self, suite: str) -> tuple[str, ...]:
        """Labels of the suite's stored methods."""
        return tuple(p.name for p in _folders(self._path(suite)) if (p / MANIFEST).is_file())

    def manifest(self, suite: str, method: str) -> Manifest:
        """A method's manifest.

        Raises:
            BaselineError: there is no such baseline, or its manifest is malformed.
        """
        path = self._path(suite, method) / MANIFEST
        return _read_manifest(path, self._read(suite, method, path))

    def manifest_sha256(self, suite: str, method: str) -> str:
        """Hash of the manifest's bytes, and through it of all its records.

        Raises:
            BaselineError: there is no such baseline.
        """
        return hashlib.sha256(self._read(suite, method, self._path(suite, method) / MANIFEST)).hexdigest()

    def load(self, suite: str, method: str) -> list[Record]:
        """A method's records by seed and target L0, each checked against the manifest.

        Raises:
            BaselineError: there is no such baseline, or a file is missing or differs from the manifest.
            RecordError: a record cannot be read by this version.
        """
        folder = self._path(suite, method)
        records: list[Record] = []
        for name, sha256 in sorted(self.manifest(suite, method).records.items()):
            path = folder / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise BaselineError(f"{path} cannot be read: {error.strerror}. {_mend(path)}") from error
            if hashlib.sha256(content).hexdigest() != sha256:
                raise BaselineError(f"Baseline record {path} differs from its manifest. {_mend(path)}")
            records.append(Record.from_json(content.decode(), where=str(path)))
        return sorted(records, key=lambda r: (r.training.seed, r.training.target_l0 or 0))

    def add(self, suite: str, records: Sequence[Record], command: str, *, replace: bool = False) -> Path:
        """Store one method's records beside those already there; equal ones are left as they are.

        `replace` puts them in the place of all that the method has stored.

        Returns:
            The method's folder.

        Raises:
            BaselineError: a record would be overwritten by a differing one, stands for a seed and target L0 that
                is already stored, follows another protocol than the stored ones, or is of another suite.
            RecordError: the records are none, mixed, doubled or tainted, or cannot be written.
        """
        side = side_of(records, "baseline to store")
        if records[0].protocol.suite != suite:
            raise BaselineError(
                f"These records are of suite {records[0].protocol.suite!r}, not {suite!r}: store them under their own."
            )
        folder = self._path(suite, side.label)
        stored, listed = [], {}
        if (folder / MANIFEST).is_file() and not replace:
            stored, listed = self.load(suite, side.label), self.manifest(suite, side.label).records
        for record in records:
            _check_addition(record, stored, folder)
        new = {name: record for record in records if (name := _file_name(record)) not in listed}
        if not new:
            return folder
        manifest = Manifest(
            suite=suite,
            method=side.label,
            command=command,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            harness_version=", ".join(sorted({r.provenance.harness_version for r in (*stored, *records)})),
            records={**listed, **{name: record.sha256() for name, record in new.items()}},
        )
        try:
            if replace and folder.exists():
                _swap(folder, new, manifest)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder, new, manifest)
        except OSError as error:
            raise BaselineError(f"Baselines cannot be written to {folder}: {error.strerror or error}.") from error
        return folder

    def verify(self) -> list[Problem]:
        """Everything in the store that is missing, changed, unlisted, unreadable or of mixed protocols."""
        problems: list[Problem] = []
        for suite in (p.name for p in _folders(self.root)):
            first: Record | None = None
            for folder in _folders(self._path(suite)):
                found, records = self._verify_method(suite, folder)
                problems += found
                for record in records:
                    if record.provenance.source:
                        break  # imported: what was published beside each other need not be of one protocol
                    first = first or record
                    differing = protocol_differences(record.protocol, first.protocol)
                    if differing:
                        message = f"{differing[0].field} is not that of {method_label(first)} of this suite"
                        problems.append(Problem(path=folder, message=message))
                        break
        return problems

    def _verify_method(self, suite: str, folder: Path) -> tuple[list[Problem], list[Record]]:
        if not (folder / MANIFEST).is_file():
            return [Problem(path=folder, message=f"has no {MANIFEST}: add its records again")], []
        try:
            listed = self.manifest(suite, folder.name)
            records = self.load(suite, folder.name)
            side = side_of(records, allow_tainted=True)
        except (BaselineError, RecordError) as error:
            return [Problem(path=folder, message=str(error))], []
        problems = [
            Problem(path=path, message="is not listed in the manifest and is not read: add it again or remove it")
            for path in sorted(folder.iterdir())
            if path.name != MANIFEST and path.name not in listed.records
        ]
        if (side.label, records[0].protocol.suite) != (folder.name, suite):
            problems.append(Problem(path=folder, message=f"holds {side.label} of suite {records[0].protocol.suite}"))
        for record in records:
            problems += [
                Problem(path=folder / _file_name(record), message=f"is tainted: {t.rule}: {t.reason}")
                for t in record.taints
                if not record.provenance.source
            ]
        return problems, records

    def _path(self, *names: str) -> Path:
        for name in names:
            if not _FOLDER.match(name):
                raise BaselineError(
                    f"{name!r} cannot name a baseline: use letters, digits and the signs _ . @ + -, "
                    "starting with a letter or digit."
                )
        return self.root.joinpath(*names)

    def _read(self, suite: str, method: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            known = self.methods(suite)
            have = ", ".join(known) if known else "none"
            raise BaselineError(
                f"Unknown baseline {method!r} for suite {suite!r} in {self.root}: known are {have}. "
                f"Make it: sae-harness baselines build {method} --suite {suite}"
            ) from error
        except OSError as error:
            raise BaselineError(f"{path} cannot be read: {error.strerror}.") from error


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and _FOLDER.match(p.name)) if path.is_dir() else []


def _file_name(record: Record) -> str:
    if not _FOLDER.match(record.key):
        raise BaselineError(f"Record key {record.key!r} cannot name a file: keys are hashes.")
    return f"{record.key}.json"


def _mend(path: Path) -> str:
    return f"Restore it from version control, or remove {path.parent} and build the baseline again."


def _check_addition(record: Record, stored: Sequence[Record], folder: Path) -> None:
    """Refuse a record that would overwrite, double or mix what is stored."""
    for old in stored:
        differing = protocol_differences(record.protocol, old.protocol)
        if differing:
            raise BaselineError(
                f"{folder} holds records of another protocol ({differing[0].field}: {differing[0].baseline} there, "
                f"{differing[0].candidate} here). Replace them all: sae-harness baselines add --replace"
            )
        if old.key == record.key:
            if old.sha256() != record.sha256():
                raise BaselineError(
                    f"{folder / _file_name(record)} is stored with other content. Stored baselines are not "
                    "overwritten: replace them all with sae-harness baselines add --replace"
                )
            continue
        place = (record.training.seed, record.training.target_l0)
        if (old.training.seed, old.training.target_l0) == place:
            raise BaselineError(
                f"{folder} already holds seed {place[0]}, target L0 {place[1]}, made from other inputs "
                f"(key {old.key[:12]}). Replace them all: sae-harness baselines add --replace"
            )


def _write(folder: Path, records: Mapping[str, Record], manifest: Manifest) -> None:
    for name, record in records.items():
        record.save(folder / name)
    data = {"schema_version": MANIFEST_SCHEMA, **dataclasses.asdict(manifest)}
    write_atomically(folder / MANIFEST, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _swap(folder: Path, records: Mapping[str, Record], manifest: Manifest) -> None:
    """Write a new folder beside the old one and let it take its place."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        _write(new, records, manifest)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)


def _read_manifest(path: Path, content: bytes) -> Manifest:
    try:
        data: Any = json.loads(content)
        if data["schema_version"] > MANIFEST_SCHEMA:
            raise BaselineError(
                f"{path} was written by a newer sae-harness (manifest schema {data['schema_version']}); "
                f"this one reads up to {MANIFEST_SCHEMA}: upgrade."
            )
        values = {k: data[k] for k in ("suite", "method", "command", "created", "harness_version", "records")}
        if not all(_FOLDER.match(n) and isinstance(s, str) for n, s in values["records"].items()):
            raise ValueError("a file name or hash is malformed")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaselineError(f"{path} is malformed ({error}). {_mend(path)}") from error
    return Manifest(**values)
