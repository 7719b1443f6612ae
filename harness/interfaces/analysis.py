"""The Analysis interface: one SAE, held-out data and the log of its training in; numbers, tables and figures out.

Figures are descriptions, standard library only: `report/figures.py` draws them. Loads no torch.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import ConfigError
from .specs import Option

if TYPE_CHECKING:
    from .evaluator import EvalContext
    from .sae import SAE

Scale = Literal["linear", "log"]
Value = bool | int | float | str | None

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def _finite(where: str, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where} holds {value}: give None where there is no number.")


def _same_lengths(where: str, **columns: Sequence[Any] | None) -> None:
    lengths = {name: len(values) for name, values in columns.items() if values is not None and len(values)}
    if len(set(lengths.values())) > 1:
        raise ConfigError(f"{where} has columns of different lengths: {lengths}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line through points, with an error band or bars where `low` and `high` are given."""

    label: str = ""
    x: Sequence[float]
    y: Sequence[float | None]
    """None where there is no number: the line has a gap there."""
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dashed: bool = False
    """For what is no measurement of this SAE: nulls, controls."""
    colour: int | None = None
    """Its place in the palette, for what belongs to another mark of the panel; None for the mark's own."""
    bars: bool = False
    """Each point has an error bar, where a band would join what was measured apart. Lines of a panel with bars stand
    beside each other, so that none hides another."""

    def __post_init__(self) -> None:
        _same_lengths(f"Line {self.label!r}", x=self.x, y=self.y, low=self.low, high=self.high)
        for values in (self.x, self.y, self.low or (), self.high or ()):
            _finite(f"Line {self.label!r}", values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One bar for each category; several `Bars` of a panel stand beside each other."""

    label: str = ""
    categories: Sequence[str]
    heights: Sequence[float | None]
    errors: Sequence[float | None] | None = None
    """Half the length of each error bar."""

    def __post_init__(self) -> None:
        where = f"Bars {self.label!r}"
        _same_lengths(where, categories=self.categories, heights=self.heights, errors=self.errors)
        for values in (self.heights, self.errors or ()):
            _finite(where, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges; several of a panel are drawn as outlines over each other."""

    label: str = ""
    edges: Sequence[float]
    """One more than there are counts."""
    counts: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ConfigError(f"Histogram {self.label!r} has {len(self.edges)} edges for {len(self.counts)} counts.")
        _finite(f"Histogram {self.label!r}", [*self.edges, *self.counts])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A matrix as colours, row 0 at the top."""

    rows: Sequence[Sequence[float | None]]
    colour_label: str
    """What the colours mean, with unit."""
    x_ticks: Mapping[int, str] = field(default_factory=dict)
    """Column -> its tick label."""
    y_ticks: Mapping[int, str] = field(default_factory=dict)
    diverging: bool = False
    """True where 0 is the middle and signs matter."""

    def __post_init__(self) -> None:
        if len({len(row) for row in self.rows}) > 1:
            raise ConfigError("A heat map's rows must have one length.")
        for row in self.rows:
            _finite("A heat map", row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Points, coloured by `colours` where given."""

    label: str = ""
    x: Sequence[float]
    y: Sequence[float]
    colours: Sequence[float] | None = None
    colour_label: str = ""
    errors: Sequence[float | None] | None = None
    """Half the length of each point's vertical error bar; None where it has none."""
    colour: int | None = None
    """As of a `Line`."""

    def __post_init__(self) -> None:
        where = f"Scatter {self.label!r}"
        _same_lengths(where, x=self.x, y=self.y, colours=self.colours, errors=self.errors)
        _finite(where, [*self.x, *self.y, *(self.colours or ()), *(self.errors or ())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dendrogram:
    """A binary merge tree in the form of scipy's linkage: row i merges two clusters into cluster n + i."""

    merges: Sequence[tuple[int, int, float]]
    """(cluster, cluster, height) of each merge: n - 1 of them for n leaves, heights ascending."""
    threshold: float | None = None
    """Height at which the tree is cut: what hangs together below it gets one colour."""

    def __post_init__(self) -> None:
        n = len(self.merges) + 1
        for number, (a, b, height) in enumerate(self.merges):
            if not (0 <= a < n + number and 0 <= b < n + number) or not math.isfinite(height):
                raise ConfigError(
                    f"Merge {number} of a dendrogram is ({a}, {b}, {height}): it names no earlier cluster."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes and undirected edges, laid out by the renderer."""

    nodes: Sequence[str]
    """Labels; an empty one is drawn without text."""
    edges: Sequence[tuple[int, int, float]]
    """(node, node, weight > 0)."""
    groups: Sequence[int] | None = None
    """A group of each node, shown as colour."""
    sizes: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _same_lengths("A graph", nodes=self.nodes, groups=self.groups, sizes=self.sizes)
        n = len(self.nodes)
        wrong = [edge for edge in self.edges if not (0 <= edge[0] < n and 0 <= edge[1] < n and edge[2] > 0)]
        if wrong:
            raise ConfigError(f"A graph of {n} nodes has the edge {wrong[0]}: name two nodes and a weight above 0.")


Mark = Line | Bars | Histogram | HeatMap | Scatter | Dendrogram | Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes. A heat map, dendrogram or graph stands alone in its panel."""

    marks: Sequence[Mark]
    title: str = ""
    x_label: str = ""
    """With unit, such as `lag (tokens)`."""
    y_label: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    x_ticks: Mapping[float, str] = field(default_factory=dict)
    """Place -> tick label, such as the values of a grid; where empty, the renderer chooses."""
    y_bounds: tuple[float | None, float | None] = (None, None)
    """The smallest and the largest value that what is drawn can have: the axis stays inside."""
    y_reference: float | None = None
    """A thin dashed horizontal line, such as chance."""
    x_stretch: tuple[float, float] | None = None
    """A stretch of the x axis that is shaded, such as the one two sides are compared on."""

    def __post_init__(self) -> None:
        if not self.marks:
            raise ConfigError(f"Panel {self.title!r} has no marks.")
        if len(self.marks) > 1 and any(isinstance(mark, (HeatMap, Dendrogram, Graph)) for mark in self.marks):
            raise ConfigError(f"Panel {self.title!r}: a heat map, dendrogram or graph stands alone in its panel.")
        if self.x_stretch is not None:
            _finite(f"Panel {self.title!r}", self.x_stretch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture of one or more panels."""

    name: str
    """Of its files: lower-case letters, digits, underscores."""
    title: str
    panels: Sequence[Panel]
    columns: int = 2
    """Panels beside each other."""
    caption: str = ""
    """What to see in it, and how it was measured; shown below. `analyse` adds of which SAE it is."""
    shared_legend: bool = False
    """One legend above the panels, of the labels of all, instead of one inside each."""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ConfigError(f"Figure name {self.name!r} is not allowed: lower-case letters, digits, underscores.")
        if not self.panels or self.columns < 1:
            raise ConfigError(f"Figure {self.name!r} needs at least one panel and one column.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of plain values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ConfigError(f"A table of columns {', '.join(self.columns)} has a row of {len(row)} values.")
            _finite("A table", row)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """What an analysis found."""

    values: Mapping[str, Value] = field(default_factory=dict)
    """Single numbers and words, the answers."""
    series: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    """What could not be measured and why, and what a reader must know."""

    def __post_init__(self) -> None:
        _finite("An analysis", list(self.values.values()))
        for name, values in self.series.items():
            _finite(f"Series {name!r}", values)
        names = [figure.name for figure in self.figures]
        if len(set(names)) != len(names):
            raise ConfigError(f"Two figures of an analysis have one name: {', '.join(names)}.")

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the figures name, title and caption (what they show is in the series and tables)."""
        return {
            "values": dict(self.values),
            "series": {name: list(values) for name, values in self.series.items()},
            "tables": {
                name: {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
                for name, table in self.tables.items()
            },
            "figures": [{"name": f.name, "title": f.title, "caption": f.caption} for f in self.figures],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """What is known of how an SAE was trained; empty for an SAE from elsewhere."""

    method: str = ""
    """Name of the method; empty where it is not known."""
    preset: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Every hyperparameter: own, `base.*` and `sae.*`."""
    seed: int | None = None
    """The training seed; None where it is not known."""
    steps: int = 0
    tokens: int = 0
    rows: Sequence[Mapping[str, float]] = ()
    """About a hundred over the run: `step`, `l0`, `dead`, `coefficient`, `lr`, `term/<name>` (weight times value)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @staticmethod
    def of(facts: Mapping[str, Any], *, method: str = "", preset: str = "") -> TrainingLog:
        """From what is saved beside an SAE as `training.json`."""
        known = {name: facts[name] for name in ("options", "seed", "steps", "tokens") if name in facts}
        return TrainingLog(method=method, preset=preset, rows=tuple(facts.get("log", ())), **known)

    @property
    def run(self) -> str:
        """The run in a figure's words: `temporal@abs, seed 1`; empty where neither method nor seed is known."""
        method = f"{self.method}@{self.preset}" if self.preset else self.method
        seed = "" if self.seed is None else f"seed {self.seed}"
        return ", ".join(part for part in (method, seed) if part)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that occur in the rows."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of the rows that have that number."""
        found = [(row["step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in found], [value for _, value in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Another SAE of the same suite, which one is held against."""

    label: str
    """As figures call it."""
    sae: SAE
    """In eval mode."""
    training: TrainingLog


class Analysis(ABC):
    """A closer look at one SAE. Built without arguments."""

    compares: ClassVar[bool] = False
    """Whether it cannot run without a reference; others may use one where it is there."""
    reference: Reference | None = None
    """The SAE that this one is held against (`analyse --reference`), None where the user named none. Set before
    `run`."""

    @abstractmethod
    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        """The SAE is in eval mode and gradients are off. Random numbers come from `context.generator`.

        Raises:
            DataError: the data or the log do not allow it; the message says what is missing.
        """
