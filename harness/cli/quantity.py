"""Numbers with a unit on the command line, such as 7d or 10GB."""

from __future__ import annotations

import re
from typing import Any

import click

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*\Z")


class Quantity(click.ParamType):
    """A number with a unit, such as 7d or 10GB."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name = name
        self._units = units
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = _QUANTITY.match(str(value).lower())
        if match is None or match[2] not in self._units:
            units = ", ".join(self._units)
            self.fail(
                f"{value!r} is no {self.name}: write a number and one of {units}, as in {self._example}.", param, ctx
            )
        return float(match[1]) * self._units[match[2]]


DURATION = Quantity("duration", _SECONDS, "7d")
SIZE = Quantity("size", _BYTES, "10GB")
