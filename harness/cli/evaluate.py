"""`sae-harness evaluate`: any saved SAE on a suite's held-out data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bench import Bench
from ..compute import Compute
from ..errors import CheckpointError
from ..interfaces.specs import EvaluatorSpec
from ..pipeline import eval_context, measure
from ..plugins import Provided
from ..report.record_tables import outcomes_table
from ..report.tables import headline
from ..report.units import unit_of
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, device_option, suite_option, table_options
from .progress import BarProgress
from .skipped import require_possible, tell_skipped
from .trained_as import described, read_trained_as, require_saved

if TYPE_CHECKING:
    from ..interfaces.sae import SAE


@click.command(
    help=(
        "Evaluate the SAE saved in folder PATH on a suite's held-out data.\n\n"
        "PATH holds sae.json and sae.safetensors, as `sae-harness run --out` writes them."
    ),
    short_help="Evaluate any saved SAE.",
    epilog="Example:  sae-harness evaluate saes/topk-l0-32-seed-0",
)
@click.argument("path", type=click.Path(path_type=Path))
@suite_option
@click.option("--metrics", "metric_names", metavar="NAME,...", help="Metrics to show [default: all].")
@click.option(
    "--evaluators",
    "evaluator_names",
    metavar="NAME,...",
    help="Evaluators to run, or `all` that are installed [default: the suite's].",
)
@click.option("--twin", type=click.Path(path_type=Path), help="The SAE of another seed, for `seed_stability`.")
@table_options
@device_option
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
@click.pass_context
def command(
    ctx: click.Context,
    app: AppContext,
    path: Path,
    suite_name: str,
    metric_names: str | None,
    evaluator_names: str | None,
    twin: Path | None,
    as_json: bool,
    fmt: str,
    quiet: bool,
    device: str,
) -> None:
    for folder in (path, *([] if twin is None else [twin])):
        require_saved(folder)
    compute = Compute(device=device)
    suite = chosen_suite(app, suite_name)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    metrics = bench.metrics(chosen_metrics(metric_names))
    evaluators = _chosen(bench, evaluator_names)
    named = () if evaluator_names in (None, "all") else [p.spec.name for p in evaluators]
    require_possible(bench, named, twin=twin is not None, twin_mend="give it with --twin")
    meta, sae = _load(app, path)
    beside = None if twin is None else _load(app, twin)[1].to(compute.device)
    compute.check()
    progress = BarProgress(quiet=quiet)
    context = eval_context(bench, progress)
    if meta["d_in"] != context.d_in:
        raise CheckpointError(
            f"{path} acts on d_in {meta['d_in']}; {suite.hookpoint} of suite {suite.name} has {context.d_in}. "
            "Name the suite it was trained on with --suite."
        )
    outcomes = measure(bench, sae.to(compute.device), evaluators, context.beside(beside), progress)
    progress.close()
    failed = [name for name, outcome in outcomes.items() if outcome.status == "failed"]
    known = read_trained_as(path)
    if as_json:
        found = {n: _json(v) for o in outcomes.values() for n, v in o.metrics.items() if n in {m.name for m in metrics}}
        status = {n: {"status": o.status, "reason": o.reason} for n, o in outcomes.items()}
        told = {"sae_id": meta["sae_id"], "trained_as": known, "metrics": found, "evaluations": status}
        click.echo(json.dumps(told, indent=1))
    else:
        if fmt != "csv":
            click.echo(headline(described(meta, known), fmt) + "\n")
        values = {n: v for outcome in outcomes.values() for n, v in outcome.metrics.items()}
        units = {n: unit_of(evaluator, n) for evaluator, outcome in outcomes.items() for n in outcome.metrics}
        if any(metric.name in values for metric in metrics):
            click.echo(outcomes_table(values, metrics, fmt, units=units))
        else:
            click.echo("None of the metrics asked for was measured.", err=True)
    if known.get("suite") not in (None, suite.name):
        note = f"Note: it was trained for suite {known['suite']} and is evaluated on suite {suite.name}."
        click.echo(note, err=True)
    tell_skipped((name, o.reason) for name, o in outcomes.items() if o.status == "skipped")
    if failed:
        ctx.exit(1)


def _chosen(bench: Bench, names: str | None) -> list[Provided[EvaluatorSpec]]:
    """The evaluators named; by default the suite's, and those that run everywhere."""
    if names == "all":
        return [bench.catalogue.evaluator(name) for name in bench.catalogue.evaluators]
    if names is not None:
        return [bench.catalogue.evaluator(name) for name in dict.fromkeys(chosen_metrics(names))]
    everywhere = [name for name, provided in bench.catalogue.evaluators.items() if provided.spec.default]
    listed = [name for name in bench.suite.evaluators if name in bench.catalogue.evaluators]
    return [bench.catalogue.evaluator(name) for name in dict.fromkeys([*listed, *everywhere])]


def _load(app: AppContext, path: Path) -> tuple[dict[str, Any], SAE]:
    from ..training.checkpoint import load_sae, read_config

    meta = read_config(path)
    return meta, load_sae(path, lambda name: app.catalogue.sae(name).load())  # type: ignore[arg-type]


def _json(value: object) -> dict[str, object]:
    return {key: getattr(value, key) for key in ("value", "stderr", "n")}
