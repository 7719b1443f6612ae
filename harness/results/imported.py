"""Records of others as records of ours: each number under the definition it was made by, faults kept as taints.

What is imported is history, not a measurement of this harness: its protocol is only what its file says, its SAE has no
weights to verify, and it says where it was read from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import PurePosixPath

from .. import __version__
from ..errors import RecordError
from ..interfaces.specs import Option
from .audit.evidence import Evaluation, Evidence, Setting
from .audit.rule import Finding
from .audit.runner import Verdict
from .record import EvaluationEntry, MethodEntry, MetricEntry, Protocol, Provenance, Record, Taint, TrainingEntry
from .saebench_metrics import known_as, measured_as

SOURCE = "imported"
"""Distribution of imported methods."""
NOT_SAID = "not said"
_LEGACY_UNTIL = "explained_variance_legacy"
_FRACTION = "mean_absorption_fraction_score"
_SINCE_06 = "min_feats_for_eval"
"""A setting that absorption has since 0.6, which also defines the fraction anew."""
MADE_HERE, TAINTED_HERE = "sae_harness_metrics", "sae_harness_taints"
"""Settings of a file that this harness exported: [field, metric, version, n, standard error], and [rule, reason]."""
_NOT_A_NUMBER = -1.0
"""What SAEBench writes for a number that is none, in these kinds."""
_WITH_SENTINELS = ("core", "sparse_probing")
_HEX = re.compile(r"[0-9a-f]+\Z")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_METHODS = {"standard": "relu"}
_BASELINE = "baseline_"
_PROMPTS, _CONTEXT = 16, 128
"""Of a batch of SAEBench's core evaluation where the file does not say: its `mse` is the squared error of a token over
the tokens of a batch, the first of each prompt left out."""


def import_records(
    evidence: Sequence[Evidence],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    findings: Sequence[Finding],
    *,
    suite: str,
    main: str = "",
) -> tuple[list[Record], dict[str, str]]:
    """Records of the evidence that an evaluation can be read of, and why others are left out, by name.

    A file `baseline_NAME` in the folder `main` becomes the method NAME, in another folder NAME@folder; any other file
    becomes folder@file. SAEBench's own files of one SAE become one record, called release@id; nothing is known of its
    training. Evaluations that the audit taints are kept with their taint.

    Raises:
        RecordError: two files become one method, or hold the same evaluation of one SAE.
    """
    records: dict[str, Record] = {}
    left_out: dict[str, str] = {}
    of_file: dict[str, list[Finding]] = {}
    for finding in findings:
        of_file.setdefault(finding.record, []).append(finding)
    for items in _by_sae(evidence):
        item = _together(items)
        reason = _obstacle(item)
        if reason:
            left_out.update({one.name: reason for one in items})
            continue
        own = [finding for one in items for finding in of_file.get(one.name, ())]
        told: dict[str, Verdict] = {}
        for one in items:
            for name, verdict in verdicts.get(one.name, {}).items():
                # What one file lacks another may hold.
                if verdict.status != "missing" or name not in told:
                    told[name] = verdict
        record = _record(item, told, own, suite, main)
        label = f"{record.method.name}@{record.method.preset}"
        if label in records:
            raise RecordError(f"{item.name} and {records[label].provenance.source} both become {label}: rename one.")
        records[label] = record
    return list(records.values()), left_out


def _by_sae(evidence: Sequence[Evidence]) -> list[list[Evidence]]:
    """SAEBench's files of one SAE together, every other one alone; in the order they come in."""
    groups: dict[str | int, list[Evidence]] = {}
    for place, item in enumerate(evidence):
        named = item.kind == "saebench" and item.key.strip("/")
        groups.setdefault(item.identity if named else place, []).append(item)
    return list(groups.values())


def _together(items: Sequence[Evidence]) -> Evidence:
    """Several files of one SAE as one; a single one as it is.

    Raises:
        RecordError: two of them hold the same evaluation.
    """
    if len(items) == 1:
        return items[0]
    evaluations: dict[str, Evaluation] = {}
    holder: dict[str, str] = {}
    for item in items:
        for name, evaluation in item.evaluations.items():
            if name in evaluations:
                raise RecordError(
                    f"{holder[name]} and {item.name} both hold {name} of SAE {item.key}: leave one out, or give SAEs "
                    "that differ an id each."
                )
            evaluations[name], holder[name] = evaluation, item.name
    first = items[0]
    return dataclasses.replace(
        first,
        name="; ".join(item.name for item in items),
        file_sha256=", ".join(item.file_sha256 for item in items),
        evaluations=evaluations,
        d_in=next((i.d_in for i in items if i.d_in), None),
    )


def _obstacle(item: Evidence) -> str:
    if item.kind == "harness":
        return "it is a record of this harness: add it with `sae-harness baselines add`"
    if item.kind != "saebench" and (item.training is None or not item.training.steps):
        return "never trained" if item.training is not None else "says nothing of its training"
    if not item.d_in or not item.d_sae or not item.lm:
        return "does not say the SAE's size or the language model"
    if not any(_metrics_of(evaluation, item) for evaluation in item.evaluations.values()):
        return "holds no evaluation"
    try:
        _ended(item)
    except (OverflowError, ValueError, OSError):
        return f"says that it was evaluated {item.time:.3g} seconds after 1970, which is no date"
    return ""


def _record(
    item: Evidence, verdicts: Mapping[str, Verdict], findings: Sequence[Finding], suite: str, main: str
) -> Record:
    metrics: dict[str, MetricEntry] = {}
    evaluations: dict[str, EvaluationEntry] = {}
    for evaluation in item.evaluations.values():
        found = _metrics_of(evaluation, item)
        metrics |= found
        if found:
            evaluations[_evaluator(evaluation.name)] = EvaluationEntry(
                status="done", options=_scalars(evaluation.config)
            )
    for name, verdict in verdicts.items():
        if verdict.status == "missing" and "." not in name:
            reason = f"not in the file: {' '.join(verdict.rules)}"
            evaluations.setdefault(_evaluator(name), EvaluationEntry(status="skipped", reason=reason))
    training = _training(item)
    key = hashlib.sha256(f"{item.file_sha256}:{item.name}".encode()).hexdigest()
    return Record(
        key=key,
        sae_id=f"imported-{hashlib.sha256(item.identity.encode()).hexdigest()[:40]}",
        protocol=_protocol(item, suite, training.tokens),
        method=_method_entry(item, findings, main),
        training=training,
        metrics=metrics,
        evaluations=evaluations,
        provenance=_provenance(item),
        taints=(*_taints(verdicts, findings, evaluations), *_declared(item, evaluations)),
    )


def _training(item: Evidence) -> TrainingEntry:
    """What the file says of it; SAEBench's own files say how many tokens at most, and that not always."""
    told = item.training
    steps, tokens, seed, target = 0, _said_tokens(item), None, None
    if told is not None:
        steps = told.steps or 0
        tokens, seed, target = steps * _batch(item), told.seed, told.settings.get("k")
    return TrainingEntry(
        seed=seed if seed is not None else 0,
        target_l0=target if isinstance(target, int) and not isinstance(target, bool) else None,
        steps=steps,
        tokens=tokens,
        final_loss=None if told is None else told.loss,
        final_terms={},
        l0_reached=None,
        dead_latents=None,
        input_scale=None,
        wall_seconds=None,
        peak_memory_mib=None,
        precision=NOT_SAID,
    )


def _batch(item: Evidence) -> int:
    return 0 if item.training is None else item.training.batch_size or 2048


def _said_tokens(item: Evidence) -> int:
    """`training_tokens` of the SAE's config; 0 where it is not said, for which SAELens has a negative number."""
    said = (e.sae.get("training_tokens") for e in item.evaluations.values())
    return max((0, *map(_whole, said))) if item.kind == "saebench" else 0


def _method_entry(item: Evidence, findings: Sequence[Finding], main: str) -> MethodEntry:
    name, preset = _method(item, main)
    settings = item.training.settings if item.training is not None else _sae_config(item)
    architecture = item.training.trainer if item.training is not None else str(settings.get("architecture") or "")
    return MethodEntry(
        name=name,
        preset=preset,
        distribution=SOURCE,
        version="",
        architecture=architecture or NOT_SAID,
        options={k: v for k, v in _scalars(settings).items() if k not in ("device", "wandb_name")},
        code_sha256="",
        faulty=any(f.severity == "blocker" and f.scope == "value" and not f.evaluation for f in findings),
    )


def _sae_config(item: Evidence) -> Mapping[str, Setting]:
    return next((e.sae for e in item.evaluations.values() if e.sae), {})


def _metrics_of(evaluation: Evaluation, item: Evidence) -> dict[str, MetricEntry]:
    given = dict(evaluation.metrics)
    made_here = _made_here(evaluation)
    if evaluation.name == "core":
        if "explained_variance" in given and _LEGACY_UNTIL not in given:
            given[_LEGACY_UNTIL] = given.pop("explained_variance")
        if "mse" in given and item.d_in and "mse" not in made_here:  # ours needs no guess at the tokens of a batch
            given["mse_per_element"] = given.pop("mse") * _tokens_of_batch(evaluation) / item.d_in
    if evaluation.name == "absorption" and _FRACTION in given and not made_here and _SINCE_06 not in evaluation.config:
        given[f"{_FRACTION}_early"] = given.pop(_FRACTION)
    found: dict[str, MetricEntry] = {}
    for field, value in given.items():
        spec = known_as(evaluation.name, field)
        if spec is None or (evaluation.name in _WITH_SENTINELS and value == _NOT_A_NUMBER):
            continue
        n = len(evaluation.letters) if evaluation.name == "absorption" else 1
        entry = MetricEntry(value=value, n=n or 1, version=spec.version, evaluator=_evaluator(evaluation.name))
        name, version, count, stderr = made_here.get(field, (spec.name, spec.version, entry.n, None))
        found[name] = dataclasses.replace(entry, version=version, n=count, stderr=stderr)
    return found


def _made_here(evaluation: Evaluation) -> dict[str, tuple[str, int, int, float | None]]:
    """Field -> metric, version, n and standard error, as an export of this harness says, where the metric is one that
    the field can stand for."""
    rows = evaluation.config.get(MADE_HERE)
    found: dict[str, tuple[str, int, int, float | None]] = {}
    for row in rows if isinstance(rows, tuple) else ():
        if not isinstance(row, tuple) or len(row) != 5:
            continue
        field, name, version, n, stderr = row
        spec = known_as(evaluation.name, field) if isinstance(field, str) else None
        if spec is None or name not in (spec.name, measured_as(evaluation.name, str(field))):
            continue
        if _whole(version) < 1 or _whole(n) < 1 or isinstance(stderr, (bool, str, tuple)):
            continue
        found[str(field)] = (str(name), _whole(version), _whole(n), None if stderr is None else float(stderr))
    return found


def _tokens_of_batch(evaluation: Evaluation) -> int:
    prompts = _whole(evaluation.config.get("batch_size_prompts")) or _PROMPTS
    return prompts * ((_whole(evaluation.config.get("context_size")) or _CONTEXT) - 1)


def _evaluator(name: str) -> str:
    return f"saebench_{name}"


def _method(item: Evidence, main: str) -> tuple[str, str]:
    """Name and preset."""
    if item.kind == "saebench" and item.key.strip("/"):
        release, sae_id = _release_and_id(item)
        return _safe(release or sae_id), _safe(sae_id) if release else ""
    path = PurePosixPath(item.name)
    folder, stem = path.parent.name, path.stem
    if stem.startswith(_BASELINE):
        method = stem.removeprefix(_BASELINE)
        return _METHODS.get(method, method), "" if folder == main else folder
    return (folder or stem), (stem if folder else "")


def _release_and_id(item: Evidence) -> tuple[str, str]:
    """As the SAE's config names them, since the key is both with a slash between, which ids may hold as well."""
    config = _sae_config(item)
    named = tuple(str(config.get(part) or "") for part in ("release", "id"))
    release, _, sae_id = item.key.partition("/")
    return (named[0], named[1]) if "/".join(named) == item.key else (release, sae_id)


def _safe(name: str) -> str:
    """A name that a folder can have."""
    return _UNSAFE.sub("-", name).strip("-._+") or NOT_SAID.replace(" ", "-")


def _declared(item: Evidence, evaluations: Mapping[str, EvaluationEntry]) -> list[Taint]:
    """Taints that an export of this harness says its numbers bear."""
    found = []
    for evaluation in item.evaluations.values():
        rows = evaluation.config.get(TAINTED_HERE)
        evaluator = _evaluator(evaluation.name)
        for row in rows if isinstance(rows, tuple) and evaluator in evaluations else ():
            if isinstance(row, tuple) and len(row) == 2:
                found.append(Taint(rule=str(row[0]), reason=str(row[1]), evaluator=evaluator))
    return found


def _protocol(item: Evidence, suite: str, tokens: int) -> Protocol:
    core = item.evaluations.get("core")
    config = {} if core is None else core.config
    text = config.get("dataset", NOT_SAID)
    clean = None if core is None else core.metrics.get("ce_loss_without_sae")
    seed = next((e.config["random_seed"] for e in item.evaluations.values() if "random_seed" in e.config), 0)
    hookpoint = item.hookpoint if item.hookpoint.startswith("blocks.") else _hookpoint(item)
    return Protocol(
        suite=suite,
        lm=item.lm,
        lm_sha256="",
        tokenizer_sha256="",
        hookpoint=hookpoint,
        d_in=item.d_in or 0,
        d_sae=item.d_sae or 0,
        n_tokens=tokens,
        batch_size=_batch(item),
        train_data=NOT_SAID,
        # The LM's own loss tells texts apart that go by one name.
        eval_data=f"{text}, clean CE {clean:g}" if clean is not None else str(text),
        seq_len=_whole(config.get("context_size")),
        store_dtype=str(config.get("llm_dtype", NOT_SAID)),
        stream_seed=0,
        evaluation_seed=_whole(seed),
    )


def _hookpoint(item: Evidence) -> str:
    layer = item.training.layer if item.training else None
    return f"blocks.{layer}.hook_resid_post" if layer is not None else item.hookpoint or NOT_SAID


def _provenance(item: Evidence) -> Provenance:
    commits = sorted(
        {e.commit[:12] if _HEX.match(e.commit) else e.commit for e in item.evaluations.values() if e.commit}
    )
    return Provenance(
        harness_version=__version__,
        distributions={"sae-bench": ", ".join(commits) or NOT_SAID},
        python="",
        platform="",
        device=NOT_SAID,
        threads=0,
        commit="",
        created=_ended(item),
        suite_sha256="",
        command="sae-harness baselines import",
        source=f"{item.name}, sha256 {item.file_sha256}",
    )


def _ended(item: Evidence) -> str:
    """When its last evaluation ended; empty where the file does not say. Raises what `fromtimestamp` does."""
    if item.time is None:
        return ""
    return datetime.fromtimestamp(item.time, timezone.utc).isoformat(timespec="seconds")


def _taints(
    verdicts: Mapping[str, Verdict], findings: Sequence[Finding], evaluations: Mapping[str, EvaluationEntry]
) -> tuple[Taint, ...]:
    """One for each rule that blocks an evaluation which the record holds."""
    meaning = {(f.rule, f.evaluation): f"{f.title} ({_shown(f)})" for f in findings}
    found = []
    for name, verdict in verdicts.items():
        evaluator = _evaluator(name.partition(".")[0])
        if verdict.status != "tainted" or name == "training" or evaluator not in evaluations or "." in name:
            continue
        for rule in verdict.rules:
            reason = meaning.get((rule, name)) or meaning.get((rule, "")) or "as the audit says of the record"
            found.append(Taint(rule=rule, reason=reason, evaluator=evaluator))
    return tuple(found)


def _shown(finding: Finding) -> str:
    return "; ".join(f"{where}: {value}" for where, value in finding.evidence[:2])


def _scalars(settings: Mapping[str, object]) -> dict[str, Option]:
    return {
        name: value for name, value in settings.items() if value is None or isinstance(value, (bool, int, float, str))
    }


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
