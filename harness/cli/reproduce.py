"""`sae-harness reproduce`: train and evaluate again what a record says, and hold the two against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from filelock import FileLock

from ..artefacts.cache import Cache
from ..artefacts.key import artefact_key
from ..bench import RECORD_VERSION, Bench, Job
from ..compute import Compute
from ..errors import CacheError, ConfigError, RecordError
from ..interfaces.specs import Option
from ..methods import build, effective_options, resolve_method
from ..pipeline import run
from ..report.tables import FORMATS, render
from ..results import reliability
from ..results.baseline_store import BaselineStore
from ..results.record import Record
from ..results.reproduction import TOLERANCE, Again, Reproduction, check_reproducible, compare
from ..results.side import method_label, protocol_differences
from .context import AppContext, pass_app
from .progress import BarProgress

_OWN = frozenset({"sae", "record", "work", "tmp", "corrupt"})
"""Folders of the cache that the run made again has to itself."""


@click.command(
    help=(
        "Train and evaluate again what the records in the files RECORD (JSON, one record each or a list) say, and "
        "compare every metric.\n\n"
        "With the same inputs, versions and machine the numbers must be the same to the last bit. Elsewhere they must "
        "be within the noise that is stated: a metric's standard error, the noise in the suite's reliability.json "
        "(else over the stored seeds of the same method and L0), or --tolerance. The SAE and record in the cache are "
        "neither used nor replaced. Exit status 1: a metric is outside, or could not be measured again."
    ),
    short_help="Make a record again and compare every metric.",
    epilog="Example:  sae-harness reproduce baselines/tiny/topk/*.json",
)
@click.argument("files", metavar="RECORD...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--tolerance", type=float, default=TOLERANCE, show_default=True, help="Relative, where no noise is more.")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N [default: the record's].")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.option(
    "--format", "fmt", type=click.Choice(FORMATS), default="plain", show_default=True, help="Form of the table."
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
@click.pass_context
def command(
    ctx: click.Context,
    app: AppContext,
    files: tuple[Path, ...],
    tolerance: float,
    device: str | None,
    as_json: bool,
    fmt: str,
    quiet: bool,
) -> None:
    from .baselines import read_records

    if not tolerance >= 0:
        raise ConfigError(f"--tolerance must be at least 0, got {tolerance}: it is a relative difference.")
    records = [record for file in files for record in read_records(file)]
    if not records:
        raise RecordError(f"There are no records in {', '.join(map(str, files))}: nothing to make again.")
    for record in records:
        check_reproducible(record)
    found = [reproduce(app, record, tolerance=tolerance, device=device, quiet=quiet) for record in records]
    if as_json:
        click.echo(json.dumps([_json(one) for one in found], indent=1))
    else:
        click.echo("\n\n".join(_shown(one, fmt) for one in found))
    if not all(one.holds for one in found):
        ctx.exit(1)


def reproduce(
    app: AppContext, record: Record, *, tolerance: float = TOLERANCE, device: str | None = None, quiet: bool = False
) -> Reproduction:
    """Make a record again and compare.

    Raises:
        RecordError: it is imported, or what is installed here gives another protocol or method.
    """
    check_reproducible(record)
    compute = Compute(device=device or record.provenance.device, precision=record.training.precision)  # type: ignore[arg-type]
    compute.check()
    suite = app.registry.suite(record.protocol.suite).replace(evaluation_seed=record.protocol.evaluation_seed)
    if record.training.seed not in suite.seeds:
        suite = suite.replace(seeds=(record.training.seed,))
    if record.training.target_l0 is not None:
        suite = suite.replace(l0_grid=(record.training.target_l0,))
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    _check_protocol(bench, record)
    job = _job(bench, record)
    key = artefact_key("record", bench.record_inputs(job), RECORD_VERSION)
    measured = {entry.evaluator for entry in record.metrics.values()}
    told = tuple(name for name in record.evaluations if name in measured)
    progress = BarProgress(quiet=quiet)
    with _beside(app.cache) as cache:
        again = Bench(suite.replace(evaluators=told), app.catalogue, cache, compute=compute)
        [here] = run(again, [_job(again, record)], progress=progress, command="sae-harness reproduce")
    progress.close()
    noise = reliability.entries(reliability.load(app.paths.baselines, suite.name))
    store, label = BaselineStore(app.paths.baselines), method_label(record)
    siblings = store.load(suite.name, label) if label in store.methods(suite.name) else []
    found = compare(record, here, key, reliability=noise, siblings=siblings, tolerance=tolerance)
    unknown = [name for name in here.method.options if name not in record.method.options]
    if unknown:
        environment = {**found.environment, "options": ("without", f"with {', '.join(unknown)}")}
        found = dataclasses.replace(found, environment=environment)
    return found


def _check_protocol(bench: Bench, record: Record) -> None:
    """Raises RecordError where the suite of that name is another one than the record's."""
    here = bench.protocol(record.protocol.d_in)
    found = protocol_differences(record.protocol, here)
    if found:
        told = "; ".join(f"{f.field}: {f.candidate} in the record, {f.baseline} here" for f in found)
        raise RecordError(
            f"Suite {bench.suite.name!r} is another protocol here than that of the record of {method_label(record)}: "
            f"{told}. Restore the suite in the registry, or the LM and text it names."
        )


def _job(bench: Bench, record: Record) -> Job:
    """The job that gives the record's method, options, L0 and seed.

    Options that the record does not know (the method has learned them since) are as the suite and the method set them.

    Raises:
        RecordError: no base and options of the installed method give the record's.
    """
    label = method_label(record)
    spec = bench.catalogue.trainer(record.method.name).spec
    nearest: list[str] | None = None
    for base in spec.extends or ("",):
        chosen: dict[str, Option] = {"base": base} if base and base != spec.extends[0] else {}
        job = _of_jobs(bench, label, chosen, record)
        wrong = _differing(job, record)
        names = set() if job is None else set(_options(job, record))
        if wrong and all(name in names for name in wrong):
            told = {n.rpartition("base.")[2]: record.method.options[n] for n in wrong if not n.startswith("sae.")}
            overrides = {**chosen, **{name: v for name, v in told.items() if v is not None and name != "world"}}
            job = _of_jobs(bench, label, overrides, record)
            wrong = _differing(job, record)
        if job is not None and not wrong:
            return job
        nearest = wrong if nearest is None or len(wrong) < len(nearest) else nearest
    raise RecordError(
        f"The installed {record.method.name} cannot be given the options of the record of {label}: "
        f"{', '.join(nearest or [])} differ. Install {record.method.distribution} {record.method.version}, with which "
        "it was made."
    )


def _of_jobs(bench: Bench, label: str, overrides: Mapping[str, Option], record: Record) -> Job | None:
    """The suite's job of the record's L0 and seed with these options; None where the method's L0 is set otherwise."""
    method = resolve_method(bench.catalogue, label, suite_options=bench.suite.options, overrides=overrides)
    entry = record.training
    return next((j for j in bench.jobs(method) if (j.target_l0, j.seed) == (entry.target_l0, entry.seed)), None)


def _options(job: Job, record: Record) -> dict[str, Option]:
    """The job's effective options."""
    protocol = record.protocol
    trainer, sae = build(job.method, d_in=protocol.d_in, d_sae=protocol.d_sae, target_l0=job.target_l0)
    return effective_options(trainer, sae)


def _differing(job: Job | None, record: Record) -> list[str]:
    """Names of the record's options that the job does not have, or has otherwise."""
    if job is None:
        return ["target L0"]
    here = _options(job, record)
    found = [name for name, value in record.method.options.items() if name not in here or here[name] != value]
    return found + (["architecture"] if job.method.sae.name != record.method.architecture else [])


@contextlib.contextmanager
def _beside(cache: Cache) -> Iterator[Cache]:
    """A cache that shares activations, tokens and models, and holds no SAE and no record; removed afterwards.

    It lies inside the other, so that what is shared can be renamed into place, and is named and locked as what a
    process makes there: if this one is killed, `cache gc` removes it.

    Raises:
        CacheError: it cannot be made.
    """
    key = uuid.uuid4().hex + uuid.uuid4().hex
    root = cache.root / "tmp" / f"reproduce-{key}-{uuid.uuid4().hex}"
    lock = FileLock(cache.root / "locks" / f"{key}.lock")
    try:
        (cache.root / "locks").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        root.mkdir(parents=True)
        for folder in cache.root.iterdir():
            if folder.is_dir() and folder.name not in _OWN:
                (root / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
    except OSError as error:
        raise CacheError(f"{root} cannot be made: {error.strerror}. Give another --cache.") from error
    try:
        yield Cache(root)
    finally:
        _keep_shared(root, cache.root)
        shutil.rmtree(root, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)  # the key is of this run alone: nobody else waits for it


def _keep_shared(root: Path, home: Path) -> None:
    """Move what does not depend on the SAE, and was not in the cache yet, to where the next run finds it."""
    for kind in root.iterdir():
        if kind.is_symlink() or not kind.is_dir() or kind.name in _OWN:
            continue
        for made in kind.glob("*/*"):
            place = home / kind.name / made.parent.name / made.name
            # Another process may have made the same meanwhile, or the disk be full: then it is made again some day.
            with contextlib.suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    made.rename(place)


def _shown(found: Reproduction, fmt: str) -> str:
    record = found.record
    at = "" if record.training.target_l0 is None else f" L0 {record.training.target_l0}"
    lines = [f"{record.protocol.suite} · {method_label(record)}{at} seed {record.training.seed} · {record.key[:12]}"]
    if found.environment:
        told = "; ".join(f"{name} {old} there, {new} here" for name, (old, new) in found.environment.items())
        lines.append(f"Another environment: {told}.")
    else:
        lines.append("The same inputs, versions and machine: every number must be the same to the last bit.")
    lines.append(f"The SAE is {'the same' if found.same_sae else 'another one'} to the last bit.")
    rows = [[row.metric, *_numbers(row), row.by, row.verdict] for row in found.rows]
    lines += ["", render(rows, ["metric", "record", "again", "difference", "allowed", "by", "verdict"], fmt)]
    missing: dict[str, None] = {f"{row.evaluator}: {row.reason}": None for row in found.rows if row.reason}
    lines += ["", *missing] if missing else []
    n = sum(row.verdict in ("identical", "within") for row in found.rows)
    lines += ["", f"{n} of {len(found.rows)} metrics reproduced."]
    return "\n".join(lines)


def _numbers(row: Again) -> list[str]:
    again = "-" if row.again is None else f"{row.again:.6g}"
    difference = "-" if row.difference is None else f"{row.difference:+.3g}"
    return [f"{row.stored:.6g}", again, difference, f"{row.allowed:.3g}"]


def _json(found: Reproduction) -> Mapping[str, Any]:
    return {
        "key": found.record.key,
        "method": method_label(found.record),
        "suite": found.record.protocol.suite,
        "environment": {name: {"record": a, "here": b} for name, (a, b) in found.environment.items()},
        "same_sae": found.same_sae,
        "holds": found.holds,
        "metrics": [{**dataclasses.asdict(row), "difference": row.difference} for row in found.rows],
    }
