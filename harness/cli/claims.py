"""`sae-harness claims`: hold the numbers and comparisons of a text to records."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path

import click

from ..errors import ConfigError
from ..interfaces.specs import MetricSpec
from ..results.audit.runner import with_plugins
from ..results.audit.tolerances import DEFAULT, load_tolerances
from ..results.claims.bindings import load_bindings
from ..results.claims.comparisons import Terms
from ..results.claims.library import Library
from ..results.claims.outcome import GRAVITY, Outcome
from ..results.claims.runner import Report, check_text
from ..results.record import write_atomically
from ..results.reliability import Label, labels
from ..results.saebench_metrics import specs_of
from .context import AppContext, pass_app

_WIDTH = 120
_LARGEST = 4 * 2**20


@click.command(
    short_help="Hold the numbers and comparisons of a text to records.",
    epilog="Example:  sae-harness claims paper.md --all",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--records",
    "paths",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="File or folder of records; may be given several times [default: the stored baselines].",
)
@click.option("--bindings", type=click.Path(path_type=Path), help="YAML file that binds sentences to records.")
@click.option(
    "--fill", "out", type=click.Path(path_type=Path), metavar="OUT", help="Write the text with values filled in."
)
@click.option("--tolerances", "tolerance_file", type=click.Path(path_type=Path), help="As for `sae-harness audit`.")
@click.option("--all", "show_all", is_flag=True, help="Show what is supported as well.")
@click.option("--strict", is_flag=True, help="Exit 1 on unsupported and unbound claims as well.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.pass_context
@pass_app
def command(
    app: AppContext,
    ctx: click.Context,
    file: Path,
    paths: tuple[Path, ...],
    bindings: Path | None,
    out: Path | None,
    tolerance_file: Path | None,
    show_all: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Check FILE, a Markdown or LaTeX (*.tex) text, against records: of sae-harness, SAEBench, or combined ones.

    Every number must be that of a record's field, rounded as written. A comparison must have the metric's direction,
    at least three seeds a side, matched L0 and a verdict that says so. Numbers of tainted records count for nothing, as
    the audit finds them. Annotations bind a sentence to records; put them before the full stop:

    \b
      {{tiny/topk/l0=32/fvu}}                         filled in
      {{tiny/topk/l0=32/fvu:.3f}}                     as written; `:±` with its interval
      0.92 {{= tiny/topk/l0=32/explained_variance}}   the number before it is this
      0.08–0.50 {{= range tiny/*/l0=32/fvu}}          least and largest; also min, max
      0.6 {{> tiny/*/l0=32/fvu}}                      it is above each; >=, <, <=
      {{tiny/temporal > tiny/topk : temporal_gain}}   a comparison; <, ~ (no difference),
                                                      better than, worse than
      {{tiny/temporal ~ tiny/topk : fvu @ l0=32}}     the same at one L0
      {{tiny/temporal vs tiny/topk : fvu | verdict}}  filled in; difference, estimate, p
      {{tiny/t*/training.steps > 0}}                  each value is so
      {{same tiny/t*/training.batch_size}}            one value in all
      {{ignore why}}                                  no claim about a record

    A record is a method of a suite (`tiny/topk`, `tiny/temporal@strong`; `topk` alone where the records are of one
    suite) or a file's path without .json; `*` chooses several, each of which must bear the claim. Conditions stand
    between: l0, seed, d_sae, preset. The first side of a comparison is the subject of the sentence. In LaTeX
    \\claim{…} does the same as {{…}}; in Markdown an annotation may stand in a comment. --fill also takes all
    annotations out. --bindings binds sentences from outside:

    \b
      claims:
        - id: ours
          sentence: reaches an explained variance of 0.92
          checks:
            - 0.92 = tiny/topk/l0=32/explained_variance
            - "tiny/topk > tiny/relu : explained_variance @ l0=32"

    What becomes of a claim: supported; REFUTED, the records say otherwise; UNRESOLVED, an annotation that cannot be
    read, or names no record, several, or no field of theirs; UNSUPPORTED, the records do not say so (within noise, too
    few seeds, tainted, not measured); UNBOUND, a number or a word of a claim that no annotation binds.

    Exit status: 0 nothing refuted or unresolved, and with --strict nothing unsupported or unbound; 1 otherwise, or a
    value could not be filled in; 2 a user's error.
    """
    text = _read(file)
    if out is not None and out.resolve() == file.resolve():
        raise ConfigError(f"--fill {out} would replace the annotated text itself: name another file.")
    claims = () if bindings is None else load_bindings(bindings)
    tolerances = DEFAULT if tolerance_file is None else load_tolerances(tolerance_file)
    rules = with_plugins((p.spec, p.load(), p.distribution) for p in app.catalogue.audit_rules.values())
    library = Library(paths or (app.paths.baselines,), tolerances, rules)
    terms = _terms(app, library)
    latex = file.suffix.lower() in (".tex", ".latex", ".ltx")
    report = check_text(text, library, terms, name=str(file), latex=latex, bindings=claims)
    unfilled = [o for o in report.outcomes if o.kind == "annotation" or (o.kind == "fill" and o.status != "supported")]
    if out is not None and not unfilled:
        _write(out, report.filled)
    if as_json:
        click.echo(json.dumps(_json(report, library), indent=1, ensure_ascii=False))
    else:
        _show(report, library, file.name, show_all)
    if out is not None and unfilled:
        click.echo(f"{out} is not written: annotations that cannot be filled in or read: {len(unfilled)}.", err=True)
    grave = report.count("refuted") + report.count("unresolved") + (len(unfilled) if out is not None else 0)
    if grave or (strict and any(o.status != "supported" for o in report.outcomes)):
        ctx.exit(1)


def _show(report: Report, library: Library, name: str, show_all: bool) -> None:
    for outcome in sorted(report.outcomes, key=lambda o: (GRAVITY.index(o.status), o.line)):
        if show_all or outcome.status != "supported":
            click.echo(_told(outcome) + "\n")
    counts = ", ".join(f"{report.count(s)} {s}" for s in GRAVITY)
    click.echo(f"{name}: {counts}; {report.ignored} sentences said to claim nothing.")
    for finding in library.unreadable:
        click.echo(f"Left out: {finding.record}: {finding.evidence[0][1]}.", err=True)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _LARGEST:
            raise ConfigError(f"{file} is larger than {_LARGEST // 2**20} MiB: give a text.")
        return file.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no UTF-8 text: {error}.") from error


def _write(out: Path, text: str) -> None:
    """Whole or not at all: a text half filled in would be read as checked."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file.")
    write_atomically(out, text)


def _terms(app: AppContext, library: Library) -> Terms:
    specs = _specs(app, library)
    return Terms(
        specs=specs,
        labels=_labels(app, library, specs),
        primary={name: suite.primary for name, suite in app.registry.suites.items()},
        aims={name: provided.spec.aims for name, provided in app.catalogue.trainers.items()},
    )


def _specs(app: AppContext, library: Library) -> dict[str, MetricSpec]:
    """Of the installed evaluators' metrics, and of SAEBench's that the records hold."""
    found: dict[str, MetricSpec] = {}
    for provided in app.catalogue.evaluators.values():
        for metric in provided.spec.metrics:
            found.setdefault(metric.name, metric)
    ours = (evaluation for e in library.evidence if e.kind == "harness" for evaluation in e.evaluations.values())
    held = {name for evaluation in ours for name in evaluation.metrics}
    return found | {spec.name: spec for spec in specs_of(sorted(held - found.keys()))}


def _labels(app: AppContext, library: Library, specs: dict[str, MetricSpec]) -> dict[str, dict[str, Label]]:
    """Reliability in the suites of the records."""
    suites = sorted({e.study for e in library.evidence if e.kind == "harness"})
    return {suite: dict(labels(app.paths.baselines, suite, specs.values())) for suite in suites}


def _told(outcome: Outcome) -> str:
    name = f" [{outcome.id}]" if outcome.id else ""
    head = f"line {outcome.line}{name}: {outcome.status.upper()}: {outcome.claim}"
    body = [f"  {outcome.reason}", f"  in: {textwrap.shorten(outcome.sentence, 220, placeholder=' …')}"]
    return "\n".join(
        [head, *(textwrap.fill(part, _WIDTH, subsequent_indent="    ", break_on_hyphens=False) for part in body)]
    )


def _json(report: Report, library: Library) -> dict[str, object]:
    return {
        "kind": "sae-harness/claims",
        "version": 1,
        "counts": {status: report.count(status) for status in GRAVITY},
        "ignored": report.ignored,
        "outcomes": [dataclasses.asdict(o) for o in report.outcomes],
        "records": len(library.evidence),
        "left_out": [{"file": f.record, "why": f.evidence[0][1]} for f in library.unreadable],
    }
