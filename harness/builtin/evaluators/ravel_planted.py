"""Entities of the conformance kit's planted world, where a token's successor mostly follows it. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TOKENS = 49
_NAMES_A_TOKEN = 4


def rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Whatever the table's name: two questions, each put in two ways, about entities of two tokens, whose answers are
    the successor of the last. The planted LM knows it of most."""
    for attribute, before in (("left", "5"), ("left", "11"), ("right", "23"), ("right", "31")):
        yield {"attribute": attribute, "before": before, "after": ""}
    for number in range(_NAMES_A_TOKEN):
        for token in range(1, _TOKENS + 1):
            answer = [str(token % _TOKENS + 1)]
            first = (7 * token + 11 * number) % _TOKENS + 1
            yield {"name": f"{first} {token}", "left": answer, "right": answer}
