"""Failure modes of plugins, with installed fixture distributions: what one does wrong concerns it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from harness.errors import ConfigError, NameClashError, PluginError, UnknownNameError
from harness.plugins import Catalogue, load_catalogue, load_target

DISTRIBUTIONS = Path(__file__).parent / "fixtures" / "distributions"
BROKEN = {
    "import_error": "RuntimeError: the import of this fixture fails",
    "exits": "SystemExit: 3",
    "raising_hook": "register_trainers raised ValueError: out of specs",
    "unknown_argument": "colour",
    "unknown_hook": "register_colours",
    "wrong_spec": "register_trainers yielded a str: it must yield TrainerSpec objects.",
}


@pytest.fixture
def install(monkeypatch):
    """Install fixture distributions for one test."""

    def put_on_path(*names: str) -> None:
        for name in names:
            monkeypatch.syspath_prepend(DISTRIBUTIONS / name)

    yield put_on_path
    for name in [name for name in sys.modules if name.startswith("fixture_")]:
        del sys.modules[name]


def load(*, told: list[str] | None = None, only: str = "", strict: str = "", **known: str) -> Catalogue:
    environ = {"SAE_HARNESS_PLUGINS": only, "SAE_HARNESS_STRICT": strict}
    return load_catalogue(environ, known_methods=known, tell=(told if told is not None else []).append)


def test_a_sound_plugin_is_listed_with_its_distribution_and_version(install):
    install("good")
    catalogue = load(only="fixture-good")
    [plugin] = catalogue.plugins
    assert (plugin.name, plugin.version) == ("fixture-good:good", "0.1")
    assert plugin.provides == ("good", "hollow", "no_class")
    assert catalogue.trainer("good").plugin == "fixture-good:good"
    assert catalogue.failures == ()


def test_listing_imports_no_class(install):
    install("good")
    load(only="fixture-good")
    assert "fixture_good.trainer" not in sys.modules


def test_a_class_is_imported_on_first_use(install):
    install("good")
    assert load(only="fixture-good").trainer("good").load().__name__ == "GoodTrainer"


@pytest.mark.parametrize(("method", "cause"), [("hollow", "Missing"), ("no_class", "must be a class")])
def test_a_target_that_is_no_class_names_its_distribution(install, method, cause):
    install("good")
    provided = load(only="fixture-good").trainer(method)
    with pytest.raises(PluginError, match=f"fixture-good.*{cause}"):
        provided.load()


def test_a_target_without_distribution_names_the_package():
    with pytest.raises(PluginError, match="no_such_package"):
        load_target("no_such_package.trainer:Trainer")


@pytest.mark.parametrize(("name", "cause"), BROKEN.items())
def test_a_broken_plugin_is_left_out_and_told_in_one_line(install, name, cause):
    install("good", name)
    told: list[str] = []
    catalogue = load(told=told, only=f"fixture-good,{name}")
    [failure] = catalogue.failures
    assert failure.distribution == f"fixture-{name.replace('_', '-')}"
    assert (failure.version, failure.entry_point) == ("0.1", name)
    assert cause in failure.cause
    assert len(told) == 1
    assert "\n" not in told[0]
    assert [plugin.distribution for plugin in catalogue.plugins] == ["fixture-good"]
    assert "good" in catalogue.trainers


def test_nothing_of_a_plugin_with_a_raising_hook_stays(install):
    install("raising_hook")
    assert "half" not in load(only="fixture-raising-hook").trainers


@pytest.mark.parametrize("name", BROKEN)
def test_strict_makes_the_failure_an_error(install, name):
    install(name)
    with pytest.raises(PluginError, match=f"fixture-{name.replace('_', '-')}.*SAE_HARNESS_STRICT"):
        load(only=name, strict="1")


def test_strict_must_be_yes_or_no():
    with pytest.raises(ConfigError, match="SAE_HARNESS_STRICT is 'perhaps'"):
        load(strict="perhaps")


def test_a_clashing_name_is_refused_with_both_owners(install):
    install("clash")
    catalogue = load(only="sae-harness,fixture-clash")
    with pytest.raises(NameClashError, match=r"fixture-clash and sae-harness.*fixture-clash:topk or sae-harness:topk"):
        catalogue.trainer("topk")
    assert "topk" not in catalogue.trainers


def test_a_clashing_name_works_with_its_distribution(install):
    install("clash")
    catalogue = load(only="sae-harness,fixture-clash")
    assert catalogue.trainer("fixture-clash:topk").distribution == "fixture-clash"
    assert catalogue.trainer("sae-harness:topk").distribution == "sae-harness"
    assert catalogue.trainer("relu").distribution == "sae-harness", "other names are not concerned"


def test_the_qualified_name_works_without_a_clash(install):
    install("good")
    assert load(only="fixture-good").trainer("fixture-good:good").spec.name == "good"


def test_one_name_twice_in_a_plugin_keeps_the_first(install):
    install("twice")
    catalogue = load(only="fixture-twice")
    assert list(catalogue.trainers) == ["twin"]
    assert "provides 'twin' twice" in catalogue.failures[0].cause


def test_another_api_version_says_what_to_upgrade(install):
    install("api_version")
    catalogue = load(only="fixture-api-version")
    assert list(catalogue.trainers) == ["present"]
    causes = [failure.cause for failure in catalogue.failures]
    assert causes == [
        "'future' speaks API version 99, this is 1: upgrade sae-harness",
        "'past' speaks API version 0, this is 1: upgrade fixture-api-version",
    ]


@pytest.mark.parametrize("asked", ["fixture-good", "Fixture_Good", "good", "fixture-good:good"])
def test_the_variable_narrows_to_distributions_or_entry_points(install, asked):
    install("good", "clash")
    assert [plugin.name for plugin in load(only=asked).plugins] == ["fixture-good:good"]


def test_our_own_built_ins_can_be_left_out(install):
    install("good")
    assert "topk" in load().trainers
    assert "topk" not in load(only="fixture-good").trainers


def test_a_name_in_the_variable_that_is_not_installed_is_told():
    told: list[str] = []
    catalogue = load(told=told, only="builtin,no-such-plugin")
    assert "topk" in catalogue.trainers
    assert "no-such-plugin" in told[0]
    assert "not installed" in told[0]


def test_an_unknown_method_names_its_nearest_relatives():
    with pytest.raises(UnknownNameError, match=r"Unknown method 'topkk'.*Did you mean topk"):
        load(only="builtin").trainer("topkk")


def test_a_method_the_registry_knows_says_how_to_install_it():
    with pytest.raises(UnknownNameError, match="pip install sae-harness-idea"):
        load(only="builtin", idea="idea is not installed: pip install sae-harness-idea").trainer("idea")


def test_an_unknown_method_mentions_plugins_that_failed(install):
    install("import_error")
    with pytest.raises(UnknownNameError, match="Left out while loading: fixture-import-error"):
        load(only="builtin,import_error").trainer("half")


def test_audit_rules_are_listed_and_their_function_is_imported_on_first_use(install):
    install("audit_rules")
    provided = load(only="fixture-audit-rules").audit_rules["odd_seed"]
    assert provided.qualified == "fixture-audit-rules:odd_seed"
    assert "fixture_audit_rules.rules" not in sys.modules
    assert provided.load().__name__ == "odd_seed"


def test_commands_are_added(install):
    install("good")
    cli = click.Group()
    assert load(only="fixture-good").register_commands(cli) == ()
    assert list(cli.commands) == ["greet"]


def test_a_command_whose_name_is_taken_and_a_raising_hook_are_left_out(install):
    install("good", "commands", "raising_command")
    cli = click.Group()
    told: list[str] = []
    failures = load(only="good,commands,raising_command").register_commands(cli, taken=["compare"], tell=told.append)
    assert list(cli.commands) == ["greet"]
    assert {failure.distribution: failure.cause for failure in failures} == {
        "fixture-commands": "command 'compare' is already that of sae-harness itself",
        "fixture-raising-command": "register_commands raised ValueError: no command today",
    }
    assert len(told) == 2


def test_in_a_process_of_its_own_a_broken_plugin_changes_nothing_else_and_torch_stays_out():
    code = (
        "import sys; from harness.plugins import load_catalogue; c = load_catalogue();"
        "print(c.trainer('good').distribution, c.trainer('relu').distribution, 'torch' in sys.modules)"
    )
    path = os.pathsep.join(str(DISTRIBUTIONS / name) for name in ("good", "import_error"))
    root = Path(__file__).parents[1]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SAE_HARNESS_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "PYTHONPATH": os.pathsep.join([path, str(root)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["fixture-good", "sae-harness", "False"]
    lines = [line for line in done.stderr.splitlines() if "fixture-import-error" in line]
    assert lines == [
        "Plugin fixture-import-error:import_error 0.1 left out: RuntimeError: the import of this fixture fails"
    ]
