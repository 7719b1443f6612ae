"""F47-F50: data, configuration and cost."""

from __future__ import annotations

import pytest


def test_f47_another_training_text(build):
    sound = [build.ours(str(i)) for i in range(3)]
    assert build.names(build.found("F47", *sound, build.ours("3", protocol={"train_data": "9" * 64}))) == [("3", "")]
    assert build.found("F47", *sound) == []


def test_f47_a_corpus_without_a_name(build):
    nameless = build.saebench("r", build.evaluation("core", config={"dataset": ""}))
    assert build.names(build.found("F47", nameless)) == [("r", "core")]
    assert build.found("F47", build.saebench("r", build.evaluation("scr", config={"seed": 1}))) == []


def test_f48_a_setting_of_the_suite(build):
    sound = [build.ours(str(i)) for i in range(3)]
    [finding] = build.found("F48", *sound, build.ours("3", protocol={"seq_len": 64}))
    assert (finding.record, finding.field) == ("3", "protocol.seq_len")
    assert build.found("F48", *sound, build.ours("3", protocol={"seq_len": 64, "suite": "other"})) == []


def test_f48_to_and_fro(build):
    def runs(*datasets):
        return [
            build.combined(f"s/run_{i}.json", build.evaluation("core", time=float(i), config={"dataset": name}))
            for i, name in enumerate(datasets)
        ]

    assert build.names(build.found("F48", *runs("a", "b", "a"))) == [("s/run_2.json", "core")]
    assert build.found("F48", *runs("a", "a", "b", "b")) == []


@pytest.mark.parametrize(("steps", "hits"), [(512, 0), (511, 1), (4882, 1)])
def test_f49_steps_follow_from_the_tokens(build, steps, hits):
    assert len(build.found("F49", build.ours("r", training={"steps": steps}))) == hits


def test_f49_the_last_part_of_a_batch_may_be_left_out(build):
    assert build.found("F49", build.ours("r", training={"tokens": 524288 + 1000})) == []


@pytest.mark.parametrize("missing", ["wall_seconds", "peak_memory_mib"])
def test_f50_time_and_memory(build, missing):
    assert build.names(build.found("F50", build.ours("r", training={missing: 0.0}))) == [("r", "training")]
    control = {missing: 0.0, "trained": False, "steps": 0}
    assert build.found("F50", build.ours("r", training=control, control=True)) == []
