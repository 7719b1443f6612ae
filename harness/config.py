"""Frozen configuration of suites: what is fixed, so that methods can be compared. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from .errors import ConfigError
from .interfaces.specs import Option

Dtype = Literal["float32", "float16", "bfloat16"]
_DTYPES = ("float32", "float16", "bfloat16")
TABLE = "table:"
"""How a source of a mix begins that is a fetched table."""
PARTS = ("forget", "retain")
"""Parts of a table's texts that a mix can name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LMConfig:
    """Which language model."""

    source: str
    """`package:PACKAGE` (files inside an installed package), `fetched:NAME` (see `sae-harness fetch`), a local
    folder, a `.gguf` file, or a hub id."""
    revision: str = ""
    """Commit of a hub id; empty for other sources."""
    dtype: Dtype = "float32"
    """Precision of the forward pass."""
    note: str = ""
    """What a reader of a result must know about this LM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """A further text to train on, and how much of it."""

    source: str
    """As `TextConfig.source`, or `table:NAME`: the texts of a fetched table that no evaluation of the suite sees."""
    share: float
    """Of the training tokens, in (0, 1)."""
    part: str = ""
    """Of a table: forget or retain; empty for both."""
    text_field: str = "text"
    revision: str = ""
    note: str = ""

    @property
    def table(self) -> str:
        """Name of the table; empty for any other source."""
        return self.source.removeprefix(TABLE) if self.source.startswith(TABLE) else ""

    @property
    def label(self) -> str:
        """As errors name it."""
        return f"{self.source} ({self.part})" if self.part else self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which text, and how it becomes token sequences."""

    mix: ClassVar[tuple[MixConfig, ...]] = ()
    """What else is trained on: nothing here, see `MixedTextConfig`."""

    source: str
    """`package:PACKAGE/FILE`, a local `.txt`, `.jsonl` or `.jsonl.gz` file or folder of them, or `hub:DATASET`."""
    seq_len: int = 128
    n_train_tokens: int
    """Activations captured for training; a longer budget passes over them again in another order."""
    n_eval_sequences: int
    """Held-out sequences, from documents that share no text with the training ones."""
    eval_fraction: float = 0.1
    """Share of documents, by hash, that are held out."""
    prepend_bos: bool = True
    """Whether each sequence begins with the tokenizer's BOS (masked in every metric and never trained on)."""
    mask_first: int = 0
    """Positions at the start of each sequence that no metric counts and no SAE trains on. An LM without BOS makes its
    first token an attention sink, whose norm can be a hundred times the others': it alone would decide fvu."""
    text_field: str = "text"
    revision: str = ""
    note: str = ""

    @property
    def trained_tables(self) -> frozenset[str]:
        """Tables that are trained on: evaluations must leave out what may have been seen."""
        return frozenset(entry.table for entry in self.mix if entry.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedTextConfig(TextConfig):
    """A text to train on with others mixed into it; held-out sequences are of `source` alone.

    A class of its own, since a suite's hash is over its fields: that of a suite without a mix must stay what it was.
    """

    mix: tuple[MixConfig, ...]  # type: ignore[misc]
    """Each with its share of `n_train_tokens`; the rest is `source`."""

    def __post_init__(self) -> None:
        if not self.mix:
            raise ConfigError("mix names no source: leave it out.")
        places = [(entry.source, entry.part) for entry in self.mix]
        for entry in self.mix:
            if not 0 < entry.share < 1:
                raise ConfigError(f"mix: the share of {entry.label} must lie in (0, 1), got {entry.share}.")
            if entry.part and not entry.table:
                raise ConfigError(f"mix: {entry.source} has no parts, as a table (table:NAME) has: leave out part.")
            if entry.part not in ("", *PARTS):
                raise ConfigError(f"mix: unknown part of {entry.label}; allowed are {', '.join(PARTS)}.")
            if places.count((entry.source, entry.part)) > 1 or (entry.part and (entry.source, "") in places):
                raise ConfigError(f"mix: {entry.label} stands there twice: give it one share.")
        total = sum(entry.share for entry in self.mix)
        if total >= 1:
            raise ConfigError(f"mix: the shares sum to {total:g}; they must leave a rest, below 1, for {self.source}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """A synthetic world: activations that are sparse sums of known features. See `harness.data.worlds`.

    The names and meanings are those of SynthSAEBench (arXiv:2602.14687) but for time and forgetting, which it lacks.
    """

    n_features: int
    d_in: int
    seed: int = 0
    seq_len: int = 128
    """Tokens of a document; each is one sequence."""
    n_train_tokens: int
    n_eval_sequences: int
    zipf_exponent: float = 0.5
    p_max: float = 0.4
    """Firing probability of the most frequent feature."""
    p_min: float = 0.0005
    """Firing probability of the least frequent feature."""
    roots: int = 0
    """Trees of the hierarchy; its features are the most frequent ones, level by level."""
    branching: int = 0
    """Children of a feature that has any."""
    depth: int = 0
    """Levels below a root."""
    exclusive_share: float = 1.0
    """Share of the parents of which at most one child fires on a token."""
    compensate: bool = True
    """Whether a child's own rate is raised, so that for all that its parent may be silent it fires as often as its
    rank says, or as often as its parent and siblings leave room for."""
    scale_by_parent: bool = True
    """Whether a child's magnitude is multiplied by its parent's over the parent's mean."""
    correlation_rank: int = 0
    correlation_scale: float = 0.0
    """Standard deviation of a loading in the Gaussian copula of firings."""
    magnitude_first: float = 5.0
    """Mean magnitude of the first feature; linear to `magnitude_last`."""
    magnitude_last: float = 4.0
    magnitude_std_mean: float = 0.5
    """Each feature's standard deviation is |normal(mean, std)| of these two."""
    magnitude_std_std: float = 0.5
    bias_norm: float = 0.5
    orthogonal_steps: int = 100
    orthogonal_lr: float = 0.0003
    sticky_share: float = 0.0
    """Share of the trees, and of the features outside them, whose hidden state lasts."""
    dwell_min: float = 1.0
    """Mean tokens between two draws of a hidden state that lasts; log-uniform from here to `dwell_max`."""
    dwell_max: float = 1.0
    emission: float = 1.0
    """Probability that a hidden state that lasts and is on shows on a token."""
    forget_subtrees: int = 0
    """Trees that are to be forgotten; they fire in documents of the forget kind alone."""
    forget_share: float = 0.5
    """Share of the documents that are of the forget kind."""

    def __post_init__(self) -> None:
        for name in ("n_features", "d_in", "seq_len", "n_train_tokens", "n_eval_sequences"):
            _require_world(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("roots", "branching", "depth", "correlation_rank", "forget_subtrees", "orthogonal_steps"):
            _require_world(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("exclusive_share", "sticky_share"):
            _require_world(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        _require_world(
            0 < self.p_min <= self.p_max < 1, "p_max", self.p_max, f"in [p_min = {self.p_min}, 1), p_min > 0"
        )
        _require_world(self.zipf_exponent > 0, "zipf_exponent", self.zipf_exponent, "positive")
        _require_world(0 < self.emission <= 1, "emission", self.emission, "in (0, 1]")
        _require_world(1 <= self.dwell_min <= self.dwell_max, "dwell_min", self.dwell_min, "in [1, dwell_max]")
        _require_world(
            self.magnitude_first > 0 < self.magnitude_last, "magnitude_first", self.magnitude_first, "positive"
        )
        _require_world(0 <= self.correlation_scale <= 1, "correlation_scale", self.correlation_scale, "in [0, 1]")
        _require_world(0 < self.forget_share < 1, "forget_share", self.forget_share, "in (0, 1)")
        _require_world(self.roots <= self.n_features, "roots", self.roots, f"at most n_features = {self.n_features}")
        _require_world(
            self.forget_subtrees <= self.roots, "forget_subtrees", self.forget_subtrees, f"at most roots = {self.roots}"
        )

    def generator_inputs(self) -> dict[str, Any]:
        """All that a document depends on but split and index: how many are taken is not among it."""
        sizes = ("n_train_tokens", "n_eval_sequences")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in sizes}

    @property
    def n_train_sequences(self) -> int:
        """Documents that hold `n_train_tokens` tokens."""
        return -(-self.n_train_tokens // self.seq_len)


def _require_world(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"World: {name} must be {allowed}, got {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig:
    """A fixed protocol: two records are comparable when they agree on it.

    Activations come from a language model on text, or from a synthetic world.
    """

    name: str
    summary: str
    claim: str
    """What a table of this suite may be used for; printed in its protocol line."""
    lm: LMConfig | None = None
    text: TextConfig | None = None
    hookpoint: str = ""
    """Where in the LM activations are taken; empty for a world."""
    world: WorldConfig | None = None
    """Where the activations come from instead of an LM."""
    d_sae: int
    l0_grid: tuple[int, ...]
    seeds: tuple[int, ...]
    n_tokens: int
    """Training budget of each SAE, in tokens."""
    batch_size: int
    """Tokens a step."""
    store_dtype: Dtype = "float32"
    dead_after_fraction: float = 0.1
    """A latent is dead when it has not fired for this share of the budget."""
    evaluation_seed: int = 0
    stream_seed: int = 0
    """Order of the training stream, which all SAEs of the suite share."""
    evaluators: tuple[str, ...] = ("core",)
    primary: tuple[str, ...] = ()
    """Metrics that a comparison in this suite is about, whatever the method; each method adds its own aims. They are
    corrected for chance among themselves, all others among the others."""
    controls: tuple[str, ...] = ("identity", "random", "pca")
    baselines: tuple[str, ...] = ()
    """Methods whose records are stored."""
    options: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    """Options of single methods in this suite: method -> option -> value."""
    evaluator_options: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    """Options of single evaluators in this suite: evaluator -> option -> value. Results under other options are never
    compared."""

    def __post_init__(self) -> None:
        for name in ("options", "evaluator_options"):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(own, Mapping) for own in given.values()):
                raise ConfigError(f"Suite {self.name!r}: {name} must map names to options, got {given!r}.")
            object.__setattr__(self, name, MappingProxyType({k: MappingProxyType(dict(v)) for k, v in given.items()}))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"Suite {self.name!r}: seeds must be distinct and at least one, got {list(self.seeds)}.")
        if not self.l0_grid or any(l0 < 1 for l0 in self.l0_grid):
            raise ConfigError(f"Suite {self.name!r}: l0_grid must hold positive numbers, got {list(self.l0_grid)}.")
        if self.n_tokens < self.batch_size or self.batch_size < 1:
            raise ConfigError(
                f"Suite {self.name!r}: n_tokens {self.n_tokens} must be at least batch_size {self.batch_size} >= 1."
            )
        self._check_dtype("store_dtype", self.store_dtype)
        self._check_source()

    def _check_source(self) -> None:
        """Either lm, text and hookpoint, or a world."""
        given = {"lm": self.lm is not None, "text": self.text is not None, "hookpoint": bool(self.hookpoint)}
        if self.world is not None:
            extra = [name for name, there in given.items() if there]
            if extra:
                raise ConfigError(
                    f"Suite {self.name!r}: a world takes the place of {', '.join(extra)}: leave them out."
                )
            return
        missing = [name for name, there in given.items() if not there]
        if self.lm is None or self.text is None or missing:
            raise ConfigError(
                f"Suite {self.name!r}: missing keys {', '.join(missing)}: give lm, text and hookpoint, or a world."
            )
        text = self.text
        if not 0 <= text.mask_first < text.seq_len:
            raise ConfigError(
                f"Suite {self.name!r}: mask_first must lie in [0, seq_len = {text.seq_len}), got {text.mask_first}."
            )
        if not 0 < text.eval_fraction < 1:
            raise ConfigError(f"Suite {self.name!r}: eval_fraction must lie in (0, 1), got {text.eval_fraction}.")
        self._check_own_files(text)
        self._check_dtype("lm.dtype", self.lm.dtype)

    def _check_own_files(self, text: TextConfig) -> None:
        """An evaluator's own files must not be trained on: nothing holds them apart, as the words of tables are."""
        for evaluator, options in self.evaluator_options.items():
            files = Path(str(options.get("files", ""))).expanduser().resolve()
            for entry in text.mix if options.get("files") else ():
                path = Path(entry.source.removeprefix("hub:")).expanduser().resolve()
                if path == files or files in path.parents or path in files.parents:
                    raise ConfigError(
                        f"Suite {self.name!r}: the mix trains on {entry.source}, where evaluator {evaluator!r} takes "
                        f"what it measures (files: {options['files']}). Train on other texts, which lie elsewhere."
                    )

    def _check_dtype(self, where: str, dtype: str) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(f"Suite {self.name!r}: {where} is {dtype!r}; allowed are {', '.join(_DTYPES)}.")

    @property
    def seq_len(self) -> int:
        """Tokens in a sequence, special ones included."""
        if self.world is not None:
            return self.world.seq_len
        assert self.text is not None, "checked when it was made"
        return self.text.seq_len

    @property
    def n_steps(self) -> int:
        """Optimiser steps of each SAE."""
        return self.n_tokens // self.batch_size

    @classmethod
    def from_mapping(cls, name: str, data: Mapping[str, Any]) -> SuiteConfig:
        """A suite from a registry entry.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        where = f"Suite {name!r}"
        values: dict[str, Any] = {"name": name, **data}
        for key, kind in (("lm", LMConfig), ("text", TextConfig), ("world", WorldConfig)):
            if key in values or (key != "world" and "world" not in values):
                values[key] = _build(kind, values.get(key), f"{where}: {key}")
        for key in ("l0_grid", "seeds", "evaluators", "primary", "controls", "baselines"):
            if key in values:
                if not isinstance(values[key], (list, tuple)):
                    raise ConfigError(f"{where}: {key} must be a list, got {values[key]!r}.")
                values[key] = tuple(values[key])
        return _build(cls, values, where)

    def replace(self, **changes: Any) -> SuiteConfig:
        """This suite with some fields changed."""
        return dataclasses.replace(self, **changes)


def _build(cls: type, data: Any, where: str) -> Any:
    """`cls(**data)` with unknown, missing and mistyped keys told."""
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {data!r}.")
    if cls is TextConfig and "mix" in data:
        return _mixed_text(data, where)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        allowed = [*fields, "mix"] if cls is TextConfig else fields
        raise ConfigError(f"{where}: unknown keys {', '.join(unknown)}; allowed are {', '.join(allowed)}.")
    required = [
        f.name for f in fields.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{where}: missing keys {', '.join(missing)}.")
    for key, value in data.items():
        _check_type(f"{where}: {key}", fields[key].type, value)
    return cls(**data)


def _mixed_text(data: Mapping[str, Any], where: str) -> MixedTextConfig:
    entries = data["mix"]
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(f"{where}: mix must be a list of sources with shares, got {entries!r}.")
    built = [_build(MixConfig, entry, f"{where}: mix[{place}]") for place, entry in enumerate(entries)]
    try:
        return _build(MixedTextConfig, {**data, "mix": tuple(built)}, where)
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(where) else f"{where}: {told}") from None


_SIMPLE = {"str": str, "int": int, "bool": bool}


def _check_type(where: str, annotation: Any, value: Any) -> None:
    expected = _SIMPLE.get(str(annotation))
    if expected is None:
        if str(annotation) == "float" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ConfigError(f"{where} must be a number, got {value!r}.")
        return
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {expected.__name__}, got {value!r}.")
