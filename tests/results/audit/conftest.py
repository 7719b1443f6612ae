"""Builders of evidence and of whole record sets (tests are no package, so they are loaded by their path)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"audit_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_here() -> Callable[[str], ModuleType]:
    """A module of this folder by its name."""
    return _load


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """Evidence by hand."""
    return _load("build")
