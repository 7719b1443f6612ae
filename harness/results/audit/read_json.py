"""Read JSON that may be anything: each way in which a file is no plain JSON of finite numbers has one clear reason."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from .evidence import Setting
from .tolerances import Tolerances

_INFINITE = (math.inf, -math.inf)
_DIGITS = 18
"""Of a whole number: more would not fit into the arithmetic of the rules."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class UnreadableError(Exception):
    """Why a file cannot be read as a record. It becomes a finding and never reaches a user as an error."""


def read_text(path: Path, tolerances: Tolerances) -> str:
    """The file's text.

    Raises:
        UnreadableError: it is missing, no plain file, too large, or not UTF-8.
    """
    try:
        # Not to hang on a pipe nobody writes to: opened without waiting, and looked at before it is read.
        handle = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"it cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(handle, "rb", closefd=True) if _is_file(handle) else _refused(handle) as file:
        size = os.fstat(file.fileno()).st_size
        limit = int(tolerances.max_file_mib * 2**20)
        if size > limit:
            raise UnreadableError(
                f"it has {size / 2**20:.1f} MiB, more than the {tolerances.max_file_mib:g} of max_file_mib"
            )
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise UnreadableError(f"it cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}") from error


def parse(text: str) -> Any:
    """The JSON value.

    Raises:
        UnreadableError: it is no JSON, names a field twice, or holds a number that is not finite or a broken character.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant)
        if "\\u" in text and _HALF_PAIR.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise UnreadableError("it holds half a surrogate pair, which is no character") from None
    except ValueError as error:
        raise UnreadableError(f"it is no valid JSON: {_short(error)}") from error
    return data


def frozen(value: Any, max_depth: int) -> Setting:
    """A JSON value as a setting that can be hashed and compared.

    Raises:
        UnreadableError: it is nested too deeply.
    """
    if isinstance(value, (dict, list)) and max_depth <= 0:
        raise UnreadableError("it is nested too deeply")
    if isinstance(value, dict):
        return tuple((key, frozen(item, max_depth - 1)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return tuple(frozen(item, max_depth - 1) for item in value)
    return sys.intern(value) if isinstance(value, str) and len(value) < 200 else value


def number(value: Any, where: str) -> float | None:
    """A finite number as float; None for null.

    Raises:
        UnreadableError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnreadableError(f"{where} must be a number, got {_short(value)!r}")
    return float(value)


def whole(value: Any, where: str) -> int | None:
    """A whole number; None for null.

    Raises:
        UnreadableError: it is none.
    """
    found = number(value, where)
    if found is not None and (not found.is_integer() or abs(found) >= 10**_DIGITS):
        raise UnreadableError(f"{where} must be a whole number, got {found!r}")
    return None if found is None else int(found)


def text_of(value: Any, where: str) -> str:
    """Text; the empty one for null.

    Raises:
        UnreadableError: it is none.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError(f"{where} must be text, got {_short(value)!r}")
    return sys.intern(value) if len(value) < 200 else value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object; the empty one for null.

    Raises:
        UnreadableError: it is none.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError(f"{where} must be an object, got {_short(value)!r}")
    return value


def _is_file(handle: int) -> bool:
    return stat.S_ISREG(os.fstat(handle).st_mode)


def _refused(handle: int) -> Any:
    mode = os.fstat(handle).st_mode
    os.close(handle)
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    raise UnreadableError(f"it is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"field {_short(twice)!r} stands twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if value in _INFINITE:
        raise ValueError(f"{text[:40]} is beyond all finite numbers")
    return value


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"{text[:40]}... is beyond all that is counted")
    return int(text)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number: whatever made it failed")


def _short(value: object) -> str:
    text = " ".join(str(value)[:400].split())
    return text if len(text) <= 120 else f"{text[:117]}..."
