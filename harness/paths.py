"""Where cache, registry and baselines lie: option, then environment, then project, then user folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from .errors import ConfigError

APP = "sae-harness"
REGISTRY = "registry.yaml"
BASELINES = "baselines"
_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where everything lies. The folders need not exist yet; the registry files do."""

    cache: Path
    registry_files: tuple[Path, ...]
    """The project's or shipped registry first, then the user's own, which is merged over it."""
    baselines: Path
    """Stored records."""
    runs: Path = Path("runs")
    """What commands write for people to read, such as the figures of analyses."""

    @property
    def registry(self) -> Path:
        """The registry that belongs to `baselines`, the one they are entered in.

        Raises:
            ConfigError: there is none.
        """
        if not self.registry_files:
            raise ConfigError(f"No {REGISTRY} was found: run in the project's folder or give --registry FILE.")
        return self.registry_files[0]


def resolve_paths(
    cache: str | Path | None = None,
    registry: str | Path | None = None,
    baselines: str | Path | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Paths:
    """Resolve all paths; nothing is created.

    - cache: option, `SAE_HARNESS_CACHE`, the user's cache folder.
    - baselines: option, `SAE_HARNESS_BASELINES`, the project's, the user's data folder.
    - runs: `SAE_HARNESS_RUNS`, else `runs` in the current folder.
    - registry: the project's, merged with the user's own, which is the option, `SAE_HARNESS_REGISTRY`, or
      `registry.yaml` in the user's configuration folder if it is there.

    The project is the nearest folder from `cwd` upwards with a registry.yaml and a baselines folder, else the checkout
    this package lies in, else what was installed under `sys.prefix`.

    Raises:
        ConfigError: a registry file that was asked for does not exist.
    """
    environ = os.environ if environ is None else environ
    project = find_project(Path.cwd() if cwd is None else cwd)
    own_cache = cache or environ.get("SAE_HARNESS_CACHE")
    own_baselines = baselines or environ.get("SAE_HARNESS_BASELINES")
    own_runs = environ.get("SAE_HARNESS_RUNS")
    if own_baselines:
        baselines_folder = _absolute(own_baselines)
    elif project is not None:
        baselines_folder = project / BASELINES
    else:
        baselines_folder = Path(platformdirs.user_data_dir(APP, appauthor=False)) / BASELINES
    return Paths(
        cache=_absolute(own_cache) if own_cache else Path(platformdirs.user_cache_dir(APP, appauthor=False)),
        registry_files=_registry_files(project, registry or environ.get("SAE_HARNESS_REGISTRY")),
        baselines=baselines_folder,
        runs=_absolute(own_runs) if own_runs else (Path.cwd() if cwd is None else cwd) / "runs",
    )


def find_project(cwd: Path) -> Path | None:
    """The nearest project folder from `cwd` upwards, else the checkout of this package, else None."""
    for folder in (cwd.absolute(), *cwd.absolute().parents):
        if (folder / REGISTRY).is_file() and (folder / BASELINES).is_dir():
            return folder
    return _CHECKOUT if (_CHECKOUT / REGISTRY).is_file() else None


def _registry_files(project: Path | None, own: str | Path | None) -> tuple[Path, ...]:
    base = project / REGISTRY if project is not None else Path(sys.prefix) / "share" / APP / REGISTRY
    files = [base] if base.is_file() else []
    if own:
        path = _absolute(own)
        if not path.is_file():
            raise ConfigError(f"There is no registry file {path}: mend --registry or SAE_HARNESS_REGISTRY.")
        files.append(path)
    else:
        path = Path(platformdirs.user_config_dir(APP, appauthor=False)) / REGISTRY
        files += [path] if path.is_file() else []
    return tuple(dict.fromkeys(files))


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()
