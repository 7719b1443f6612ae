"""benchmarks/ is a folder of scripts and no package: its modules are imported as its scripts import them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of benchmarks/ or of its workers."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "workers"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module
