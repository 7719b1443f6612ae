"""Our own records as evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ...errors import RecordError
from ..record import MetricEntry, Record
from ..side import method_label
from .evidence import Evaluation, Evidence, Setting, Training
from .read_json import UnreadableError


def is_record(data: Mapping[str, Any]) -> bool:
    """Whether this is meant as a record of ours."""
    return "schema_version" in data and "protocol" in data and "method" in data


def is_manifest(data: Mapping[str, Any]) -> bool:
    """Whether this is what lies beside stored records, a manifest or the reliability of a suite, and is no record."""
    if "schema_version" not in data:
        return False
    manifest = "command" in data and "records" in data and "metrics" not in data
    return manifest or any(_is_reliability(one) for one in (data, *_listed(data.get("measurements"))))


def _is_reliability(data: Any) -> bool:
    return isinstance(data, Mapping) and {"command", "training_seeds", "evaluation_seeds"} <= data.keys()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def harness_evidence(text: str, name: str, file_sha256: str) -> Evidence:
    """A record in a file.

    Raises:
        UnreadableError: it is malformed.
    """
    try:
        record = Record.from_json(text, where="the record")
    except (RecordError, RecursionError) as error:
        raise UnreadableError(" ".join(str(error).split()) or "it is nested too deeply") from error
    return evidence_of(record, name, file_sha256)


def evidence_of(record: Record, name: str = "", file_sha256: str = "") -> Evidence:
    """A record as evidence, for who has it in memory; `name` defaults to its method and key."""
    protocol, provenance = record.protocol, record.provenance
    return Evidence(
        name=name or f"{protocol.suite}/{method_label(record)}/{record.key[:12]}",
        kind="harness",
        study=protocol.suite,
        group=protocol.suite,
        method=method_label(record),
        identity=record.sae_id,
        file_sha256=file_sha256,
        key=record.key,
        training=_training(record),
        evaluations=_evaluations(record),
        lm=protocol.lm,
        hookpoint=protocol.hookpoint,
        d_in=protocol.d_in,
        d_sae=protocol.d_sae,
        control=record.method.control or record.method.faulty,
        protocol=dataclasses.asdict(protocol),
        machine=f"{provenance.device}, {provenance.platform}, {provenance.threads} threads, "
        + ", ".join(f"{k} {v}" for k, v in sorted(provenance.distributions.items())),
        declared=tuple((t.rule, t.evaluator) for t in record.taints),
    )


def _training(record: Record) -> Training:
    entry, options = record.training, record.method.options
    settings: dict[str, Setting] = {**options, "preset": record.method.preset, "code": record.method.code_sha256}
    lr = options.get("lr", options.get("base.lr"))
    return Training(
        trainer=record.method.architecture,
        label=method_label(record),
        settings=settings,
        trained=not record.method.control,
        steps=entry.steps,
        tokens=entry.tokens,
        budget=record.protocol.n_tokens,
        batch_size=record.protocol.batch_size,
        loss=entry.final_loss,
        terms=entry.final_terms,
        lr=float(lr) if isinstance(lr, (int, float)) and not isinstance(lr, bool) else None,
        seed=entry.seed,
        target_l0=None if entry.target_l0 is None else float(entry.target_l0),
        reached=entry.l0_reached,
        dead=entry.dead_latents,
        input_scale=entry.input_scale,
        wall_seconds=entry.wall_seconds,
        peak_memory_mib=entry.peak_memory_mib,
    )


def _evaluations(record: Record) -> dict[str, Evaluation]:
    metrics: dict[str, dict[str, MetricEntry]] = {name: {} for name in record.evaluations}
    for name, entry in record.metrics.items():
        metrics.setdefault(entry.evaluator, {})[name] = entry
    found = {}
    for name, entries in metrics.items():
        entry = record.evaluations.get(name)
        found[name] = Evaluation(
            name=name,
            key=f"evaluations.{name}",
            metrics={m: float(e.value) for m, e in entries.items()},
            status="not listed" if entry is None else entry.status,
            config={} if entry is None else dict(entry.options),
            wall_seconds=None if entry is None else entry.wall_seconds,
            versions={m: e.version for m, e in entries.items()},
        )
    return found
