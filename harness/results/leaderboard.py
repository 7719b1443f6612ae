"""All methods of a suite in one list, over one common stretch of L0: in the order of their means, each with the ranks
that noise leaves it.

A method's ranks go from 1 + the number of methods significantly better to the number of methods less those it is
significantly better than. With all pairs decided at 5 % together, the ranges hold all true ranks at once with 95 %
(Mogstad, Romano, Shaikh, Wilhelm 2024, "Inference for ranks", Review of Economic Studies 91).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from ..errors import RecordError, UnknownNameError
from ..interfaces.specs import MetricSpec
from .comparison import MIN_SEEDS, ROUNDING
from .frontier import Frontier, Window, overlap
from .pairwise import shaffer
from .record import Record
from .reliability import MEANING, Label
from .side import L0, Side, protocol_differences, side_of
from .statistics import CONFIDENCE, Difference, Interval, difference, mean_interval

PRIMARY = "fvu"
"""The metric ranks are given by, where it is measured and none is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderboardEntry:
    """One method's line."""

    label: str
    rank: int | None
    """The best it can be: 1 + the number of methods significantly better on the primary metric, after the correction
    over all pairs; None where it is not ranked."""
    worst_rank: int | None
    """The worst: the number of ranked methods less those it is significantly better than."""
    reason: str
    """Why it is not ranked; empty where it is."""
    control: bool
    faulty: bool
    n_seeds: int
    l0: Window | None
    """The stretch of L0 its values stand for; None where it has no values."""
    values: Mapping[str, Interval]
    """Metric -> mean over seeds with its 95 % interval; a metric it lacks is left out."""
    tainted: tuple[str, ...] = ()
    """Of these metrics, those whose evaluation is tainted: shown because it was asked for, never used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Methods, the ranked first."""

    primary: str
    metrics: tuple[MetricSpec, ...]
    window: Window | None
    """The L0s common to all ranked methods; None where nothing can be ranked."""
    entries: tuple[LeaderboardEntry, ...]
    notes: tuple[str, ...]


def leaderboard(
    records_by_method: Mapping[str, Sequence[Record]],
    metrics: Sequence[MetricSpec],
    *,
    primary: str | None = None,
    allow_tainted: bool = False,
    labels: Mapping[str, Label] | None = None,
    unranked: Mapping[str, str] | None = None,
) -> Leaderboard:
    """Rank methods on `primary` (default: `fvu`, else the first compared metric with a direction).

    Each value is a mean over log L0 across the stretch common to all ranked methods. Two methods are told apart where
    their difference is significant after the correction over all pairs (`pairwise.py`), at 5 % for the whole list.
    Controls, faulty presets, tainted records and methods with fewer than three seeds are listed unranked; a control
    that shares no L0 (the identity) shows its values at its own.
    `labels`: the metrics' reliability in this suite; none ranks by a misleading one.
    `unranked`: label -> why it is listed without being ranked, such as a method that is there twice.

    Raises:
        RecordError: there are no records, or one method's are mixed, doubled or tainted (see `side_of`).
        UnknownNameError: `primary` is no metric that can be ranked by.
    """
    if not records_by_method:
        raise RecordError("A leaderboard needs records: make them with `sae-harness run METHOD`.")
    labels = labels or {}
    trusted = [m for m in metrics if labels.get(m.name) != "misleading"]
    measured = {name for group in records_by_method.values() for record in group for name in record.metrics}
    spec = _primary(trusted if primary else [m for m in trusted if m.name in measured] or trusted, primary)
    sides = {
        label: side_of(records, label, allow_tainted=allow_tainted) for label, records in records_by_method.items()
    }
    foreign = _other_protocols(sides, spec.name)
    made_by = {m.name: _common_definition(m.name, sides.values()) for m in metrics}
    reasons = {
        label: (unranked or {}).get(label) or _exclusion(side, spec.name, made_by[spec.name]) or foreign.get(label, "")
        for label, side in sides.items()
    }
    windows = {
        label: window
        for label, side in sides.items()
        if not reasons[label] and (window := overlap(c.window for c in side.curves(spec.name).values())) is not None
    }
    members, window = _largest_group(windows)
    for label, side in sides.items():
        if not reasons[label] and label not in members:
            reasons[label] = _no_overlap(side, spec.name, window)
    ranks, n_pairs = _ranks({label: _read(sides[label], spec.name, window) for label in members}, spec)
    entries: list[LeaderboardEntry] = []
    for label, side in sides.items():
        # A foreign protocol's numbers stand in no common table; those of others' results are all there is to show.
        here = label not in foreign or side.imported
        shown = [m.name for m in metrics if here and _definitions(side, m.name) == {made_by[m.name]}]
        entries.append(
            _entry(label, side, ranks.get(label, (None, None)), reasons[label], *_values(side, shown, window))
        )
    notes = _grouped({label: side.notes() for label, side in sides.items()})
    return Leaderboard(
        primary=spec.name,
        metrics=tuple(metrics),
        window=window,
        entries=tuple(sorted(entries, key=lambda entry: _order(entry, spec))),
        notes=(*_correction_note(n_pairs), *notes, *_reliability_notes(metrics, labels)),
    )


def _grouped(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Each note once, with the methods it is of; of a taint its rule and title, without the evidence."""
    methods: dict[str, list[str]] = {}
    for label, own in notes.items():
        for note in own:
            text = note.removeprefix(f"{label}: ")
            if "never ranked" in text:
                continue
            if "tainted: " in text:
                text = text.partition(" (")[0].replace(" in 1 of 1 records", "")
            named = methods.setdefault(text, [])
            if label not in named:
                named.append(label)
    return [f"{', '.join(labels)}: {text}" for text, labels in methods.items()]


def _correction_note(n_pairs: int) -> list[str]:
    """That ranks are corrected; nothing where there is one pair or none."""
    if n_pairs < 2:
        return []
    return [
        f"{n_pairs} pairs of methods are compared, decided after Holm's correction over them (in Shaffer's form, for "
        "pairs): chance tells any equal methods apart with 5 % at most. The intervals shown are uncorrected."
    ]


def _reliability_notes(metrics: Sequence[MetricSpec], labels: Mapping[str, Label]) -> list[str]:
    """One line for each label that warns."""
    found = []
    for label in ("misleading", "blind", "noisy"):
        names = [m.name for m in metrics if m.compared and m.better != "none" and labels.get(m.name) == label]
        if names:
            found.append(f"{label} here ({MEANING[label]}): {', '.join(names)}.")
    return found


def _order(entry: LeaderboardEntry, spec: MetricSpec) -> tuple[bool, bool, float, str]:
    """The ranked by mean; the unranked last, controls first among them."""
    value = entry.values.get(spec.name)
    sign = -1.0 if spec.better == "higher" else 1.0
    mean = sign * value.mean if value is not None else float("inf")
    return (entry.rank is None, not entry.control, mean, entry.label)


def _primary(metrics: Sequence[MetricSpec], name: str | None) -> MetricSpec:
    ranking = {m.name: m for m in metrics if m.compared and m.better != "none"}
    if name is None and ranking:
        return ranking.get(PRIMARY) or next(iter(ranking.values()))
    if name not in ranking:
        raise UnknownNameError.of(
            "metric to rank by", name or "", ranking, "Metrics without a direction, and misleading ones, rank nothing."
        )
    return ranking[name]


def _exclusion(side: Side, primary: str, definition: _Definition) -> str:
    """Why a method is not ranked whatever its protocol; empty where it may be."""
    if side.control:
        return "control"
    if side.faulty:
        return "faulty preset"
    if side.is_tainted(primary) and side.allow_tainted:
        return "tainted"
    if not side.entries(primary):
        evaluators = {e for r in side.records for e, x in r.evaluations.items() if x.status != "done"}
        return f"no {primary}: {side.missing(primary, min(evaluators, default='')).partition(' (')[0]}"
    seeds = len(side.curves(primary))
    if seeds < MIN_SEEDS:
        return f"n={seeds} seed{'' if seeds == 1 else 's'}"
    own = _definitions(side, primary)
    if own == {definition}:
        return ""
    if {evaluator for evaluator, _ in own} != {definition.evaluator}:
        return f"{primary} of {' and '.join(sorted({evaluator for evaluator, _ in own}))}, not {definition.evaluator}"
    return f"{primary} version {' and '.join(sorted(str(version) for _, version in own))}, not {definition.version}"


def _other_protocols(sides: Mapping[str, Side], primary: str) -> dict[str, str]:
    """Methods whose protocol is not the one most methods have, with the first field that differs."""
    eligible = [s for s in sides.values() if not s.control and s.entries(primary)] or list(sides.values())
    protocols = [s.records[0].protocol for s in eligible]
    reference = max(protocols, key=lambda p: sum(not protocol_differences(p, other) for other in protocols))
    found: dict[str, str] = {}
    for label, side in sides.items():
        differing = protocol_differences(side.records[0].protocol, reference)
        if differing:
            found[label] = f"other protocol: {differing[0].field}"
    return found


class _Definition(NamedTuple):
    """What makes two numbers of one name the same metric. An imported one can bear the name of a metric of ours: its
    evaluator tells them apart."""

    evaluator: str
    version: int


def _definitions(side: Side, metric: str) -> set[_Definition]:
    return {_Definition(e.evaluator, e.version) for e in side.entries(metric)}


def _common_definition(metric: str, sides: Iterable[Side]) -> _Definition:
    """That of most methods, of equally many the newest."""
    held = Counter(definition for side in sides for definition in _definitions(side, metric))
    return max(held, key=lambda d: (held[d], d.version, d.evaluator), default=_Definition("", 0))


def _largest_group(windows: Mapping[str, Window]) -> tuple[tuple[str, ...], Window | None]:
    """The most methods that share a stretch of L0 (of equal groups the one with the widest stretch)."""
    best: tuple[tuple[str, ...], Window | None] = ((), None)
    best_size = (0, 0.0)
    for start in sorted({w.low for w in windows.values()}):
        group = tuple(label for label, w in windows.items() if overlap((w, Window(start, start))) is not None)
        common = overlap(windows[label] for label in group)
        if common is not None and (len(group), common.high / common.low) > best_size:
            best, best_size = (group, common), (len(group), common.high / common.low)
    return best


def _no_overlap(side: Side, metric: str, window: Window | None) -> str:
    spans = [c.window for c in side.curves(metric).values()]
    own = Window(min(w.low for w in spans), max(w.high for w in spans)).describe()
    return f"no overlap in L0: {own} against {window.describe() if window else 'none'}"


def _read(side: Side, metric: str, window: Window | None) -> dict[int, float]:
    """Seed -> mean over the window, of the seeds whose curve covers it."""
    if window is None:
        return {}
    return {seed: curve.mean_over(window) for seed, curve in side.curves(metric).items() if _reaches(curve, window)}


def _reaches(curve: Frontier, window: Window) -> bool:
    ends = (Window(window.low, window.low), Window(window.high, window.high))
    return all(overlap((curve.window, end)) is not None for end in ends)


def _ranks(values: Mapping[str, Mapping[int, float]], spec: MetricSpec) -> tuple[dict[str, tuple[int, int]], int]:
    """The best and the worst rank each method can have, and how many pairs were put to the test.

    A pair is decided after the correction over all pairs, so that chance parts any two equal methods in one list of
    twenty at most; its direction is that of the difference.
    """
    found = {(a, b): difference(values[a], values[b]) for a, b in combinations(values, 2)}
    judged = {pair: d for pair, d in found.items() if d.n >= MIN_SEEDS and d.p_value is not None}
    corrected = shaffer({pair: _p_value(d, (values[pair[0]], values[pair[1]])) for pair, d in judged.items()})
    best, worst = dict.fromkeys(values, 1), dict.fromkeys(values, len(values))
    for (a, b), p in corrected.items():
        if p < 1.0 - CONFIDENCE:
            a_is_better = (judged[a, b].estimate > 0.0) == (spec.better == "higher")
            best[b if a_is_better else a] += 1
            worst[a if a_is_better else b] -= 1
    return {label: (best[label], worst[label]) for label in values}, len(judged)


def _p_value(found: Difference, values: Sequence[Mapping[int, float]]) -> float:
    """Of no difference; 1 where the interval has zero, or a difference of rounding alone."""
    scale = max(abs(value) for own in values for value in own.values())
    if found.p_value is None or not found.excludes_zero(ROUNDING * scale):
        return 1.0
    return found.p_value


def _entry(
    label: str,
    side: Side,
    ranks: tuple[int, int] | tuple[None, None],
    reason: str,
    l0: Window | None,
    values: Mapping[str, Interval],
) -> LeaderboardEntry:
    return LeaderboardEntry(
        label=label,
        rank=ranks[0],
        worst_rank=ranks[1],
        reason=reason,
        control=side.control,
        faulty=side.faulty,
        n_seeds=len(side.seeds),
        l0=l0,
        values=values,
        tainted=tuple(name for name in values if side.is_tainted(name)),
    )


def _values(side: Side, metrics: Sequence[str], window: Window | None) -> tuple[Window | None, dict[str, Interval]]:
    """A method's values over the common window; a control's that does not reach it, at its own L0."""
    windows = [window]
    if (side.control or side.imported) and (curves := side.curves(L0)):
        windows.append(overlap(c.window for c in curves.values()))
    for candidate in windows:
        values = {m: mean_interval(list(read.values())) for m in metrics if (read := _read(side, m, candidate))}
        if values:
            return candidate, values
    return None, {}
