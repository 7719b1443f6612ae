"""`sae-harness analyse`: a closer look at one SAE, as numbers and figures."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artefacts.key import source_sha256
from ..bench import Bench, Job
from ..compute import Compute
from ..config import SuiteConfig
from ..errors import CheckpointError, ConfigError, HarnessError, NotEvaluatedError
from ..interfaces.analysis import Analysis, AnalysisResult, Reference, TrainingLog
from ..interfaces.specs import AnalysisSpec, Option
from ..methods import Method, resolve_method
from ..pipeline import eval_context, train
from ..plugins import Catalogue, Provided
from ..report.figures import require_matplotlib
from ..report.tables import render
from .analysis_files import Subject, attribution, document, write
from .context import AppContext, pass_app
from .options import chosen_suite, compute_options, parse_settings, suite_option
from .progress import BarProgress

if TYPE_CHECKING:
    from ..evaluation.context import StoreEvalContext

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
@click.option(
    "--reference",
    "reference_name",
    metavar="METHOD|PATH",
    help="Another SAE, for what holds two against each other; a METHOD's has the same L0 and seed.",
)
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
    reference_name: str | None,
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
        require_matplotlib("ask for the numbers alone with --no-figures")
    suite = chosen_suite(app, suite_name)
    progress = BarProgress(quiet=quiet)
    if _is_saved(target):
        if settings or (reference_name is None and (l0 is not None or seed is not None)):
            raise ConfigError(f"{target} is a saved SAE: --l0, --seed and --set choose among those of a method.")
        bench = Bench(suite, app.catalogue, app.cache, compute=compute)
        chosen = choose(app.catalogue, names, "")
        subject = _saved(bench, Path(target))
    else:
        bench, job, method = _planned(app, suite, target, l0, seed, parse_settings(settings), compute)
        chosen = choose(app.catalogue, names, method.spec.name)
        subject = _of_method(bench, job, method, parse_settings(settings), progress)
    reference = None
    if reference_name is not None:
        reference = _reference(app, suite, reference_name, l0, seed, compute, progress)
    context = eval_context(bench, progress)
    for name, found in ((target, subject), *([(reference_name, reference)] if reference else [])):
        if found.sae.config.d_in != context.d_in:
            raise CheckpointError(
                f"{name} acts on d_in {found.sae.config.d_in}; suite {suite.name} has {context.d_in}. "
                "Name the suite it was trained on with --suite."
            )
    label = subject.label if reference is None else f"{subject.label}-beside-{reference.label}"
    folder = (out or app.paths.runs) / suite.name / label
    told = analyse(
        subject,
        chosen,
        context,
        suite,
        folder,
        progress,
        figures=not no_figures,
        reference=reference,
        where=_where(bench),
    )
    progress.close()
    click.echo(json.dumps(told, indent=1) if as_json else _told(told))
    if any(entry["status"] == "failed" for entry in told.values()):
        ctx.exit(1)


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
    reference: Subject | None = None,
    where: str = "",
) -> dict[str, dict[str, Any]]:
    """Analysis -> what became of it: status, reason, folder, files, values. One that fails does not stop the others.

    `where`: the suite in a figure's words.
    """
    found: dict[str, dict[str, Any]] = {}
    subject.sae.eval()
    if reference is not None:
        reference.sae.eval()
    with context.keeping_codes(subject.sae):
        subject = subject.measured(context)
        reference = None if reference is None else reference.measured(context)
        about = attribution(subject, reference, where or f"suite {suite.name}")
        for done, provided in enumerate(chosen):
            spec = provided.spec
            reason = _missing(spec, context)
            if reason:
                found[spec.name] = {"status": "skipped", "reason": reason}
            else:
                found[spec.name] = _one(
                    subject, provided, context, suite, folder / spec.name, figures, reference, about
                )
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
    reference: Subject | None,
    about: str,
) -> dict[str, Any]:
    import torch

    spec = provided.spec
    try:
        run = _runner(provided, reference)
        view = context.scoped(f"analysis:{spec.name}", source_sha256(spec.target))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            result = run(subject.sae, view, subject.log)
        if not isinstance(result, AnalysisResult):
            raise ConfigError(f"{spec.target} gave a {type(result).__name__}: an analysis gives an AnalysisResult.")
        told = document(subject, provided, suite, result, reference)
        files = write(folder, told, result, figures, about)
    except NotEvaluatedError as error:
        return {"status": "skipped", "reason": " ".join(str(error).split())}
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


def _runner(provided: Provided[AnalysisSpec], reference: Subject | None) -> Callable[..., AnalysisResult]:
    """What is called with (sae, context, training).

    Raises:
        NotEvaluatedError: it holds two SAEs against each other, and there is one.
    """
    loaded = provided.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Analysis)):
        return loaded  # type: ignore[return-value]
    analysis = loaded()
    if reference is not None:
        analysis.reference = Reference(label=reference.label, sae=reference.sae, training=reference.log)
    elif analysis.compares:
        raise NotEvaluatedError("needs another SAE beside this one: name it with --reference")
    return analysis.run


def _where(bench: Bench) -> str:
    """The suite, and where its activations come from."""
    suite = bench.suite
    source = "a synthetic world" if suite.world else f"{bench.lm_source.name}, {suite.hookpoint}"
    return f"suite {suite.name} ({source})"


def _missing(spec: AnalysisSpec, context: StoreEvalContext) -> str:
    if "language_model" in spec.needs and not context.has_language_model:
        return "needs a language model, and this data has none"
    if "world" in spec.needs and not context.has_truth:
        return "needs a synthetic world, whose true features are known"
    return ""


def _is_saved(target: str) -> bool:
    return (Path(target) / _SAE_FILE).is_file() or os.sep in target


def _saved(bench: Bench, path: Path) -> Subject:
    """The SAE saved in a folder, with the log beside it where there is one."""
    from ..training.checkpoint import load_sae, read_config

    meta = read_config(path)
    bench.compute.check()
    sae = load_sae(path, lambda name: bench.catalogue.sae(name).load())
    log = TrainingLog.of(_facts(path)) if (path / _LOG_FILE).is_file() else TrainingLog()
    return Subject(
        label=path.absolute().name,
        origin=f"{path} ({sae.config.architecture})",
        sae=sae.to(bench.compute.device),
        sae_id=meta["sae_id"],
        log=log,
    )


def _facts(path: Path) -> dict[str, Any]:
    try:
        return json.loads((path / _LOG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path / _LOG_FILE} is not JSON ({error}).") from None


def _planned(
    app: AppContext,
    suite: SuiteConfig,
    name: str,
    l0: int | None,
    seed: int | None,
    settings: Mapping[str, Option],
    compute: Compute,
) -> tuple[Bench, Job, Method]:
    """The suite's SAE of a method with one L0 and seed; nothing is trained yet."""
    method = resolve_method(app.catalogue, name, suite_options=suite.options, overrides=settings)
    if l0 is not None and not 1 <= l0 <= suite.d_sae:
        raise ConfigError(f"--l0 must be in [1, d_sae = {suite.d_sae}], got {l0}.")
    grid = (suite.l0_grid[len(suite.l0_grid) // 2] if l0 is None else l0,)
    suite = suite.replace(l0_grid=grid, seeds=(suite.seeds[0] if seed is None else seed,))
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    compute.check()
    [job] = bench.jobs(method)
    return bench, job, method


def _of_method(
    bench: Bench, job: Job, method: Method, settings: Mapping[str, Option], progress: BarProgress
) -> Subject:
    """The job's SAE, from the cache or trained now."""
    folder = train(bench, [job], progress=progress)[job]
    subject = _saved(bench, folder)
    level = "" if job.target_l0 is None else f"-l0-{job.target_l0}"
    log = TrainingLog.of({**_facts(folder), "seed": job.seed}, method=method.spec.name, preset=method.preset)
    chosen_options = "".join(f"-{name}-{value}" for name, value in settings.items())
    label = f"{method.label.replace('@', '-').replace(':', '-')}{chosen_options}{level}-seed-{job.seed}"
    origin = " ".join([method.label, *(f"{name}={value}" for name, value in settings.items())])
    return dataclasses.replace(subject, label=label, origin=origin, log=log, target_l0=job.target_l0)


def _reference(
    app: AppContext,
    suite: SuiteConfig,
    name: str,
    l0: int | None,
    seed: int | None,
    compute: Compute,
    progress: BarProgress,
) -> Subject:
    """The SAE that the other is held against."""
    if _is_saved(name):
        return _saved(Bench(suite, app.catalogue, app.cache, compute=compute), Path(name))
    return _of_method(*_planned(app, suite, name, l0, seed, {}, compute), {}, progress)


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
