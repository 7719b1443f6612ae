"""`sae-harness reliability`: how far a suite's metrics can be trusted, measured."""

from __future__ import annotations

import dataclasses
import json

import click

from .. import __version__
from ..bench import Bench
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import ConfigError
from ..methods import Method, resolve_method
from ..pipeline import run
from ..report.reliability_table import reliability_table
from ..results.record import Record
from ..results.reliability import ORACLE, RANDOM, reliability, save
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, compute_options, grid_options, suite_option, table_options
from .progress import BarProgress


@click.command(
    help=(
        "Measure the reliability of a suite's metrics: their noise over evaluation seeds and training seeds, the "
        "smallest difference that 1, 3 and 5 seeds can show, whether they put a random SAE below trained ones and, on "
        "a synthetic world, the oracle above them, and how well they rank as the truth does.\n\n"
        "SAEs are trained once and evaluated with each evaluation seed; all is kept in the cache. --store puts the "
        "result beside the suite's baselines, where `compare` and `leaderboard` read it."
    ),
    short_help="Measure how far a suite's metrics can be trusted.",
    epilog="Example:  sae-harness reliability --suite world-tiny --l0 6 --store",
)
@suite_option
@grid_options
@click.option("--methods", metavar="NAME,...", help="Trained methods [default: the suite's baselines].")
@click.option("--evaluation-seeds", "n_evaluation", type=int, default=3, show_default=True, help="How many.")
@click.option("--evaluators", metavar="NAME,...", help="Evaluators to judge [default: the suite's].")
@click.option(
    "--store", "stored", is_flag=True, help="Keep it beside the suite's baselines, with what is there of other metrics."
)
@table_options
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
def command(
    app: AppContext,
    suite_name: str,
    n_seeds: int | None,
    l0s: str | None,
    methods: str | None,
    n_evaluation: int,
    evaluators: str | None,
    stored: bool,
    as_json: bool,
    fmt: str,
    quiet: bool,
    compute: Compute,
) -> None:
    suite = chosen_suite(app, suite_name, n_seeds, l0s)
    if n_evaluation < 2:
        raise ConfigError(f"--evaluation-seeds must be at least 2, got {n_evaluation}: noise shows between two.")
    if l0s is None:
        suite = suite.replace(l0_grid=(suite.l0_grid[len(suite.l0_grid) // 2],))
    if evaluators is not None:
        for name in chosen_metrics(evaluators):
            app.catalogue.evaluator(name)
        suite = suite.replace(evaluators=tuple(dict.fromkeys(chosen_metrics(evaluators))))
    names = _methods(suite, chosen_metrics(methods))
    progress = BarProgress(quiet=quiet)
    told = f"sae-harness reliability --suite {suite.name} --l0 {','.join(map(str, suite.l0_grid))}"
    told += f" --seeds {len(suite.seeds)} --methods {','.join(n for n in names if n not in (ORACLE, RANDOM))}"
    told += f" --evaluation-seeds {n_evaluation}"
    told += f" --evaluators {','.join(suite.evaluators)}" if evaluators is not None else ""
    records: list[Record] = []
    for seed in range(suite.evaluation_seed, suite.evaluation_seed + n_evaluation):
        bench = Bench(suite.replace(evaluation_seed=seed), app.catalogue, app.cache, compute=compute)
        jobs = [job for name in names for job in bench.jobs(_method(app, bench, name))]
        records += run(bench, jobs, progress=progress, command=told)
    progress.close()
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    found = reliability(records, bench.metrics(), command=told, harness_version=__version__)
    if stored:
        click.echo(f"Stored: {save(found, app.paths.baselines)}", err=True)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        click.echo(reliability_table(found, fmt))


def _methods(suite: SuiteConfig, chosen: tuple[str, ...]) -> list[str]:
    """The trained methods, the floor, and on worlds the ceiling."""
    controls = [RANDOM, *([ORACLE] if suite.world is not None else [])]
    names = list(chosen or suite.baselines)
    if not names:
        raise ConfigError(f"Suite {suite.name} lists no baselines: name trained methods with --methods.")
    return [*dict.fromkeys([*names, *controls])]


def _method(app: AppContext, bench: Bench, name: str) -> Method:
    return resolve_method(app.catalogue, name, suite_options=bench.suite.options)
