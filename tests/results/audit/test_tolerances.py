"""Tolerances: stated, overridable, and refused where they say nothing."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError, UnknownNameError
from harness.results.audit.runner import RULES
from harness.results.audit.tolerances import DEFAULT, Tolerances, load_tolerances


@pytest.fixture
def load(tmp_path):
    def read(text: str | bytes) -> Tolerances:
        path = tmp_path / "t.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_tolerances(path)

    return read


def test_an_empty_file_is_the_defaults(load):
    assert load("# nothing") == DEFAULT


def test_values_are_overridden_one_by_one(load):
    found = load("l0_match: 0.05\nmin_seeds: 5\nmax_file_mib: 8\nsaebench_minutes: {core: 1}")
    assert (found.l0_match, found.min_seeds, found.max_file_mib) == (0.05, 5, 8.0)
    assert found.saebench_minutes == {**DEFAULT.saebench_minutes, "core": 1.0}
    assert found.min_letters == DEFAULT.min_letters


def test_a_tolerance_changes_what_is_found(build):
    runs = [build.combined(f"s/{n}.json", build.core(l0=l0)) for n, l0 in (("a", 100.0), ("b", 120.0))]
    assert len(build.found("F22", *runs)) == 2
    assert build.found("F22", *runs, tolerances=Tolerances(l0_match=0.25)) == []


def test_facts_are_matched_by_name_and_the_last_one_counts(load):
    found = load(
        "facts:\n- {records: 's/*', train_dataset: a, source: x}\n"
        "- {records: s/run_2.json, train_dataset: b, source: y}"
    )
    assert [found.fact(f"s/run_{i}.json", "train_dataset") for i in (1, 2)] == ["a", "b"]
    assert found.fact("results/s/run_1.json", "train_dataset") == "a"
    assert found.fact("t/run_1.json", "train_dataset") is None
    assert found.fact("s/run_1.json", "batch_tokens") is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("l0_mach: 0.1", UnknownNameError, "Did you mean l0_match"),
        ("l0_match: wide", ConfigError, "l0_match must be a number of at least 0, got 'wide'"),
        ("l0_match: -1", ConfigError, "at least 0"),
        ("l0_match: .nan", ConfigError, "at least 0"),
        ("l0_match: .inf", ConfigError, "at least 0"),
        ("min_seeds: true", ConfigError, "min_seeds must be a whole number"),
        ("min_seeds: 2.5", ConfigError, "min_seeds must be a whole number"),
        ("saebench_minutes: 3", ConfigError, "must map evaluations"),
        ("- 1", ConfigError, "must be a mapping"),
        ("a: [", ConfigError, "no YAML"),
        (b"\xff\xfe\x00", ConfigError, "no YAML"),
        ("facts: 3", ConfigError, "facts must be a list"),
        ("facts: [{train_dataset: a}]", ConfigError, "must say `records`"),
        ("facts: [{records: a, source: b, colour: c}]", UnknownNameError, "Unknown fact 'colour'"),
        ("facts: [{records: a, source: b, batch_tokens: many}]", ConfigError, "batch_tokens cannot be 'many'"),
    ],
)
def test_a_file_that_says_nothing_is_refused(load, text, error, message):
    with pytest.raises(error, match=message):
        load(text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tolerances(tmp_path / "none.yaml")


def test_every_tolerance_is_named_by_a_rule():
    import dataclasses

    from harness.results.audit.collect import READING

    used = {name for rule in (*RULES, *READING) for name in rule.tolerances}
    assert used == {field.name for field in dataclasses.fields(Tolerances)}
