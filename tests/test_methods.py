"""A method's name to its spec, options, base and SAE."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError, UnknownNameError
from harness.methods import build, check_options, effective_options, resolve_method
from harness.plugins import load_catalogue


@pytest.fixture
def catalogue():
    return load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"})


@pytest.fixture
def with_drawn(install_methods):
    install_methods()
    return load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,methods"})


def made(method, target_l0: int | None = 4):
    return build(method, d_in=8, d_sae=16, target_l0=target_l0)


def test_a_method_is_resolved_without_its_class(catalogue):
    method = resolve_method(catalogue, "topk")
    assert (method.label, method.sae.name, method.sparsity, method.base) == ("topk", "topk", "k", None)
    assert (method.distribution, dict(method.options), method.ranked) == ("sae-harness", {}, True)


@pytest.mark.parametrize(
    ("name", "told"),
    [("topkk", "Did you mean topk"), ("topk@nonsense", "preset of topk 'nonsense': known are none")],
)
def test_an_unknown_method_or_preset_names_what_there_is(catalogue, name, told):
    with pytest.raises(UnknownNameError, match=told):
        resolve_method(catalogue, name)


def test_options_come_from_the_suite_then_the_preset_then_the_caller(with_drawn):
    suite = {"drawn": {"strength": 1.0, "label": "suite"}}
    plain = resolve_method(with_drawn, "drawn", suite_options=suite)
    assert plain.options == {"strength": 1.0, "label": "suite"}
    preset = resolve_method(with_drawn, "drawn@strong", suite_options=suite)
    assert preset.options == {"strength": 0.5, "label": "suite"}
    called = resolve_method(with_drawn, "drawn@strong", suite_options=suite, overrides={"strength": 2.0})
    assert called.options == {"strength": 2.0, "label": "suite"}
    assert called.label == "drawn@strong"


def test_a_faulty_preset_and_a_control_are_not_ranked(with_drawn):
    assert resolve_method(with_drawn, "drawn").ranked
    assert not resolve_method(with_drawn, "drawn@wrong").ranked
    assert not resolve_method(with_drawn, "random").ranked


def test_the_first_base_is_the_default_and_the_option_base_chooses_another(with_drawn):
    first = resolve_method(with_drawn, "drawn")
    assert (first.base.name, first.sae.name, first.sparsity) == ("topk", "topk", "k")
    other = resolve_method(with_drawn, "drawn", overrides={"base": "relu"})
    assert (other.base.name, other.sae.name, other.sparsity) == ("relu", "relu", "coefficient")
    assert resolve_method(with_drawn, "drawn@on_relu").base.name == "relu"
    with pytest.raises(UnknownNameError, match=r"base of drawn 'jumprelu': known are relu, topk"):
        resolve_method(with_drawn, "drawn", overrides={"base": "jumprelu"})


def test_own_options_go_to_the_trainer_and_the_others_to_its_base(with_drawn):
    suite = {"topk": {"lr": 0.5, "beta1": 0.5}}
    overrides = {"strength": 0.25, "beta1": 0.125}
    trainer, sae = made(resolve_method(with_drawn, "drawn", suite_options=suite, overrides=overrides))
    assert trainer.options.strength == 0.25
    assert (trainer.base.options.lr, trainer.base.options.beta1) == (0.5, 0.125)
    assert type(sae).__name__ == "TopKSAE"
    found = effective_options(trainer, sae)
    assert (found["strength"], found["base.lr"], found["base.aux_k_fraction"], found["sae.k"]) == (0.25, 0.5, 0.5, 4)
    assert found.keys() >= {"squared", "label", "base.grad_clip", "base.warmup_fraction"}


def test_an_unknown_option_lists_those_of_the_trainer_and_of_its_base(with_drawn):
    with pytest.raises(ConfigError) as told:
        check_options(resolve_method(with_drawn, "drawn", overrides={"bogus": 1}))
    allowed = str(told.value).partition("allowed are ")[2].rstrip(".").split(", ")
    assert set(allowed) >= {"base", "strength", "squared", "label", "lr", "aux_weight"}
    assert "drawn on topk: unknown option 'bogus'" in str(told.value)


def test_an_unknown_option_of_a_method_without_a_base_lists_its_own(catalogue):
    with pytest.raises(
        ConfigError, match=r"topk: unknown option 'base'; allowed are aux_k_fraction, aux_weight, beta1"
    ):
        check_options(resolve_method(catalogue, "topk", overrides={"base": "relu"}))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"strength": "much"}, "option strength must be of type float, got 'much'"),
        ({"strength": True}, "option strength must be of type float, got True"),
        ({"squared": 1}, "option squared must be of type bool, got 1"),
        ({"squared": "yes"}, "option squared must be of type bool, got 'yes'"),
        ({"label": 1.0}, "option label must be of type str, got 1.0"),
        ({"lr": "fast"}, "option lr must be of type float, got 'fast'"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(with_drawn, options, told):
    with pytest.raises(ConfigError, match=told):
        check_options(resolve_method(with_drawn, "drawn", overrides=options))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": -1}, "topk: option lr must be above 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0, got 0"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"grad_clip": -0.5}, "grad_clip must be at least 0, got -0.5"),
        ({"warmup_fraction": 1.5}, r"warmup_fraction must be in \[0, 1\], got 1.5"),
    ],
)
def test_an_option_of_the_optimiser_out_of_its_range_is_refused(catalogue, options, told):
    with pytest.raises(ConfigError, match=told):
        check_options(resolve_method(catalogue, "topk", overrides=options))


def test_an_option_of_the_bases_optimiser_is_held_to_its_range_too(with_drawn):
    with pytest.raises(ConfigError, match="drawn: option lr must be above 0"):
        check_options(resolve_method(with_drawn, "drawn", overrides={"lr": -0.1}))


def test_a_whole_number_does_for_a_float(with_drawn):
    trainer, _ = made(resolve_method(with_drawn, "drawn", overrides={"strength": 1}))
    assert trainer.options.strength == 1.0
    assert isinstance(trainer.options.strength, float)


def test_code_hashes_tell_methods_of_different_packages_apart(with_drawn):
    hashes = {
        name: resolve_method(with_drawn, name).code_sha256() for name in ("topk", "relu", "drawn", "drawn@strong")
    }
    assert hashes["drawn"] == hashes["drawn@strong"]
    assert hashes["drawn"] != hashes["topk"]


def test_a_batch_need_of_either_trainer_is_the_methods(with_drawn):
    assert resolve_method(with_drawn, "drawn").needs == frozenset()


def test_a_target_l0_beyond_the_dictionary_is_refused(catalogue):
    with pytest.raises(ConfigError, match=r"integer in \[1, d_sae = 16\]; got 17"):
        made(resolve_method(catalogue, "topk"), target_l0=17)
