r"""The annotations that bind a sentence to records: `{{…}}` in Markdown, `{{…}}` or `\claim{…}` in LaTeX.

    {{REF}}  {{REF:.3f}}              filled in with the value; a format as Python has it, `±` with its interval
    0.79 {{= REF}}                    the number before it is the value, rounded as written
    0.08–0.24 {{= range REF}}         smallest and largest value of all records chosen; `min` and `max` take one number
    0.95 {{< REF}}                    the number before it is below each value; also <=, >, >=
    {{SIDE > SIDE : FIELD @ l0=32}}   a comparison; <, ~ (no difference), `better than`, `worse than`
    {{SIDE vs SIDE : FIELD | PART}}   filled in from the comparison: difference (default), estimate, verdict, p
    {{REF > 0}}                       each value is above a number that the sentence does not write; also <, <=, >=, =
    {{same REF}}                      all records chosen have one value
    {{ignore why}}                    numbers and words of this sentence that stand for no record

REF is `RECORD/FIELD`, with conditions between: `topk/l0=32/fvu`, `temporal/run_4/core.mse`, `runs/*/training.lr`.
RECORD is a method (`topk`, `temporal@strong`, `tiny/topk`) or the path of a file without `.json`; `*`, `?` and `[12]`
choose several, each of which must bear the claim. FIELD is a metric, `evaluation.metric`, or `training.` and a setting.
SIDE is a RECORD with conditions. In a comparison the first side is the subject of the sentence. An annotation belongs
to the sentence it stands in: put it before the full stop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ...errors import ConfigError

Operator = Literal["<", "<=", ">", ">="]
Relation = Literal["<", ">", "~", "better", "worse", "vs"]
Aggregate = Literal["each", "min", "max", "range"]

PARTS = ("difference", "estimate", "verdict", "p")
CONDITIONS = ("l0", "seed", "d_sae", "preset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Which records."""

    record: str
    """Pattern of method or file."""
    conditions: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "/".join([self.record, *(f"{k}={v}" for k, v in self.conditions)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Which field of which records."""

    side: Side
    field: str

    def __str__(self) -> str:
        return f"{self.side}/{self.field}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """A value to be filled in."""

    reference: Reference
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The number before it is the value."""

    reference: Reference
    aggregate: Aggregate = "each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The number before it is below, or above, each value."""

    reference: Reference
    operator: Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """Each value stands so to a number, which the sentence need not write: `training.steps > 0` for "was trained"."""

    reference: Reference
    operator: Literal["<", "<=", ">", ">=", "="]
    number: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """A comparison of two sides; with relation `vs` it is filled in."""

    first: Side
    second: Side
    relation: Relation
    field: str
    at_l0: float | None = None
    part: str = "difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Same:
    """One value in all records chosen."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """No claim about a record."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """What is written as an annotation and is none of the forms."""

    reason: str


Annotation = Fill | Check | Bound | Assertion | Compare | Same | Ignore | Malformed
TAKES_NUMBER = (Check, Bound)

_REFERENCE = re.compile(r"[^\s{}:|]+/[^\s{}:|]+\Z")
_FILL = re.compile(r"(?P<ref>[^\s{}:|]+)(?::(?P<format>\S+))?\Z")
_RELATION = re.compile(r"\s(?P<relation><|>|~|vs|better than|worse than)\s")
_ASSERTION = re.compile(r"(?P<ref>\S+)\s(?P<operator><=|>=|<|>|=)\s(?P<number>[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\Z")
_AT = re.compile(r"(?P<field>[\w.]+)(?:\s*@\s*l0=(?P<l0>[\d.]+))?(?:\s*\|\s*(?P<part>\w+))?\Z")


def parse(body: str, where: str) -> Annotation:
    """The annotation in a body, the text between the braces; `where` names it in errors.

    Raises:
        ConfigError: it is none of the forms above.
    """
    text = " ".join(body.split())
    if text == "ignore" or text.startswith("ignore "):
        return Ignore(reason=text[len("ignore") :].strip())
    if text.startswith("same "):
        return Same(reference=reference(text[5:], where))
    for operator in ("<=", ">=", "<", ">"):
        if text.startswith(operator):
            return Bound(reference=reference(text[len(operator) :].strip(), where), operator=operator)
    if text.startswith("="):
        return _check(text[1:].strip(), where)
    if (asserted := _ASSERTION.match(text)) is not None:
        return Assertion(
            reference=reference(asserted["ref"], where),
            operator=_OPERATORS[asserted["operator"]],
            number=float(asserted["number"]),
        )
    if " : " in text or _RELATION.search(text):
        return _compare(text, where)
    matched = _FILL.match(text)
    if matched is None:
        raise ConfigError(f"{where}: {{{{{text}}}}} is no annotation: see `sae-harness claims --help` for the forms.")
    return Fill(reference=reference(matched["ref"], where), format=matched["format"] or "")


def reference(text: str, where: str) -> Reference:
    """`RECORD/condition=value/FIELD`.

    Raises:
        ConfigError: it is not of that form.
    """
    if not _REFERENCE.match(text):
        raise ConfigError(f"{where}: {text!r} is no reference: write RECORD/FIELD, such as tiny/topk/l0=32/fvu.")
    path, _, field = text.rpartition("/")
    if not field or "=" in field:
        raise ConfigError(f"{where}: {text!r} ends in no field: write RECORD/FIELD, such as tiny/topk/l0=32/fvu.")
    return Reference(side=side(path, where), field=field)


def side(text: str, where: str) -> Side:
    """`RECORD/condition=value`.

    Raises:
        ConfigError: there is no record, or a condition is unknown.
    """
    parts = text.split("/")
    conditions = tuple((k, v) for k, _, v in (p.partition("=") for p in parts if "=" in p))
    record = "/".join(p for p in parts if "=" not in p)
    if not record or any(c.isspace() for c in record):
        raise ConfigError(f"{where}: {text!r} names no record: write a method or a file, such as tiny/topk.")
    for name, value in conditions:
        if name not in CONDITIONS or not value:
            raise ConfigError(f"{where}: condition {name}={value} is not known; there are {', '.join(CONDITIONS)}.")
    return Side(record=record, conditions=conditions)


def _check(text: str, where: str) -> Check:
    first, _, rest = text.partition(" ")
    if first in ("min", "max", "range"):
        return Check(reference=reference(rest.strip(), where), aggregate=first)
    return Check(reference=reference(text, where))


def _compare(text: str, where: str) -> Compare:
    sides, separator, tail = text.rpartition(" : ")
    relation, at = _RELATION.search(sides), _AT.match(tail.strip())
    if not separator or relation is None or at is None:
        raise ConfigError(
            f"{where}: {{{{{text}}}}} is no comparison: write {{{{A > B : FIELD}}}}, or {{{{A > B : FIELD @ l0=32}}}}."
        )
    part = at["part"] or "difference"
    if part not in PARTS or (at["part"] and relation["relation"] != "vs"):
        raise ConfigError(f"{where}: `| {part}` is taken by `A vs B` alone, and is one of {', '.join(PARTS)}.")
    first, second = sides[: relation.start()].strip(), sides[relation.end() :].strip()
    return Compare(
        first=side(first, where),
        second=side(second, where),
        relation=_RELATIONS[relation["relation"]],
        field=at["field"],
        at_l0=float(at["l0"]) if at["l0"] else None,
        part=part,
    )


_OPERATORS: dict[str, Literal["<", "<=", ">", ">=", "="]] = {o: o for o in ("<", "<=", ">", ">=", "=")}
_RELATIONS: dict[str, Relation] = {
    "<": "<",
    ">": ">",
    "~": "~",
    "vs": "vs",
    "better than": "better",
    "worse than": "worse",
}
