"""registry.yaml and the user's own to typed entries; the difference with what is installed."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import yaml

from .config import SuiteConfig
from .errors import ConfigError, UnknownNameError
from .paths import Paths
from .plugins import Catalogue

Status = Literal["available", "planned"]
_SECTIONS = ("methods", "suites", "baselines")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMethod:
    """A method the registry knows, installed or not."""

    distribution: str
    summary: str
    paper: str = ""
    status: Status = "available"
    install: str = ""
    """The command that installs it; empty for what comes with sae-harness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What is known: methods, suites, and the stored baselines with the sha256 of their manifests."""

    methods: Mapping[str, KnownMethod] = field(default_factory=dict)
    suites: Mapping[str, SuiteConfig] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Suite -> method -> sha256 of the baseline's manifest."""

    def suite(self, name: str) -> SuiteConfig:
        """The suite of that name.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self.suites:
            raise UnknownNameError.of("suite", name, self.suites, "See `sae-harness suites`.")
        return self.suites[name]

    @property
    def known_methods(self) -> Mapping[str, str]:
        """Method -> what to tell who asks for it while it is not installed."""
        return MappingProxyType({name: _mend(name, method) for name, method in self.methods.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the registry and the installed plugins differ: names of methods, sorted."""

    not_installed: tuple[str, ...]
    """Known and available, not installed."""
    unregistered: tuple[str, ...]
    """Installed, not in the registry."""
    other_distribution: tuple[str, ...]
    """Installed from another distribution than the registry says."""
    planned_but_installed: tuple[str, ...]
    """The registry says planned, and it is there."""


def load_registry(paths: Paths | Sequence[Path]) -> Registry:
    """All registry files merged; a later file's entry replaces an earlier one's of the same name.

    Raises:
        ConfigError: a file is not readable YAML, or has duplicate, unknown, missing or mistyped keys; names the file.
    """
    files = paths.registry_files if isinstance(paths, Paths) else tuple(paths)
    methods: dict[str, KnownMethod] = {}
    suites: dict[str, SuiteConfig] = {}
    baselines: dict[str, dict[str, str]] = {}
    for file in files:
        found = _read(file)
        methods.update(found.methods)
        suites.update(found.suites)
        for suite, manifests in found.baselines.items():
            baselines.setdefault(suite, {}).update(manifests)
    return _frozen(methods, suites, baselines)


def difference(registry: Registry, catalogue: Catalogue) -> Difference:
    """Known but not installed, installed but unknown, and entries that are out of date."""
    installed: dict[str, set[str]] = {}
    for provided in catalogue.trainers.values():
        installed.setdefault(provided.spec.name, set()).add(provided.distribution)
    known = registry.methods
    return Difference(
        not_installed=tuple(sorted(n for n, m in known.items() if m.status == "available" and n not in installed)),
        unregistered=tuple(sorted(installed.keys() - known.keys())),
        other_distribution=tuple(
            sorted(n for n, m in known.items() if n in installed and m.distribution not in installed[n])
        ),
        planned_but_installed=tuple(sorted(n for n, m in known.items() if m.status == "planned" and n in installed)),
    )


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that is there twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"the key {key!r} is there twice, the second time in line {line}.")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> Registry:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"The registry {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The registry {path} is not YAML: {' '.join(str(error).split())}") from error
    except ConfigError as error:
        raise ConfigError(f"The registry {path}: {error}") from error
    try:
        return _parse({} if data is None else data)
    except ConfigError as error:
        raise ConfigError(f"The registry {path}: {error}") from error


def _parse(data: Any) -> Registry:
    sections = _mapping(data, "the file")
    unknown = [key for key in sections if key not in _SECTIONS]
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}; allowed are {', '.join(_SECTIONS)}.")
    methods = {name: _method(name, entry) for name, entry in _mapping(sections.get("methods"), "methods").items()}
    suites = {
        name: SuiteConfig.from_mapping(name, _mapping(entry, f"suite {name!r}"))
        for name, entry in _mapping(sections.get("suites"), "suites").items()
    }
    baselines = {
        suite: {
            method: _sha256(suite, method, value)
            for method, value in _mapping(entry, f"baselines of {suite!r}").items()
        }
        for suite, entry in _mapping(sections.get("baselines"), "baselines").items()
    }
    return _frozen(methods, suites, baselines)


def _method(name: str, entry: Any) -> KnownMethod:
    where = f"method {name!r}"
    data = _mapping(entry, where)
    allowed = [f.name for f in fields(KnownMethod)]
    unknown = [key for key in data if key not in allowed]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; allowed are {', '.join(allowed)}.")
    for key in ("distribution", "summary"):
        if key not in data:
            raise ConfigError(f"{where}: the key {key!r} is missing.")
    for key, value in data.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {key} must be text, got {value!r}.")
    method = KnownMethod(**data)
    if method.status not in get_args(Status):
        raise ConfigError(f"{where}: status is {method.status!r}; allowed are {', '.join(get_args(Status))}.")
    return method


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} must be a mapping with text keys, got {value!r}.")
    return value


def _sha256(suite: str, method: str, value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.match(value):
        raise ConfigError(f"baseline {suite}/{method} must be a sha256 of 64 hex digits in quotes, got {value!r}.")
    return value


def _frozen(
    methods: Mapping[str, KnownMethod], suites: Mapping[str, SuiteConfig], baselines: Mapping[str, Mapping[str, str]]
) -> Registry:
    return Registry(
        methods=MappingProxyType(dict(methods)),
        suites=MappingProxyType(dict(suites)),
        baselines=MappingProxyType({suite: MappingProxyType(dict(found)) for suite, found in baselines.items()}),
    )


def _mend(name: str, method: KnownMethod) -> str:
    if method.status == "planned":
        return f"{name} is planned and not available yet."
    if method.install:
        return f"{name} is not installed: {method.install}"
    return f"{name} comes with {method.distribution}, which is not loaded: see SAE_HARNESS_PLUGINS."


def enter_baselines(path: Path, baselines: Mapping[str, Mapping[str, str]]) -> None:
    """Rewrite the `baselines` section of the registry at `path`; it must be the last one. The rest stays as it is.

    Raises:
        ConfigError: the file has no such section, or another follows it.
    """
    text = path.read_text(encoding="utf-8")
    head, separator, tail = text.partition("\nbaselines:")
    if not separator or any(line and not line[0].isspace() and line[0] not in "#{" for line in tail.splitlines()[1:]):
        raise ConfigError(f"{path}: expected `baselines:` as its last section, to enter stored baselines there.")
    lines = [
        f"  {suite}:\n" + "".join(f"    {method}: {sha}\n" for method, sha in sorted(methods.items()))
        for suite, methods in sorted(baselines.items())
        if methods
    ]
    section = "\nbaselines:\n" + "".join(lines) if lines else "\nbaselines: {}\n"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(head + section, encoding="utf-8")
    temporary.replace(path)
