"""`sae-harness power`: how many seeds it takes to see a difference."""

from __future__ import annotations

import json
import math

import click

from ..bench import Bench
from ..config import SuiteConfig
from ..errors import ConfigError
from ..interfaces.specs import MetricSpec
from ..report.tables import render
from ..results.baseline_store import BaselineStore
from ..results.comparison import MIN_SEEDS
from ..results.power import POWER, Noise, noise_in_records, noise_in_reliability, power, seeds_needed
from ..results.record import Record
from ..results.reliability import load
from ..results.statistics import CONFIDENCE
from .context import AppContext, pass_app
from .options import chosen_suite, suite_option


@click.command(
    help=(
        "Say how many seeds a side a comparison needs to decide a true difference EFFECT of a metric, by the power of "
        "the t test that `compare` makes.\n\n"
        "The noise between seeds is taken from the suite's stored records, as `compare` sees it: the standard "
        "deviation of a difference of two methods' means over log L0, paired by seed. Where no two methods are stored "
        "it comes from the stored reliability (`sae-harness reliability --store`). --sd gives that of one method."
    ),
    short_help="Say how many seeds it takes to see a difference.",
    epilog="Example:  sae-harness power --metric fvu --effect 0.001",
)
@click.option("--metric", "metric_name", required=True, metavar="NAME", help="The metric.")
@click.option("--effect", type=float, required=True, help="The difference to be seen, in the metric's unit.")
@suite_option
@click.option("--sd", type=float, help="Standard deviation of one method over seeds [default: from stored records].")
@click.option("--power", "target", type=float, default=POWER, show_default=True, help="Probability of seeing it.")
@click.option(
    "--judged",
    type=int,
    default=1,
    show_default=True,
    help="Metrics judged in one table: the first of Holm's steps is planned for.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def command(
    app: AppContext,
    metric_name: str,
    effect: float,
    suite_name: str,
    sd: float | None,
    target: float,
    judged: int,
    as_json: bool,
) -> None:
    if judged < 1:
        raise ConfigError(f"--judged must be at least 1, got {judged}: it is the number of metrics in the table.")
    if not 0.0 < target < 1.0:
        raise ConfigError(f"--power must lie between 0 and 1, got {target}.")
    if not effect or not math.isfinite(effect):
        raise ConfigError(f"--effect must be a difference other than 0, got {effect}.")
    suite = chosen_suite(app, suite_name)
    spec = Bench(suite, app.catalogue, app.cache).metrics([metric_name])[0]
    noise = _given(sd) if sd is not None else _stored(app, suite, spec)
    alpha = (1.0 - CONFIDENCE) / judged
    needed = seeds_needed(effect, noise.sd, design=noise.design, target=target, alpha=alpha)
    upper = noise.upper()
    careful = None if upper is None else seeds_needed(effect, upper, design=noise.design, target=target, alpha=alpha)
    counts = sorted({MIN_SEEDS, 5, 10} | {n for n in (needed, careful) if n is not None})
    table = [(n, power(effect, noise.sd, n, design=noise.design, alpha=alpha)) for n in counts]
    if as_json:
        data = {"metric": spec.name, "suite": suite.name, "effect": effect, "power": target, "alpha": alpha}
        data |= {"noise": noise.sd, "df": noise.df, "design": noise.design, "source": noise.source}
        data |= {"seeds": needed, "noise_upper": upper, "seeds_upper": careful, "table": table}
        click.echo(json.dumps(data, indent=1))
        return
    of = "of a difference between two methods of one seed" if noise.design == "paired" else "of one method over seeds"
    known = "" if noise.df is None else f", known to {noise.df} degrees of freedom"
    click.echo(f"{spec.name} in suite {suite.name}: a true difference of {effect:g}, two-sided at {alpha:.2g}")
    click.echo(f"noise: {noise.sd:.3g}, the standard deviation {of}{known}, from {noise.source}\n")
    click.echo(render([[str(n), f"{value:.3f}"] for n, value in table], ("seeds a side", "power")))
    click.echo(f"\nseeds needed for power {target}: {_seeds(needed)}")
    if upper is not None:
        click.echo(f"were the noise at its upper 90 % limit, {upper:.3g}: {_seeds(careful)}")
    if not spec.compared or spec.better == "none":
        click.echo(f"{spec.name} has no direction or is not judged: `compare` shows its interval and gives no verdict.")
    elif judged == 1:
        click.echo("One metric is planned for; a table of N judged metrics asks for more: --judged N.")


def _seeds(n: int | None) -> str:
    return "more than 100000 a side" if n is None else f"{n} a side"


def _given(sd: float) -> Noise:
    if not (sd >= 0.0 and math.isfinite(sd)):
        raise ConfigError(f"--sd must be a standard deviation, not negative, got {sd}.")
    return Noise(sd=sd, df=None, design="unpaired", source="--sd")


def _stored(app: AppContext, suite: SuiteConfig, spec: MetricSpec) -> Noise:
    """From the stored records where they give the noise of a difference, else from reliability.json, else from one
    method's records.
    """
    store = BaselineStore(app.paths.baselines)
    records = {m: _current(store.load(suite.name, m), spec) for m in store.methods(suite.name)}
    held = {method: own for method, own in records.items() if own}
    measured = noise_in_reliability(load(app.paths.baselines, suite.name), spec.name)
    if measured is not None and len(held) < 2:
        return measured
    if not held:
        raise ConfigError(
            f"No stored record of suite {suite.name} has {spec.name} in its present version: give the standard "
            "deviation over seeds with --sd, or store records with `sae-harness baselines build`."
        )
    noise = noise_in_records(held, spec.name)
    return measured if measured is not None and noise.design == "unpaired" else noise


def _current(records: list[Record], spec: MetricSpec) -> list[Record]:
    return [r for r in records if (entry := r.metrics.get(spec.name)) is not None and entry.version == spec.version]
