"""`sae-harness suites`: which protocols there are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import click

from ..config import SuiteConfig
from ..report.folding import wrapped
from .context import AppContext, pass_app

_HEADERS = ("suite", "hookpoint", "d_sae", "L0", "tokens", "baselines", "summary")


@click.group(
    invoke_without_command=True,
    help=(
        "List and show suites: fixed protocols within which methods can be compared.\n\n"
        "Your own suites and methods go in a registry.yaml of the same form as the project's: in the user's "
        "configuration folder for sae-harness, or named with --registry or SAE_HARNESS_REGISTRY. Its entries are added "
        "to the project's and replace those of the same name."
    ),
    short_help="List and show suites.",
    epilog="Example:  sae-harness suites show tiny",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        _list(ctx.find_object(AppContext) or AppContext(), as_json)


@command.command("list", epilog="Example:  sae-harness suites list --json")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def list_suites(app: AppContext, as_json: bool) -> None:
    """List all suites. `baselines` counts the methods whose records are stored; `suites show` names them."""
    _list(app, as_json)


@command.command("show", epilog="Example:  sae-harness suites show tiny")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def show_suite(app: AppContext, name: str, as_json: bool) -> None:
    """Show all that suite NAME fixes."""
    suite = app.registry.suite(name)
    if as_json:
        click.echo(json.dumps(_plain(suite), indent=1))
        return
    fields = [*_flat(_plain(suite)), ("stored baselines", ", ".join(app.registry.baselines.get(name, {})) or "-")]
    width = max(len(field) for field, _ in fields)
    click.echo("\n".join(f"{field.ljust(width)}  {value}".rstrip() for field, value in fields))


def _list(app: AppContext, as_json: bool) -> None:
    suites = app.registry.suites
    if as_json:
        click.echo(json.dumps({name: _plain(suite) for name, suite in suites.items()}, indent=1))
        return
    rows = [_row(suite, app.registry.baselines) for suite in suites.values()]
    click.echo(wrapped(rows, _HEADERS, column=len(_HEADERS) - 1))


def _row(suite: SuiteConfig, stored: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        suite.name,
        suite.hookpoint if suite.world is None else "synthetic",
        str(suite.d_sae),
        "–".join(map(str, dict.fromkeys((min(suite.l0_grid), max(suite.l0_grid))))),
        f"{suite.n_tokens:,}",
        str(len(stored.get(suite.name, {}))),
        suite.summary,
    ]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: field for name, field in fields.items() if field is not None}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            rows += _flat({str(place): entry for place, entry in enumerate(value)}, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
