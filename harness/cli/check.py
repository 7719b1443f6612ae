"""`sae-harness check`: the conformance kit on an installed plugin."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from ..report.tables import render
from .context import AppContext, pass_app

if TYPE_CHECKING:
    from ..testing.checks import CheckResult


@click.command(
    short_help="Run the conformance kit on an installed plugin.",
    epilog="Example:  sae-harness check sae-harness-temporal",
)
@click.argument("distribution")
@click.option("--json", "as_json", is_flag=True, help="All results as JSON instead of a table of failures.")
@click.pass_context
@pass_app
def command(app: AppContext, ctx: click.Context, distribution: str, as_json: bool) -> None:
    """Run every check of every SAE, method, preset and evaluator of DISTRIBUTION: `sae-harness-temporal`, or
    `sae-harness` for the built-ins. Takes seconds, on planted data; needs no language model.

    Exit status: 0 all passed, 1 a check failed, 2 the distribution is not installed or shares a name with another.
    """
    from ..testing.installed import owner_of

    owner_of(distribution, app.catalogue)  # before torch is imported: a wrong name is told at once
    from tqdm import tqdm

    from ..testing.checks import run_checks

    with tqdm(desc=f"checking {distribution}", unit="check", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        results = run_checks(distribution, app.catalogue, progress=progress)
    failed = [result for result in results if not result.passed]
    if as_json:
        click.echo(json.dumps(_as_json(distribution, results), indent=1))
    elif failed:
        click.echo(render([[r.spec, r.check, r.message] for r in failed], ("spec", "check that failed", "because")))
        click.echo(f"{len(failed)} of {len(results)} checks failed.", err=True)
    else:
        click.echo(f"{len(results)} checks passed.")
    if failed:
        ctx.exit(1)


def _as_json(distribution: str, results: list[CheckResult]) -> dict[str, object]:
    n_failed = sum(not result.passed for result in results)
    return {
        "distribution": distribution,
        "passed": len(results) - n_failed,
        "failed": n_failed,
        "results": [dataclasses.asdict(result) for result in results],
    }
