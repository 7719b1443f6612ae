"""`sae-harness check`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness.testing.checks
from harness.cli.main import cli
from harness.testing.checks import CheckResult

GOOD = Path(__file__).parents[1] / "fixtures" / "distributions" / "good"

PASSED = CheckResult(spec="topk", check="a", passed=True, message="")
FAILED = CheckResult(spec="topk", check="b", passed=False, message="because of this")


def invoke(*args: str):
    return CliRunner().invoke(cli, ["check", *args], prog_name="sae-harness")


@pytest.fixture
def ending_with(monkeypatch):
    def end(*results: CheckResult) -> None:
        monkeypatch.setattr(harness.testing.checks, "run_checks", lambda *_, **__: list(results))

    return end


def test_all_passed_is_one_line_and_exit_0(ending_with):
    ending_with(PASSED, PASSED)
    done = invoke("sae-harness")
    assert (done.exit_code, done.stdout) == (0, "2 checks passed.\n")


def test_failures_are_a_table_and_exit_1(ending_with):
    ending_with(PASSED, FAILED)
    done = invoke("sae-harness")
    assert done.exit_code == 1
    assert [line.split(maxsplit=2) for line in done.stdout.splitlines()[1:]] == [["topk", "b", "because of this"]]
    assert done.stderr == "1 of 2 checks failed.\n"


def test_all_results_as_json(ending_with):
    ending_with(PASSED, FAILED)
    done = invoke("sae-harness", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (found["distribution"], found["passed"], found["failed"]) == ("sae-harness", 1, 1)
    assert found["results"][1] == {"spec": "topk", "check": "b", "passed": False, "message": "because of this"}


def test_an_unknown_distribution_exits_2_with_the_nearest_names():
    done = invoke("sae-harnes")
    assert done.exit_code == 2
    assert "Did you mean sae-harness" in done.stderr


def test_a_name_that_clashes_ends_the_check_with_one_line(monkeypatch):
    """All its checks would fail for that one cause."""
    monkeypatch.syspath_prepend(GOOD.parent / "clash")
    done = CliRunner().invoke(
        cli, ["check", "fixture-clash"], prog_name="sae-harness", env={"SAE_HARNESS_PLUGINS": "builtin,clash"}
    )
    assert done.exit_code == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: Nothing of fixture-clash is checked: method 'topk' is provided by fixture-clash and")
    for name in [name for name in sys.modules if name.startswith("fixture_")]:
        del sys.modules[name]


@pytest.mark.parametrize(("command", "told"), [("check", "Unknown distribution"), ("evaluate", "No saved SAE at nope")])
def test_what_is_not_there_is_told_before_torch_is_imported(command, told):
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom harness.cli.main import cli\n"
        f"done = CliRunner().invoke(cli, [{command!r}, 'nope'])\n"
        f"print(done.exit_code, {told!r} in done.output, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "True", "False"]


def test_a_distribution_whose_classes_are_missing_fails_each_check_of_them(monkeypatch):
    monkeypatch.syspath_prepend(GOOD)
    done = invoke("fixture-good", "--json")
    assert done.exit_code == 1
    results = {(r["spec"], r["check"]): r for r in json.loads(done.stdout)["results"]}
    assert "no subclass of harness.Trainer" in results["good", "spec_is_complete"]["message"]
    assert "cannot be imported" in results["hollow", "spec_is_complete"]["message"]
    assert results["fixture-good", "is_loaded_whole"]["passed"]
    for name in [name for name in sys.modules if name.startswith("fixture_")]:
        del sys.modules[name]
