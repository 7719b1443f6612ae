"""Option > environment > project > user folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import paths as paths_module
from harness.errors import ConfigError
from harness.paths import resolve_paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    """User folders of nobody's own, and no checkout."""
    for what in ("cache", "config", "data"):
        monkeypatch.setattr(
            paths_module.platformdirs, f"user_{what}_dir", lambda *_, what=what, **__: str(tmp_path / "home" / what)
        )
    monkeypatch.setattr(paths_module, "_CHECKOUT", tmp_path / "no-checkout")
    monkeypatch.setattr(paths_module.sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path / "home"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "baselines").mkdir(parents=True)
    (folder / "registry.yaml").write_text("methods: {}\n")
    (folder / "deep" / "inside").mkdir(parents=True)
    return folder


def registry_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("suites: {}\n")
    return path


def test_outside_of_everything_the_user_folders_hold(home, tmp_path):
    found = resolve_paths(cwd=tmp_path, environ={})
    assert found.cache == home / "cache"
    assert found.baselines == home / "data" / "baselines"
    assert found.registry_files == ()
    with pytest.raises(ConfigError, match="--registry"):
        _ = found.registry


def test_a_project_is_found_from_a_folder_inside_it(home, project):
    found = resolve_paths(cwd=project / "deep" / "inside", environ={})
    assert found.registry_files == (project / "registry.yaml",)
    assert found.baselines == project / "baselines"
    assert found.cache == home / "cache"


def test_a_registry_without_baselines_folder_is_no_project(home, tmp_path):
    registry_file(tmp_path / "other" / "registry.yaml")
    assert resolve_paths(cwd=tmp_path / "other", environ={}).registry_files == ()


def test_the_checkout_holds_where_there_is_no_project(home, tmp_path, monkeypatch):
    registry_file(tmp_path / "checkout" / "registry.yaml")
    monkeypatch.setattr(paths_module, "_CHECKOUT", tmp_path / "checkout")
    found = resolve_paths(cwd=tmp_path, environ={})
    assert found.registry == tmp_path / "checkout" / "registry.yaml"
    assert found.baselines == tmp_path / "checkout" / "baselines"


def test_the_installed_registry_holds_where_there_is_no_checkout(home, tmp_path):
    shipped = registry_file(tmp_path / "prefix" / "share" / "sae-harness" / "registry.yaml")
    assert resolve_paths(cwd=tmp_path, environ={}).registry_files == (shipped,)


def test_environment_beats_project_and_option_beats_environment(home, project, tmp_path):
    environ = {"SAE_HARNESS_CACHE": str(tmp_path / "env-cache"), "SAE_HARNESS_BASELINES": str(tmp_path / "env-base")}
    found = resolve_paths(cwd=project, environ=environ)
    assert (found.cache, found.baselines) == (tmp_path / "env-cache", tmp_path / "env-base")
    found = resolve_paths(cache=tmp_path / "c", baselines=tmp_path / "b", cwd=project, environ=environ)
    assert (found.cache, found.baselines) == (tmp_path / "c", tmp_path / "b")


def test_the_users_registry_comes_after_the_projects(home, project, tmp_path):
    own = registry_file(home / "config" / "registry.yaml")
    assert resolve_paths(cwd=project, environ={}).registry_files == (project / "registry.yaml", own)
    named = registry_file(tmp_path / "named.yaml")
    other = registry_file(tmp_path / "other.yaml")
    environ = {"SAE_HARNESS_REGISTRY": str(named)}
    assert resolve_paths(cwd=project, environ=environ).registry_files == (project / "registry.yaml", named)
    found = resolve_paths(registry=other, cwd=project, environ=environ)
    assert found.registry_files == (project / "registry.yaml", other)


def test_a_registry_that_was_asked_for_must_exist(home, project):
    with pytest.raises(ConfigError, match=r"no registry file .*missing\.yaml"):
        resolve_paths(registry="missing.yaml", cwd=project, environ={})


def test_naming_the_projects_own_registry_does_not_read_it_twice(home, project):
    found = resolve_paths(registry=project / "registry.yaml", cwd=project, environ={})
    assert found.registry_files == (project / "registry.yaml",)
