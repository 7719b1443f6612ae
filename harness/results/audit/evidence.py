"""Evidence: what the rules read of a record, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["harness", "saebench", "combined"]
Value = bool | int | float | str | None
Setting = Value | tuple["Setting", ...]
"""A setting as it is compared: lists and objects become tuples."""

LLM_HALF = "sparse_probing.llm"
"""The language model's own half of a sparse-probing evaluation: it does not depend on the SAE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of an SAE."""

    name: str
    """`core`, `absorption`, `scr`, … or the name of one of our evaluators."""
    key: str
    """Where it stands in the file."""
    metrics: Mapping[str, float]
    status: str = "done"
    eval_id: str = ""
    time: float | None = None
    """When it ended, seconds since 1970; None where the file does not say."""
    commit: str = ""
    """Commit of the evaluation's code."""
    config: Mapping[str, Setting] = field(default_factory=dict)
    sae: Mapping[str, Setting] = field(default_factory=dict)
    """What the evaluation says it evaluated; empty where it does not."""
    groups: tuple[str, ...] = ()
    """Groups the file sorts the metrics into."""
    details_sha256: str = ""
    """Hash of the rows behind the metrics; empty where there are none, or none that tell anything."""
    letters: Mapping[str, int] = field(default_factory=dict)
    """Absorption: letter -> number absorbed."""
    wall_seconds: float | None = None
    versions: Mapping[str, int] = field(default_factory=dict)
    """Metric -> version of its definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What training was told, and what it says it did. None stands for what the file does not say."""

    trainer: str = ""
    """Class or architecture."""
    label: str = ""
    """What the record calls the method."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    final: Mapping[str, Setting] = field(default_factory=dict)
    """What the report at the end repeats."""
    trained: bool = True
    """False for controls that take no step."""
    steps: int | None = None
    tokens: int | None = None
    budget: int | None = None
    """Tokens it was to train on."""
    batch_size: int | None = None
    loss: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    lr: float | None = None
    seed: int | None = None
    layer: int | None = None
    target_l0: float | None = None
    reached: bool | None = None
    """Whether a controller says it reached the target."""
    dead: int | None = None
    input_scale: float | None = None
    wall_seconds: float | None = None
    peak_memory_mib: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A record as the rules see it. Names are unique among the records of one audit."""

    name: str
    kind: Kind
    study: str
    """Records that were made to be set beside each other: a suite, or a folder of runs."""
    group: str
    """Records whose evaluations are comparable at all: same language model and hookpoint, or same suite."""
    method: str
    identity: str
    """What tells its SAE from others: a hash of the weights where there is one, else of all that is said of it."""
    file_sha256: str = ""
    key: str = ""
    training: Training | None = None
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    lm: str = ""
    hookpoint: str = ""
    d_in: int | None = None
    d_sae: int | None = None
    control: bool = False
    """A control, or a preset that is known to be faulty: shown, never ranked."""
    protocol: Mapping[str, Setting] = field(default_factory=dict)
    machine: str = ""
    """Device, threads and versions it was made with; empty where it is not said."""
    declared: tuple[tuple[str, str], ...] = ()
    """Taints the record bears itself: (rule, evaluation or empty)."""
    run_numbers: tuple[int, ...] = ()
    """Numbers of the runs that lie in its folder."""

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix."""
        return self.name.rpartition("/")[2].removesuffix(".json")

    @property
    def time(self) -> float | None:
        """When its last evaluation ended."""
        return max((e.time for e in self.evaluations.values() if e.time is not None), default=None)

    def metric(self, evaluation: str, name: str) -> float | None:
        """A metric of an evaluation, or None."""
        found = self.evaluations.get(evaluation)
        return None if found is None else found.metrics.get(name)

    def l0(self) -> tuple[str, float] | None:
        """(evaluation, value) of the measured L0."""
        for name, evaluation in self.evaluations.items():
            if "l0" in evaluation.metrics:
                return name, evaluation.metrics["l0"]
        return None

    def parts(self) -> tuple[str, ...]:
        """What a verdict is given on: `training`, the evaluations, and the language model's half of probing."""
        half = (LLM_HALF,) if "sparse_probing" in self.evaluations and self.kind != "harness" else ()
        return (*(("training",) if self.training is not None else ()), *self.evaluations, *half)
