"""`sae-harness baselines`: the stored records methods are compared with."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from ..bench import Bench
from ..compute import Compute
from ..errors import BaselineError, ConfigError, RecordError
from ..methods import resolve_method
from ..pipeline import run
from ..registry import enter_baselines, load_registry
from ..report.record_tables import records_table
from ..report.tables import headline, render
from ..results.baseline_store import BaselineStore
from ..results.comparison import protocol_line
from ..results.record import Record
from .context import AppContext, pass_app
from .options import chosen_suite, compute_options, suite_option, table_options
from .progress import BarProgress


@click.group(
    help="List, show, build, add, sign and verify stored baselines.", epilog="Example:  sae-harness baselines list"
)
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
        click.echo(headline(protocol_line(records, suite.claim), fmt) + "\n")
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
    records = [record for file in files for record in read_records(file)]
    if not records:
        raise RecordError(f"There are no records in {', '.join(map(str, files))}: nothing to store.")
    groups: dict[str, list[Record]] = {}
    for record in records:
        label = f"{record.method.name}@{record.method.preset}" if record.method.preset else record.method.name
        groups.setdefault(label, []).append(record)
    for group in groups.values():
        _store(app, chosen_suite(app, suite_name).name, group, "sae-harness baselines add", replace)


@command.command("import", epilog="Example:  sae-harness baselines import results --suite gemma-2-2b-L12")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@suite_option
@click.option("--main", default="", metavar="FOLDER", help="Its `baseline_NAME.json` become NAME, not NAME@FOLDER.")
@click.option(
    "--tolerances", "file", type=click.Path(path_type=Path), help="YAML file of the audit's tolerances and facts."
)
@click.option("--replace", is_flag=True, help="Replace records that are stored.")
@pass_app
def import_(
    app: AppContext, paths: tuple[Path, ...], suite_name: str, main: str, file: Path | None, replace: bool
) -> None:
    """Store others' results: SAEBench's JSON and combined records in PATHS.

    SAEBench's files of one SAE become one record. All are audited together first. What the audit taints is kept with
    its taint and never used; every number goes under the definition it was made by, and keeps its source.
    """
    from ..results.audit.collect import collect
    from ..results.audit.runner import audit, verdicts
    from ..results.audit.tolerances import DEFAULT, load_tolerances
    from ..results.imported import import_records

    suite = chosen_suite(app, suite_name)
    tolerances = DEFAULT if file is None else load_tolerances(file)
    collected = collect(paths, tolerances)
    findings = audit(collected.evidence, tolerances)
    found = verdicts(findings, collected.evidence)
    records, left_out = import_records(collected.evidence, found, findings, suite=suite.name, main=main)
    for finding in collected.findings:
        click.echo(f"Left out {finding.record}: {finding.title}", err=True)
    for name, reason in left_out.items():
        click.echo(f"Left out {name}: {reason}", err=True)
    if not records:
        raise RecordError(f"Nothing could be imported from {', '.join(map(str, paths))}.")
    for record in records:
        _store(app, suite.name, [record], "sae-harness baselines import", replace)


@command.command("sign", epilog="Example:  sae-harness baselines sign --key ~/.ssh/id_ed25519")
@click.option("--key", type=click.Path(path_type=Path), help="An ssh key to sign with [default: the sums alone].")
@pass_app
def sign(app: AppContext, key: Path | None) -> None:
    """Write SHA256SUMS over all stored files and, with --key, sign it (ssh-keygen -Y, namespace sae-harness).

    `baselines verify` checks the sums wherever they are, and the signature with --signers.
    """
    from ..results import signature

    problems = BaselineStore(app.paths.baselines).verify()
    if problems:
        raise BaselineError(
            f"Not signed: {problems[0].path}: {problems[0].message}. See `sae-harness baselines verify`."
        )
    n = signature.write_sums(app.paths.baselines)
    if key is not None:
        signature.sign(app.paths.baselines, key)
    click.echo(f"{'Summed' if key is None else 'Signed'} {n} files in {app.paths.baselines / signature.SUMS}.")


@command.command("verify", epilog="Example:  sae-harness baselines verify --rerun 2")
@click.option(
    "--signers", type=click.Path(path_type=Path), help="ssh-keygen's file of allowed signers: check who signed."
)
@click.option(
    "--rerun", default=0, metavar="N", show_default=True, help="Make N stored records again and compare them."
)
@click.option("--rerun-seed", default=0, show_default=True, help="Which N: the seed of the draw.")
@pass_app
@click.pass_context
def verify(ctx: click.Context, app: AppContext, signers: Path | None, rerun: int, rerun_seed: int) -> None:
    """Check every stored record against its manifest, the manifests against the registry, and all against SHA256SUMS.

    --rerun trains and evaluates a sample again, as `sae-harness reproduce` does.
    """
    from ..results import signature

    if rerun < 0:
        raise ConfigError(f"--rerun must be at least 0, got {rerun}: it is the number of records to make again.")
    store = BaselineStore(app.paths.baselines)
    problems = [f"{p.path}: {p.message}" for p in store.verify()]
    problems += signature.sums_problems(app.paths.baselines)
    if signers is not None:
        try:
            click.echo(f"Signed by {signature.check_signature(app.paths.baselines, signers)}.")
        except BaselineError as error:
            problems.append(str(error))
    registry = _registry_of(app)
    if registry is not None:
        problems += _entry_problems(store, load_registry([registry]).baselines)
    if rerun and problems:
        click.echo("Nothing is made again before these are mended.", err=True)
    elif rerun:
        problems += _rerun(app, store, rerun, rerun_seed)
    for problem in problems:
        click.echo(problem)
    if problems:
        ctx.exit(1)
    click.echo(f"{sum(len(store.methods(s)) for s in store.suites())} stored methods, all as their manifests say.")


def _rerun(app: AppContext, store: BaselineStore, n: int, seed: int) -> list[str]:
    """Make a sample of the stored records again; told is what did not come out as it must."""
    from .reproduce import reproduce

    stored = [(f"{s}/{m}", record) for s in store.suites() for m in store.methods(s) for record in store.load(s, m)]
    own = [(name, record) for name, record in stored if not record.provenance.source]
    problems = []
    for name, record in random.Random(seed).sample(own, min(n, len(own))):
        found = reproduce(app, record)
        good = sum(row.verdict in ("identical", "within") for row in found.rows)
        same = "same environment" if not found.environment else f"another {', '.join(found.environment)}"
        click.echo(f"{name}/{record.key[:12]}: {good} of {len(found.rows)} metrics reproduced ({same}).", err=True)
        problems += [
            f"{name}/{record.key[:12]}: {row.metric} is {row.stored:.6g}, made again "
            + (f"{row.again:.6g} (allowed {row.allowed:.3g})" if row.again is not None else f"not: {row.reason}")
            for row in found.rows
            if row.verdict not in ("identical", "within")
        ]
    return problems


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


def read_records(file: Path) -> list[Record]:
    """The records in a JSON file: one, or a list of them; none in a manifest, which lies beside stored ones.

    Raises:
        RecordError: there is no such file, or it holds no records.
    """
    from ..results.audit.read_harness import is_manifest
    from ..results.audit.read_json import UnreadableError, parse, read_text
    from ..results.audit.tolerances import DEFAULT

    if not file.exists():
        raise RecordError(f"No file {file}: give records as JSON.")
    try:
        data = parse(read_text(file, DEFAULT))
    except UnreadableError as error:
        raise RecordError(f"{file} is not JSON of records: {error}") from None
    if isinstance(data, dict) and is_manifest(data):
        return []
    items = data if isinstance(data, list) else [data]
    return [Record.from_json(json.dumps(item), where=str(file)) for item in items]
