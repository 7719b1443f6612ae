"""`sae-harness plugins`: what is installed, what failed to load, and writing a new plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..plugins import Catalogue, Plugin
from ..registry import Registry, difference
from ..report.folding import wrapped
from .context import AppContext, pass_app


@click.group(
    invoke_without_command=True,
    help="List installed plugins with what they provide and what failed to load; `new` writes a plugin.",
    epilog="Example:  sae-harness plugins new my_idea",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    if ctx.invoked_subcommand is not None:
        return
    app = ctx.find_object(AppContext) or AppContext()
    if as_json:
        click.echo(json.dumps(_as_json(app.catalogue, app.registry), indent=1))
    else:
        _print(app.catalogue, app.registry)


@command.command("new", epilog="Example:  sae-harness plugins new my_idea --into plugins")
@click.argument("name")
@click.option(
    "--into", type=click.Path(path_type=Path), default=Path(), show_default="here", help="Folder to write it in."
)
@pass_app
def new(app: AppContext, name: str, into: Path) -> None:
    """Write a new plugin: a folder, installable and tested, with a method NAME that adds one loss term to topk.

    NAME must be none of a method that is installed or known to the registry.
    """
    from ..testing.scaffold import write_plugin

    _refuse_taken(app, name)
    folder = write_plugin(name, into)
    click.echo(str(folder))
    click.echo(
        f"Written. Next:\n  pip install -e {folder}\n  sae-harness check sae-harness-{name.replace('_', '-')}\n"
        f"  sae-harness compare {name} --baseline topk",
        err=True,
    )


def _refuse_taken(app: AppContext, name: str) -> None:
    """Raises ConfigError where the name is that of a method: two methods of one name can neither be run nor checked."""
    owners = {name: entry.distribution for name, entry in app.registry.methods.items()}
    owners |= {provided.spec.name: provided.distribution for provided in app.catalogue.trainers.values()}
    if name in owners:
        raise ConfigError(
            f"The method name {name!r} is taken by {owners[name]}: choose another. Taken are "
            f"{', '.join(sorted(owners))}."
        )


def _print(catalogue: Catalogue, registry: Registry) -> None:
    rows = [[p.entry_point, p.distribution, p.version, _provides(catalogue, p)] for p in catalogue.plugins]
    click.echo(wrapped(rows, ("plugin", "distribution", "version", "provides"), column=3))
    if catalogue.failures:
        failed = [[f.entry_point or "-", f.distribution, f.version or "-", f.cause] for f in catalogue.failures]
        click.echo()
        click.echo(wrapped(failed, ("plugin", "distribution", "version", "left out because"), column=3))
    if catalogue.clashes:
        click.echo()
        clashing = [[clash.name, clash.what, ", ".join(clash.owners)] for clash in catalogue.clashes]
        click.echo(wrapped(clashing, ("clashing name", "of a", "provided by"), column=2))
    missing = difference(registry, catalogue).not_installed
    if missing:
        click.echo()
        known = [registry.methods[name] for name in missing]
        ways = [[name, m.install or f"({m.distribution})"] for name, m in zip(missing, known, strict=True)]
        click.echo(wrapped(ways, ("not installed", "install with"), column=1))


def _provides(catalogue: Catalogue, plugin: Plugin) -> str:
    kinds = (("methods", catalogue.trainers), ("SAEs", catalogue.saes), ("evaluators", catalogue.evaluators))
    parts = []
    for what, mapping in kinds:
        names = [name for name, provided in mapping.items() if provided.plugin == plugin.name]
        parts += [f"{what} {', '.join(names)}"] if names else []
    return "; ".join(parts) or "-"


def _as_json(catalogue: Catalogue, registry: Registry) -> dict[str, Any]:
    differs = difference(registry, catalogue)
    return {
        "plugins": [
            {
                "plugin": p.entry_point,
                "distribution": p.distribution,
                "version": p.version,
                "provides": list(p.provides),
            }
            for p in catalogue.plugins
        ],
        "saes": sorted(catalogue.saes),
        "trainers": sorted(catalogue.trainers),
        "evaluators": sorted(catalogue.evaluators),
        "failures": [
            {"plugin": f.entry_point, "distribution": f.distribution, "version": f.version, "cause": f.cause}
            for f in catalogue.failures
        ],
        "clashes": [{"name": c.name, "what": c.what, "owners": list(c.owners)} for c in catalogue.clashes],
        "not_installed": list(differs.not_installed),
        "unregistered": list(differs.unregistered),
    }
