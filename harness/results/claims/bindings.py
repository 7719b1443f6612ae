"""A file of bindings: sentences of a text and the records they rest on, for who will not annotate the text itself.

claims:
  - id: ours
    sentence: "reaches an explained variance of 0.79"   # as the text has it; part of a sentence will do
    checks:
      - "0.79 = topk/l0=32/explained_variance"            # number, then what an annotation says
      - "topk > relu : explained_variance @ l0=32"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from .grammar import TAKES_NUMBER, Annotation, Fill, parse
from .numbers import Written
from .text import pair

_OPERATORS = ("<=", ">=", "=", "<", ">")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a claim."""

    source: str
    annotation: Annotation
    numbers: tuple[Written, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence and what it is bound to."""

    id: str
    sentence: str
    checks: tuple[Check, ...]


def load_bindings(path: Path) -> tuple[Claim, ...]:
    """The claims in a YAML file.

    Raises:
        ConfigError: the file cannot be read or is not of the form above.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"Bindings {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"Bindings {path} are no YAML: {' '.join(str(error).split())}.") from error
    entries = data.get("claims") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ConfigError(f"Bindings {path} must hold a list under `claims:`.")
    found = tuple(_claim(entry, f"{path}: claim {i + 1}") for i, entry in enumerate(entries))
    ids = [claim.id for claim in found]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise ConfigError(f"Bindings {path}: two claims have the id {twice!r}.")
    return found


def _claim(entry: Any, where: str) -> Claim:
    if not isinstance(entry, dict) or set(entry) != {"id", "sentence", "checks"}:
        raise ConfigError(f"{where} must have id, sentence and checks, got {entry!r:.80}.")
    checks, sentence = entry["checks"], entry["sentence"]
    if not isinstance(sentence, str) or not sentence.strip():
        raise ConfigError(f"{where}: sentence must be text.")
    if not isinstance(checks, list) or not checks or not all(isinstance(c, str) for c in checks):
        raise ConfigError(f"{where}: checks must be a list of texts.")
    return Claim(
        id=str(entry["id"]),
        sentence=" ".join(sentence.split()),
        checks=tuple(_check(c, f"{where} ({entry['id']})") for c in checks),
    )


def _check(source: str, where: str) -> Check:
    text = " ".join(source.split())
    places = [(text.find(f" {o} "), o) for o in _OPERATORS if f" {o} " in text and " : " not in text]
    numbers: tuple[Written, ...] = ()
    body = text
    if places:
        at, _ = min(places, key=lambda p: (p[0], -len(p[1])))
        numbers = pair(text[:at])
        body = text[at + 1 :] if numbers else text
    annotation = parse(body, where)
    if isinstance(annotation, Fill):
        raise ConfigError(f"{where}: {source!r} checks nothing: write a number and `=` before it.")
    if isinstance(annotation, TAKES_NUMBER) and not numbers:
        raise ConfigError(f"{where}: {source!r} needs the number of the sentence before it.")
    if getattr(annotation, "aggregate", "") == "range" and len(numbers) != 2:
        raise ConfigError(f"{where}: {source!r} needs two numbers such as 0.08–0.24.")
    return Check(source=source, annotation=annotation, numbers=numbers)
