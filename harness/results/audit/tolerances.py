"""Tolerances of the rules, their defaults with reasons, and facts that the records themselves do not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import ConfigError, UnknownNameError

FACTS = ("train_dataset", "batch_tokens")
"""What a fact may say of a record: the corpus it was trained on, and tokens a training step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something known of records that is not in them."""

    records: str
    """Pattern of record names, such as `temporal/run_*`."""
    says: Mapping[str, str | int]
    source: str
    """Where it is known from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """What the rules let pass. A file overrides any of them."""

    max_file_mib: float = 64.0
    """Larger files are not read: a SAEBench file of 65 k latents has 20 MiB."""
    max_depth: int = 64
    """Levels of nesting; records have 8."""
    loss_ratio_low: float = 0.7
    """Training loss over the loss rebuilt from evaluation metrics: the sound records lie in 0.86-1.28."""
    loss_ratio_high: float = 1.4
    score_slack: float = 0.02
    """How far a score may lie from its own parts; bfloat16 rounds by 0.008."""
    same_digits: int = 9
    """Significant digits in which the losses of two runs do not agree by chance; of our own records all are held."""
    min_letters: int = 20
    """Letters an absorption score must rest on; SAEBench 0.6 asks the same."""
    fast_share: float = 0.1
    """An evaluation that takes less than this share of what it must was read from a cache."""
    saebench_minutes: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(
            {"absorption": 26.0, "scr": 6.0, "tpp": 2.0, "sparse_probing": 3.0, "unlearning": 10.0}
        )
    )
    """Minutes an SAE takes, from SAEBench's README (one RTX 3090, Gemma-2-2B)."""
    min_expansion: float = 2.0
    """d_sae / d_in below which a dictionary is hardly overcomplete."""
    dead_threshold_share: float = 0.25
    """Largest share of the training tokens a latent may have to be silent for before it counts as dead."""
    dead_threshold_tokens: int = 10_000_000
    """The default of TrainerTopK, which its records do not repeat."""
    l0_off_target: float = 0.1
    """Relative distance of the measured L0 from the declared target."""
    l0_match: float = 0.1
    """Relative distance within which two L0s count as matched."""
    llm_relative: float = 1e-6
    """Relative difference of what depends on the language model and corpus alone; equal runs agree to the bit."""
    min_seeds: int = 3
    """Seeds a claim must rest on."""
    aux_dead_share: float = 0.01
    """Share of dead latents from which an auxiliary loss must have acted."""
    facts: tuple[Fact, ...] = ()

    def fact(self, record: str, name: str) -> str | int | None:
        """What the last matching fact says of a record, or None."""
        found = None
        for fact in self.facts:
            if name in fact.says and (fnmatchcase(record, fact.records) or fnmatchcase(record, f"*/{fact.records}")):
                found = fact.says[name]
        return found


DEFAULT = Tolerances()


def load_tolerances(path: Path) -> Tolerances:
    """Tolerances from a YAML file: any of the fields, and `facts`, a list of `records`, `source` and what they say.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or a value is of the wrong type or out of range.
        UnknownNameError: a field does not exist.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"Tolerances {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"Tolerances {path} are no YAML: {' '.join(str(error).split())}.") from error
    if data is None:
        return DEFAULT
    if not isinstance(data, dict):
        raise ConfigError(f"Tolerances {path} must be a mapping such as `l0_match: 0.05`, got {data!r:.80}.")
    known = {f.name: getattr(DEFAULT, f.name) for f in dataclasses.fields(Tolerances)}
    values = {}
    for name, value in data.items():
        if name not in known:
            raise UnknownNameError.of("tolerance", str(name), known, f"In {path}.")
        values[name] = _facts(value) if name == "facts" else _value(name, value, known[name])
    return dataclasses.replace(DEFAULT, **values)


def _value(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, Mapping):
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise ConfigError(f"Tolerance {name} must map evaluations to numbers, got {value!r:.80}.")
        return MappingProxyType({**default, **{k: _number(f"{name}.{k}", v, float) for k, v in value.items()}})
    return _number(name, value, type(default))


def _number(name: str, value: Any, kind: type) -> Any:
    fits = isinstance(value, int) or (kind is float and isinstance(value, float))
    if isinstance(value, bool) or not fits or not 0 <= value < float("inf"):
        whole = "a whole number" if kind is int else "a number"
        raise ConfigError(f"Tolerance {name} must be {whole} of at least 0, got {value!r:.80}.")
    return kind(value)


def _facts(items: Any) -> tuple[Fact, ...]:
    if not isinstance(items, list):
        raise ConfigError(f"facts must be a list, got {items!r:.80}.")
    facts = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("records"), str) or not item.get("source"):
            raise ConfigError(f"A fact must say `records` (a pattern of names) and `source`, got {item!r:.120}.")
        says = {name: value for name, value in item.items() if name not in ("records", "source")}
        for name, value in says.items():
            if name not in FACTS:
                raise UnknownNameError.of("fact", str(name), FACTS)
            if not isinstance(value, int if name == "batch_tokens" else str) or isinstance(value, bool):
                raise ConfigError(f"Fact {name} cannot be {value!r:.80}.")
        facts.append(Fact(records=item["records"], says=says, source=str(item["source"])))
    return tuple(facts)
