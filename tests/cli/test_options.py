"""Options several commands share."""

from __future__ import annotations

import pytest

from harness.cli.options import chosen_metrics, chosen_suite, parse_settings
from harness.errors import ConfigError, UnknownNameError
from harness.registry import load_registry


@pytest.fixture
def app(micro):
    class App:
        registry = load_registry([micro.registry])

    return App()


@pytest.mark.parametrize(
    ("n", "seeds"), [(None, (0, 1, 2)), (1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (5, (0, 1, 2, 3, 4))]
)
def test_seeds_are_the_suites_first_and_then_new_ones(app, n, seeds):
    assert chosen_suite(app, "micro", n).seeds == seeds


def test_new_seeds_repeat_none_of_the_suites(app, micro):
    app.registry = load_registry([micro.registry])
    suite = app.registry.suite("micro").replace(seeds=(7, 3))
    app.registry = type("R", (), {"suite": lambda self, name: suite})()
    assert chosen_suite(app, "micro", 4).seeds == (7, 3, 8, 9)


@pytest.mark.parametrize("n", [0, -1])
def test_no_seeds_are_refused(app, n):
    with pytest.raises(ConfigError, match=rf"--seeds must be at least 1, got {n}"):
        chosen_suite(app, "micro", n)


def test_l0s_replace_the_grid_in_order(app):
    assert chosen_suite(app, "micro", None, "8, 3").l0_grid == (3, 8)


@pytest.mark.parametrize("text", ["bad", "", "8,,16", "1.5", "8 16"])
def test_l0s_that_are_no_whole_numbers_are_refused(app, text):
    with pytest.raises(ConfigError, match=r"--l0 must be whole numbers with commas between"):
        chosen_suite(app, "micro", None, text)


@pytest.mark.parametrize("text", ["0", "-4", "65", "8,8"])
def test_l0s_out_of_range_or_doubled_are_refused(app, text):
    with pytest.raises(ConfigError, match=r"distinct numbers in \[1, d_sae = 64\]"):
        chosen_suite(app, "micro", None, text)


def test_an_unknown_suite_names_what_there_is(app):
    with pytest.raises(UnknownNameError, match=r"suite 'mikro': known are micro\. Did you mean micro\?"):
        chosen_suite(app, "mikro")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("1e-3", 1e-3), ("1E2", 100.0), ("true", True), ("false", False), ("relu", "relu")],
)
def test_settings_are_numbers_truth_values_or_text(text, value):
    read = parse_settings((f"x={text}",))["x"]
    assert read == value
    assert type(read) is type(value)


def test_the_last_of_a_repeated_setting_counts_and_values_may_hold_equal_signs():
    assert parse_settings(("x=1", "y=a=b", "x=2")) == {"x": 2, "y": "a=b"}


@pytest.mark.parametrize("text", ["lr", "=1", ""])
def test_a_setting_without_name_or_value_is_refused(text):
    with pytest.raises(ConfigError, match=r"--set takes name=value"):
        parse_settings((text,))


@pytest.mark.parametrize("text", ["x=", "x=[1]", "x={a: 1}", "x=[", "x=2020-01-01"])
def test_a_setting_that_is_no_plain_value_is_refused(text):
    with pytest.raises(ConfigError, match="number, true, false or text"):
        parse_settings((text,))


def test_metrics_are_names_with_commas_between():
    assert chosen_metrics("fvu, cosine,") == ("fvu", "cosine")
    assert chosen_metrics(None) == ()


@pytest.mark.parametrize(
    ("device", "says"), [("nonsense", "is no device"), ("meta", "only cpu and cuda"), ("cuda", "no CUDA device")]
)
def test_a_device_that_cannot_be_used_is_told(device: str, says: str, monkeypatch: pytest.MonkeyPatch):
    import torch

    from harness.compute import Compute

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=says):
        Compute(device=device).check()
    Compute(device="cpu").check()
