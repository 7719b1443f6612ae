"""The record factory, for tests of this folder (tests are no package, so it is loaded by its path)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_factory", Path(__file__).parent / "factory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
