"""Errors are one line and exit 2; --help imports no command; plugins' commands come after ours."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from harness import __version__
from harness.cli import main as main_module
from harness.cli.main import COMMANDS, cli
from harness.errors import ConfigError

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ROOT / "tests" / "fixtures" / "distributions"


@pytest.fixture
def invoke(tmp_path):
    def run(*args: str, **environ: str):
        env = {"SAE_HARNESS_CACHE": str(tmp_path / "cache"), "SAE_HARNESS_PLUGINS": "builtin", **environ}
        return CliRunner().invoke(cli, list(args), prog_name="sae-harness", env=env)

    return run


@pytest.fixture
def extra(monkeypatch):
    """One of our commands stands for another for a test."""

    def put(function) -> None:
        monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: click.command()(function))

    return put


def test_help_lists_every_command_and_ends_with_an_example(invoke):
    done = invoke("--help")
    assert done.exit_code == 0
    for name, (_, text) in COMMANDS.items():
        assert name in done.stdout
        assert text in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].strip().startswith("Example:")


def test_without_arguments_the_help_is_shown(invoke):
    assert "Usage: sae-harness" in invoke().output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_a_help_and_an_example(name):
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.help
    assert "sae-harness" in (command.epilog or command.help)
    assert "Example" in (command.epilog or command.help)


def test_the_version_is_the_packages(invoke):
    assert __version__ in invoke("--version").stdout


def test_an_unknown_command_names_its_nearest_relatives(invoke):
    done = invoke("compre")
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: Unknown command 'compre'")
    assert "Did you mean compare" in line


@pytest.mark.parametrize("args", [("suites", "show", "nonsense"), ("--registry", "missing.yaml", "suites")])
def test_a_harness_error_is_one_line_and_exit_2(invoke, args):
    done = invoke(*args)
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")


def test_a_usage_error_is_one_line_too(invoke):
    done = invoke("suites", "--nonsense")
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: No such option")
    assert line.endswith("See `sae-harness suites --help`.")


def test_an_error_of_several_lines_becomes_one(invoke, extra):
    def fail() -> None:
        raise ConfigError("first\n  second")

    extra(fail)
    done = invoke("compare")
    assert (done.exit_code, done.stderr) == (2, "Error: first second\n")


def test_an_interrupt_exits_130(invoke, extra):
    def interrupted() -> None:
        raise KeyboardInterrupt

    extra(interrupted)
    done = invoke("compare")
    assert done.exit_code == 130
    assert done.stderr == "Interrupted.\n"


def test_a_full_disk_is_one_line_and_no_verdict(invoke, extra):
    def work():
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/record.json")

    extra(work)
    done = invoke("work")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: No room is left")
    assert "/somewhere/record.json" in done.stderr


def test_a_bug_of_ours_shows_itself(invoke, extra):
    def bug() -> None:
        raise RuntimeError("a bug")

    extra(bug)
    assert isinstance(invoke("compare").exception, RuntimeError)


def test_a_command_can_exit_1_for_a_verdict_against(invoke, extra):
    def verdict() -> None:
        click.get_current_context().exit(1)

    extra(verdict)
    assert invoke("compare").exit_code == 1


def test_a_wrong_environment_is_told_in_the_help_as_well(invoke):
    done = invoke("--help", SAE_HARNESS_STRICT="perhaps")
    assert done.exit_code == 2
    assert "SAE_HARNESS_STRICT" in done.stderr


@pytest.fixture
def good_plugin(monkeypatch):
    monkeypatch.syspath_prepend(DISTRIBUTIONS / "good")
    yield
    for name in [name for name in sys.modules if name.startswith("fixture_")]:
        del sys.modules[name]


def test_a_plugins_command_runs_and_is_listed(invoke, good_plugin):
    assert invoke("greet", SAE_HARNESS_PLUGINS="good").stdout == "hello\n"
    listed = invoke("--help", SAE_HARNESS_PLUGINS="good").stdout
    assert "Commands of plugins" in listed
    assert "Say hello." in listed


def test_a_plugin_that_is_left_out_takes_its_command_along(invoke, good_plugin):
    assert invoke("greet", SAE_HARNESS_PLUGINS="builtin").exit_code == 2


def test_a_warning_is_one_line_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", main_module._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = main_module._show_warning
        warnings.warn("something\n  odd", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: something odd\n"


@pytest.mark.parametrize("args", [["--help"], ["suites"], ["plugins"], ["cache", "info"]])
def test_light_commands_import_neither_torch_nor_transformers(args, tmp_path):
    code = (
        "import sys\nfrom harness.cli.main import main\n"
        f"sys.argv = ['sae-harness', *{args!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'sklearn'} & sys.modules.keys()))\n"
    )
    env = {**os.environ, "SAE_HARNESS_CACHE": str(tmp_path / "cache"), "SAE_HARNESS_PLUGINS": "builtin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
