"""Records: an exact round trip, and clear refusals."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import MappingProxyType

import pytest

from harness.errors import RecordError
from harness.results.record import EvaluationEntry, MetricEntry, Record, Taint


@pytest.fixture
def record(factory):
    plain = factory.make_record(
        values={"fvu": 0.1 + 0.2},
        options={"bias": True, "name": "é", "none": None, "whole": 3},
        taints=[Taint(rule="F01", reason="copied")],
        evaluations={"core": EvaluationEntry(status="failed", reason="no LM", wall_seconds=1.5)},
    )
    histogram = MetricEntry(value=1.0, n=5, version=2, evaluator="core", detail={"edges": (0.0, 1e-300, 3.0)})
    return replace(plain, metrics={**plain.metrics, "density": histogram})


def edited(record, path, value):
    data = json.loads(record.to_json())
    place = data
    for name in path[:-1]:
        place = place[name]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


def test_round_trip_is_exact(record):
    again = Record.from_json(record.to_json())
    assert again == record
    assert again.to_json() == record.to_json()
    assert again.sha256() == record.sha256()


def test_numbers_keep_their_kind_so_that_hashes_hold(record):
    whole = replace(record, training=replace(record.training, wall_seconds=20))
    assert Record.from_json(whole.to_json()).sha256() == whole.sha256()
    assert whole.sha256() != record.sha256()


def test_json_is_canonical(record):
    shuffled = replace(record, metrics=MappingProxyType(dict(reversed(record.metrics.items()))))
    assert shuffled.to_json() == record.to_json()
    assert record.to_json().endswith("}\n")


def test_save_and_load(record, tmp_path):
    path = tmp_path / "record.json"
    record.save(path)
    record.save(path)
    assert Record.load(path) == record
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(record, tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    path.write_text("old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=r"cannot be written: No space left on device\. Free space"):
        record.save(path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_told(record, tmp_path):
    with pytest.raises(RecordError, match="cannot be written"):
        record.save(tmp_path / "nowhere" / "record.json")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_file_is_told(tmp_path, content):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match="cannot be read"):
        Record.load(path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "here: unknown field extra; allowed are key, sae_id"),
        (("method", "colour"), "red", "here: method: unknown field colour"),
        (("sae_id",), ..., "here: missing field sae_id"),
        (("protocol", "lm_sha256"), ..., "here: protocol: missing field lm_sha256"),
        (("protocol", "d_sae"), "1536", "here: protocol: d_sae must be a whole number, got text"),
        (("protocol", "d_sae"), 1.5, "must be a whole number, got the number 1.5"),
        (("training", "seed"), True, "seed must be a whole number, got a truth value"),
        (("training", "target_l0"), "8", "target_l0 must be a whole number, got text"),
        (("method", "options"), [1], "options must be an object, got a list"),
        (("method", "options", "lr"), [1], "options.lr must be a truth value or a whole number"),
        (("metrics", "fvu", "value"), None, r"metrics\.fvu: value must be a number, got null"),
        (("metrics", "density", "detail", "edges"), 3, "edges must be a list, got the number 3"),
        (("evaluations", "core", "status"), "fine", "status is 'fine'; allowed are done, failed, skipped"),
        (("taints",), [3], r"taints\[0\] must be an object"),
        (("schema_version",), 4, r"newer sae-harness \(schema 4\); this one reads up to 3: upgrade"),
        (("schema_version",), ..., "schema_version is None"),
        (("schema_version",), 0, "schema_version is 0"),
    ],
)
def test_a_malformed_record_is_refused_by_field(record, path, value, message):
    with pytest.raises(RecordError, match=message):
        Record.from_json(edited(record, path, value), where="here")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object, got a list"), ('{"a": NaN}', "NaN is no JSON number")],
)
def test_text_that_is_no_record_is_refused(text, message):
    with pytest.raises(RecordError, match=message):
        Record.from_json(text)


def test_a_number_that_is_not_finite_is_never_written(record):
    bad = replace(record, metrics={"fvu": MetricEntry(value=float("nan"), n=1, version=1, evaluator="core")})
    with pytest.raises(RecordError, match="finite numbers"):
        bad.to_json()
