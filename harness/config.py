"""Frozen configuration of suites: what is fixed, so that methods can be compared. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from .errors import ConfigError
from .interfaces.specs import Option

Dtype = Literal["float32", "float16", "bfloat16"]
_DTYPES = ("float32", "float16", "bfloat16")


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
class TextConfig:
    """Which text, and how it becomes token sequences."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig:
    """A fixed protocol: two records are comparable when they agree on it."""

    name: str
    summary: str
    claim: str
    """What a table of this suite may be used for; printed in its protocol line."""
    lm: LMConfig
    text: TextConfig
    hookpoint: str
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
    controls: tuple[str, ...] = ("identity", "random", "pca")
    baselines: tuple[str, ...] = ()
    """Methods whose records are stored."""
    options: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)
    """Options of single methods in this suite: method -> option -> value."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "options", MappingProxyType({k: MappingProxyType(dict(v)) for k, v in self.options.items()})
        )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"Suite {self.name!r}: seeds must be distinct and at least one, got {list(self.seeds)}.")
        if not self.l0_grid or any(l0 < 1 for l0 in self.l0_grid):
            raise ConfigError(f"Suite {self.name!r}: l0_grid must hold positive numbers, got {list(self.l0_grid)}.")
        if self.n_tokens < self.batch_size or self.batch_size < 1:
            raise ConfigError(
                f"Suite {self.name!r}: n_tokens {self.n_tokens} must be at least batch_size {self.batch_size} >= 1."
            )
        if not 0 <= self.text.mask_first < self.text.seq_len:
            raise ConfigError(
                f"Suite {self.name!r}: mask_first must lie in [0, seq_len = {self.text.seq_len}), "
                f"got {self.text.mask_first}."
            )
        if not 0 < self.text.eval_fraction < 1:
            raise ConfigError(f"Suite {self.name!r}: eval_fraction must lie in (0, 1), got {self.text.eval_fraction}.")
        for where, dtype in (("lm.dtype", self.lm.dtype), ("store_dtype", self.store_dtype)):
            if dtype not in _DTYPES:
                raise ConfigError(f"Suite {self.name!r}: {where} is {dtype!r}; allowed are {', '.join(_DTYPES)}.")

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
        values["lm"] = _build(LMConfig, values.get("lm"), f"{where}: lm")
        values["text"] = _build(TextConfig, values.get("text"), f"{where}: text")
        for key in ("l0_grid", "seeds", "evaluators", "controls", "baselines"):
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
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown keys {', '.join(unknown)}; allowed are {', '.join(fields)}.")
    required = [
        f.name for f in fields.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{where}: missing keys {', '.join(missing)}.")
    for key, value in data.items():
        _check_type(f"{where}: {key}", fields[key].type, value)
    return cls(**data)


_SIMPLE = {"str": str, "int": int, "bool": bool}


def _check_type(where: str, annotation: Any, value: Any) -> None:
    expected = _SIMPLE.get(str(annotation))
    if expected is None:
        if str(annotation) == "float" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ConfigError(f"{where} must be a number, got {value!r}.")
        return
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be of type {expected.__name__}, got {value!r}.")
