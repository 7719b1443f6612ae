"""With what a record was made: versions, machine, commit. Loads no torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from . import __version__
from .artefacts.key import artefact_key
from .config import SuiteConfig
from .results.record import Provenance

_TOOK_PART = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_WHERE_INSTALLED = ("numba",)
"""Take part where they are installed: sums are then made in another order."""


def provenance(suite: SuiteConfig, distribution: str, version: str, device: str, command: str) -> Provenance:
    """The provenance of a record made now by a method of `distribution`."""
    distributions = {name: importlib.metadata.version(name) for name in _TOOK_PART}
    optional = [name for name in _WHERE_INSTALLED if importlib.util.find_spec(name)]
    distributions |= {name: importlib.metadata.version(name) for name in optional}
    distributions[distribution] = version
    return Provenance(
        harness_version=__version__,
        distributions=distributions,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device=device,
        threads=_threads(),
        commit=_commit(),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        suite_sha256=suite_sha256(suite),
        command=command,
    )


def suite_sha256(suite: SuiteConfig) -> str:
    """Hash of the whole suite as it was run."""
    return artefact_key("suite", {"suite": suite}, 1)


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return round(peak / (1024 if sys.platform != "darwin" else 1024 * 1024), 1)


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else os.cpu_count() or 1


def _commit() -> str:
    """Commit of the checkout the harness runs from; empty where it is installed from a distribution."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git on this machine: the commit is not known
    return done.stdout.strip() if done.returncode == 0 else ""
