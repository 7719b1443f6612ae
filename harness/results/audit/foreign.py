"""F04 and F05: evaluations of another SAE than the record's, one of them or all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...interfaces.audit import AuditHit
from .evidence import Evaluation, Evidence
from .rule import by, listed, said
from .sameness import ARCHITECTURES, duplicates, is_mislabelled, plain
from .tolerances import Tolerances


def foreign(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F04: an evaluation whose SAE is not that of the record, or of the other evaluations under its name."""
    for record in records:
        if record.kind == "combined":
            yield from _foreign_blocks(record)
    saes = by((r for r in records if r.kind == "saebench"), lambda r: r.key)
    for same in saes:
        for field in ("architecture", "d_sae", "hook_name", "d_in"):
            yield from _foreign_files(same, field)


def mislabelled(records: Sequence[Evidence], tolerances: Tolerances) -> Iterator[AuditHit]:
    """F05: the trainer's architecture is not that of the SAE that was evaluated."""
    alike = {r.name: (name, same) for name, same in duplicates(records) for r in same if is_mislabelled(r)}
    for record in records:
        if record.training is not None and is_mislabelled(record):
            found = next(str(e.sae["architecture"]) for e in record.evaluations.values() if e.sae.get("architecture"))
            name, same = alike.get(record.name, ("", []))
            others = tuple(r.name for r in same if r is not record)[:20]
            yield AuditHit(
                record=record.name,
                field="config.trainer_class",
                evidence=(("config.trainer_class", record.training.trainer), ("sae_cfg_dict.architecture", found)),
                note=f"Its {name} is that of {listed(others)}." if others else "",
                others=others,
            )
    for same in by((r for r in records if r.kind == "harness"), lambda r: (r.study, r.method)):
        trainers = [r.training.trainer for r in same if r.training is not None]
        usual = max(set(trainers), key=trainers.count)
        for record in same:
            if record.training is not None and record.training.trainer != usual:
                yield AuditHit(
                    record=record.name,
                    field="method.architecture",
                    evidence=(
                        ("method.architecture", record.training.trainer),
                        (f"the others of {record.method}", usual),
                    ),
                )


def _foreign_blocks(record: Evidence) -> Iterator[AuditHit]:
    wanted = "" if record.training is None or is_mislabelled(record) else ARCHITECTURES.get(record.training.trainer, "")
    sizes = [e.sae["d_sae"] for e in record.evaluations.values() if e.sae.get("d_sae")]
    usual = {"d_sae": record.d_sae or (max(set(sizes), key=sizes.count) if sizes else None), "d_in": record.d_in}
    for found in record.evaluations.values():
        differing = [
            (field, f"{said(found.sae[field])} here, {said(value)} in the record")
            for field, value in usual.items()
            if value and found.sae.get(field) and found.sae[field] != value
        ]
        architecture = str(found.sae.get("architecture") or "")
        if wanted and architecture and plain(architecture) != plain(wanted):
            differing.append(("architecture", f"{architecture} here, {wanted} in the record"))
        if differing:
            yield AuditHit(
                record=record.name,
                evaluation=found.name,
                field=f"{found.key}: sae_cfg_dict",
                evidence=tuple(differing),
                note=_hours_before(record.evaluations, found),
            )


def _hours_before(evaluations: Mapping[str, Evaluation], found: Evaluation) -> str:
    times = [e.time for e in evaluations.values() if e.time is not None and e is not found]
    if found.time is None or not times or found.time >= min(times):
        return ""
    return f"It was made {(min(times) - found.time) / 3600:.1f} h before the others."


def _foreign_files(same: Sequence[Evidence], field: str) -> Iterator[AuditHit]:
    values = [_block(r).sae.get(field) for r in same]
    known = [v for v in values if v is not None]
    if len(set(known)) < 2:
        return
    usual = max(sorted(set(known), key=str), key=known.count)
    clear = known.count(usual) > len(known) / 2
    for record, value in zip(same, values, strict=True):
        if value is not None and (value != usual or not clear):
            other = next(r for r, v in zip(same, values, strict=True) if v not in (None, value))
            yield AuditHit(
                record=record.name,
                evaluation=_block(record).name,
                field=f"sae_cfg_dict.{field}",
                evidence=((record.name, said(value)), (other.name, said(_block(other).sae[field]))),
                others=(other.name,),
                note=f"Both say they are {record.key}.",
            )


def _block(record: Evidence) -> Evaluation:
    """The one evaluation of a SAEBench file."""
    return next(iter(record.evaluations.values()))
