"""What a plugin declares: frozen specs and metric values, standard library only.

Hooks yield these. A spec names its class as `"package.module:Class"`; the class is imported on first use, so
listing what is installed loads no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..errors import ConfigError, PluginError

API_VERSION = 1
"""Raised when a hook, an argument or a context field is removed or changes its meaning; additions keep it."""

Option = bool | int | float | str | None
Better = Literal["higher", "lower", "none"]

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_BATCH_NEEDS = frozenset({"pairs", "contiguous", "world"})
_EVALUATOR_NEEDS = frozenset({"language_model", "world", "twin"})
_ANALYSIS_NEEDS = frozenset({"language_model", "world"})


def _check_name(kind: str, name: str) -> None:
    if not _NAME.match(name):
        raise PluginError(
            f"{kind} name {name!r} is not allowed: use lower-case letters, digits and underscores, "
            "starting with a letter."
        )


def _check_target(kind: str, name: str, target: str) -> None:
    if not _TARGET.match(target):
        raise PluginError(f"{kind} {name!r} has target {target!r}: write it as 'package.module:Class'.")


def _frozen(options: Mapping[str, Option]) -> Mapping[str, Option]:
    return MappingProxyType(dict(options))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One number an evaluator returns: how to read it, and which definition it follows."""

    name: str
    better: Better
    formula: str
    """The definition in one line, precise enough to recompute it."""
    unit: str = "1"
    bounds: tuple[float | None, float | None] = (None, None)
    """Smallest and largest value the formula allows; `None` is unbounded."""
    chance: float | None = None
    """What an uninformative SAE scores, where the formula fixes it."""
    reference: str = ""
    version: int = 1
    """Raised by every change that can move the number; different versions are never compared."""
    compared: bool = True
    """False for numbers that describe the SAE but are matched or fixed by the protocol (`l0`)."""

    def __post_init__(self) -> None:
        _check_name("Metric", self.name)
        if not self.formula.strip():
            raise PluginError(f"Metric {self.name!r} has no formula: state its definition in one line.")
        if self.better not in ("higher", "lower", "none"):
            raise PluginError(f"Metric {self.name!r}: better={self.better!r}; allowed are higher, lower, none.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A measured metric: never a bare float, never a sentinel (a metric that failed has no value)."""

    value: float
    n: int
    """How many independent units (documents, latents) the value rests on."""
    stderr: float | None = None
    """Evaluation noise: standard error over those units; `None` where the formula has none."""
    detail: Mapping[str, tuple[float, ...]] | None = None
    """Named series behind the value, such as a histogram's edges and counts."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ConfigError(f"A metric value must be finite, got {self.value}: report the failure instead.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Named options of a trainer."""

    options: Mapping[str, Option] = field(default_factory=dict)
    summary: str = ""
    faulty: bool = False
    """True where the preset reproduces a published mistake: it can be run, and is never ranked."""
    control: bool = False
    """True where the preset removes the idea (shuffled partner, weight 0): shown beside it, never ranked."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _frozen(self.options))


@dataclass(frozen=True, slots=True, kw_only=True)
class SAESpec:
    """An SAE architecture."""

    name: str
    target: str
    """`"package.module:Class"` of an `SAE` subclass."""
    summary: str
    reference: str = ""
    sparse: bool = False
    """True where `encode_sparse` is offered: evaluators then work on the active latents alone."""
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        _check_name("SAE", self.name)
        _check_target("SAE", self.name, self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSpec:
    """A method: a loss, the SAE it trains, and its defaults."""

    name: str
    target: str
    """`"package.module:Class"` of a `Trainer` subclass."""
    sae: str = ""
    """Name of the SAE architecture; empty where it follows the base trainer (`extends`)."""
    summary: str
    reference: str = ""
    needs: frozenset[str] = frozenset()
    """What the batch must carry: `pairs` (the true previous token) or `contiguous` (rows in order). `world`: the
    method is told the synthetic world (option `world`), so it knows what it should find; for controls alone."""
    sparsity: Literal["k", "coefficient", "target", "none", "base"] = "k"
    """How L0 is set: `k` is an SAE option; `coefficient` is driven by the sparsity controller; `target` is in the
    loss itself (`state.target_l0`); `none` cannot be set; `base` follows the base trainer."""
    extends: tuple[str, ...] = ()
    """Trainers this one adds terms to: the option `base` chooses one, the first by default."""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    aims: tuple[str, ...] = ()
    """Metrics the idea is meant to move. `compare` counts them, with the suite's, as primary: declared beforehand, and
    corrected for chance among themselves. Name few; a list made after looking is worth nothing."""
    trained: bool = True
    """False for controls: `initialise` makes the SAE and no step is taken."""
    control: bool = False
    """True where the method must come out as known (`identity`, `random`, `pca`): shown, never ranked."""
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        _check_name("Trainer", self.name)
        _check_target("Trainer", self.name, self.target)
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "presets", MappingProxyType(dict(self.presets)))
        object.__setattr__(self, "aims", tuple(self.aims))
        unknown = self.needs - _BATCH_NEEDS
        if unknown:
            raise PluginError(f"Trainer {self.name!r} needs {sorted(unknown)}: allowed are {sorted(_BATCH_NEEDS)}.")
        if "world" in self.needs and not self.control:
            raise PluginError(
                f"Trainer {self.name!r} needs 'world', the answers themselves: only a control (control=True) may."
            )
        if bool(self.sae) == bool(self.extends):
            raise PluginError(
                f"Trainer {self.name!r} must name either its SAE (sae=...) or the trainers it extends (extends=...)."
            )
        if (self.sparsity == "base") != bool(self.extends):
            raise PluginError(f"Trainer {self.name!r}: sparsity='base' goes together with extends=(...).")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec:
    """An evaluation: a class and exactly the metrics it returns."""

    name: str
    target: str
    """`"package.module:Class"` of an `Evaluator` subclass."""
    metrics: tuple[MetricSpec, ...]
    summary: str
    reference: str = ""
    needs: frozenset[str] = frozenset()
    """`language_model` where the LM itself is run; `world` where the true features must be known; `twin` where the
    SAE of the same method, L0 and another seed is looked at too."""
    texts: tuple[str, ...] = ()
    """Collections of labelled texts and tables it reads, by the names that `sae-harness fetch` knows; skipped where
    one of them is not there. Where it is one, the evaluator's option `collection` or `table` takes another in its
    place."""
    planted: str = ""
    """`"package.module:function"`: gives the rows of a table by its name, in the planted world of the conformance kit,
    whose texts are token ids with spaces between. Needed where `texts` names a table."""
    default: bool = False
    """True where it runs in every suite, also those that do not list it."""
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        _check_name("Evaluator", self.name)
        _check_target("Evaluator", self.name, self.target)
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "texts", tuple(self.texts))
        if self.planted:
            _check_target("Evaluator", self.name, self.planted)
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if not self.metrics:
            raise PluginError(f"Evaluator {self.name!r} declares no metrics.")
        unknown = self.needs - _EVALUATOR_NEEDS
        if unknown:
            raise PluginError(
                f"Evaluator {self.name!r} needs {sorted(unknown)}: allowed are {sorted(_EVALUATOR_NEEDS)}."
            )

    def reads(self, options: Mapping[str, Option]) -> tuple[str, ...]:
        """The collections and tables it reads under these options."""
        chosen = options.get("collection") or options.get("table")
        return (str(chosen),) if chosen and len(self.texts) == 1 else self.texts


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSpec:
    """A closer look at one SAE: numbers and figures that no record holds and nothing is compared by."""

    name: str
    target: str
    """`"package.module:Class"` of an `Analysis` subclass, or a function with the arguments of its `run`."""
    summary: str
    reference: str = ""
    needs: frozenset[str] = frozenset()
    """`language_model` where the LM itself is run; `world` where the true features must be known."""
    methods: tuple[str, ...] = ()
    """Methods whose SAEs it is for; empty for any SAE."""
    texts: tuple[str, ...] = ()
    """Collections of labelled texts and tables it reads, by the names that `sae-harness fetch` knows. Where one of them
    is not there it raises DataError, or looks at what else there is."""
    planted: str = ""
    """As of an `EvaluatorSpec`. Needed where `texts` names a table: the conformance kit then has it find something."""
    api_version: int = API_VERSION

    def __post_init__(self) -> None:
        _check_name("Analysis", self.name)
        _check_target("Analysis", self.name, self.target)
        object.__setattr__(self, "needs", frozenset(self.needs))
        object.__setattr__(self, "methods", tuple(self.methods))
        object.__setattr__(self, "texts", tuple(self.texts))
        if self.planted:
            _check_target("Analysis", self.name, self.planted)
        unknown = self.needs - _ANALYSIS_NEEDS
        if unknown:
            raise PluginError(f"Analysis {self.name!r} needs {sorted(unknown)}: allowed are {sorted(_ANALYSIS_NEEDS)}.")


Spec = SAESpec | TrainerSpec | EvaluatorSpec | AnalysisSpec
