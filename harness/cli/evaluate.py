"""`sae-harness evaluate`: any saved SAE on a suite's held-out data."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..bench import Bench
from ..compute import Compute
from ..errors import CheckpointError
from ..pipeline import eval_context, measure
from ..report.record_tables import outcomes_table
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, device_option, suite_option, table_options
from .progress import BarProgress


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
    as_json: bool,
    fmt: str,
    quiet: bool,
    device: str,
) -> None:
    from ..training.checkpoint import load_sae, read_config

    compute = Compute(device=device)
    suite = chosen_suite(app, suite_name)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    metrics = bench.metrics(chosen_metrics(metric_names))
    meta = read_config(path)
    sae = load_sae(path, lambda name: app.catalogue.sae(name).load())  # type: ignore[arg-type]
    compute.check()
    progress = BarProgress(quiet=quiet)
    context = eval_context(bench, progress)
    if meta["d_in"] != context.d_in:
        raise CheckpointError(
            f"{path} acts on d_in {meta['d_in']}; {suite.hookpoint} of suite {suite.name} has {context.d_in}. "
            "Name the suite it was trained on with --suite."
        )
    evaluators = [bench.catalogue.evaluator(name) for name in bench.catalogue.evaluators]
    outcomes = measure(bench, sae.to(compute.device), evaluators, context, progress)
    progress.close()
    failed = [name for name, outcome in outcomes.items() if outcome.status == "failed"]
    if as_json:
        found = {n: _json(v) for o in outcomes.values() for n, v in o.metrics.items() if n in {m.name for m in metrics}}
        status = {n: {"status": o.status, "reason": o.reason} for n, o in outcomes.items()}
        click.echo(json.dumps({"sae_id": meta["sae_id"], "metrics": found, "evaluations": status}, indent=1))
    else:
        click.echo(f"{meta['architecture']} · d_in {meta['d_in']} · d_sae {meta['d_sae']} · {meta['sae_id'][:12]}\n")
        values = {n: v for outcome in outcomes.values() for n, v in outcome.metrics.items()}
        click.echo(outcomes_table(values, metrics, fmt))
    if failed:
        ctx.exit(1)


def _json(value: object) -> dict[str, object]:
    return {key: getattr(value, key) for key in ("value", "stderr", "n")}
