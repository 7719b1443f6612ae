"""What differs between two sides beside the seed. Of more than one factor none can be credited with a difference."""

from __future__ import annotations

from dataclasses import dataclass

from .side import Side

LEARNING_RATE = "lr"
"""Of all settings of two methods of their own, the one that alone can make a difference look like an idea (F24)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Named as `what baseline vs candidate`."""

    changed: tuple[str, ...]
    """Each is a factor."""
    of_the_methods: tuple[str, ...] = ()
    """Settings of one name in two methods that stand alone: each has its own as published, part of the method."""

    @property
    def confounded(self) -> bool:
        """Whether more than one factor changed."""
        return len(self.changed) > 1


def factors(theirs: Side, ours: Side) -> Factors:
    """Factors between a baseline and a candidate.

    The method is one. An idea added to a base trainer must leave the base and its settings as the other side has them:
    each that differs is one more. So is each setting that differs between two presets or settings of one method. Of two
    methods that stand alone only the learning rate counts beside the method, and that where both are trained.
    """
    here, there = ours.settings(), theirs.settings()
    settings = [name for name in sorted(here.keys() & there.keys()) if here[name] != there[name]]
    told = {name: f"{name} {there[name]} vs {here[name]}" for name in settings}
    a, b = theirs.records[0].method, ours.records[0].method
    if a.name == b.name:
        return Factors(changed=tuple(told.values()))
    method = f"method {a.name} vs {b.name}"
    if not (_extends(theirs) or _extends(ours)):
        trained = _trained(theirs) and _trained(ours)
        counted = [told[name] for name in settings if name == LEARNING_RATE and trained]
        rest = tuple(told[name] for name in settings if name != LEARNING_RATE and trained)
        return Factors(changed=(method, *counted), of_the_methods=rest)
    base = (f"base {a.architecture} vs {b.architecture}",) if a.architecture != b.architecture else ()
    return Factors(changed=(method, *base, *told.values()))


def _trained(side: Side) -> bool:
    """False of controls, which take no step: a learning rate in their settings did nothing."""
    return any(record.training.steps != 0 for record in side.records)


def _extends(side: Side) -> bool:
    return any(name.startswith("base.") for name in side.records[0].method.options)
