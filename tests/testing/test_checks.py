"""Which checks there are, and how their ends are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.builtin.trainers.topk import TopKTrainer
from harness.errors import ConfigError, PluginError, UnknownNameError
from harness.interfaces.specs import Preset
from harness.plugins import load_catalogue
from harness.testing import parametrize_with_checks, run_checks
from harness.testing.checks import collect_checks

DISTRIBUTIONS = Path(__file__).parents[1] / "fixtures" / "distributions"


class Unread(TopKTrainer):
    """Never called: these tests collect checks alone."""


def test_ids_name_spec_and_check(built_in):
    ids = [check.id for check in collect_checks("sae-harness", built_in)]
    assert len(set(ids)) == len(ids)
    assert {
        "topk-loss_terms_sum_to_total",
        "sae:topk:random-folding_a_scale_gives_the_same_function",
        "identity-initialise_gives_a_finite_sae_and_no_step_is_taken",
        "evaluator:core-empty_data_are_refused",
        "sae-harness-is_loaded_whole",
    } <= set(ids)


def test_each_preset_and_each_base_is_checked(kit):
    presets = {"bad": Preset(summary="s", faulty=True), "good": Preset(summary="s")}
    kit.trainer(Unread, extends=("topk", "relu"), sparsity="base", presets=presets)
    assert {check.spec for check in kit.checks()} == {"mine", "mine@bad", "mine@good", "mine:relu"}


def test_an_untrained_method_is_not_asked_for_a_loss(kit):
    names = {check.name for check in kit.trainer(Unread, trained=False, control=True).checks()}
    assert "initialise_gives_a_finite_sae_and_no_step_is_taken" in names
    assert "loss_terms_sum_to_total" not in names


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("sae-harnes", "Did you mean sae-harness"),
        ("topk", "The method 'topk' is provided by sae-harness"),
        ("numpy", "Unknown distribution 'numpy'"),
    ],
)
def test_a_distribution_that_provides_nothing_here_is_refused(built_in, name, match):
    with pytest.raises(UnknownNameError, match=match):
        collect_checks(name, built_in)


def test_a_distribution_that_fails_to_load_is_told_with_the_cause(monkeypatch):
    monkeypatch.syspath_prepend(DISTRIBUTIONS / "import_error")
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "import_error"}, tell=lambda line: None)
    with pytest.raises(PluginError, match="the import of this fixture fails"):
        collect_checks("fixture-import-error", catalogue)


def test_a_spec_that_was_left_out_is_a_failed_check(monkeypatch):
    monkeypatch.syspath_prepend(DISTRIBUTIONS / "api_version")
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,api_version"}, tell=lambda line: None)
    results = {result.check: result for result in run_checks("fixture-api-version", catalogue)}
    assert not results["is_loaded_whole"].passed
    assert "API version" in results["is_loaded_whole"].message


def test_a_plugin_whose_listing_loads_torch_is_caught(tmp_path, monkeypatch):
    (tmp_path / "heavy_plugin.py").write_text("import torch\n")
    info = tmp_path / "fixture_heavy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fixture-heavy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[sae_harness]\nheavy = heavy_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    results = run_checks("fixture_heavy", load_catalogue({"SAE_HARNESS_PLUGINS": "heavy"}))
    assert [(result.check, result.passed) for result in results] == [
        ("is_loaded_whole", True),
        ("listing_it_loads_no_heavy_package", False),
    ]
    assert "imports torch" in results[1].message


def test_results_tell_what_failed_and_the_others_go_on(kit):
    class Raises(TopKTrainer):
        def loss(self, sae, batch, state):
            raise RuntimeError("of its own")

    results = run_checks("under-test", kit.trainer(Raises).catalogue)
    failed = {result.check: result.message for result in results if not result.passed}
    assert failed["loss_terms_sum_to_total"] == "RuntimeError: of its own"
    assert "spec_is_complete" not in failed


def test_an_expected_failure_passes_with_its_reason_and_must_fail(kit):
    kit.trainer(type("Mute", (TopKTrainer,), {}), summary="")
    expected = {"spec_is_complete": "nothing to say", "mine-sparsity_is_set_as_declared": "fails elsewhere"}
    results = {r.check: r for r in run_checks("under-test", kit.catalogue, expected_failures=expected)}
    assert results["spec_is_complete"].passed
    assert results["spec_is_complete"].message == "nothing to say"
    assert not results["sparsity_is_set_as_declared"].passed
    assert "passes, but is expected to fail" in results["sparsity_is_set_as_declared"].message


@pytest.mark.parametrize(
    ("expected", "match"),
    [({"no_such_check": "reason"}, "is no check"), ({"the_batch_is_not_edited": " "}, "gives no reason")],
)
def test_expected_failures_need_a_check_and_a_reason(built_in, expected, match):
    with pytest.raises(ConfigError, match=match):
        collect_checks("sae-harness", built_in, expected_failures=expected)


def test_the_decorator_gives_one_case_a_check_and_marks_expected_failures_strict(built_in):
    mark = parametrize_with_checks("sae-harness", expected_failures={"topk-the_batch_is_not_edited": "known"})
    name, cases = mark.args
    assert name == "check"
    assert [case.id for case in cases] == [check.id for check in collect_checks("sae-harness", built_in)]
    marked = {case.id: case.marks[0] for case in cases if case.marks}
    assert list(marked) == ["topk-the_batch_is_not_edited"]
    assert marked["topk-the_batch_is_not_edited"].kwargs == {"reason": "known", "strict": True}


def test_the_kit_loads_neither_pytest_nor_transformers():
    script = (
        "import sys, harness.testing.checks, harness.testing.fixtures, harness.testing.parametrize\n"
        "print([name for name in ('pytest', 'transformers', 'datasets', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
