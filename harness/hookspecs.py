"""The hooks a plugin implements. Each yields frozen specs; classes are imported on first use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from .interfaces.audit import AuditRuleSpec
from .interfaces.specs import AnalysisSpec, EvaluatorSpec, SAESpec, TrainerSpec

if TYPE_CHECKING:
    import click

PROJECT = "sae_harness"
"""pluggy project name and entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_saes() -> Iterable[SAESpec]:  # type: ignore[empty-body]
    """SAE architectures this plugin provides."""


@hookspec
def register_trainers() -> Iterable[TrainerSpec]:  # type: ignore[empty-body]
    """Methods (trainers with their defaults) this plugin provides."""


@hookspec
def register_evaluators() -> Iterable[EvaluatorSpec]:  # type: ignore[empty-body]
    """Evaluators this plugin provides."""


@hookspec
def register_analyses() -> Iterable[AnalysisSpec]:  # type: ignore[empty-body]
    """Analyses of one SAE this plugin provides, run by `sae-harness analyse`."""


@hookspec
def register_audit_rules() -> Iterable[AuditRuleSpec]:  # type: ignore[empty-body]
    """Rules this plugin adds to `sae-harness audit`."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the `sae-harness` command line."""
