"""`sae-harness run`: train and evaluate a method over a suite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from ..bench import TRAIN_VERSION, Bench, Job
from ..compute import Compute
from ..errors import ConfigError
from ..methods import resolve_method
from ..pipeline import run
from ..report.record_tables import poor_note, records_table
from ..report.tables import headline
from ..results.comparison import protocol_line
from ..results.record import Record
from .context import AppContext, pass_app
from .options import (
    chosen_metrics,
    chosen_suite,
    compute_options,
    evaluators_option,
    grid_options,
    parse_settings,
    suite_option,
    table_options,
    with_evaluators,
)
from .progress import BarProgress
from .skipped import require_possible, tell_skipped
from .trained_as import write_trained_as


@click.command(
    help=(
        "Train and evaluate METHOD (or METHOD@PRESET) over a suite's L0 grid and seeds.\n\n"
        "Records and SAEs are kept in the cache, addressed by everything that made them; --out copies the SAEs."
    ),
    short_help="Train and evaluate a method over a suite.",
    epilog="Example:  sae-harness run topk --l0 16,32 --seeds 1 --out saes",
)
@click.argument("method_name", metavar="METHOD")
@suite_option
@grid_options
@evaluators_option
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the method; repeatable.")
@click.option("--metrics", "metric_names", metavar="NAME,...", help="Metrics to show [default: the compared ones].")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Copy each saved SAE into this folder.")
@click.option("--retrain", is_flag=True, help="Train and evaluate again what the cache holds.")
@table_options
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
def command(
    app: AppContext,
    method_name: str,
    suite_name: str,
    n_seeds: int | None,
    l0s: str | None,
    more: str | None,
    settings: tuple[str, ...],
    metric_names: str | None,
    out: Path | None,
    retrain: bool,
    as_json: bool,
    fmt: str,
    quiet: bool,
    compute: Compute,
) -> None:
    own = chosen_suite(app, suite_name, n_seeds, l0s)
    suite = with_evaluators(own, app, more)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    metrics = bench.metrics(chosen_metrics(metric_names))
    method = resolve_method(app.catalogue, method_name, suite_options=suite.options, overrides=parse_settings(settings))
    named = () if more == "all" else [name for name in chosen_metrics(more) if name not in own.evaluators]
    require_possible(bench, named, twin=len(suite.seeds) > 1, twin_mend="train --seeds 2 or more")
    progress = BarProgress(quiet=quiet)
    jobs = bench.jobs(method)
    told = " ".join(["sae-harness run", method_name, f"--suite {suite.name}", *(f"--set {s}" for s in settings)])
    records = run(bench, jobs, progress=progress, retrain=retrain, command=told)
    progress.close()
    if out is not None:
        _copy(bench, jobs, out)
    label = " ".join([method.label, *(f"{name}={value}" for name, value in parse_settings(settings).items())])
    labels = {record.key: label for record in records}
    if as_json:
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=1))
    else:
        if fmt != "csv":
            click.echo(headline(protocol_line(records, suite.claim), fmt) + "\n")
        click.echo(records_table(records, metrics, fmt, chosen=bool(metric_names), labels=labels))
    if (as_json or fmt == "csv") and (poor := poor_note(records, labels)):
        click.echo(poor, err=True)
    _tell_failures(records)
    entries = [(name, entry) for record in records for name, entry in record.evaluations.items()]
    tell_skipped((name, entry.reason) for name, entry in entries if entry.status == "skipped")


def _copy(bench: Bench, jobs: Sequence[Job], out: Path) -> None:
    for job in jobs:
        folder = bench.cache.find("sae", bench.sae_inputs(job), TRAIN_VERSION)
        if folder is None:
            raise ConfigError(f"The SAE of {job.label} is not in the cache any more: run again with --retrain.")
        level = "" if job.target_l0 is None else f"-l0-{job.target_l0}"
        target = out / f"{job.method.label.replace('@', '-')}{level}-seed-{job.seed}"
        try:
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        except OSError as error:  # shutil.Error is one too, of several causes
            raise ConfigError(f"An SAE cannot be copied to {target}: {error}. Give another --out.") from error
        write_trained_as(target, job, bench.suite.name)
    click.echo(f"Copied {len(jobs)} SAEs to {out}.", err=True)


def _tell_failures(records: Sequence[Record]) -> None:
    for record in records:
        for name, entry in record.evaluations.items():
            if entry.status == "failed":
                click.echo(f"{record.method.name} seed {record.training.seed}: {name} failed: {entry.reason}", err=True)
