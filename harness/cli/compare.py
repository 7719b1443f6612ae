"""`sae-harness compare`: a verdict on a method against a baseline."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..bench import Bench
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import BaselineError, ConfigError
from ..interfaces.specs import MetricSpec
from ..methods import Method, resolve_method
from ..pipeline import run
from ..report.figures import check_figure_path, render_to
from ..report.frontier_figure import frontier_figure
from ..report.pareto_table import pareto_table
from ..report.record_tables import controls_table
from ..report.tables import comparison_table, comparison_to_json_dict, headline
from ..report.trade_table import trade_table
from ..results.baseline_store import BaselineStore
from ..results.comparison import Comparison, compare, protocol_line
from ..results.frontier import Window
from ..results.pareto import ParetoComparison, compare_frontiers
from ..results.record import Record
from ..results.reliability import labels
from ..results.saebench_metrics import specs_of
from ..results.trade import Trade, trade
from .context import AppContext, pass_app
from .options import (
    chosen_metrics,
    chosen_suite,
    compute_options,
    evaluators_option,
    grid_options,
    suite_option,
    table_options,
    with_evaluators,
)
from .progress import BarProgress
from .skipped import require_possible


@click.command(
    help=(
        "Compare each method CANDIDATE (or CANDIDATE@PRESET) with a baseline at matched L0.\n\n"
        "The candidates' records come from the cache; what is missing is trained over the suite's L0 grid and seeds "
        "and evaluated. The baseline's records are the stored ones; where none are stored it is trained as well."
    ),
    short_help="Compare a method with a baseline at matched L0.",
    epilog="Example:  sae-harness compare temporal --baseline topk",
)
@click.argument("candidates", metavar="CANDIDATE...", nargs=-1, required=True)
@click.option("--baseline", "baseline_name", default="topk", show_default=True, help="The method to compare with.")
@suite_option
@grid_options
@evaluators_option
@click.option(
    "--metrics", "metric_names", metavar="NAME,...", help="Metrics to show, or all [default: those with a verdict]."
)
@click.option("--at-l0", type=float, help="Compare at this L0 [default: the mean over the L0s both reach].")
@click.option("--pareto", metavar="NAME,NAME", help="Compare the frontiers in two metrics too, say l0,fvu.")
@click.option(
    "--trade",
    "traded",
    metavar="NAME,NAME",
    help="What is won in one metric per unit given up in another, such as fvu.",
)
@click.option("--as-a-whole", is_flag=True, help="Judge candidates in which more than one factor differs.")
@click.option("--levels", is_flag=True, help="A table for each L0 level as well.")
@click.option(
    "--detail", is_flag=True, help="Show the smallest visible difference, corrected p-values and evaluation noise."
)
@click.option(
    "--figure",
    "figure_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the primary metrics, or those of --metrics, over L0 into FILE (.png or .svg).",
)
@table_options
@click.option("--from-stored", is_flag=True, help="Take the candidate's stored records instead of training it.")
@click.option("--retrain", is_flag=True, help="Train and evaluate the candidate again.")
@click.option("--allow-tainted", is_flag=True, help="Use tainted records, marked.")
@click.option(
    "--fail-on",
    type=click.Choice(["worse", "not-comparable"]),
    help="Exit 1 where any verdict is this.",
)
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
@click.pass_context
def command(
    ctx: click.Context,
    app: AppContext,
    candidates: tuple[str, ...],
    baseline_name: str,
    suite_name: str,
    n_seeds: int | None,
    l0s: str | None,
    more: str | None,
    metric_names: str | None,
    at_l0: float | None,
    pareto: str | None,
    traded: str | None,
    as_a_whole: bool,
    levels: bool,
    detail: bool,
    figure_file: Path | None,
    as_json: bool,
    fmt: str,
    from_stored: bool,
    retrain: bool,
    allow_tainted: bool,
    fail_on: str | None,
    quiet: bool,
    compute: Compute,
) -> None:
    if figure_file is not None:
        check_figure_path(figure_file)
    own = chosen_suite(app, suite_name, n_seeds, l0s)
    suite = with_evaluators(own, app, more)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    asked = _Asked(
        every=metric_names == "all",
        named=bench.metrics(chosen_metrics(metric_names)) if metric_names not in (None, "all") else [],
        fronts=_two_metrics(bench, "pareto", pareto),
        exchange=_two_metrics(bench, "trade", traded),
        at_l0=at_l0,
        allow_tainted=allow_tainted,
        as_a_whole=as_a_whole,
    )
    more_tables = bool(asked.fronts or asked.exchange)
    _consistent(candidates, baseline_name, from_stored=from_stored, retrain=retrain, fmt=fmt, more_tables=more_tables)
    if not from_stored and more != "all":
        added = [name for name in chosen_metrics(more) if name not in own.evaluators]
        require_possible(bench, added, twin=len(suite.seeds) > 1, twin_mend="train --seeds 2 or more")
    progress = BarProgress(quiet=quiet)
    store = BaselineStore(app.paths.baselines)
    theirs = baseline_records(
        app, bench, store, baseline_name, progress, asked=more is not None, from_stored=from_stored
    )
    told = f"sae-harness compare {' '.join(candidates)} --baseline {baseline_name} --suite {suite.name}"
    stored = {name for name in candidates if from_stored or (_is_imported(store, suite, name) and not retrain)}
    groups = {name: _stored(store, suite, name) for name in stored}
    groups |= _run_all(app, bench, [n for n in candidates if n not in stored], progress, retrain=retrain, told=told)
    progress.close()
    judged = [_judge(app, bench, groups[name], theirs, asked) for name in dict.fromkeys(candidates)]
    if figure_file is not None:
        names = ",".join(m.name for m in bench.metrics()) if asked.every else metric_names
        _draw(figure_file, bench, theirs, judged, names, allow_tainted, told)
    if as_json:
        found = [one.to_json() for one in judged]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=1))
    for number, one in enumerate(() if as_json else judged):
        table = comparison_table(one.result, fmt, detail=detail, levels=levels, every=asked.every or bool(asked.named))
        if fmt == "csv":
            click.echo(table.partition("\n")[2] if number else table)  # one head for all rows
            continue
        line = protocol_line([*theirs, *one.records], suite.claim)
        click.echo(("\n" if number else "") + headline(line, fmt) + "\n\n" + table)
        if any(m.compared and m.better != "none" for m in one.shown) and not one.result.differences:
            _echo_controls(store, suite, one.result.window, one.shown, fmt)
        _echo_more(one, fmt)
    verdicts = {verdict for one in judged for verdict in one.result.verdicts.values()}
    if fail_on is not None and fail_on.replace("-", " ") in verdicts:
        ctx.exit(1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be judged, and shown of it."""

    every: bool
    named: Sequence[MetricSpec]
    """The metrics shown; empty: those that get a verdict."""
    fronts: tuple[MetricSpec, MetricSpec] | None
    exchange: tuple[MetricSpec, MetricSpec] | None
    at_l0: float | None
    allow_tainted: bool
    as_a_whole: bool


def _judge(app: AppContext, bench: Bench, ours: Sequence[Record], theirs: Sequence[Record], asked: _Asked) -> _Judged:
    """A candidate held against the baseline: on all metrics of interest, whichever are shown."""
    suite = bench.suite
    judged_on = _of_interest(bench.metrics(), bench, ours, theirs)
    judged_on += [spec for spec in asked.named if spec not in judged_on]
    result = compare(
        ours,
        theirs,
        judged_on,
        at_l0=asked.at_l0,
        allow_tainted=asked.allow_tainted,
        labels=labels(app.paths.baselines, suite.name, judged_on),
        primary=_primary(app, suite, ours),
        as_a_whole=asked.as_a_whole,
        shown=[spec.name for spec in asked.named],
    )
    return _Judged(
        records=ours,
        shown=asked.named or judged_on,
        result=result,
        frontiers=compare_frontiers(ours, theirs, asked.fronts) if asked.fronts else None,
        bargain=trade(ours, theirs, asked.exchange, allow_tainted=asked.allow_tainted) if asked.exchange else None,
    )


def _primary(app: AppContext, suite: SuiteConfig, ours: Sequence[Record]) -> tuple[str, ...]:
    """The suite's primary metrics, and those the candidate is meant to move.

    Raises:
        UnknownNameError: the suite names a metric that no installed evaluator has.
    """
    Bench(suite, app.catalogue, app.cache).metrics(suite.primary)
    name = ours[0].method.name if ours else ""
    known = app.catalogue.trainers.get(name)
    return (*suite.primary, *(known.spec.aims if known is not None else ()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A candidate held against the baseline."""

    records: Sequence[Record]
    shown: Sequence[MetricSpec]
    result: Comparison
    frontiers: ParetoComparison | None
    bargain: Trade | None

    def to_json(self) -> dict[str, Any]:
        data = comparison_to_json_dict(self.result)
        both = {"pareto": self.frontiers, "trade": self.bargain}
        return data | {name: dataclasses.asdict(more) for name, more in both.items() if more}


def _echo_more(one: _Judged, fmt: str) -> None:
    if one.frontiers:
        click.echo("\n" + pareto_table(one.frontiers, fmt))
    if one.bargain:
        click.echo("\n" + trade_table(one.bargain, fmt))


def _draw(
    file: Path,
    bench: Bench,
    baseline: Sequence[Record],
    judged: Sequence[_Judged],
    metric_names: str | None,
    allow_tainted: bool,
    command: str,
) -> None:
    figure = frontier_figure(
        [one.records for one in judged],
        baseline,
        bench.metrics(chosen_metrics(metric_names)),
        [one.result for one in judged],
        named=metric_names is not None,
        allow_tainted=allow_tainted,
        commands=_commands(bench, f"{command} --figure {file}"),
    )
    render_to(figure, file)
    click.echo(f"Wrote {file}.", err=True)


def _commands(bench: Bench, command: str) -> dict[str, str]:
    """Metric -> the command that measures it, of the evaluators that the suite does not ask for."""
    others = (p for name, p in bench.catalogue.evaluators.items() if name not in bench.suite.evaluators)
    return {m.name: f"{command} --evaluators {p.spec.name} --metrics {m.name}" for p in others for m in p.spec.metrics}


def _run_all(
    app: AppContext, bench: Bench, names: Sequence[str], progress: BarProgress, *, retrain: bool, told: str
) -> dict[str, list[Record]]:
    """Each method's records; what is missing of all trains from one stream."""
    jobs = {
        name: bench.jobs(resolve_method(app.catalogue, name, suite_options=bench.suite.options))
        for name in dict.fromkeys(names)
    }
    flat = [job for own in jobs.values() for job in own]
    records = iter(run(bench, flat, progress=progress, retrain=retrain, command=told) if flat else [])
    return {name: [next(records) for _ in own] for name, own in jobs.items()}


def _echo_controls(
    store: BaselineStore, suite: SuiteConfig, window: Window | None, metrics: Sequence[MetricSpec], fmt: str
) -> None:
    controls = {name: store.load(suite.name, name) for name in suite.controls if name in store.methods(suite.name)}
    if controls:
        click.echo("\n" + controls_table(window, controls, metrics, fmt))


def _two_metrics(bench: Bench, option: str, names: str | None) -> tuple[MetricSpec, MetricSpec] | None:
    """The two metrics of `--pareto` or `--trade`, before anything is trained.

    Raises:
        ConfigError: there are not two.
        UnknownNameError: no evaluator has one.
    """
    if names is None:
        return None
    chosen = bench.metrics(chosen_metrics(names))
    if len(chosen) != 2:
        what = {"pareto": "two metrics, such as l0,fvu", "trade": "what is won and what is paid, such as mcc,fvu"}
        raise ConfigError(f"--{option} takes {what[option]}; got {names!r}.")
    return chosen[0], chosen[1]


def _consistent(
    candidates: Sequence[str], baseline: str, *, from_stored: bool, retrain: bool, fmt: str, more_tables: bool
) -> None:
    """Raises ConfigError where options contradict each other."""
    if from_stored and retrain:
        raise ConfigError("--from-stored takes stored records and --retrain makes them anew: give one of the two.")
    if from_stored and baseline in candidates:
        raise ConfigError(f"--from-stored would hold the stored records of {baseline} against themselves.")
    if fmt == "csv" and more_tables:
        raise ConfigError("--pareto and --trade are tables of their own: take --format plain, md or github, or --json.")


def _is_imported(store: BaselineStore, suite: SuiteConfig, name: str) -> bool:
    """Whether the stored records of a method are others' results: those can be read, and not made again."""
    return name in store.methods(suite.name) and any(r.provenance.source for r in store.load(suite.name, name))


def _stored(store: BaselineStore, suite: SuiteConfig, name: str) -> list[Record]:
    if name not in store.methods(suite.name):
        known = ", ".join(store.methods(suite.name)) or "none"
        raise BaselineError(
            f"No stored records of {name!r} in suite {suite.name}: stored are {known}. Leave out --from-stored to "
            f"train it, or store it: sae-harness baselines build {name} --suite {suite.name}."
        )
    records = store.load(suite.name, name)
    return [r for r in records if r.training.seed in suite.seeds] or records


def baseline_records(
    app: AppContext,
    bench: Bench,
    store: BaselineStore,
    name: str,
    progress: BarProgress,
    *,
    asked: bool = False,
    from_stored: bool = False,
) -> list[Record]:
    """The baseline's stored records of the suite's seeds; where none are stored, from the cache or trained now.

    With `asked`, stored records that lack one of the suite's evaluators will not do; with `from_stored` nothing else
    will.
    """
    suite = bench.suite
    if from_stored:
        return _stored(store, suite, name)
    if name in store.methods(suite.name):
        records = store.load(suite.name, name)
        chosen = [r for r in records if r.training.seed in suite.seeds] or records
        lacking = [e for e in suite.evaluators if any(e not in r.evaluations for r in chosen)] if asked else []
        if not lacking:
            return chosen
        progress.note(f"The stored records of {name!r} have no {', '.join(lacking)}: training and evaluating it here.")
    method: Method = resolve_method(app.catalogue, name, suite_options=suite.options)
    jobs = bench.jobs(method)
    if name not in store.methods(suite.name) and any(bench.find_record(job) is None for job in jobs):
        stored = ", ".join(store.methods(suite.name)) or "none"
        progress.note(f"No stored records of {name!r} in suite {suite.name} (stored: {stored}): training it here.")
    return run(bench, jobs, progress=progress, command=f"sae-harness run {name} --suite {suite.name}")


def _of_interest(
    metrics: Sequence[MetricSpec], bench: Bench, ours: Sequence[Record], theirs: Sequence[Record]
) -> list[MetricSpec]:
    """The metrics that the candidate has or the suite asks for: others would be rows of "not measured". Of imported
    records, whose evaluations cannot be made up for, all that either side has."""
    imported = all(record.provenance.source for record in (*ours, *theirs))
    measured = {name for record in ((*ours, *theirs) if imported else ours) for name in record.metrics}
    evaluators = [bench.catalogue.evaluators[n] for n in bench.suite.evaluators if n in bench.catalogue.evaluators]
    asked = {metric.name for provided in evaluators for metric in provided.spec.metrics}
    known = {metric.name for metric in metrics}
    found = [metric for metric in metrics if metric.name in measured | asked]
    # Imported records hold metrics that no evaluator here gives; where all are imported, no other is of interest.
    if imported:
        found = [metric for metric in found if metric.name in measured]
    return [*found, *specs_of(sorted(measured - known))]
