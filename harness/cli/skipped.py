"""Evaluators that cannot run: refused before the work where the user named them, told with the reasons afterwards."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ..bench import Bench
from ..data.labelled import collection_sha256
from ..errors import DataError
from ..interfaces.specs import EvaluatorSpec


def require_possible(bench: Bench, names: Iterable[str], *, twin: bool, twin_mend: str) -> None:
    """Refuse evaluators that were asked for by name and are known to have nothing to run on.

    `twin`: whether there will be an SAE of another seed; `twin_mend` says how to have one.

    Raises:
        DataError: one of them cannot run.
    """
    for name in names:
        why = _obstacle(bench, bench.catalogue.evaluator(name).spec, "" if twin else twin_mend)
        if why:
            raise DataError(f"Evaluator {name!r} cannot run: {why}, or leave it out.")


def _obstacle(bench: Bench, spec: EvaluatorSpec, twin_mend: str) -> str:
    suite = bench.suite
    if "language_model" in spec.needs and suite.world is not None:
        return f"it needs a language model, and suite {suite.name!r} is a synthetic world: choose another --suite"
    if "world" in spec.needs and suite.world is None:
        return (
            f"it needs a synthetic world, whose true features are known, and suite {suite.name!r} is none: choose "
            "one such as world-tiny with --suite"
        )
    if "twin" in spec.needs and twin_mend:
        return f"it needs an SAE of the same method and another seed: {twin_mend}"
    wanted = spec.reads(bench.evaluator_options(spec.name))
    absent = [name for name in wanted if not collection_sha256(bench.collections, name)]
    if absent:
        commands = " and ".join(f"sae-harness fetch {name}" for name in absent)
        return f"labelled texts {', '.join(map(repr, absent))} are not here: run: {commands}"
    return ""


def tell_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Say on stderr which evaluators were skipped, a line for each reason; `skipped` has (name, reason)."""
    names: dict[str, dict[str, None]] = {}
    for name, reason in skipped:
        names.setdefault(reason, {})[name] = None
    for reason, own in names.items():
        click.echo(f"{', '.join(own)} skipped: {reason}", err=True)
