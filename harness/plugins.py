"""Entry points to Catalogue: who provides what, what failed to load, which names clash.

A stock pluggy load stops at the first plugin that fails and skips a name that is taken, so the loop is our own. Each
plugin gets a manager of its own and is called `distribution:entry_point`: what it does wrong concerns it alone.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from . import hookspecs
from .errors import ConfigError, HarnessError, NameClashError, PluginError, UnknownNameError
from .hookspecs import PROJECT
from .interfaces.audit import AuditRuleSpec
from .interfaces.specs import API_VERSION, AnalysisSpec, EvaluatorSpec, SAESpec, TrainerSpec

if TYPE_CHECKING:
    import click

S = TypeVar("S", SAESpec, TrainerSpec, EvaluatorSpec, AnalysisSpec, AuditRuleSpec)

_HOOKS: Mapping[str, type] = {
    "register_saes": SAESpec,
    "register_trainers": TrainerSpec,
    "register_evaluators": EvaluatorSpec,
    "register_analyses": AnalysisSpec,
    "register_audit_rules": AuditRuleSpec,
}
_FUNCTIONS = (AnalysisSpec, AuditRuleSpec)
"""Specs whose target may be a function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin that loaded."""

    distribution: str
    version: str
    entry_point: str
    provides: tuple[str, ...]
    """Names of all it offers, SAEs first, then trainers, then evaluators, analyses and audit rules."""
    manager: pluggy.PluginManager = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """`distribution:entry_point`."""
        return f"{self.distribution}:{self.entry_point}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provided(Generic[S]):
    """A spec and who provides it."""

    spec: S
    plugin: str
    """`distribution:entry_point`."""
    distribution: str
    version: str

    @property
    def qualified(self) -> str:
        """`distribution:name`, which stays usable when the bare name clashes."""
        return f"{self.distribution}:{self.spec.name}"

    def load(self) -> Any:
        """The class the spec names (of an analysis: or function; of an audit rule: a function), imported now."""
        return load_target(self.spec.target, distribution=self.distribution, function=type(self.spec) in _FUNCTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailure:
    """A plugin, or one spec or command of it, that was left out."""

    distribution: str
    version: str
    entry_point: str
    cause: str

    def __str__(self) -> str:
        name = f"{self.distribution}:{self.entry_point} {self.version}" if self.entry_point else self.distribution
        return f"Plugin {name} left out: {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameClash:
    """One name that several distributions provide."""

    what: str
    name: str
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that is installed. The mappings go by bare name, or by `distribution:name` where names clash."""

    plugins: tuple[Plugin, ...]
    saes: Mapping[str, Provided[SAESpec]]
    trainers: Mapping[str, Provided[TrainerSpec]]
    evaluators: Mapping[str, Provided[EvaluatorSpec]]
    analyses: Mapping[str, Provided[AnalysisSpec]] = field(default_factory=dict)
    audit_rules: Mapping[str, Provided[AuditRuleSpec]] = field(default_factory=dict)
    failures: tuple[LoadFailure, ...] = ()
    clashes: tuple[NameClash, ...] = ()
    known_methods: Mapping[str, str] = field(default_factory=dict)
    """Methods of the registry -> what to tell who asks for one that is not installed."""

    def sae(self, name: str) -> Provided[SAESpec]:
        """The SAE architecture of that name; raises as `trainer`."""
        return self._find("SAE architecture", self.saes, name)

    def trainer(self, name: str) -> Provided[TrainerSpec]:
        """The method of that name, or of `distribution:name`.

        Raises:
            UnknownNameError: it is not installed; tells how to install it where the registry knows it.
            NameClashError: several distributions provide it.
        """
        return self._find("method", self.trainers, name, self.known_methods)

    def evaluator(self, name: str) -> Provided[EvaluatorSpec]:
        """The evaluator of that name; raises as `trainer`."""
        return self._find("evaluator", self.evaluators, name)

    def analysis(self, name: str) -> Provided[AnalysisSpec]:
        """The analysis of that name; raises as `trainer`."""
        return self._find("analysis", self.analyses, name)

    def register_commands(
        self, cli: click.Group, *, taken: Iterable[str] = (), tell: Callable[[str], None] | None = None
    ) -> tuple[LoadFailure, ...]:
        """Add the plugins' commands to `cli`; one whose name is taken, and a hook that raises, is left out and told."""
        import click  # only the command line calls this

        tell = tell or partial(print, file=sys.stderr)
        failures: list[LoadFailure] = []
        owners = dict.fromkeys([*taken, *cli.commands], "sae-harness itself")
        for plugin in self.plugins:
            scratch = click.Group()
            try:
                plugin.manager.hook.register_commands(cli=scratch)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded and told; the other plugins go on
                failures.append(_failure(plugin, f"register_commands raised {_said(error)}"))
                continue
            for name, command in scratch.commands.items():
                if name in owners:
                    failures.append(_failure(plugin, f"command {name!r} is already that of {owners[name]}"))
                else:
                    cli.add_command(command, name)
                    owners[name] = plugin.distribution
        for failure in failures:
            tell(str(failure))
        return tuple(failures)

    def _find(
        self, what: str, where: Mapping[str, Provided[S]], name: str, mends: Mapping[str, str] | None = None
    ) -> Provided[S]:
        if name in where:
            return where[name]
        qualified = {provided.qualified: provided for provided in where.values()}
        if name in qualified:
            return qualified[name]
        for clash in self.clashes:
            if (clash.what, clash.name) == (what, name):
                ways = " or ".join(f"{owner}:{name}" for owner in clash.owners)
                raise NameClashError(
                    f"{what[0].upper()}{what[1:]} {name!r} is provided by {' and '.join(clash.owners)}: write {ways}."
                )
        mend = (mends or {}).get(name, "")
        if self.failures:
            left_out = ", ".join(dict.fromkeys(failure.distribution for failure in self.failures))
            mend = f"{mend} Left out while loading: {left_out}. See `sae-harness plugins`.".strip()
        raise UnknownNameError.of(what, name, where, mend)


def load_catalogue(
    environ: Mapping[str, str] | None = None,
    *,
    known_methods: Mapping[str, str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Catalogue:
    """Load all plugins of the entry-point group `sae_harness`; those that fail are left out, each told in one line.

    `SAE_HARNESS_PLUGINS=a,b` loads only those: distributions (`sae-harness-temporal`), entry points (`builtin`) or
    `distribution:entry_point`. Our own built-ins are one of them and can be left out. Unset or empty loads all.
    `SAE_HARNESS_STRICT=1` makes the first failure an error. `tell` receives the lines instead of stderr.

    Raises:
        PluginError: with `SAE_HARNESS_STRICT=1`, for the first failure.
        ConfigError: `SAE_HARNESS_STRICT` is no yes or no.
    """
    environ = os.environ if environ is None else environ
    tell = tell or partial(print, file=sys.stderr)
    strict = _is_set(environ, "SAE_HARNESS_STRICT")
    plugins: list[Plugin] = []
    provided: dict[str, list[Provided[Any]]] = {hook: [] for hook in _HOOKS}
    failures: list[LoadFailure] = []

    def fail(failure: LoadFailure) -> None:
        if strict:
            raise PluginError(f"{failure} (SAE_HARNESS_STRICT is set)")
        failures.append(failure)
        tell(str(failure))

    for source in _sources(environ, fail):
        try:
            manager = _register(source)
            specs = _collect(manager)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded and told; the other plugins go on
            fail(_failure(source, _said(error)))
            continue
        names = _accept(source, specs, provided, fail)
        plugins.append(source.plugin(names, manager))
    clashes: list[NameClash] = []
    return Catalogue(
        plugins=tuple(plugins),
        saes=_by_name("SAE architecture", provided["register_saes"], clashes),
        trainers=_by_name("method", provided["register_trainers"], clashes),
        evaluators=_by_name("evaluator", provided["register_evaluators"], clashes),
        analyses=_by_name("analysis", provided["register_analyses"], clashes),
        audit_rules=_by_name("audit rule", provided["register_audit_rules"], clashes),
        failures=tuple(failures),
        clashes=tuple(clashes),
        known_methods=MappingProxyType(dict(known_methods or {})),
    )


def load_target(target: str, *, distribution: str = "", function: bool = False) -> Any:
    """The class that `"package.module:Class"` names, imported now; with `function`, it may be a function too.

    Raises:
        PluginError: it cannot be imported, or is no class; names the distribution.
    """
    module_name, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:
        owner = distribution or _owner_of(module_name)
        raise PluginError(f"{owner} declares {target!r}, which cannot be imported: {_said(error)}") from error
    if not isinstance(found, type) and not (function and callable(found)):
        owner = distribution or _owner_of(module_name)
        raise PluginError(f"{owner} declares {target!r}, which is a {type(found).__name__}: it must be a class.")
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    """An entry point and where it is from."""

    distribution: str
    version: str
    entry_point: str
    point: metadata.EntryPoint

    @property
    def name(self) -> str:
        return f"{self.distribution}:{self.entry_point}"

    def plugin(self, provides: Iterable[str], manager: pluggy.PluginManager) -> Plugin:
        return Plugin(
            distribution=self.distribution,
            version=self.version,
            entry_point=self.entry_point,
            provides=tuple(dict.fromkeys(provides)),
            manager=manager,
        )


def _sources(environ: Mapping[str, str], fail: Callable[[LoadFailure], None]) -> Iterator[_Source]:
    """The wanted entry points, in an order that does not depend on the disk."""
    sources = []
    for point in metadata.entry_points(group=PROJECT):
        found = point.dist
        name = found.name if found is not None else "unknown distribution"
        version = found.version if found is not None else "?"
        sources.append(_Source(_normalised(name), version, point.name, point))
    sources.sort(key=lambda source: source.name)
    asked = [name.strip() for name in environ.get("SAE_HARNESS_PLUGINS", "").split(",") if name.strip()]
    if not asked:
        yield from sources
        return
    unmatched = dict.fromkeys(asked)
    for source in sources:
        matches = [name for name in asked if _matches(name, source.distribution, source.entry_point)]
        for name in matches:
            unmatched.pop(name, None)
        if matches:
            yield source
    for name in unmatched:
        installed = ", ".join(source.name for source in sources) or "none"
        cause = f"SAE_HARNESS_PLUGINS names it and it is not installed; installed are {installed}"
        fail(LoadFailure(distribution=name, version="", entry_point="", cause=cause))


def _matches(asked: str, distribution: str, entry_point: str) -> bool:
    if ":" in asked:
        owner, _, point = asked.partition(":")
        return (_normalised(owner), point) == (distribution, entry_point)
    return _normalised(asked) == distribution or asked == entry_point


def _register(source: _Source) -> pluggy.PluginManager:
    """Import a plugin into a manager of its own and check its hooks against the specs."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(source.point.load(), name=source.name)
    manager.check_pending()
    return manager


def _collect(manager: pluggy.PluginManager) -> dict[str, list[Any]]:
    """All specs of one plugin, by hook."""
    specs: dict[str, list[Any]] = {}
    for hook, kind in _HOOKS.items():
        try:
            yielded = [spec for result in getattr(manager.hook, hook)() for spec in result]
        except (Exception, SystemExit) as error:
            raise PluginError(f"{hook} raised {_said(error)}") from error
        for spec in yielded:
            if not isinstance(spec, kind):
                raise PluginError(f"{hook} yielded a {type(spec).__name__}: it must yield {kind.__name__} objects.")
        specs[hook] = yielded
    return specs


def _accept(
    source: _Source,
    specs: Mapping[str, Iterable[Any]],
    provided: Mapping[str, list[Provided[Any]]],
    fail: Callable[[LoadFailure], None],
) -> list[str]:
    """Enter a plugin's specs in `provided`; those that must be left out are told. Names of what was entered."""
    names: list[str] = []
    for hook, found in specs.items():
        for spec in found:
            item = Provided(spec=spec, plugin=source.name, distribution=source.distribution, version=source.version)
            cause = _refusal(spec, item, provided[hook])
            if cause:
                fail(_failure(source, cause))
            else:
                provided[hook].append(item)
                names.append(spec.name)
    return names


def _refusal(spec: Any, item: Provided[Any], earlier: Iterable[Provided[Any]]) -> str:
    """Why this one spec is left out; empty if it is not."""
    if spec.api_version != API_VERSION:
        upgrade = "sae-harness" if spec.api_version > API_VERSION else item.distribution
        return f"{spec.name!r} speaks API version {spec.api_version}, this is {API_VERSION}: upgrade {upgrade}"
    if any(other.qualified == item.qualified for other in earlier):
        return f"{item.distribution} provides {spec.name!r} twice; the first stays"
    return ""


def _by_name(what: str, items: Iterable[Provided[S]], clashes: list[NameClash]) -> Mapping[str, Provided[S]]:
    owners: dict[str, list[Provided[S]]] = defaultdict(list)
    for item in items:
        owners[item.spec.name].append(item)
    named: dict[str, Provided[S]] = {}
    for name, found in owners.items():
        if len(found) == 1:
            named[name] = found[0]
            continue
        clashes.append(NameClash(what=what, name=name, owners=tuple(item.distribution for item in found)))
        named.update((item.qualified, item) for item in found)
    return MappingProxyType(named)


def _failure(plugin: Plugin | _Source, cause: str) -> LoadFailure:
    return LoadFailure(
        distribution=plugin.distribution, version=plugin.version, entry_point=plugin.entry_point, cause=cause
    )


def _said(error: BaseException) -> str:
    """An error as one line; ours speak for themselves."""
    text = " ".join(str(error).split())
    if isinstance(error, HarnessError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _owner_of(module_name: str) -> str:
    package = module_name.partition(".")[0]
    owners = metadata.packages_distributions().get(package)
    return f"Distribution {owners[0]}" if owners else f"Package {package}"


def _normalised(distribution: str) -> str:
    """A distribution's name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").strip().lower()
    if value not in ("", "0", "no", "false", "1", "yes", "true"):
        raise ConfigError(f"{name} is {value!r}: write 1 or 0.")
    return value in ("1", "yes", "true")
