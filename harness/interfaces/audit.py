"""What a rule of `sae-harness audit` declares and what it yields: frozen, standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import PluginError
from .specs import API_VERSION

Severity = Literal["blocker", "warning"]
Scope = Literal["value", "comparison"]

_RULE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRuleSpec:
    """A rule of the audit, and the function that applies it.

    The function is given all records at once, so that it can hold one against another, and the tolerances:
    `check(records, tolerances) -> Iterable[AuditHit]`. It reads and compares; it opens no file and changes nothing.
    """

    name: str
    """Its id in findings, such as `my_rule`; F01 to F50 and R01 to R02 are taken."""
    target: str
    """`"package.module:function"`."""
    severity: Severity
    """`blocker`: what is found may not be used. `warning`: it may, with this in mind."""
    title: str
    """What is wrong, in a few words."""
    meaning: str
    """What follows from it for a reader of the numbers."""
    mend: str
    """What to do."""
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        if not _RULE.match(self.name):
            raise PluginError(f"Audit rule name {self.name!r} is not allowed: use letters, digits and underscores.")
        if not _FUNCTION.match(self.target):
            raise PluginError(
                f"Audit rule {self.name!r} has target {self.target!r}: write it as 'package.module:function'."
            )
        if self.severity not in ("blocker", "warning"):
            raise PluginError(
                f"Audit rule {self.name!r}: severity is {self.severity!r}; allowed are blocker and warning."
            )
        for field in ("title", "meaning", "mend"):
            if not getattr(self, field).strip():
                raise PluginError(f"Audit rule {self.name!r} has no {field}: a finding must say it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHit:
    """One place where a rule applies."""

    record: str
    """Name of the record, as the evidence has it."""
    field: str
    """The field that shows it, such as `training.steps`."""
    evidence: tuple[tuple[str, str], ...]
    """What was found, and what it was held against: (where, value)."""
    evaluation: str = ""
    """The evaluation concerned; empty for the whole record, `training` for what training says of itself."""
    scope: Scope = "value"
    """`value`: the number itself is wrong. `comparison`: it is what it says, and is not to be set beside the others."""
    note: str = ""
    """What this case adds to the rule's meaning."""
    others: tuple[str, ...] = ()
    """Other records that take part."""
    severity: Severity | None = None
    """Where this case is graver or lighter than the rule."""
