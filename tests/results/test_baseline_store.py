"""Stored baselines: what comes back is what went in, and nothing is overwritten or trusted unseen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from harness.errors import BaselineError, RecordError
from harness.results.baseline_store import BaselineStore
from harness.results.record import Taint

COMMAND = "sae-harness baselines build topk --suite tiny"


@pytest.fixture
def store(tmp_path):
    return BaselineStore(tmp_path / "baselines")


@pytest.fixture
def records(factory):
    return factory.make_side()


def test_records_come_back_as_they_were(store, records):
    folder = store.add("tiny", records[::-1], COMMAND)
    assert store.load("tiny", "topk") == records
    assert (store.suites(), store.methods("tiny")) == (("tiny",), ("topk",))
    assert folder == store.root / "tiny" / "topk"
    assert store.verify() == []
    manifest = store.manifest("tiny", "topk")
    assert (manifest.command, manifest.harness_version, len(manifest.records)) == (COMMAND, "0.1.0", 12)


def test_presets_have_their_own_folder(store, factory):
    store.add("tiny", factory.make_side("temporal", preset="abs"), COMMAND)
    assert store.methods("tiny") == ("temporal@abs",)


def test_an_absent_folder_is_an_empty_store(store):
    assert store.suites() == ()
    assert store.methods("tiny") == ()
    assert store.verify() == []


def test_an_unknown_baseline_names_those_known_and_the_mend(store, records):
    store.add("tiny", records, COMMAND)
    with pytest.raises(BaselineError, match=r"Unknown baseline 'relu' for suite 'tiny'.*known are topk\. Make it: sae"):
        store.load("tiny", "relu")


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b"])
def test_names_never_leave_the_store(store, name):
    with pytest.raises(BaselineError, match="cannot name a baseline"):
        store.load(name, "topk")


def test_adding_the_same_again_changes_nothing(store, records):
    store.add("tiny", records, COMMAND)
    before = store.manifest_sha256("tiny", "topk")
    store.add("tiny", records[:3], "another command")
    assert store.manifest_sha256("tiny", "topk") == before


def test_more_seeds_are_added_to_those_there(store, factory, records):
    store.add("tiny", records, COMMAND)
    store.add("tiny", factory.make_side(seeds=(3,)), COMMAND)
    assert {r.training.seed for r in store.load("tiny", "topk")} == {0, 1, 2, 3}
    assert store.verify() == []


def test_the_manifests_hash_is_that_of_its_bytes(store, records):
    folder = store.add("tiny", records, COMMAND)
    expected = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert store.manifest_sha256("tiny", "topk") == expected


def test_a_stored_record_is_never_overwritten(store, records):
    store.add("tiny", records, COMMAND)
    changed = replace(records[0], sae_id="0" * 64)
    with pytest.raises(BaselineError, match="not overwritten"):
        store.add("tiny", [changed], COMMAND)
    with pytest.raises(BaselineError, match="already holds seed 0, target L0 8, made from other inputs"):
        store.add("tiny", [replace(changed, key="1" * 64)], COMMAND)
    assert store.load("tiny", "topk") == records


def test_protocols_are_not_mixed(store, factory, records):
    store.add("tiny", records, COMMAND)
    with pytest.raises(BaselineError, match="another protocol"):
        store.add("tiny", factory.with_protocol(factory.make_side(seeds=(3,)), d_sae=8), COMMAND)
    with pytest.raises(BaselineError, match="suite 'tiny', not 'smollm2'"):
        store.add("smollm2", records, COMMAND)


def test_replace_puts_new_records_in_the_place_of_all(store, factory, records):
    store.add("tiny", records, COMMAND)
    new = factory.with_protocol(factory.make_side(grid=(8, 16)), d_sae=8)
    store.add("tiny", new, COMMAND, replace=True)
    assert store.load("tiny", "topk") == new
    assert len(list((store.root / "tiny").iterdir())) == 1
    assert len(list((store.root / "tiny" / "topk").iterdir())) == 7


def test_tainted_records_are_not_stored(store, factory):
    with pytest.raises(RecordError, match="tainted"):
        store.add("tiny", factory.make_side(taints=[Taint(rule="F01", reason="copied")]), COMMAND)


def damage_changed(folder, name):
    (folder / name).write_text((folder / name).read_text().replace("1536", "1537"))


def damage_removed(folder, name):
    (folder / name).unlink()


def damage_manifest(folder, name):
    (folder / "manifest.json").write_text("{")


def damage_nested(folder, name):
    (folder / "manifest.json").write_text("[" * 100_000)


def damage_newer(folder, name):
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, "schema_version": 9}))


def damage_escape(folder, name):
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, "records": {"../x.json": "0"}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_changed, "differs from its manifest. Restore it"),
        (damage_removed, "cannot be read: No such file"),
        (damage_manifest, "is malformed"),
        (damage_nested, "is malformed"),
        (damage_newer, "newer sae-harness"),
        (damage_escape, "is malformed"),
    ],
)
def test_damage_is_told_with_its_mend(store, records, damage, message):
    folder = store.add("tiny", records, COMMAND)
    damage(folder, f"{records[5].key}.json")
    with pytest.raises(BaselineError, match=message):
        store.load("tiny", "topk")
    (problem,) = store.verify()
    assert message in problem.message


def test_verify_tells_what_is_not_listed_and_what_is_mixed(store, factory, records):
    folder = store.add("tiny", records, COMMAND)
    (folder / "stray.json").write_text("{}")
    store.add("tiny", factory.with_protocol(factory.make_side("zeta"), d_sae=8), COMMAND)
    (store.root / "tiny" / "unfinished").mkdir()
    messages = [p.message for p in store.verify()]
    assert len(messages) == 3
    assert "not listed in the manifest" in messages[0]
    assert "has no manifest.json" in messages[1]
    assert messages[2] == "d_sae is not that of topk of this suite"
    assert store.load("tiny", "topk") == records


def test_an_unwritable_place_is_told(tmp_path, records):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaselineError, match="cannot be written"):
        BaselineStore(tmp_path / "file").add("tiny", records, COMMAND)
