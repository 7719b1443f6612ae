"""Suites of a language model or of a world: what must be given, what must not, and what is told."""

from __future__ import annotations

import dataclasses

import pytest

from harness.config import SuiteConfig, WorldConfig
from harness.errors import ConfigError

LM = {
    "lm": {"source": "package:somewhere"},
    "text": {"source": "package:somewhere/text.jsonl.gz", "n_train_tokens": 1000, "n_eval_sequences": 4},
    "hookpoint": "blocks.1.hook_resid_post",
}
WORLD = {"world": {"n_features": 24, "d_in": 8, "n_train_tokens": 100, "n_eval_sequences": 4}}
REST = {
    "summary": "A suite.", "claim": "none", "d_sae": 64, "l0_grid": [8], "seeds": [0], "n_tokens": 1000,
    "batch_size": 100,
}  # fmt: skip


def suite(**entries) -> SuiteConfig:
    return SuiteConfig.from_mapping("mine", {**REST, **entries})


def world(**changes) -> WorldConfig:
    return WorldConfig(**{**WORLD["world"], **changes})


def test_a_suite_has_an_lm_or_a_world():
    of_lm, of_world = suite(**LM), suite(**WORLD)
    assert of_lm.world is None
    assert of_lm.text is not None
    assert of_lm.seq_len == of_lm.text.seq_len == 128
    assert of_world.lm is None
    assert of_world.world == world()
    assert of_world.seq_len == 128


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "lm must be a mapping"),
        ({**LM, **WORLD}, "a world takes the place of lm, text, hookpoint: leave them out"),
        ({**WORLD, "hookpoint": "here"}, "a world takes the place of hookpoint"),
        ({"lm": LM["lm"], "text": LM["text"]}, "missing keys hookpoint: give lm, text and hookpoint, or a world"),
        ({"world": {**WORLD["world"], "n_feature": 3}}, "world: unknown keys n_feature"),
        ({"world": {"n_features": 3}}, "world: missing keys d_in, n_train_tokens, n_eval_sequences"),
        ({"world": {**WORLD["world"], "p_max": "much"}}, "world: p_max must be a number, got 'much'"),
        ({"world": [1]}, "world must be a mapping"),
        ({**WORLD, "store_dtype": "int8"}, "store_dtype is 'int8'"),
    ],
)
def test_a_faulty_suite_is_told(entries, message):
    with pytest.raises(ConfigError, match=message):
        suite(**entries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"p_min": 0.5}, r"p_max must be in \[p_min = 0.5, 1\)"),
        ({"p_min": 0.0}, "p_min > 0"),
        ({"sticky_share": 1.5}, r"sticky_share must be in \[0, 1\]"),
        ({"dwell_min": 0.5}, r"dwell_min must be in \[1, dwell_max\]"),
        ({"dwell_min": 9.0, "dwell_max": 3.0}, r"dwell_min must be in \[1, dwell_max\], got 9.0"),
        ({"emission": 0.0}, r"emission must be in \(0, 1\]"),
        ({"magnitude_last": 0.0}, "magnitude_first must be positive|magnitude_last must be positive"),
        ({"roots": 25}, "roots must be at most n_features = 24"),
        ({"roots": 2, "forget_subtrees": 3}, "forget_subtrees must be at most roots = 2"),
        ({"forget_share": 1.0}, r"forget_share must be in \(0, 1\)"),
    ],
)
def test_a_world_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        world(**changes)


def test_a_documents_inputs_leave_out_how_many_are_taken():
    inputs = world().generator_inputs()
    assert inputs == world(n_train_tokens=7, n_eval_sequences=7).generator_inputs()
    assert inputs.keys() == {f.name for f in dataclasses.fields(WorldConfig)} - {"n_train_tokens", "n_eval_sequences"}
    assert world(seed=1).generator_inputs() != inputs


def test_training_sequences_hold_at_least_the_tokens_asked_for():
    assert world(n_train_tokens=256).n_train_sequences == 2
    assert world(n_train_tokens=257).n_train_sequences == 3
