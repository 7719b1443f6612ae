"""Options of evaluators: which there are, and their types. What a value may be beyond its type, each evaluator says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from harness import ConfigError, Option

T = TypeVar("T", bound="int | float | str")


def require_known(evaluator: str, options: Iterable[str], defaults: Iterable[str]) -> None:
    """Raises ConfigError where an option is not among those that have a default."""
    known = list(defaults)
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"Evaluator {evaluator!r} has no option {', '.join(unknown)}: known are {', '.join(known)}.")


def chosen_options(evaluator: str, defaults: Mapping[str, T], options: Mapping[str, Option]) -> dict[str, T]:
    """The defaults with the options given over them.

    Raises:
        ConfigError: an option is unknown or of another type than its default.
    """
    require_known(evaluator, options, defaults)
    chosen = dict(defaults)
    for name, value in options.items():
        wanted = type(defaults[name])
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ConfigError(f"Evaluator {evaluator!r}: {name} must be of type {wanted.__name__}, got {value!r}.")
        chosen[name] = value  # type: ignore[assignment]
    return chosen
