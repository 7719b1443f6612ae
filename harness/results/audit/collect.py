"""Files and folders to evidence: what is no record is told in one finding and stops nothing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import RecordError
from .evidence import Evidence
from .read_harness import harness_evidence, is_manifest, is_record
from .read_json import UnreadableError, parse, read_text
from .read_saebench import combined_evidence, is_combined, is_saebench, saebench_evidence
from .rule import Finding, Rule
from .tolerances import DEFAULT, Tolerances

_LONGEST = 300
"""Characters of a reason: a name in a file may have millions."""
_RUN = re.compile(r"run_(\d{1,6})\.json\Z")

UNREADABLE = Rule(
    id="R01",
    family="reading",
    severity="blocker",
    title="The file cannot be read as a record",
    meaning="Nothing in it can be used, and what it should say is missing from the audit.",
    mend="Restore the file, or make the record anew; a file that is no record does not belong among them.",
    tolerances=("max_file_mib", "max_depth"),
)
UNKNOWN = Rule(
    id="R02",
    family="reading",
    severity="warning",
    title="The file is JSON and no record that is known here",
    meaning="It is neither a record of sae-harness, nor a SAEBench evaluation, nor a combined record: no rule saw it.",
    mend="Leave it out, or convert it to one of these.",
)
READING = (UNREADABLE, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was read: evidence in the order of the files, and a finding for each file that is none."""

    evidence: tuple[Evidence, ...]
    findings: tuple[Finding, ...]
    files: int
    """How many files were looked at."""


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    name: str
    """As findings call it: relative to the folder that was given, or as given."""
    problem: str = ""
    """Why it is not to be opened at all."""


def collect(paths: Sequence[Path], tolerances: Tolerances = DEFAULT) -> Collected:
    """Read files, and all `*.json` below folders; links to files are followed, links to folders are not.

    A file that is given twice is read once. Records of a list in one file are called `file#0`, `file#1`, ….

    Raises:
        RecordError: a path does not exist, or there is no JSON file in any of them.
    """
    evidence: list[Evidence] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    files = 0
    for file in _files(paths):
        place = os.path.realpath(file.path)
        if place in seen:
            continue
        seen.add(place)
        files += 1
        try:
            if file.problem:
                raise UnreadableError(file.problem)
            found = read_file(file.path, file.name, tolerances)
        except UnreadableError as error:
            findings.append(_finding(UNREADABLE, file.name, str(error)))
            continue
        if found is None:
            findings.append(_finding(UNKNOWN, file.name, "no field by which records are known"))
        else:
            evidence += found
    if not files:
        raise RecordError(
            f"There is no JSON file in {', '.join(map(str, paths))}: give files, or folders with records."
        )
    return Collected(evidence=tuple(evidence), findings=tuple(findings), files=files)


def read_file(path: Path, name: str, tolerances: Tolerances = DEFAULT) -> list[Evidence] | None:
    """The records in one file: one, or a list of them; none in a manifest. None where it is JSON of another kind.

    Raises:
        UnreadableError: it is no record, and why.
    """
    text = read_text(path, tolerances)
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        data = parse(text)
        if isinstance(data, dict):
            return recognised(data, text, path, name, sha256, tolerances)
        if isinstance(data, list) and data and all(isinstance(item, dict) for item in data):
            return _listed(data, path, name, tolerances)
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None
    except MemoryError:
        raise UnreadableError("it does not fit into memory") from None
    return None


def _listed(items: list[dict[str, Any]], path: Path, name: str, tolerances: Tolerances) -> list[Evidence] | None:
    import json

    found: list[Evidence] = []
    for i, item in enumerate(items):
        text = json.dumps(item)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        records = recognised(item, text, path, f"{name}#{i}", sha256, tolerances)
        if records is None:
            return None
        found += records
    return found


def recognised(
    data: dict[str, Any], text: str, path: Path, name: str, sha256: str, tolerances: Tolerances = DEFAULT
) -> list[Evidence] | None:
    """The evidence in one JSON object and its text: one record, none in a manifest; None where it is of no known kind.

    Raises:
        UnreadableError: it is meant as a record and is malformed.
    """
    if is_manifest(data):
        return []
    if is_record(data):
        return [harness_evidence(text, name, sha256)]
    if is_saebench(data):
        return [saebench_evidence(data, name, sha256, tolerances.max_depth)]
    if is_combined(data):
        folder = os.path.abspath(path.parent)
        return [combined_evidence(data, name, sha256, folder, _runs(folder), tolerances.max_depth)]
    return None


def _files(paths: Sequence[Path]) -> Iterator[_File]:
    folders = [p for p in paths if p.is_dir()]
    for path in paths:
        if path.is_dir():
            prefix = f"{_shown(path)}/" if len(folders) > 1 else ""
            yield from _walk(path, prefix)
        elif os.path.lexists(path):
            yield _File(path, _shown(path))
        else:
            raise RecordError(f"No file or folder {_shown(path)}: give records as JSON, or folders of them.")


def _walk(root: Path, prefix: str) -> Iterator[_File]:
    failed: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=failed.append):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in _json(folders):
            yield _File(Path(folder, name), prefix + _shown(Path(folder, name).relative_to(root)), "it is a folder")
        folders[:] = [f for f in folders if not f.endswith(".json")]
        for name in _json(sorted(files)):
            yield _File(Path(folder, name), prefix + _shown(Path(folder, name).relative_to(root)))
    for error in failed:
        yield _File(Path(error.filename), _shown(Path(error.filename)), f"it cannot be listed: {error.strerror}")


def _json(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".json") and not name.startswith(".")]


def _shown(path: Path) -> str:
    """A path as text that can be printed, whatever its bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@cache
def _runs_in(folder: str, _changed: int) -> tuple[int, ...]:
    try:
        names = os.listdir(folder)
    except OSError:
        return ()  # the files in it were named one by one: which others lie there is not known
    return tuple(sorted(int(m.group(1)) for name in names if (m := _RUN.match(name))))


def _runs(folder: str) -> tuple[int, ...]:
    """Numbers of the files `run_<n>.json` in a folder."""
    try:
        return _runs_in(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return ()  # gone meanwhile


def _finding(rule: Rule, name: str, why: str) -> Finding:
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        record=name,
        evaluation="",
        field="",
        evidence=((name, why if len(why) <= _LONGEST else f"{why[: _LONGEST - 3]}..."),),
        title=rule.title,
        meaning=rule.meaning,
        mend=rule.mend,
    )
