"""`sae-harness baselines`: the stored records methods are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from ..bench import Bench
from ..compute import Compute
from ..errors import BaselineError, RecordError
from ..methods import resolve_method
from ..pipeline import run
from ..registry import enter_baselines, load_registry
from ..report.record_tables import records_table
from ..report.tables import render
from ..results.baseline_store import BaselineStore
from ..results.comparison import protocol_line
from ..results.record import Record
from .context import AppContext, pass_app
from .options import chosen_suite, compute_options, suite_option, table_options
from .progress import BarProgress


@click.group(help="List, show, build, add and verify stored baselines.", epilog="Example:  sae-harness baselines list")
def command() -> None:
    """The group."""


@command.command("list", epilog="Example:  sae-harness baselines list")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def list_baselines(app: AppContext, as_json: bool) -> None:
    """List the stored methods of every suite."""
    store = BaselineStore(app.paths.baselines)
    rows = []
    for suite in store.suites():
        for method in store.methods(suite):
            records = store.load(suite, method)
            rows.append(
                {
                    "suite": suite,
                    "method": method,
                    "records": len(records),
                    "seeds": len({r.training.seed for r in records}),
                    "tainted": sum(bool(r.taints) for r in records),
                    "command": store.manifest(suite, method).command,
                }
            )
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif rows:
        click.echo(render([[str(v) for v in row.values()] for row in rows], list(rows[0])))
    else:
        click.echo(f"No baselines are stored in {app.paths.baselines}.", err=True)


@command.command("show", epilog="Example:  sae-harness baselines show topk --suite tiny")
@click.argument("method")
@suite_option
@table_options
@pass_app
def show(app: AppContext, method: str, suite_name: str, as_json: bool, fmt: str) -> None:
    """Show the stored records of METHOD."""
    suite = chosen_suite(app, suite_name)
    records = BaselineStore(app.paths.baselines).load(suite.name, method)
    if as_json:
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=1))
        return
    if fmt != "csv":
        click.echo(protocol_line(records, suite.claim) + "\n")
    click.echo(records_table(records, Bench(suite, app.catalogue, app.cache).metrics(), fmt))


@command.command("build", epilog="Example:  sae-harness baselines build topk relu --suite tiny")
@click.argument("methods", nargs=-1, required=True)
@suite_option
@click.option("--replace", is_flag=True, help="Replace records that are stored.")
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
def build(
    app: AppContext, methods: tuple[str, ...], suite_name: str, replace: bool, compute: Compute, quiet: bool
) -> None:
    """Train and evaluate METHODS over a suite, all from one stream, and store their records."""
    suite = chosen_suite(app, suite_name)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    jobs = {name: bench.jobs(resolve_method(app.catalogue, name, suite_options=suite.options)) for name in methods}
    progress = BarProgress(quiet=quiet)
    told = f"sae-harness baselines build {' '.join(jobs)} --suite {suite.name}"
    records = run(bench, [job for group in jobs.values() for job in group], progress=progress, command=told)
    progress.close()
    for name, group in jobs.items():
        own, records = records[: len(group)], records[len(group) :]
        _store(app, suite.name, own, f"sae-harness baselines build {name} --suite {suite.name}", replace)


@command.command("add", epilog="Example:  sae-harness baselines add records/*.json --suite tiny")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@suite_option
@click.option("--replace", is_flag=True, help="Replace records that are stored.")
@pass_app
def add(app: AppContext, files: tuple[Path, ...], suite_name: str, replace: bool) -> None:
    """Store the records in FILES (JSON, one record each or a list, as `sae-harness run --json` prints)."""
    records = [record for file in files for record in _read(file)]
    if not records:
        raise RecordError(f"There are no records in {', '.join(map(str, files))}: nothing to store.")
    groups: dict[str, list[Record]] = {}
    for record in records:
        label = f"{record.method.name}@{record.method.preset}" if record.method.preset else record.method.name
        groups.setdefault(label, []).append(record)
    for group in groups.values():
        _store(app, chosen_suite(app, suite_name).name, group, "sae-harness baselines add", replace)


@command.command("verify", epilog="Example:  sae-harness baselines verify")
@pass_app
@click.pass_context
def verify(ctx: click.Context, app: AppContext) -> None:
    """Check every stored record against its manifest, and the manifests against the registry."""
    store = BaselineStore(app.paths.baselines)
    problems = [f"{p}" for p in store.verify()]
    registry = _registry_of(app)
    if registry is not None:
        problems += _entry_problems(store, load_registry([registry]).baselines)
    for problem in problems:
        click.echo(problem)
    if problems:
        ctx.exit(1)
    click.echo(f"{sum(len(store.methods(s)) for s in store.suites())} stored methods, all as their manifests say.")


def _registry_of(app: AppContext) -> Path | None:
    """The registry the baselines are entered in: the one beside their folder. None where there is none."""
    return next((file for file in app.paths.registry_files if file.parent == app.paths.baselines.parent), None)


def _entry_problems(store: BaselineStore, entered: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Where the registry's manifests differ from the stored ones."""
    problems = []
    for suite in store.suites():
        for method in store.methods(suite):
            wanted = entered.get(suite, {}).get(method)
            found = store.manifest_sha256(suite, method)
            if wanted is None:
                problems.append(f"{suite}/{method}: not entered in the registry (manifest {found[:12]})")
            elif wanted != found:
                problems.append(f"{suite}/{method}: manifest is {found[:12]}, the registry says {wanted[:12]}")
    for suite, methods in entered.items():
        problems += [f"{suite}/{m}: in the registry, not stored" for m in methods if m not in store.methods(suite)]
    return problems


def _store(app: AppContext, suite: str, records: Sequence[Record], told: str, replace: bool) -> None:
    failed = [r for r in records if any(e.status == "failed" for e in r.evaluations.values())]
    if failed:
        raise BaselineError(
            f"{len(failed)} of {len(records)} records have a failed evaluation and are not stored: "
            f"{next(e.reason for e in failed[0].evaluations.values() if e.status == 'failed')}"
        )
    store = BaselineStore(app.paths.baselines)
    folder = store.add(suite, records, told, replace=replace)
    registry = _registry_of(app)
    if registry is not None:
        entries = {s: {m: store.manifest_sha256(s, m) for m in store.methods(s)} for s in store.suites()}
        enter_baselines(registry, entries)
    click.echo(f"Stored {len(records)} records in {folder}.")


def _read(file: Path) -> list[Record]:
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError:
        raise RecordError(f"No file {file}: give records as JSON.") from None
    except (ValueError, OSError) as error:
        raise RecordError(f"{file} is not JSON: {error}") from None
    items = data if isinstance(data, list) else [data]
    return [Record.from_json(json.dumps(item), where=str(file)) for item in items]
