"""Suite and methods → stores → SAEs → records: the only file that joins the rooms. Importing it loads no torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .activations.keys import STORE_VERSION
from .artefacts.cache import CacheWarning
from .artefacts.key import artefact_key
from .bench import RECORD_VERSION, TRAIN_VERSION, Bench, Job, Progress
from .errors import CheckpointError, ConfigError, RecordError
from .interfaces.specs import EvaluatorSpec
from .methods import build, check_options, effective_options
from .plugins import Provided
from .provenance import peak_memory_mib, provenance
from .results.record import EvaluationEntry, MethodEntry, MetricEntry, Record, TrainingEntry

if TYPE_CHECKING:
    from .evaluation.context import StoreEvalContext
    from .evaluation.evaluate import EvaluatorOutcome
    from .interfaces.sae import SAE
    from .training.fit import FitJob, FitResult


def run(
    bench: Bench,
    jobs: Sequence[Job],
    *,
    progress: Progress,
    retrain: bool = False,
    command: str = "",
) -> list[Record]:
    """The records of all jobs: from the cache where they exist, else trained and evaluated now.

    With `retrain`, SAEs and records in the cache are made again (equal inputs give equal SAEs).
    """
    found = {job: None if retrain else bench.find_record(job) for job in jobs}
    missing = [job for job, record in found.items() if record is None]
    if missing:
        bench.compute.check()
        trained = train(bench, missing, progress=progress, retrain=retrain)
        found.update(evaluate(bench, trained, progress=progress, command=command, replace=retrain))
    records = [found[job] for job in jobs]
    if any(record is None for record in records):
        raise RecordError("A job ended without a record: this is a bug, please report it.")
    return [record for record in records if record is not None]


def train(bench: Bench, jobs: Sequence[Job], *, progress: Progress, retrain: bool = False) -> dict[Job, Path]:
    """The folder of each job's saved SAE. Jobs that are not in the cache train as one cohort from one stream.

    A killed cohort goes on from its last checkpoint; of two processes with one cohort, one trains.
    """
    for method in {job.method.label: job.method for job in jobs}.values():
        check_options(method)
    inputs = {job: bench.sae_inputs(job) for job in jobs}
    todo = [job for job in jobs if retrain or bench.cache.find("sae", inputs[job], TRAIN_VERSION) is None]
    for contiguous in (False, True):
        group = [job for job in todo if ("contiguous" in job.method.needs) == contiguous]
        for part in _parts(bench, group, progress):
            _train_cohort(bench, part, inputs, progress, retrain)
    folders = {job: bench.cache.find("sae", inputs[job], TRAIN_VERSION) for job in jobs}
    lost = [job.label for job, folder in folders.items() if folder is None]
    if lost:
        raise ConfigError(f"Trained SAEs vanished from the cache while running: {', '.join(lost)}. Run again.")
    return {job: folder for job, folder in folders.items() if folder is not None}


def _parts(bench: Bench, jobs: Sequence[Job], progress: Progress) -> list[list[Job]]:
    """The jobs that train together: as many as the memory limit allows."""
    if not jobs:
        return []
    from .training.cohort import at_once, footprint, parts

    suite, d_in = bench.suite, bench.store("train", progress).d_in
    footprints = []
    for job in jobs:
        sae = build(job.method, d_in=d_in, d_sae=suite.d_sae, target_l0=job.target_l0)[1]
        passes = 2 if "pairs" in job.method.needs else 1
        footprints.append(footprint(job.label, sae, suite.batch_size, passes=passes))
    stepping = at_once(suite.batch_size, d_in, suite.d_sae, bench.compute.device)
    found = parts(footprints, bench.compute.memory_limit(), at_once=stepping)
    if len(found) > 1:
        progress.note(f"{len(jobs)} SAEs train in {len(found)} parts, to stay within the memory limit.")
    return [[jobs[number] for number in part] for part in found]


def _train_cohort(
    bench: Bench, jobs: Sequence[Job], inputs: Mapping[Job, dict[str, Any]], progress: Progress, retrain: bool
) -> None:
    from .activations.prefetch import stream_for
    from .activations.samplers import Sampler
    from .training.fit import fit

    cache, suite = bench.cache, bench.suite
    cohort = {"saes": sorted(artefact_key("sae", inputs[job], TRAIN_VERSION) for job in jobs)}
    with cache.exclusive("cohort", cohort, TRAIN_VERSION):
        if not retrain:
            jobs = [job for job in jobs if cache.find("sae", inputs[job], TRAIN_VERSION) is None]
            if not jobs:
                return
        store = bench.store("train", progress)
        needs = frozenset().union(*(job.method.needs for job in jobs))
        kind = "contiguous" if "contiguous" in needs else "pairs" if "pairs" in needs else "iid"
        sampler = Sampler(
            store, batch_size=suite.batch_size, seed=suite.stream_seed, kind=kind, device=bench.compute.device
        )
        fit_jobs = [_fit_job(bench, job, store.d_in) for job in jobs]
        work = cache.working_folder("cohort", cohort, TRAIN_VERSION)
        n_trained = sum(job.trained for job in fit_jobs)
        with stream_for(sampler, n_batches=suite.n_steps) as stream:
            results = fit(
                fit_jobs,
                stream,
                n_steps=suite.n_steps,
                batch_size=suite.batch_size,
                dead_after_tokens=max(1, int(suite.dead_after_fraction * suite.n_tokens)),
                device=bench.compute.device,
                precision=bench.compute.precision,
                resume_folder=work,
                progress=lambda report: progress.step(report, n_trained),
            )
        for job, fit_job, result in zip(jobs, fit_jobs, results, strict=True):
            _keep_sae(bench, job, fit_job, result, inputs[job], store.scale, replace=retrain)
        cache.discard_working_folder("cohort", cohort, TRAIN_VERSION)


def _fit_job(bench: Bench, job: Job, d_in: int) -> FitJob:
    from .training.fit import FitJob

    trainer, sae = build(job.method, d_in=d_in, d_sae=bench.suite.d_sae, target_l0=job.target_l0)
    return FitJob(
        label=job.label,
        sae=sae,
        trainer=trainer,
        seed=job.seed,
        target_l0=job.target_l0,
        sparsity=job.method.sparsity,
        trained=job.method.spec.trained,
    )


def _keep_sae(
    bench: Bench,
    job: Job,
    fit_job: FitJob,
    result: FitResult,
    inputs: Mapping[str, Any],
    scale: float,
    *,
    replace: bool,
) -> None:
    from .training.checkpoint import save_sae

    result.sae.fold_input_scale(scale)
    description = {
        "seed": job.seed,
        "options": effective_options(fit_job.trainer, result.sae),
        "steps": result.steps,
        "tokens": result.tokens,
        "final_loss": result.final_loss,
        "final_terms": dict(result.final_terms),
        "l0_reached": result.l0_reached,
        "dead_latents": result.dead_latents,
        "input_scale": scale,
        "precision": bench.compute.precision,
        "wall_seconds": round(result.wall_seconds, 3),
        "peak_memory_mib": peak_memory_mib(),
        "log": list(result.log),
    }

    def make(folder: Path) -> None:
        save_sae(result.sae, folder)
        (folder / "training.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")

    if replace:
        bench.cache.remove("sae", inputs, TRAIN_VERSION)
    bench.cache.get_or_make("sae", inputs, TRAIN_VERSION, make)


def evaluate(
    bench: Bench, saes: Mapping[Job, Path], *, progress: Progress, command: str = "", replace: bool = False
) -> dict[Job, Record]:
    """Evaluate saved SAEs and make their records. A record with a failed evaluation is returned, not cached.

    Of two processes with one job, one evaluates. A saved SAE that is corrupt is trained again, with a warning.
    `replace` evaluates again what has a record.
    """
    context = eval_context(bench, progress)
    records: dict[Job, Record] = {}
    for done, (job, folder) in enumerate(saes.items()):
        inputs = bench.record_inputs(job)
        with bench.cache.exclusive("evaluation", inputs, RECORD_VERSION):
            record = None if replace else bench.find_record(job)
            if record is None:
                sae, facts = _saved(bench, job, folder, progress)
                here = context.beside(_twin(bench, job, saes, progress))
                outcomes = measure(bench, sae.to(bench.compute.device), bench.evaluators(job.method), here, progress)
                record = _record(bench, job, sae, facts, outcomes, command)
                if not any(entry.status == "failed" for entry in record.evaluations.values()):
                    if replace:
                        bench.cache.remove("record", inputs, RECORD_VERSION)
                    bench.cache.get_or_make("record", inputs, RECORD_VERSION, _writer(record))
        records[job] = record
        progress.evaluated(done + 1, len(saes), job.label)
    return records


def _twin(bench: Bench, job: Job, saes: Mapping[Job, Path], progress: Progress) -> SAE | None:
    """The SAE of the suite's next seed, trained now where it is in no cache; None where nobody looks at it."""
    twin = bench.twin_of(job)
    if twin is None:
        return None
    folder = next((path for other, path in saes.items() if _same(bench, other, twin)), None)
    folder = folder or train(bench, [twin], progress=progress)[twin]
    return _saved(bench, twin, folder, progress)[0].to(bench.compute.device)


def _same(bench: Bench, a: Job, b: Job) -> bool:
    return a.seed == b.seed and a.target_l0 == b.target_l0 and bench.sae_inputs(a) == bench.sae_inputs(b)


def _saved(bench: Bench, job: Job, folder: Path, progress: Progress) -> tuple[SAE, dict[str, Any]]:
    """The job's SAE and what its training said; trained again where the saved one is corrupt."""
    try:
        return _read_saved(bench, folder)
    except CheckpointError as error:
        warnings.warn(f"Cached SAE of {job.label}: {error} It is trained again.", CacheWarning, stacklevel=2)
    bench.cache.remove("sae", bench.sae_inputs(job), TRAIN_VERSION)
    return _read_saved(bench, train(bench, [job], progress=progress)[job])


def _read_saved(bench: Bench, folder: Path) -> tuple[SAE, dict[str, Any]]:
    from .training.checkpoint import load_sae

    sae = load_sae(folder, lambda name: bench.catalogue.sae(name).load())
    try:
        return sae, json.loads((folder / "training.json").read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / 'training.json'} is not JSON ({error}).") from None


def _writer(record: Record) -> Callable[[Path], None]:
    return lambda folder: record.save(folder / "record.json")


def eval_context(bench: Bench, progress: Progress) -> StoreEvalContext:
    """The held-out data and LM, shared by all SAEs of the suite."""
    from .evaluation.context import StoreEvalContext

    store = bench.store("eval", progress)
    return StoreEvalContext(
        store,
        hookpoint=bench.suite.hookpoint,
        data_id=artefact_key("activations", bench.store_key_inputs("eval"), STORE_VERSION),
        seed=bench.suite.evaluation_seed,
        language_model=bench.language_model,
        lm_sha256=bench.lm_source.weights_sha256,
        texts=bench.text_data,
        cache=bench.cache,
        device=bench.compute.device,
    )


def measure(
    bench: Bench,
    sae: SAE,
    evaluators: Sequence[Provided[EvaluatorSpec]],
    context: StoreEvalContext,
    progress: Progress,
) -> Mapping[str, EvaluatorOutcome]:
    """Outcome of each evaluator on one SAE; those of the suite that are not installed are skipped with a reason."""
    from .evaluation.evaluate import EvaluatorOutcome, PlannedEvaluator, evaluate_sae

    planned = [PlannedEvaluator(p.spec, p.load, bench.evaluator_options(p.spec.name)) for p in evaluators]  # type: ignore[arg-type]
    outcomes = dict(evaluate_sae(sae, planned, context, report=progress.note).outcomes)
    for name in bench.suite.evaluators:
        if name not in outcomes and name not in bench.catalogue.evaluators:
            outcomes[name] = EvaluatorOutcome(status="skipped", reason="evaluator not installed")
    return outcomes


def _record(
    bench: Bench,
    job: Job,
    sae: SAE,
    facts: Mapping[str, Any],
    outcomes: Mapping[str, EvaluatorOutcome],
    command: str,
) -> Record:
    from .training.checkpoint import sae_id

    method = job.method
    versions = {m.name: (p.spec.name, m.version) for p in bench.evaluators(method) for m in p.spec.metrics}
    metrics = {
        name: MetricEntry(
            value=value.value,
            n=value.n,
            version=versions[name][1],
            evaluator=versions[name][0],
            stderr=value.stderr,
            detail=value.detail,
        )
        for outcome in outcomes.values()
        for name, value in outcome.metrics.items()
    }
    return Record(
        key=artefact_key("record", bench.record_inputs(job), RECORD_VERSION),
        sae_id=sae_id(sae),
        protocol=bench.protocol(sae.config.d_in),
        method=MethodEntry(
            name=method.spec.name,
            preset=method.preset,
            distribution=method.distribution,
            version=method.version,
            architecture=method.sae.name,
            options=facts["options"],
            code_sha256=bench.method_code(method),
            faulty=method.chosen_preset.faulty,
            control=method.spec.control or method.chosen_preset.control,
        ),
        training=TrainingEntry(
            seed=job.seed,
            target_l0=job.target_l0,
            **{k: v for k, v in facts.items() if k not in ("seed", "options", "log")},
        ),
        metrics=metrics,
        evaluations={
            name: EvaluationEntry(
                status=o.status,
                reason=o.reason,
                wall_seconds=round(o.wall_seconds, 3),
                options=bench.evaluator_options(name),
            )
            for name, o in outcomes.items()
        },
        provenance=provenance(bench.suite, method.distribution, method.version, bench.compute.device, command),
    )
