"""The conformance kit: what a plugin's tests may use. The names load lazily, so that `import harness.testing` loads
neither torch nor pytest."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "CheckResult": "checks",
    "run_checks": "checks",
    "check_competition": "pieces",
    "check_correlation": "pieces",
    "check_moving_maximum": "pieces",
    "check_schedule": "pieces",
    "parametrize_with_checks": "parametrize",
    "TinyLM": "fixtures",
    "identity_sae": "fixtures",
    "planted_batches": "fixtures",
    "random_sae": "fixtures",
    "tiny_context": "fixtures",
    "tiny_store": "fixtures",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .checks import CheckResult as CheckResult
    from .checks import run_checks as run_checks
    from .fixtures import TinyLM as TinyLM
    from .fixtures import identity_sae as identity_sae
    from .fixtures import planted_batches as planted_batches
    from .fixtures import random_sae as random_sae
    from .fixtures import tiny_context as tiny_context
    from .fixtures import tiny_store as tiny_store
    from .parametrize import parametrize_with_checks as parametrize_with_checks
    from .pieces import check_competition as check_competition
    from .pieces import check_correlation as check_correlation
    from .pieces import check_moving_maximum as check_moving_maximum
    from .pieces import check_schedule as check_schedule


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
