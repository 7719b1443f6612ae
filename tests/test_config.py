"""Suites of a language model or of a world: what must be given, what must not, and what is told."""

from __future__ import annotations

import dataclasses

import pytest

from harness.artefacts.key import artefact_key, canonical_json
from harness.config import MixConfig, SuiteConfig, WorldConfig
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


# A mix


FORGET = {"source": "table:words", "part": "forget", "share": 0.15}
RETAIN = {"source": "table:words", "part": "retain", "share": 0.25}


def mixed(*mix, **entries) -> SuiteConfig:
    return suite(**{**LM, "text": {**LM["text"], "mix": list(mix)}, **entries})


def test_a_mix_is_part_of_the_suite():
    text = mixed(FORGET, RETAIN, {"source": "more.jsonl", "share": 0.1}).text
    assert text is not None
    assert text.mix[0] == MixConfig(source="table:words", part="forget", share=0.15)
    assert [entry.table for entry in text.mix] == ["words", "words", ""]
    assert text.trained_tables == {"words"}
    assert dataclasses.replace(text, seq_len=64).mix == text.mix
    assert artefact_key("suite", {"suite": mixed(FORGET)}, 1) != artefact_key("suite", {"suite": mixed(RETAIN)}, 1)


def test_a_suite_without_a_mix_keeps_its_hash():
    plain = suite(**LM)
    assert plain.text is not None
    assert (plain.text.mix, plain.text.trained_tables) == ((), frozenset())
    assert canonical_json(plain.text) == (
        '{"eval_fraction":0.1,"mask_first":0,"n_eval_sequences":4,"n_train_tokens":1000,"note":"","prepend_bos":true,'
        '"revision":"","seq_len":128,"source":"package:somewhere/text.jsonl.gz","text_field":"text"}'
    )


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ([], "Suite 'mine': text: mix names no source: leave it out"),
        ("table:words", "mix must be a list of sources with shares, got 'table:words'"),
        ([{"source": "table:words"}], r"Suite 'mine': text: mix\[0\]: missing keys share"),
        ([FORGET, {**RETAIN, "shard": 1}], r"mix\[1\]: unknown keys shard; allowed are source, share, part"),
        ([{**FORGET, "share": "much"}], r"mix\[0\]: share must be a number, got 'much'"),
        (
            [{**FORGET, "share": 0.0}],
            r"text: mix: the share of table:words \(forget\) must lie in \(0, 1\)",
        ),
        ([{**FORGET, "share": 1.0}], r"must lie in \(0, 1\), got 1.0"),
        ([{**FORGET, "share": 0.75}, RETAIN], "the shares sum to 1; they must leave a rest, below 1, for package:some"),
        ([{**FORGET, "part": "forgot"}], r"unknown part of table:words \(forgot\); allowed are forget, retain"),
        ([{"source": "more.jsonl", "part": "forget", "share": 0.1}], "more.jsonl has no parts, as a table"),
        ([FORGET, FORGET], r"table:words \(forget\) stands there twice"),
        ([FORGET, {"source": "table:words", "share": 0.1}], r"table:words \(forget\) stands there twice"),
    ],
)
def test_a_faulty_mix_is_told(mix, message):
    with pytest.raises(ConfigError, match=message):
        suite(**{**LM, "text": {**LM["text"], "mix": mix}})


def test_a_misspelt_mix_is_told_its_name():
    with pytest.raises(ConfigError, match=r"text: unknown keys mixed; allowed are .*, mix"):
        suite(**{**LM, "text": {**LM["text"], "mixed": [FORGET]}})


@pytest.mark.parametrize("source", ["wmdp/texts/forget/bio.jsonl", "wmdp/texts", "hub:wmdp", ".", "wmdp/../wmdp/texts"])
def test_what_an_evaluator_measures_from_its_own_files_is_not_trained_on(source):
    options = {"evaluator_options": {"unlearning": {"files": "wmdp"}}}
    with pytest.raises(ConfigError, match=f"trains on {source}, where evaluator 'unlearning' takes what it measures"):
        mixed({"source": source, "share": 0.1}, **options)
    assert mixed({"source": "elsewhere/bio.jsonl", "share": 0.1}, **options)
    assert mixed({"source": source, "share": 0.1})
