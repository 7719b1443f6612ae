"""`sae-harness leaderboard`: all methods of a suite, each with the ranks that noise leaves it."""

from __future__ import annotations

import json

import click

from ..bench import Bench
from ..errors import BaselineError, MissingModelError, NameClashError, PluginError, UnknownNameError
from ..methods import resolve_method
from ..report.tables import headline, leaderboard_table, leaderboard_to_json_dict
from ..results.baseline_store import BaselineStore
from ..results.comparison import protocol_line
from ..results.leaderboard import leaderboard
from ..results.record import Record
from ..results.reliability import labels
from ..results.saebench_metrics import specs_of
from .context import AppContext, pass_app
from .options import chosen_metrics, chosen_suite, suite_option, table_options


@click.command(
    help=(
        "Rank all methods of a suite at matched L0: stored baselines, and your own records in the cache.\n\n"
        "Each has the range of ranks that noise leaves it; controls are shown and never ranked."
    ),
    short_help="Rank all methods of a suite, as far as noise allows.",
    epilog="Example:  sae-harness leaderboard --suite tiny --by ce_loss_recovered",
)
@suite_option
@click.option("--by", "primary", metavar="METRIC", help="The metric that ranks [default: fvu].")
@click.option("--metrics", "metric_names", metavar="NAME,...", help="Metrics to show [default: those with a verdict].")
@click.option("--with-tainted", is_flag=True, help="Show tainted values too, struck out; they are never ranked.")
@click.option("--stored-only", is_flag=True, help="Leave out your own records.")
@table_options
@pass_app
def command(
    app: AppContext,
    suite_name: str,
    primary: str | None,
    metric_names: str | None,
    with_tainted: bool,
    stored_only: bool,
    as_json: bool,
    fmt: str,
) -> None:
    suite = chosen_suite(app, suite_name)
    bench = Bench(suite, app.catalogue, app.cache)
    metrics = bench.metrics()
    chosen = chosen_metrics(metric_names)
    bench.metrics([*chosen, *([primary] if primary else [])])
    store = BaselineStore(app.paths.baselines)
    records: dict[str, list[Record]] = {name: store.load(suite.name, name) for name in store.methods(suite.name)}
    held = {metric for group in records.values() for record in group for metric in record.metrics}
    twice: dict[str, str] = {}
    metrics += specs_of(sorted(held - {m.name for m in metrics}))
    metrics.sort(key=lambda m: (m.name not in suite.primary, m.better == "none"))  # what fits first
    if not stored_only:
        try:
            mine = _own_records(app, bench)
        except MissingModelError:
            if not records:
                raise
            mine = {}
            click.echo(
                f"The LM of suite {suite.name} is not here, so no record of yours can be: stored ones.", err=True
            )
        for name, own in mine.items():
            if name not in records:
                records[name] = own
            elif not {r.sae_id for r in own} <= {r.sae_id for r in records[name]}:
                # To rank one method twice would tighten the correction for all others.
                records[f"{name} (own)"] = own
                twice[f"{name} (own)"] = "stored too: ranked once"
    if not records:
        raise BaselineError(
            f"Suite {suite.name} has no stored baselines and no records of yours: run `sae-harness run METHOD "
            f"--suite {suite.name}` first."
        )
    known = labels(app.paths.baselines, suite.name, metrics)
    board = leaderboard(records, metrics, primary=primary, labels=known, allow_tainted=with_tainted, unranked=twice)
    if as_json:
        click.echo(json.dumps(leaderboard_to_json_dict(board), indent=1))
        return
    if fmt != "csv":
        click.echo(headline(protocol_line([r for g in records.values() for r in g], suite.claim), fmt) + "\n")
    click.echo(leaderboard_table(board, fmt, metrics=list(chosen) or None))


def _own_records(app: AppContext, bench: Bench) -> dict[str, list[Record]]:
    """Records of the suite's methods and their presets that lie in the cache and are not stored."""
    stored = BaselineStore(app.paths.baselines)
    known = {r.key for name in stored.methods(bench.suite.name) for r in stored.load(bench.suite.name, name)}
    found: dict[str, list[Record]] = {}
    for name, provided in app.catalogue.trainers.items():
        for preset in ("", *provided.spec.presets):
            label = f"{name}@{preset}" if preset else name
            try:
                method = resolve_method(app.catalogue, label, suite_options=bench.suite.options)
                if "world" in method.needs and bench.suite.world is None:
                    continue  # a control that knows the true features has no records where there are none
                records = [r for job in bench.jobs(method) if (r := bench.find_record(job)) is not None]
            except (NameClashError, PluginError, UnknownNameError):
                continue  # its base, SAE or package is not there now: it can have no records of this state
            own = [r for r in records if r.key not in known]
            if own:
                found[label] = own
    return found
