"""Our own methods, SAEs and evaluators pass the kit that a stranger's plugin must pass."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from harness.plugins import load_catalogue
from harness.testing import parametrize_with_checks
from harness.testing.checks import collect_checks

PLUGINS = Path(__file__).parents[1] / "plugins"


@parametrize_with_checks("sae-harness")
def test_built_ins(check):
    check()


def _plugins_with_their_own_conformance_test() -> set[str]:
    return {path.parents[1].name for path in PLUGINS.glob("*/tests/test_conformance.py")}


def _checks_of_this_repositorys_plugins():
    """Of those that are installed and do not run the kit in their own tests."""
    covered = {f"sae-harness-{name.replace('_', '-')}" for name in _plugins_with_their_own_conformance_test()}
    ours = {f"sae-harness-{path.parent.name.replace('_', '-')}" for path in PLUGINS.glob("*/pyproject.toml")}
    installed = {dist.name for dist in metadata.distributions() if dist.name in ours - covered}
    catalogue = load_catalogue()
    for name in sorted(installed):
        for check in collect_checks(name, catalogue):
            yield pytest.param(check, id=f"{name}:{check.id}")


@pytest.mark.parametrize("check", list(_checks_of_this_repositorys_plugins()))
def test_plugins_of_this_repository(check):
    check()


def test_every_built_in_is_covered():
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"})
    subjects = {part for check in collect_checks("sae-harness", catalogue) for part in check.spec.split(":")}
    assert {*catalogue.saes, *catalogue.trainers, *catalogue.evaluators} <= subjects
