"""What every command starts from: paths, registry, catalogue and cache, each made on first use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..paths import Paths, resolve_paths

if TYPE_CHECKING:
    from ..artefacts.cache import Cache
    from ..plugins import Catalogue
    from ..registry import Registry


class AppContext:
    """The global options and what follows from them. Raises ConfigError where an option or file is wrong."""

    def __init__(
        self, *, cache: Path | None = None, registry: Path | None = None, baselines: Path | None = None
    ) -> None:
        self._options = (cache, registry, baselines)

    @cached_property
    def paths(self) -> Paths:
        """Where everything lies."""
        cache, registry, baselines = self._options
        return resolve_paths(cache, registry, baselines)

    @cached_property
    def registry(self) -> Registry:
        """Known methods, suites and stored baselines."""
        from ..registry import load_registry

        return load_registry(self.paths)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What is installed; load failures are told on stderr, once."""
        from ..plugins import load_catalogue

        return load_catalogue(known_methods=self.registry.known_methods)

    @cached_property
    def cache(self) -> Cache:
        """The artefact cache."""
        from ..artefacts.cache import Cache

        return Cache(self.paths.cache)


pass_app = click.make_pass_decorator(AppContext)
