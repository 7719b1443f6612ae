"""What became of a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["supported", "refuted", "unresolved", "unsupported", "unbound"]
"""`refuted`: the records say otherwise. `unresolved`: an annotation that is none, or whose reference names no record,
several, or a field that none of them has. `unsupported`: the records do not say so (tainted, too few seeds, not
comparable, within noise, not measured). `unbound`: a number or a claim that is bound to no record."""

Kind = Literal["number", "comparison", "fill", "words", "annotation"]
"""`annotation`: what is written as one and is none."""

GRAVITY: tuple[Status, ...] = ("refuted", "unresolved", "unsupported", "unbound", "supported")
"""The gravest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One check of one claim."""

    status: Status
    line: int
    claim: str
    """What is claimed: the number and its binding, or the words."""
    reason: str
    """Why, with the values that the records hold."""
    kind: Kind
    sentence: str = ""
    id: str = ""
    """Of the claim, in a file of bindings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A status with its reason, before it is put in its place."""

    status: Status
    reason: str


def worst(rulings: list[Ruling]) -> Ruling:
    """One ruling of several: the gravest status, with the reasons that give it."""
    for status in GRAVITY:
        found = [r.reason for r in rulings if r.status == status]
        if found:
            shown = list(dict.fromkeys(found))
            rest = f"; and {len(shown) - 3} more" if len(shown) > 3 else ""
            return Ruling(status=status, reason="; ".join(shown[:3]) + rest)
    raise ValueError("no rulings")


def together(rulings: list[Ruling]) -> Ruling:
    """One ruling of an annotation that was looked at in several ways: the gravest status, and every reason that finds
    fault, the gravest first."""
    ordered = sorted(rulings, key=lambda r: GRAVITY.index(r.status))
    faults = [r.reason for r in ordered if r.status != "supported"] or [r.reason for r in ordered]
    return Ruling(status=ordered[0].status, reason="; ".join(faults))
