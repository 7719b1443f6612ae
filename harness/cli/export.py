"""`sae-harness export`: records in the form of other tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import RecordError
from ..results.record import Record, write_atomically
from ..results.saebench import Exported, export, file_name
from ..results.side import method_label
from .baselines import read_records
from .options import chosen_metrics


@click.command(
    help=(
        "Write the records in the files RECORD (JSON, one record each or a list) as another tool's files.\n\n"
        "saebench: one result JSON of sae-bench 0.6 for each kind of evaluation that a record can fill. Only numbers "
        "that follow SAEBench's definition are written; what is left out, and why a kind is not written, is told on "
        "stderr. A kind that lacks a number that SAEBench's structure requires is not written."
    ),
    short_help="Write records as SAEBench's result files.",
    epilog="Example:  sae-harness export baselines/tiny/topk/*.json --format saebench --out saebench",
)
@click.argument("files", metavar="RECORD...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["saebench"]), default="saebench", show_default=True, help="Form.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@click.option("--kinds", metavar="NAME,...", help="Kinds of evaluation to write [default: all that can be filled].")
@click.option("--allow-tainted", is_flag=True, help="Write tainted evaluations too, marked in their eval_config.")
def command(files: tuple[Path, ...], form: str, out: Path, kinds: str | None, allow_tainted: bool) -> None:
    del form  # there is one
    records = [record for file in files for record in read_records(file)]
    if not records:
        raise RecordError(f"There are no records in {', '.join(map(str, files))}: nothing to export.")
    found = [(record, export(record, chosen_metrics(kinds), allow_tainted=allow_tainted)) for record in records]
    for line in _told(found):
        click.echo(line, err=True)
    written = 0
    for record, exported in found:
        for kind, data in exported.files.items():
            path = out / file_name(record, kind)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecordError(f"{path.parent} cannot be made: {error.strerror}. Give another --out.") from error
            write_atomically(path, json.dumps(data, indent=2) + "\n")
            written += 1
    if not written:
        raise RecordError(f"Nothing could be exported of {len(records)} records: see above why.")
    click.echo(f"Wrote {written} files of {len(records)} records to {out}.")


def _told(found: Sequence[tuple[Record, Exported]]) -> list[str]:
    """What is not written and why, each reason once with the methods it holds for."""
    lines: dict[str, list[str]] = {}
    for record, exported in found:
        for kind, reason in exported.refused.items():
            lines.setdefault(f"No {kind}: {reason}", []).append(method_label(record))
        for evaluator, metrics in exported.left_out.items():
            why = f"Left out of {evaluator}, not SAEBench's definition: {', '.join(metrics)}"
            lines.setdefault(why, []).append(method_label(record))
    return [f"{line} ({', '.join(dict.fromkeys(methods))})" for line, methods in lines.items()]
