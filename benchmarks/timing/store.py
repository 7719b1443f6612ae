"""The results of all sections in one JSON file; what is measured again replaces its part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1


class ResultsError(Exception):
    """A results file cannot be used; the message says what to do."""


def read(path: Path) -> dict[str, Any]:
    """A results file, or an empty one.

    Raises:
        ResultsError: it is no results file of this format.
    """
    if not path.exists():
        return {"format": FORMAT, "machine": {}, "parts": {}}
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ResultsError(f"{path} is not JSON ({error}): remove it, or give another --out.") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ResultsError(f"{path} is not a results file of format {FORMAT}: remove it, or give another --out.")
    return data


def check_machine(path: Path, machine: Mapping[str, Any]) -> None:
    """Raises ResultsError where the file holds figures of another machine: one table is of one machine."""
    held = read(path)["machine"]
    differ = [name for name in held if held[name] != machine.get(name)]
    if differ:
        shown = ", ".join(f"{name} {held[name]!r}, here {machine.get(name)!r}" for name in differ)
        raise ResultsError(f"{path} holds the figures of another machine ({shown}): give another --out, or remove it.")


def merge(path: Path, machine: Mapping[str, Any], name: str, part: Mapping[str, Any]) -> None:
    """Put one part into the file, in place of the one of that name.

    Raises:
        ResultsError: the file cannot be used.
    """
    data = read(path)
    data["machine"] = dict(machine)
    data["parts"] = dict(sorted({**data["parts"], name: dict(part)}.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(path)


_ORDER = ("toy", "A", "B", "C", "tiny", "smollm2", "gpt2", "topk", "batch_topk", "relu", "jumprelu")


def of_section(data: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The parts of a section, by name without the section; sizes and methods in their usual order."""
    found = {name.partition("/"): part for name, part in data["parts"].items()}
    named = {rest: part for (head, _, rest), part in found.items() if head == section}
    return dict(sorted(named.items(), key=lambda item: _rank(item[0])))


def _rank(name: str) -> list[tuple[int, str]]:
    return [(_ORDER.index(word) if word in _ORDER else len(_ORDER), word) for word in name.split("/")]
