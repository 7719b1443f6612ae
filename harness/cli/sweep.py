"""`sae-harness sweep`: a grid of methods, presets and options over a suite, trained from one stream."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..bench import Bench, Job
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import ConfigError
from ..interfaces.specs import Option
from ..methods import resolve_method
from ..pipeline import run
from ..report.figures import check_figure_path, render_to
from ..report.record_tables import records_table
from ..report.sweep_figure import Point, sweep_figure
from ..report.tables import headline
from ..results.comparison import protocol_line
from ..results.record import Record, write_atomically
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, compute_options, number_in, table_options
from .progress import BarProgress

_KEYS = ("suite", "l0", "seeds", "methods")
_METHOD_KEYS = ("presets", "options")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One point of the grid, for all L0s and seeds."""

    method: str
    """`method` or `method@preset`."""
    options: Mapping[str, Option]

    @property
    def label(self) -> str:
        """As tables name it."""
        return " ".join([self.method, *(f"{k}={v}" for k, v in self.options.items())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a file asks for."""

    suite: str
    l0: tuple[int, ...] | None
    seeds: int | None
    variants: tuple[Variant, ...]


@click.command(
    help=(
        "Train and evaluate every combination that the YAML file FILE names; all SAEs share one stream.\n\n"
        "\b\n"
        "suite: tiny            # of the registry\n"
        "l0: [16, 32]           # default: the suite's\n"
        "seeds: 3               # how many; default: the suite's\n"
        "methods:\n"
        "  topk: {}\n"
        "  temporal:\n"
        "    presets: [default, shuffled]   # default: none chosen\n"
        "    options:                       # every combination of the values\n"
        "      strength: [0.01, 0.05]\n"
    ),
    short_help="Train and evaluate a grid of methods, presets and options.",
    epilog="Example:  sae-harness sweep grid.yaml --out records",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write each record into this folder.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained, and train nothing.")
@click.option("--metrics", "metric_names", metavar="NAME,...", help="Metrics to show [default: the compared ones].")
@click.option(
    "--figure",
    "figure_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the metrics over an option into FILE (.png or .svg).",
)
@click.option("--over", default="", metavar="OPTION", help="The option on the figure's x axis [default: the first].")
@table_options
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
def command(
    app: AppContext,
    file: Path,
    out: Path | None,
    dry_run: bool,
    metric_names: str | None,
    figure_file: Path | None,
    over: str,
    as_json: bool,
    fmt: str,
    quiet: bool,
    compute: Compute,
) -> None:
    if figure_file is not None:
        check_figure_path(figure_file)
        if not figure_file.absolute().parent.is_dir():
            raise ConfigError(f"--figure {figure_file}: there is no folder {figure_file.parent}: make it first.")
    sweep = read_sweep(file)
    if figure_file is not None or over:
        _check_axis(sweep, over)
    suite = _suite(app, sweep)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    metrics = bench.metrics(chosen_metrics(metric_names))
    jobs = {variant.label: _jobs(app, bench, variant) for variant in sweep.variants}
    flat = [job for own in jobs.values() for job in own]
    if dry_run:
        _tell(bench, jobs)
        return
    progress = BarProgress(quiet=quiet)
    records = run(bench, flat, progress=progress, command=f"sae-harness sweep {file.name}")
    progress.close()
    names = [label for label, own in jobs.items() for _ in own]
    labels = {record.key: name for record, name in zip(records, names, strict=True)}
    if out is not None:
        _write(records, out)
    if figure_file is not None:
        own = iter(records)
        points = [Point(v.method, v.options, tuple(next(own) for _ in jobs[v.label])) for v in sweep.variants]
        aims = (app.catalogue.trainers.get(point.records[0].method.name) for point in points)
        primary = {*suite.primary, *(name for known in aims if known for name in known.spec.aims)}
        figure = sweep_figure(points, metrics, over=over, named=bool(metric_names), primary=primary)
        render_to(figure, figure_file)
        click.echo(f"Wrote {figure_file}.", err=True)
    if as_json:
        click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=1))
        return
    if fmt != "csv":
        click.echo(headline(protocol_line(records, suite.claim), fmt) + "\n")
    click.echo(records_table(records, metrics, fmt, chosen=bool(metric_names), labels=labels))


def read_sweep(file: Path) -> Sweep:
    """The grid of a file.

    Raises:
        ConfigError: it cannot be read, or a key is unknown or of the wrong type.
    """
    import yaml

    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from error
    _check_keys(file, "the file", data, _KEYS)
    methods = data.get("methods")
    if not isinstance(data.get("suite"), str) or not isinstance(methods, Mapping) or not methods:
        raise ConfigError(f"{file}: `suite` must name a suite and `methods` map at least one method to its grid.")
    l0, seeds = data.get("l0"), data.get("seeds")
    if l0 is not None and not (isinstance(l0, list) and l0 and all(_is_count(n) for n in l0)):
        raise ConfigError(f"{file}: l0 must be a list of positive whole numbers, got {l0!r}.")
    if seeds is not None and not _is_count(seeds):
        raise ConfigError(f"{file}: seeds must be a positive whole number, got {seeds!r}: it is how many.")
    variants = tuple(variant for name, grid in methods.items() for variant in _variants(file, str(name), grid or {}))
    if len({v.label for v in variants}) < len(variants):
        raise ConfigError(f"{file} names a combination twice: leave equal values out.")
    return Sweep(suite=data["suite"], l0=tuple(l0) if l0 else None, seeds=seeds, variants=variants)


def _variants(file: Path, name: str, grid: Any) -> list[Variant]:
    _check_keys(file, f"methods.{name}", grid, _METHOD_KEYS)
    presets, options = grid.get("presets", ["default"]), grid.get("options") or {}
    if isinstance(presets, list):
        presets = ["off" if preset is False else preset for preset in presets]  # YAML 1.1 reads `off` as false
    if not isinstance(presets, list) or not presets or not all(isinstance(p, str) for p in presets):
        raise ConfigError(f"{file}: methods.{name}.presets must be a list of names, got {presets!r}.")
    if not isinstance(options, Mapping):
        raise ConfigError(f"{file}: methods.{name}.options must map options to lists of values, got {options!r}.")
    lists = [values if isinstance(values, list) else [values] for values in options.values()]
    for option, values in zip(options, lists, strict=True):
        if not values or not all(isinstance(value, (bool, int, float, str)) for value in values):
            raise ConfigError(f"{file}: methods.{name}.options.{option} must list numbers, texts or truth values.")
    return [
        Variant(
            method=name if preset in ("", "default") else f"{name}@{preset}",
            options={str(key): number_in(value) for key, value in zip(options, values, strict=True)},
        )
        for preset in presets
        for values in itertools.product(*lists)
    ]


def _check_keys(file: Path, where: str, data: Any, allowed: Sequence[str]) -> None:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{file}: {where} must hold a mapping with {', '.join(allowed)}, got {data!r}.")
    unknown = sorted(str(key) for key in data if key not in allowed)
    if unknown:
        raise ConfigError(f"{file}: {where} has unknown keys {', '.join(unknown)}; allowed are {', '.join(allowed)}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _suite(app: AppContext, sweep: Sweep) -> SuiteConfig:
    l0s = None if sweep.l0 is None else ",".join(map(str, sweep.l0))
    return chosen_suite(app, sweep.suite, sweep.seeds, l0s)


def _check_axis(sweep: Sweep, over: str) -> None:
    """Raises ConfigError where the figure has no axis to be drawn over, before anything is trained for it."""
    values: dict[str, set[Option]] = {}
    for variant in sweep.variants:
        for name, value in variant.options.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values.setdefault(name, set()).add(value)
    varied = [name for name, own in values.items() if len(own) > 1]
    if not varied:
        raise ConfigError("--figure: no option of this sweep has several numbers: there is no axis to draw it over.")
    if over and over not in varied:
        raise ConfigError(
            f"--over {over}: this sweep does not vary it in numbers; what it varies: {', '.join(varied)}."
        )


def _jobs(app: AppContext, bench: Bench, variant: Variant) -> list[Job]:
    method = resolve_method(
        app.catalogue, variant.method, suite_options=bench.suite.options, overrides=dict(variant.options)
    )
    return bench.jobs(method)


def _tell(bench: Bench, jobs: Mapping[str, Sequence[Job]]) -> None:
    todo = 0
    for label, own in jobs.items():
        missing = sum(bench.find_record(job) is None for job in own)
        todo += missing
        click.echo(f"{label}: {len(own)} SAEs, {missing} to make")
    click.echo(f"{todo} SAEs of {bench.suite.n_tokens:,} tokens each would be trained and evaluated.")


def _write(records: Sequence[Record], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Records cannot be written to {out}: {error.strerror}. Give another --out.") from error
    for record in records:
        write_atomically(out / f"{record.key}.json", record.to_json())
    click.echo(f"Wrote {len(records)} records to {out}.", err=True)
