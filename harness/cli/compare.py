"""`sae-harness compare`: a verdict on a method against a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from ..bench import Bench
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import BaselineError
from ..interfaces.specs import MetricSpec
from ..methods import Method, resolve_method
from ..pipeline import run
from ..report.record_tables import controls_table
from ..report.tables import comparison_table, comparison_to_json_dict
from ..results.baseline_store import BaselineStore
from ..results.comparison import compare, protocol_line
from ..results.record import Record
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, compute_options, grid_options, suite_option, table_options
from .progress import BarProgress


@click.command(
    help=(
        "Compare method CANDIDATE (or CANDIDATE@PRESET) with a baseline at matched L0.\n\n"
        "The candidate's records come from the cache; what is missing is trained over the suite's L0 grid and seeds "
        "and evaluated. The baseline's records are the stored ones; where none are stored it is trained as well."
    ),
    short_help="Compare a method with a baseline at matched L0.",
    epilog="Example:  sae-harness compare temporal --baseline topk",
)
@click.argument("candidate")
@click.option("--baseline", "baseline_name", default="topk", show_default=True, help="The method to compare with.")
@suite_option
@grid_options
@click.option("--metrics", "metric_names", metavar="NAME,...", help="Metrics to show [default: all].")
@click.option("--at-l0", type=float, help="Compare at this L0 [default: the mean over the L0s both reach].")
@click.option("--levels", is_flag=True, help="A table for each L0 level as well.")
@click.option("--detail", is_flag=True, help="Show the smallest difference that could have been seen.")
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
    candidate: str,
    baseline_name: str,
    suite_name: str,
    n_seeds: int | None,
    l0s: str | None,
    metric_names: str | None,
    at_l0: float | None,
    levels: bool,
    detail: bool,
    as_json: bool,
    fmt: str,
    from_stored: bool,
    retrain: bool,
    allow_tainted: bool,
    fail_on: str | None,
    quiet: bool,
    compute: Compute,
) -> None:
    suite = chosen_suite(app, suite_name, n_seeds, l0s)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    metrics = bench.metrics(chosen_metrics(metric_names))
    progress = BarProgress(quiet=quiet)
    store = BaselineStore(app.paths.baselines)
    theirs = baseline_records(app, bench, store, baseline_name, progress)
    if from_stored:
        ours = _stored(store, suite, candidate)
    else:
        method = resolve_method(app.catalogue, candidate, suite_options=suite.options)
        command_line = f"sae-harness compare {candidate} --baseline {baseline_name} --suite {suite.name}"
        ours = run(bench, bench.jobs(method), progress=progress, retrain=retrain, command=command_line)
    progress.close()
    if not metric_names:
        metrics = _of_interest(metrics, bench, [*ours, *theirs])
    result = compare(ours, theirs, metrics, at_l0=at_l0, allow_tainted=allow_tainted)
    if as_json:
        click.echo(json.dumps(comparison_to_json_dict(result), indent=1))
    else:
        if fmt != "csv":
            click.echo(protocol_line([*theirs, *ours], suite.claim) + "\n")
        click.echo(comparison_table(result, fmt, detail=detail, levels=levels))
        controls = {name: store.load(suite.name, name) for name in suite.controls if name in store.methods(suite.name)}
        judged = any(m.compared and m.better != "none" for m in metrics)
        if controls and judged and fmt != "csv" and not result.differences:
            click.echo("\n" + controls_table(result.window, controls, metrics, fmt))
    verdicts = set(result.verdicts.values())
    if fail_on is not None and fail_on.replace("-", " ") in verdicts:
        ctx.exit(1)


def _stored(store: BaselineStore, suite: SuiteConfig, name: str) -> list[Record]:
    if name not in store.methods(suite.name):
        known = ", ".join(store.methods(suite.name)) or "none"
        raise BaselineError(
            f"No stored records of {name!r} in suite {suite.name}: stored are {known}. Leave out --from-stored to "
            f"train it, or store it: sae-harness baselines build {name} --suite {suite.name}."
        )
    return [r for r in store.load(suite.name, name) if r.training.seed in suite.seeds]


def baseline_records(
    app: AppContext, bench: Bench, store: BaselineStore, name: str, progress: BarProgress
) -> list[Record]:
    """The baseline's stored records of the suite's seeds; where none are stored, from the cache or trained now."""
    suite = bench.suite
    if name in store.methods(suite.name):
        records = store.load(suite.name, name)
        chosen = [r for r in records if r.training.seed in suite.seeds]
        return chosen or records
    method: Method = resolve_method(app.catalogue, name, suite_options=suite.options)
    jobs = bench.jobs(method)
    if any(bench.find_record(job) is None for job in jobs):
        stored = ", ".join(store.methods(suite.name)) or "none"
        progress.note(f"No stored records of {name!r} in suite {suite.name} (stored: {stored}): training it here.")
    return run(bench, jobs, progress=progress, command=f"sae-harness run {name} --suite {suite.name}")


def _of_interest(metrics: Sequence[MetricSpec], bench: Bench, records: Sequence[Record]) -> list[MetricSpec]:
    """The metrics that a side has or the suite asks for: other evaluators' would be rows of "not measured"."""
    measured = {name for record in records for name in record.metrics}
    evaluators = [bench.catalogue.evaluators[n] for n in bench.suite.evaluators if n in bench.catalogue.evaluators]
    asked = {metric.name for provided in evaluators for metric in provided.spec.metrics}
    return [metric for metric in metrics if metric.name in measured | asked]
