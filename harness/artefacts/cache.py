"""Get or make a folder by its key: temporary folder, fsync, rename; file locks; manifests; garbage collection.

In the folder of the cache:

<kind>/<key[:2]>/<key>/    an artefact with its manifest.json: complete, or not there
work/<kind>/<key>/         resumable work in progress
tmp/<kind>-<key>-<uuid>/   being made by the process that holds the key's lock
locks/<key>.lock           one process makes, the others wait
corrupt/…                  set aside, removed by the next garbage collection
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import CacheError, ConfigError, DiskSpaceError
from .key import artefact_key
from .manifest import (
    MANIFEST,
    Entry,
    find_content_fault,
    find_fault,
    folder_bytes,
    fsync_folder,
    read_entry,
    write_manifest,
)

_RESERVED = frozenset({"work", "tmp", "locks", "corrupt"})
_KIND = re.compile(r"[a-z][a-z0-9_]*\Z")
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST})
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_PATIENCE_S = 2.0
"""How long another process may hold a lock before the wait is told."""
_ELSEWHERE = "Put the cache elsewhere with --cache FOLDER or SAE_HARNESS_CACHE."


class CacheWarning(UserWarning):
    """Something in the cache is not as it was left, or is held by another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An artefact that is not what its manifest says."""

    kind: str
    key: str
    path: Path
    """Where it lies now: set aside if quarantine was asked for."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Something garbage collection removed, or would remove."""

    path: Path
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What garbage collection did."""

    removed: tuple[Removal, ...]
    kept_entries: int
    kept_bytes: int
    dry_run: bool

    @property
    def freed_bytes(self) -> int:
        """Bytes removed, or that would be."""
        return sum(removal.bytes for removal in self.removed)


class Cache:
    """Artefacts addressed by the hash of what made them. The folder is created on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get_or_make(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        version: int,
        make: Callable[[Path], None],
        *,
        estimate_bytes: int = 0,
    ) -> Path:
        """The artefact's folder, made by `make(folder)` if it is not there. Read-only to the caller.

        `make` fills an empty folder; it becomes visible whole or not at all. Of several processes one makes and the
        others wait. A corrupt artefact is set aside and made anew, with a `CacheWarning`.

        Raises:
            CacheError: the cache folder cannot be written.
            DiskSpaceError: `estimate_bytes` exceed the free space, or the disk filled up.
            ConfigError: kind or inputs have no canonical form.
            Exception: whatever `make` raises; nothing of its work is kept.
        """
        key = self._key(kind, inputs, version)
        path = self._path(kind, key)
        if find_fault(path, kind, key) is None:
            _touch(path)
            return path
        with self._locked(key):
            fault = find_fault(path, kind, key)
            if fault is None:
                _touch(path)
                return path
            if path.exists():
                aside = self._set_aside(kind, key)
                warnings.warn(
                    f"Cached {kind} {key[:12]} is corrupt ({fault}): set aside in {aside}, making it anew.",
                    CacheWarning,
                    stacklevel=2,
                )
            self._require_space(kind, estimate_bytes)
            self._remove_stale_tmp(kind, key)
            self._make(kind, key, inputs, version, make)
        return path

    def find(self, kind: str, inputs: Mapping[str, Any], version: int) -> Path | None:
        """The artefact's folder if it is there and its files have the sizes of its manifest, else None."""
        key = self._key(kind, inputs, version)
        path = self._path(kind, key)
        if find_fault(path, kind, key) is not None:
            return None
        _touch(path)
        return path

    def working_folder(self, kind: str, inputs: Mapping[str, Any], version: int) -> Path:
        """A folder, always the same for these inputs, for work that a killed process goes on with.

        Unlike an artefact it is not atomic: who writes there must write each file to another name and rename it.
        """
        folder = self.root / "work" / kind / self._key(kind, inputs, version)
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def discard_working_folder(self, kind: str, inputs: Mapping[str, Any], version: int) -> None:
        """Remove that folder, when the work is done; it need not be there."""
        folder = self.root / "work" / kind / self._key(kind, inputs, version)
        with self._told():
            _remove(folder)

    def remove(self, kind: str, inputs: Mapping[str, Any], version: int) -> None:
        """Forget the artefact of these inputs, so that it is made again; it need not be there."""
        key = self._key(kind, inputs, version)
        with self._locked(key), self._told():
            _remove(self._path(kind, key))

    @contextlib.contextmanager
    def exclusive(self, kind: str, inputs: Mapping[str, Any], version: int) -> Iterator[None]:
        """Hold the lock of these inputs: for work that makes several artefacts at once, done by one process."""
        with self._locked(self._key(kind, inputs, version)):
            yield

    def entries(self) -> Iterator[Entry]:
        """All artefacts, by kind and key."""
        for kind, key, path in self._folders():
            with contextlib.suppress(FileNotFoundError):  # another process collected it just now
                yield read_entry(kind, key, path)

    def work_bytes(self) -> int:
        """Size of resumable work in progress."""
        return folder_bytes(self.root / "work")

    def verify(self, *, quarantine: bool = False) -> list[Problem]:
        """Compare every artefact with its manifest, each sha256 included; `quarantine` sets aside what differs."""
        problems = []
        for kind, key, path in self._folders():
            fault = find_fault(path, kind, key) or find_content_fault(path, kind, key)
            if fault is None or not path.exists():
                continue
            if quarantine:
                with self._locked(key):
                    path = self._set_aside(kind, key)
            problems.append(Problem(kind=kind, key=key, path=path, what=fault))
        return problems

    def collect_garbage(
        self, *, older_than_s: float | None = None, max_bytes: int | None = None, dry_run: bool = False
    ) -> GcReport:
        """Remove what dead processes left, what was set aside, and artefacts by age or total size.

        Least recently used go first. What another process holds a lock on stays. Work in progress goes only by age.
        """
        removed = [*self._collect_tmp(dry_run), *self._collect_corrupt(dry_run)]
        now = time.time()
        if older_than_s is not None:
            removed += self._collect_work(now - older_than_s, dry_run)
        entries = sorted(self.entries(), key=lambda entry: (entry.last_used, entry.key))
        total = sum(entry.bytes for entry in entries)
        kept = len(entries)
        for entry in entries:
            if older_than_s is not None and entry.last_used.timestamp() < now - older_than_s:
                reason = "not used for longer than asked"
            elif max_bytes is not None and total > max_bytes:
                reason = "least recently used, over the size asked"
            else:
                continue
            if self._remove_unlocked(entry.key, entry.path, dry_run):
                removed.append(Removal(path=entry.path, bytes=entry.bytes, reason=reason))
                total -= entry.bytes
                kept -= 1
        return GcReport(removed=tuple(removed), kept_entries=kept, kept_bytes=total, dry_run=dry_run)

    def _key(self, kind: str, inputs: Mapping[str, Any], version: int) -> str:
        if not _KIND.match(kind) or kind in _RESERVED:
            raise ConfigError(
                f"{kind!r} cannot be a kind of artefact: use lower-case letters, digits and underscores, "
                f"none of {', '.join(sorted(_RESERVED))}."
            )
        return artefact_key(kind, inputs, version)

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def _folders(self) -> Iterator[tuple[str, str, Path]]:
        if not self.root.is_dir():
            return
        for kind in sorted(p for p in self.root.iterdir() if _KIND.match(p.name) and p.name not in _RESERVED):
            for path in sorted(kind.glob("*/*")):
                if _KEY.match(path.name):
                    yield kind.name, path.name, path

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        lock = self._lock(key)
        with self._told():
            lock.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.file.acquire(timeout=_PATIENCE_S)
            except Timeout:
                warnings.warn(f"Another process is making {key[:12]}: waiting for it.", CacheWarning, stacklevel=4)
                lock.file.acquire()
        try:
            yield
        finally:
            lock.file.release()

    def _lock(self, key: str) -> _Lock:
        # Lock files are never removed: one who has it open and one who creates it anew would both hold "the" lock.
        path = self.root / "locks" / f"{key}.lock"
        return _Lock(path=path, file=FileLock(path))

    def _make(self, kind: str, key: str, inputs: Mapping[str, Any], version: int, make: Callable[[Path], None]) -> None:
        tmp = self.root / "tmp" / f"{kind}-{key}-{uuid.uuid4().hex}"
        with self._told():
            tmp.mkdir(parents=True)
        try:
            make(tmp)
            write_manifest(tmp, kind, key, inputs, version)
            path = self._path(kind, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.rename(tmp, path)
            fsync_folder(path.parent)
        except BaseException as error:
            shutil.rmtree(tmp, ignore_errors=True)  # the reason to tell is `error`; gc removes what is left
            if _is_no_space(error):
                raise self._full(f"while making {kind}") from error
            if isinstance(error, OSError) and error.errno in _NOT_WRITABLE and self._is_mine(error.filename):
                raise self._not_writable(error) from error
            raise

    def _set_aside(self, kind: str, key: str) -> Path:
        aside = self.root / "corrupt" / f"{kind}-{key}-{time.time_ns()}"
        with self._told():
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._path(kind, key), aside)
        return aside

    def _require_space(self, kind: str, estimate_bytes: int) -> None:
        folder = self.root.absolute()
        while not folder.is_dir():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if estimate_bytes > free:
            raise DiskSpaceError(
                f"Making {kind} needs about {format_bytes(estimate_bytes)}, and {format_bytes(free)} are free in "
                f"{self.root}. Free some with `sae-harness cache gc --max-size …`. {_ELSEWHERE}"
            )

    def _remove_unlocked(self, key: str, path: Path, dry_run: bool) -> bool:
        """Remove a folder unless another process holds the key's lock; whether it went (or would go)."""
        lock = self._lock(key)
        with self._told():
            lock.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.file.acquire(timeout=0)
            except Timeout:
                return False
            try:
                if not dry_run:
                    # Renamed first, so that a reader sees it whole or not at all.
                    grave = self.root / "tmp" / f"gone-{key}-{uuid.uuid4().hex}"
                    grave.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(path, grave)
                    _remove(grave)
            finally:
                lock.file.release()
        return True

    def _remove_stale_tmp(self, kind: str, key: str) -> None:
        """Called with the key's lock held: whoever left these is dead."""
        with self._told():
            for path in (self.root / "tmp").glob(f"{kind}-{key}-*"):
                _remove(path)

    def _collect_tmp(self, dry_run: bool) -> Iterator[Removal]:
        for path in sorted((self.root / "tmp").glob("*")):
            key = path.name.split("-")[-2] if path.name.count("-") >= 2 else ""
            size = folder_bytes(path)
            if _KEY.match(key) and self._remove_unlocked(key, path, dry_run):
                yield Removal(path=path, bytes=size, reason="left by a process that died")

    def _collect_corrupt(self, dry_run: bool) -> Iterator[Removal]:
        for path in sorted((self.root / "corrupt").glob("*")):
            size = folder_bytes(path)
            if not dry_run:
                with self._told():
                    _remove(path)
            yield Removal(path=path, bytes=size, reason="was corrupt")

    def _collect_work(self, before: float, dry_run: bool) -> Iterator[Removal]:
        for path in sorted((self.root / "work").glob("*/*")):
            newest = max((p.stat().st_mtime for p in [path, *path.rglob("*")]), default=0.0)
            size = folder_bytes(path)
            if newest < before and _KEY.match(path.name) and self._remove_unlocked(path.name, path, dry_run):
                yield Removal(path=path, bytes=size, reason="work in progress, untouched for longer than asked")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise self._full("while writing") from error
            # Some file systems (/proc) answer a mkdir with "no such file"; then the root cannot be made either.
            unmade = error.errno == errno.ENOENT and not self.root.exists()
            if error.errno in _NOT_WRITABLE or unmade:
                raise self._not_writable(error) from error
            raise

    def _is_mine(self, filename: Any) -> bool:
        return isinstance(filename, (str, os.PathLike)) and Path(filename).is_relative_to(self.root)

    def _full(self, when: str) -> DiskSpaceError:
        return DiskSpaceError(
            f"The disk is full {when}, in {self.root}. Free some with `sae-harness cache gc --max-size …`. {_ELSEWHERE}"
        )

    def _not_writable(self, error: OSError) -> CacheError:
        return CacheError(f"The cache folder {self.root} cannot be written ({error.strerror}). {_ELSEWHERE}")


@dataclass(frozen=True, slots=True)
class _Lock:
    path: Path
    file: FileLock


def format_bytes(n: int) -> str:
    """A size as a reader wants it: 512 B, 1.5 GB (powers of 1000)."""
    size, unit = float(n), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _touch(folder: Path) -> None:
    """Note the use. A shared cache may be read-only: then there is nothing to collect either."""
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def _is_no_space(error: BaseException) -> bool:
    """Also where a library in another language reports it as text (safetensors does)."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return isinstance(error, Exception) and "No space left on device" in str(error)
