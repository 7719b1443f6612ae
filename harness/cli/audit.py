"""`sae-harness audit`: find in records what makes their numbers unusable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from .. import __version__
from ..errors import ConfigError, UnknownNameError
from ..report.tables import render
from ..results.audit.collect import READING, collect
from ..results.audit.forms import (
    HEADERS,
    explained,
    json_chunks,
    legend,
    printable,
    rows,
    to_sarif_dict,
)
from ..results.audit.rule import Finding, Rule
from ..results.audit.runner import Verdict, audit, verdicts, with_plugins
from ..results.audit.tolerances import DEFAULT, load_tolerances
from .context import AppContext, pass_app


@click.command(
    short_help="Find faults in records: ours, SAEBench's, combined ones.",
    epilog="Example:  sae-harness audit baselines/ results/ --verdicts",
)
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--verdicts", "show_verdicts", is_flag=True, help="Each evaluation's verdict instead of the findings.")
@click.option("--explain", metavar="RULE", help="What a rule means and where it is held; `all` lists the rules.")
@click.option("--tolerances", "file", type=click.Path(path_type=Path), help="YAML file of tolerances and facts.")
@click.option("--json", "as_json", is_flag=True, help="Findings and verdicts as JSON.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["table", "md", "sarif"]),
    default="table",
    show_default=True,
    help="Form of the findings.",
)
@click.pass_context
@pass_app
def command(
    app: AppContext,
    ctx: click.Context,
    paths: tuple[Path, ...],
    show_verdicts: bool,
    explain: str | None,
    file: Path | None,
    as_json: bool,
    fmt: str,
) -> None:
    """Hold records to rules F01 to F50, and those of plugins: stale and foreign results, SAEs that were not trained,
    unlike comparisons, missing evaluations, numbers that mean another thing.

    PATH is a file or a folder, whose `*.json` are read: records of sae-harness, evaluations as SAEBench writes them,
    and combined records (training report and evaluations of one run in one object). Give together what is compared:
    most faults show only between records. A file that is no record is a finding (R01, R02) and stops nothing.

    A blocker in an evaluation taints it; one of a comparison says that the number is what it is, and does not stand
    beside the others. --tolerances FILE changes any tolerance (`l0_match: 0.05`; `--explain RULE` shows which there
    are) and can say what records leave out:

    \b
      facts:
        - records: "temporal/run_*"
          train_dataset: monology/pile-uncopyrighted   # or batch_tokens: 2048
          source: the training script

    Exit status: 0 no blocker, 1 a blocker, 2 a user's error.
    """
    tolerances = DEFAULT if file is None else load_tolerances(file)
    provided = app.catalogue.audit_rules.values()
    rules = with_plugins((p.spec, p.load(), p.distribution) for p in provided)
    if explain is not None:
        click.echo(_explanation(explain, (*READING, *rules), tolerances))
        return
    if not paths:
        raise ConfigError("No PATH is given: name files or folders of records, or --explain RULE.")
    collected = collect(paths, tolerances)
    findings = sorted(
        (*collected.findings, *audit(collected.evidence, tolerances, rules)), key=lambda f: f.severity != "blocker"
    )
    found = verdicts(findings, collected.evidence)
    if as_json:
        for chunk in json_chunks(findings, found, collected.files):
            click.echo(chunk, nl=False)
        click.echo()
    elif fmt == "sarif":
        root = paths[0].as_posix() if len(paths) == 1 and paths[0].is_dir() else ""
        click.echo(json.dumps(to_sarif_dict(findings, (*READING, *rules), __version__, root), indent=1))
    elif show_verdicts:
        click.echo(render(_verdict_rows(found), ("record", "evaluation", "verdict", "rules"), _TABLE[fmt]))
    elif findings:
        click.echo(_table(findings, fmt))
    blockers = sum(f.severity == "blocker" for f in findings)
    if not as_json:
        n = len(found)
        told = f"{n} record{'' if n == 1 else 's'}: {_count(blockers, 'blocker')}, "
        click.echo(told + f"{_count(len(findings) - blockers, 'warning')}.", err=bool(findings) or fmt == "sarif")
    if blockers:
        ctx.exit(1)


_TABLE = {"table": "plain", "md": "md"}


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"


def _table(findings: Sequence[Finding], fmt: str) -> str:
    cells = rows(findings)
    if fmt == "md":
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    mark = "- " if fmt == "md" else ""
    return f"{render(cells, HEADERS, _TABLE[fmt])}\n\n" + "\n".join(f"{mark}{line}" for line in legend(findings))


def _verdict_rows(found: dict[str, dict[str, Verdict]]) -> list[list[str]]:
    return [
        [printable(record), printable(name), verdict.status, " ".join(verdict.rules) or "-"]
        for record, of_record in found.items()
        for name, verdict in of_record.items()
    ]


def _explanation(name: str, rules: Sequence[Rule], tolerances) -> str:
    if name.lower() == "all":
        cells = [[r.id, r.severity, r.family, "records" if r.check else "kit", r.title] for r in rules]
        for cell, rule in zip(cells, rules, strict=True):
            if rule in READING:
                cell[3] = "files"
        return render(cells, ("rule", "severity", "family", "held on", "title"))
    known = {rule.id.lower(): rule for rule in rules}
    if name.lower() not in known:
        raise UnknownNameError.of("audit rule", name, [rule.id for rule in rules])
    return explained(known[name.lower()], tolerances)
