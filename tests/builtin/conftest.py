"""What the tests of evaluators share (tests are no package, so it is loaded by its path)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def copying() -> ModuleType:
    spec = importlib.util.spec_from_file_location("copying_lm", Path(__file__).parent / "copying.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ravel_world() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ravel_world", Path(__file__).parent / "ravel_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
