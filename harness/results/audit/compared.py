"""What is set beside what: methods, their ranges of L0, and the factors in which runs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .evidence import Evidence, Setting
from .rule import by, natural, said

_COSMETIC = ("device", "seed", "wandb_name", "run_title", "dict_class", "submodule_name", "lm_name", "steps")
"""Settings that do not change what is trained, or stand for the run itself."""
_NEAREST = 100
"""Runs among which the nearest is looked for; the base comes first."""
_GRID = ("sae.k", "code", "preset")
"""Of our own records: what the suite's grid varies, and what differs with the method by itself."""


class L0Range(NamedTuple):
    """The measured L0s of one method."""

    method: str
    low: float
    high: float
    record: Evidence
    """The first of its records."""
    evaluation: str
    """Where that one has its L0 from."""

    def __str__(self) -> str:
        return said(self.low) if self.low == self.high else f"{said(self.low)} to {said(self.high)}"


def by_method(records: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Method -> its records."""
    found: dict[str, list[Evidence]] = {}
    for record in records:
        found.setdefault(record.method, []).append(record)
    return found


def l0_ranges(records: Sequence[Evidence]) -> list[L0Range]:
    """The range of each method; records without an L0 do not count."""
    found = []
    for method, rows in by_method(records).items():
        measured = [(*l0, r) for r in rows if (l0 := r.l0()) is not None]
        values = [value for _, value, _ in measured]
        found.append(L0Range(method, min(values), max(values), measured[0][2], measured[0][0]))
    return found


def label(record: Evidence) -> str:
    """What the record calls its method."""
    return record.training.label if record.training is not None else ""


def runs_of_one_trainer(records: Sequence[Evidence]) -> Iterator[list[Evidence]]:
    """Runs of one study and trainer, at least two, the base first; of our own records one for each method."""
    for runs in by((r for r in records if not r.control), _trainer_key):
        if runs[0].kind == "harness":
            runs = sorted(
                (rows[0] for rows in by_method(runs).values()), key=lambda r: (_extends(r), natural(r.method))
            )
        if len(runs) > 1:
            yield runs


def factor(record: Evidence, name: str) -> Setting:
    """The value of a factor; `method` is the method itself."""
    return label(record) if name == "method" else _factors(record).get(name)


def changed_factors(a: Evidence, b: Evidence) -> tuple[str, ...]:
    """Factors in which two runs differ, `method` one of them. Of our own records only what both methods have."""
    ours, theirs = _factors(a), _factors(b)
    names = ours.keys() & theirs.keys() if a.kind == "harness" else ours.keys() | theirs.keys()
    changed = sorted(n for n in names if ours.get(n) != theirs.get(n))
    return (*(("method",) if label(a) != label(b) else ()), *changed)


def far_from_all(runs: Sequence[Evidence]) -> list[tuple[Evidence, Evidence, tuple[str, ...]]]:
    """Runs without a control that differs from them in one factor: (run, the nearest other, the factors between).

    Replicates are no control of each other, and the first run, the base, needs none. Linear in the runs: two runs
    differ in one factor exactly where they are equal without it.
    """
    told = _told(runs)
    distinct = list({told[run.name]: run for run in reversed(runs)}.values())[::-1]
    if runs[0].kind == "harness":
        alone = {
            told[r.name] for r in distinct if not any(len(changed_factors(r, o)) == 1 for o in distinct[:_NEAREST])
        }
    else:
        counts = Counter(key for run in distinct for key in _all_but_one(told[run.name]))
        alone = {told[r.name] for r in distinct if all(counts[key] == 1 for key in _all_but_one(told[r.name]))}
    found = []
    for run in runs:
        others = [o for o in distinct[:_NEAREST] if told[o.name] != told[run.name]]
        if told[run.name] in alone and told[run.name] != told[runs[0].name] and others:
            nearest = min(others, key=lambda other, own=run: len(changed_factors(own, other)))
            found.append((run, nearest, changed_factors(run, nearest)))
    return found


def config_key(record: Evidence) -> object:
    """Equal for runs told the same; None where nothing is told."""
    training = record.training
    if training is None or not training.settings:
        return None
    if record.kind == "harness":
        # The same inputs give the same SAE on one machine; another machine rounds otherwise.
        return record.key, record.machine
    return record.study, training.label, _sorted(training.settings, but=("device",))


def replicates_key(record: Evidence) -> object:
    """Equal for runs that differ in their seed alone."""
    training = record.training
    return None if training is None else (training.label, _sorted(training.settings, but=("device", "seed")))


def unusual(records: Sequence[Evidence], field: str) -> Iterator[tuple[Evidence, Evidence]]:
    """(record, one of the usual) for records whose field of the protocol is not that of most."""
    values = [r.protocol.get(field) for r in records]
    usual = Counter(values).most_common(1)[0][0]
    reference = records[values.index(usual)]
    yield from ((r, reference) for r, v in zip(records, values, strict=True) if v != usual)


def _trainer_key(record: Evidence) -> object:
    return (record.study, record.training.trainer) if record.training is not None and record.training.trainer else None


def _extends(record: Evidence) -> bool:
    return record.training is not None and any(name.startswith("base.") for name in record.training.settings)


def _factors(record: Evidence) -> dict[str, Setting]:
    """Settings that make a run what it is; those of a base method by the name they have there."""
    if record.training is None:
        return {}
    skipped = (*_COSMETIC, *(_GRID if record.kind == "harness" else ()))
    return {k.removeprefix("base."): v for k, v in record.training.settings.items() if k not in skipped}


def _told(runs: Sequence[Evidence]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Run -> all its factors, the method one of them; what only others say is None."""
    factors = {run.name: {**_factors(run), "method": label(run)} for run in runs}
    names = sorted({name for told in factors.values() for name in told})
    return {run: tuple((name, repr(told.get(name))) for name in names) for run, told in factors.items()}


def _all_but_one(told: tuple[tuple[str, str], ...]) -> list[object]:
    return [(told[i][0], told[:i] + told[i + 1 :]) for i in range(len(told))]


def _sorted(settings: Mapping[str, Setting], but: Sequence[str]) -> tuple[tuple[str, str], ...]:
    items = settings.items()
    return tuple(sorted((k, repr(v)) for k, v in items if k not in but))
