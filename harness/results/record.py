"""The record: the immutable JSON of one evaluated SAE, with everything needed to judge and repeat it."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import RecordError
from ..interfaces.specs import Option
from .migrate import migrate

SCHEMA_VERSION = 3

Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What two records must share to be compared."""

    suite: str
    lm: str
    """Name of the LM as a reader knows it."""
    lm_sha256: str
    tokenizer_sha256: str
    hookpoint: str
    d_in: int
    d_sae: int
    n_tokens: int
    """Training budget, tokens."""
    batch_size: int
    train_data: str
    """Fingerprint of the training sequences."""
    eval_data: str
    """Fingerprint of the held-out sequences."""
    seq_len: int
    store_dtype: str
    stream_seed: int
    evaluation_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodEntry:
    """Which method, with every effective hyperparameter as read off the trainer and SAE objects."""

    name: str
    preset: str
    """Empty where no preset was chosen."""
    distribution: str
    version: str
    architecture: str
    options: Mapping[str, Option]
    code_sha256: str
    """Hash of the method's source files."""
    faulty: bool = False
    control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEntry:
    """What training did."""

    seed: int
    target_l0: int | None
    """None where the method's L0 cannot be set."""
    steps: int
    tokens: int
    final_loss: float | None
    """Mean over the last 5 % of steps; None where nothing is trained."""
    final_terms: Mapping[str, float]
    """The same of each weighted term."""
    l0_reached: bool | None
    """Whether the sparsity controller ended within 5 % of the target; None where there is none."""
    dead_latents: int | None
    """This and the three below are None in imported records that do not say."""
    input_scale: float | None
    wall_seconds: float | None
    peak_memory_mib: float | None
    precision: str = "float32"
    """Of the matrix products; weights and sums are float32 always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """One measured metric with the version of its definition."""

    value: float
    n: int
    version: int
    evaluator: str
    stderr: float | None = None
    detail: Mapping[str, tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationEntry:
    """How one evaluator ended."""

    status: Status
    reason: str = ""
    """Why it failed or was skipped."""
    wall_seconds: float = 0.0
    options: Mapping[str, Option] = field(default_factory=dict)
    """What the suite set; the others were the evaluator's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """Why this record, or one evaluation in it, may not be used."""

    rule: str
    reason: str
    evaluator: str = ""
    """The evaluation concerned; empty for the whole record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where and with what the record was made."""

    harness_version: str
    distributions: Mapping[str, str]
    """Distribution -> version of all that took part (torch, transformers, the plugin's own)."""
    python: str
    platform: str
    device: str
    threads: int
    commit: str
    """Commit of the harness's own checkout; empty where it is not one."""
    created: str
    """UTC, ISO 8601."""
    suite_sha256: str
    command: str = ""
    source: str = ""
    """What an imported record was read from, with its sha256; empty for our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One SAE, trained and evaluated under one protocol."""

    key: str
    """The cache key: hash of all inputs that made this record."""
    sae_id: str
    """sha256 of weights and config."""
    protocol: Protocol
    method: MethodEntry
    training: TrainingEntry
    metrics: Mapping[str, MetricEntry]
    evaluations: Mapping[str, EvaluationEntry]
    provenance: Provenance
    taints: tuple[Taint, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def metric(self, name: str) -> float | None:
        """The metric's value, or None where this record has none."""
        entry = self.metrics.get(name)
        return None if entry is None else entry.value

    @property
    def complete(self) -> bool:
        """Whether every evaluation is done."""
        return all(e.status == "done" for e in self.evaluations.values())

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, one trailing newline; equal records give equal bytes.

        Raises:
            RecordError: a number is NaN or infinite, or an option is not plain data.
        """
        try:
            text = json.dumps(_plain(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"The record of {self.method.name!r} (key {self.key[:12]}) cannot be written as JSON: {error}. "
                "Records hold finite numbers, text and truth values: report a failed metric as a failure."
            ) from error
        return text + "\n"

    def sha256(self) -> str:
        """Hash of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, where: str = "") -> Record:
        """The record that `to_json` wrote, older schemas brought up to date; `where` names it in errors.

        Raises:
            RecordError: the text is no JSON object, a field is unknown, missing or of the wrong type, or the
                schema is newer than this version reads.
        """
        where = where or "record"
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise RecordError(f"{where} is not valid JSON ({error}): restore the file or make it anew.") from error
        if not isinstance(data, dict):
            raise RecordError(f"{where} must hold a JSON object, got {_kind(data)}.")
        return _decode(cls, migrate(data, current=SCHEMA_VERSION, where=where), where)

    def save(self, path: Path) -> None:
        """Write `to_json` to `path`, whole or not at all; the folder must exist.

        Raises:
            RecordError: the file cannot be written.
        """
        write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path) -> Record:
        """The record in a file.

        Raises:
            RecordError: the file cannot be read or is no record.
        """
        try:
            text = Path(path).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"Record {path} cannot be read: {error}.") from error
        return cls.from_json(text, where=str(path))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file by way of a temporary one beside it, flushed to disk and renamed.

    Raises:
        RecordError: the file cannot be written.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RecordError(
            f"{path} cannot be written: {error.strerror or error}. Free space there, or choose another folder."
        ) from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
_SCALARS = {str: "text", bool: "a truth value", int: "a whole number", float: "a number", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"the number {value!r}")


@functools.lru_cache(maxsize=32)
def _field_types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _decode(expected: Any, value: Any, where: str) -> Any:
    """`value` from JSON as the annotated type `expected`; numbers are kept as they are, so that hashes hold."""
    if dataclasses.is_dataclass(expected):
        return _decode_dataclass(typing.cast(type, expected), value, where)
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, value, where)
    if origin is Literal:
        if value not in args:
            raise RecordError(f"{where} is {value!r}; allowed are {', '.join(map(str, args))}.")
        return value
    if origin is collections.abc.Mapping:
        if not isinstance(value, dict):
            raise RecordError(f"{where} must be an object, got {_kind(value)}.")
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(f"{where} must be a list, got {_kind(value)}.")
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if not _is_scalar(expected, value):
        raise RecordError(f"{where} must be {_SCALARS[expected]}, got {_kind(value)}.")
    return value


def _is_scalar(expected: type, value: Any) -> bool:
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def _decode_union(members: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    others = [m for m in members if m is not type(None)]
    if len(others) == 1:
        return _decode(others[0], value, where)
    if not any(_is_scalar(m, value) for m in others):
        raise RecordError(f"{where} must be {' or '.join(_SCALARS[m] for m in members)}, got {_kind(value)}.")
    return value


def _decode_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where} must be an object, got {_kind(value)}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise RecordError(f"{where}: unknown field {', '.join(unknown)}; allowed are {', '.join(fields)}.")
    missing = [
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecordError(f"{where}: missing field {', '.join(missing)}: the record is incomplete, make it anew.")
    hints = _field_types(cls)
    return cls(**{name: _decode(hints[name], item, f"{where}: {name}") for name, item in value.items()})
