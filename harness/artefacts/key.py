"""Inputs to canonical JSON to key: what addresses an artefact is the hash of what made it, never a name."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PluginError

_CHUNK_BYTES = 1 << 20

_METHOD_CODE = (
    "builtin/saes",
    "builtin/trainers",
    "builtin/evaluators",
    "builtin/controls",
    "interfaces",
    "training",
)
"""What decides a built-in method's numbers: hashing all of `harness` would retrain after a change of a help text."""


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, ASCII; 1, 1.0 and true are three different texts.

    Takes dataclasses (their fields), mappings with string keys, lists and tuples, sets (sorted), strings, integers,
    booleans, None and finite floats (shortest exact form).

    Raises:
        ConfigError: anything else is in it, such as a Path (hash the file's content instead), NaN or an array.
    """
    return _encode(value, "$")


def artefact_key(kind: str, inputs: Mapping[str, Any], version: int) -> str:
    """sha256 (hex) over kind, producer version and all inputs.

    Raises:
        ConfigError: the inputs have no canonical form.
    """
    return hashlib.sha256(canonical_json({"kind": kind, "version": version, "inputs": inputs}).encode()).hexdigest()


def file_sha256(path: Path | str) -> str:
    """sha256 (hex) of a file's content, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """sha256 (hex) over the relative path and content of every file in a folder, compiled Python left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _files_sha256(folder, files)


def source_sha256(package_or_target: str, *, only: Sequence[str] | None = None) -> str:
    """sha256 (hex) over the Python files of the top-level package that a `"package.module:Class"` target lives in.

    Nothing is imported. `only` narrows to folders or files relative to the package. A target inside `harness` itself
    stands for the code that decides a built-in method's numbers: its SAEs, trainers, evaluators, controls, the
    interfaces and the training room.

    Raises:
        PluginError: the package cannot be found, or holds none of the files asked for.
    """
    package = package_or_target.partition(":")[0].partition(".")[0]
    if package == __name__.partition(".")[0] and only is None:
        only = _METHOD_CODE
    roots = _package_roots(package)
    if only is None:
        wanted = [(root, path) for root in roots for path in _python_files(root)]
    else:
        wanted = [(root, path) for root in roots for part in only for path in _python_files(root / part)]
    if not wanted:
        asked = f" under {', '.join(only)}" if only is not None else ""
        raise PluginError(f"Package {package!r} has no Python files{asked}: its source cannot be hashed.")
    digest = hashlib.sha256()
    for root in roots:
        digest.update(_files_sha256(_base(root), [path for owner, path in wanted if owner == root]).encode())
    return digest.hexdigest()


def _encode(value: Any, where: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(str(value))
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{where} is {value}: only finite numbers can be part of a key.")
        return float.__repr__(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, where)
    if isinstance(value, Mapping):
        strangers = [key for key in value if not isinstance(key, str)]
        if strangers:
            raise ConfigError(f"{where} has the key {strangers[0]!r}: keys must be strings.")
        parts = (f"{json.dumps(key)}:{_encode(value[key], f'{where}.{key}')}" for key in sorted(value))
        return "{" + ",".join(parts) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_encode(item, f"{where}[{i}]") for i, item in enumerate(value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "[" + ",".join(sorted(_encode(item, f"{where}{{}}") for item in value)) + "]"
    mend = "hash the file's content (file_sha256)" if isinstance(value, Path) else "convert it to one of these"
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which has no canonical form: allowed are mappings, dataclasses, lists, "
        f"tuples, sets, str, int, float, bool and None; {mend}."
    )


def _files_sha256(base: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted({path.relative_to(base).as_posix(): path for path in files}.items()):
        digest.update(f"{json.dumps(name)}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _package_roots(package: str) -> list[Path]:
    """Folders of a package, or the one file of a plain module."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise PluginError(f"Package {package!r} cannot be found: {error}.") from error
    if spec is None:
        raise PluginError(f"Package {package!r} cannot be found: install the distribution that provides it.")
    if spec.submodule_search_locations is not None:
        return sorted(Path(location) for location in spec.submodule_search_locations)
    return [Path(spec.origin)] if spec.origin is not None else []


def _python_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".py" else []
    return [path for path in root.rglob("*.py") if "__pycache__" not in path.parts]


def _base(root: Path) -> Path:
    return root.parent if root.is_file() else root
