"""`sae-harness analyse`: a closer look at one SAE, as numbers and figures."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artefacts.key import source_sha256
from ..bench import Bench
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import CheckpointError, ConfigError, HarnessError
from ..interfaces.analysis import Analysis, AnalysisResult, TrainingLog
from ..interfaces.specs import AnalysisSpec
from ..methods import resolve_method
from ..pipeline import eval_context, train
from ..plugins import Catalogue, Provided
from ..report.figures import render_figure, require_matplotlib
from ..report.tables import render
from .context import AppContext, pass_app
from .options import chosen_suite, compute_options, parse_settings, suite_option
from .progress import BarProgress

if TYPE_CHECKING:
    from ..evaluation.context import StoreEvalContext
    from ..interfaces.sae import SAE

SCHEMA = 1
"""Of the JSON files."""
_SAE_FILE, _LOG_FILE = "sae.json", "training.json"


@click.command(
    help=(
        "Run analyses on one SAE: TARGET is a METHOD (or METHOD@PRESET), whose SAE of the suite is taken from the "
        "cache or trained, or the folder of a saved SAE.\n\n"
        "Without ANALYSIS all that apply are run. Each writes a folder with its numbers as JSON and its figures as "
        "PNG and SVG."
    ),
    short_help="Analyse one SAE: numbers and figures.",
    epilog="Example:  sae-harness analyse temporal --l0 16",
)
@click.argument("target", required=False)
@click.argument("names", metavar="[ANALYSIS]...", nargs=-1)
@suite_option
@click.option(
    "--l0", type=int, metavar="L0", help="Target L0 of the method's SAE [default: the middle of the suite's]."
)
@click.option("--seed", type=int, metavar="N", help="Its training seed [default: the suite's first].")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the method; repeatable.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where to write [default: ./runs].")
@click.option("--no-figures", is_flag=True, help="The numbers alone: needs no matplotlib.")
@click.option("--list", "listing", is_flag=True, help="List the installed analyses and stop.")
@click.option("--json", "as_json", is_flag=True, help="What was found and where it lies as JSON.")
@compute_options
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
@click.pass_context
def command(
    ctx: click.Context,
    app: AppContext,
    target: str | None,
    names: tuple[str, ...],
    suite_name: str,
    l0: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    out: Path | None,
    no_figures: bool,
    listing: bool,
    as_json: bool,
    quiet: bool,
    compute: Compute,
) -> None:
    if listing:
        click.echo(_listing(app.catalogue))
        return
    if target is None:
        raise click.UsageError("Missing argument 'TARGET': name a method, or the folder of a saved SAE.")
    if not no_figures:
        require_matplotlib()
    suite = chosen_suite(app, suite_name)
    progress = BarProgress(quiet=quiet)
    if _is_saved(target):
        if l0 is not None or seed is not None or settings:
            raise ConfigError(f"{target} is a saved SAE: --l0, --seed and --set choose among those of a method.")
        bench = Bench(suite, app.catalogue, app.cache, compute=compute)
        chosen = choose(app.catalogue, names, "")
        subject = _saved(bench, Path(target))
    else:
        subject, chosen, bench = _of_method(app, suite, target, names, l0, seed, settings, compute, progress)
    context = eval_context(bench, progress)
    if subject.sae.config.d_in != context.d_in:
        raise CheckpointError(
            f"{target} acts on d_in {subject.sae.config.d_in}; suite {suite.name} has {context.d_in}. "
            "Name the suite it was trained on with --suite."
        )
    folder = (out or app.paths.runs) / suite.name / subject.label
    found = analyse(subject, chosen, context, suite, folder, progress, figures=not no_figures)
    progress.close()
    click.echo(json.dumps(found, indent=1) if as_json else _told(found))
    if any(entry["status"] == "failed" for entry in found.values()):
        ctx.exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The SAE that is looked at."""

    label: str
    """As its folder is called."""
    sae: SAE
    sae_id: str
    log: TrainingLog


def choose(catalogue: Catalogue, names: Sequence[str], method: str) -> list[Provided[AnalysisSpec]]:
    """The analyses named, or all that apply to a method (those for any SAE where `method` is empty).

    Raises:
        UnknownNameError: there is no such analysis.
        ConfigError: one that is named is for other methods, or none applies.
    """
    if names:
        chosen = [catalogue.analysis(name) for name in dict.fromkeys(names)]
        for provided in chosen:
            if method and provided.spec.methods and method not in provided.spec.methods:
                owners = ", ".join(provided.spec.methods)
                raise ConfigError(f"Analysis {provided.spec.name!r} is for SAEs of {owners}, not of {method}.")
        return chosen
    chosen = [p for p in catalogue.analyses.values() if not p.spec.methods or method in p.spec.methods]
    if not chosen:
        raise ConfigError("No installed plugin provides an analysis that applies: see `sae-harness analyse --list`.")
    return chosen


def analyse(
    subject: Subject,
    chosen: Sequence[Provided[AnalysisSpec]],
    context: StoreEvalContext,
    suite: SuiteConfig,
    folder: Path,
    progress: BarProgress,
    *,
    figures: bool,
) -> dict[str, dict[str, Any]]:
    """Analysis -> what became of it: status, reason, folder, files, values. One that fails does not stop the others."""
    found: dict[str, dict[str, Any]] = {}
    subject.sae.eval()
    with context.keeping_codes(subject.sae):
        for done, provided in enumerate(chosen):
            spec = provided.spec
            reason = _missing(spec, context)
            if reason:
                found[spec.name] = {"status": "skipped", "reason": reason}
            else:
                found[spec.name] = _one(subject, provided, context, suite, folder / spec.name, figures)
            if found[spec.name]["status"] == "failed":
                progress.note(f"Analysis {spec.name!r} failed: {found[spec.name]['reason']}")
            progress.evaluated(done + 1, len(chosen), spec.name)
    return found


def _one(
    subject: Subject,
    provided: Provided[AnalysisSpec],
    context: StoreEvalContext,
    suite: SuiteConfig,
    folder: Path,
    figures: bool,
) -> dict[str, Any]:
    import torch

    spec = provided.spec
    try:
        loaded = provided.load()
        run = loaded().run if isinstance(loaded, type) and issubclass(loaded, Analysis) else loaded
        view = context.scoped(f"analysis:{spec.name}", source_sha256(spec.target))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            result = run(subject.sae, view, subject.log)
        if not isinstance(result, AnalysisResult):
            raise ConfigError(f"{spec.target} gave a {type(result).__name__}: an analysis gives an AnalysisResult.")
        files = _write(folder, _document(subject, provided, suite, result), result, figures)
    except Exception as error:  # noqa: BLE001 - told, and the exit status says so; other analyses go on
        said = " ".join(str(error).split())
        reason = said if isinstance(error, HarnessError) else f"{type(error).__name__}: {said}"
        return {"status": "failed", "reason": reason}
    return {
        "status": "done",
        "folder": str(folder),
        "files": files,
        "values": dict(result.values),
        "notes": list(result.notes),
    }


def _missing(spec: AnalysisSpec, context: StoreEvalContext) -> str:
    if "language_model" in spec.needs and not context.has_language_model:
        return "needs a language model, and this data has none"
    if "world" in spec.needs and not context.has_truth:
        return "needs a synthetic world, whose true features are known"
    return ""


def _document(
    subject: Subject, provided: Provided[AnalysisSpec], suite: SuiteConfig, result: AnalysisResult
) -> dict[str, Any]:
    """The JSON of an analysis: nothing in it depends on when or where it was run."""
    config = subject.sae.config
    return {
        "schema": SCHEMA,
        "analysis": provided.spec.name,
        "summary": provided.spec.summary,
        "provided_by": f"{provided.distribution} {provided.version}",
        "suite": suite.name,
        "evaluation_seed": suite.evaluation_seed,
        "sae": {
            "label": subject.label,
            "sae_id": subject.sae_id,
            "architecture": config.architecture,
            "d_in": config.d_in,
            "d_sae": config.d_sae,
            "options": dict(subject.log.options),
        },
        **result.to_json(),
    }


def _write(folder: Path, document: Mapping[str, Any], result: AnalysisResult, figures: bool) -> list[str]:
    """Fill `folder` with all files or leave it as it was; names of the files.

    Raises:
        ConfigError: it cannot be written.
    """
    unique = uuid.uuid4().hex[:8]
    fresh, old = (folder.with_name(f".{folder.name}-{kind}-{unique}") for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        (fresh / f"{folder.name}.json").write_text(text + "\n", encoding="utf-8")
        for figure in result.figures if figures else ():
            render_figure(figure, fresh)
        files = sorted(path.name for path in fresh.iterdir())
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(fresh, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}. Give another --out.") from error
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
    return files


def _is_saved(target: str) -> bool:
    return (Path(target) / _SAE_FILE).is_file() or os.sep in target


def _saved(bench: Bench, path: Path) -> Subject:
    """The SAE saved in a folder, with the log beside it where there is one."""
    from ..training.checkpoint import load_sae, read_config

    meta = read_config(path)
    bench.compute.check()
    sae = load_sae(path, lambda name: bench.catalogue.sae(name).load())
    log = TrainingLog.of(_facts(path)) if (path / _LOG_FILE).is_file() else TrainingLog()
    label = path.absolute().name
    return Subject(label=label, sae=sae.to(bench.compute.device), sae_id=meta["sae_id"], log=log)


def _facts(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / _LOG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path / _LOG_FILE} is not JSON ({error}).") from None


def _of_method(
    app: AppContext,
    suite: SuiteConfig,
    name: str,
    names: Sequence[str],
    l0: int | None,
    seed: int | None,
    settings: tuple[str, ...],
    compute: Compute,
    progress: BarProgress,
) -> tuple[Subject, list[Provided[AnalysisSpec]], Bench]:
    """The suite's SAE of a method with one L0 and seed, from the cache or trained now, and what to run on it."""
    method = resolve_method(app.catalogue, name, suite_options=suite.options, overrides=parse_settings(settings))
    chosen = choose(app.catalogue, names, method.spec.name)
    if l0 is not None and not 1 <= l0 <= suite.d_sae:
        raise ConfigError(f"--l0 must be in [1, d_sae = {suite.d_sae}], got {l0}.")
    grid = (suite.l0_grid[len(suite.l0_grid) // 2] if l0 is None else l0,)
    suite = suite.replace(l0_grid=grid, seeds=(suite.seeds[0] if seed is None else seed,))
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    compute.check()
    [job] = bench.jobs(method)
    folder = train(bench, [job], progress=progress)[job]
    subject = _saved(bench, folder)
    level = "" if job.target_l0 is None else f"-l0-{job.target_l0}"
    log = TrainingLog.of(_facts(folder), method=method.spec.name, preset=method.preset)
    chosen_options = "".join(f"-{name}-{value}" for name, value in parse_settings(settings).items())
    label = f"{method.label.replace('@', '-').replace(':', '-')}{chosen_options}{level}-seed-{job.seed}"
    return Subject(label=label, sae=subject.sae, sae_id=subject.sae_id, log=log), chosen, bench


def _listing(catalogue: Catalogue) -> str:
    rows = [
        [
            p.spec.name,
            ", ".join(p.spec.methods) or "any",
            ", ".join(sorted(p.spec.needs)) or "-",
            p.distribution,
            p.spec.summary,
        ]
        for _, p in sorted(catalogue.analyses.items())
    ]
    return render(rows, ["analysis", "methods", "needs", "from", "summary"]) if rows else "No analyses are installed."


def _told(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, entry in found.items():
        if entry["status"] != "done":
            lines.append(f"{name}: {entry['status']}: {entry['reason']}")
            continue
        lines.append(f"{name}: {entry['folder']}")
        lines += [f"  {key}: {_shown(value)}" for key, value in entry["values"].items()]
        lines += [f"  note: {note}" for note in entry["notes"]]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
