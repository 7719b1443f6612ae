"""Files of any kind: records are read, the rest is one finding each, and nothing crashes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.results.audit.collect import collect
from harness.results.audit.runner import audit
from harness.results.audit.tolerances import Tolerances

ROOT = Path(__file__).parents[3]
GEMMA = ROOT / "tests" / "fixtures" / "gemma_records"
TOPK = GEMMA / "temporal" / "baseline_topk.json"
OURS = next(p for p in sorted((ROOT / "baselines" / "tiny" / "topk").glob("*.json")) if p.name != "manifest.json")


def block(**changes) -> dict:
    """One SAEBench file."""
    return {**json.loads(TOPK.read_text())["sparse probing evaluation results"], **changes}


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "utf-16 with its mark": OURS.read_text().encode("utf-16"),
    "utf-16 without": OURS.read_text().encode("utf-16-le"),
    "utf-32": OURS.read_text().encode("utf-32"),
    "gzip": gzip.compress(OURS.read_bytes()),
    "gzip cut": gzip.compress(OURS.read_bytes())[:200],
    "a mark twice": b"\xef\xbb\xbf" * 2 + OURS.read_bytes(),
    "nan in the settings": json.dumps(block(eval_config={"a": [1, {"b": float("nan")}]})).encode(),
    "a field twice, deep down": TOPK.read_bytes().replace(
        b'"final_info": {', b'"final_info": {"layer": 12, "layer": 3, ', 1
    ),
    "thousands of fields of one name": b'{"training_steps": 1, "final_loss": 2.0' + b', "a": 1' * 50_000 + b"}",
    "cut": TOPK.read_bytes()[:4000],
    "not utf-8": b'{"eval_type_id": "\xff\xfe"}',
    "nul bytes": b"\0" * 100,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "nan": json.dumps(block(eval_result_metrics={"sae": {"sae_test_accuracy": float("nan")}})).encode(),
    "infinity": b'{"training_steps": 1, "final_loss": -Infinity}',
    "overflow": b'{"training_steps": 1, "final_loss": 1e999}',
    "huge whole number": b'{"training_steps": 1, "final_loss": 1' + b"0" * 400 + b"}",
    "thousands of digits": b'{"training_steps": 1, "final_loss": ' + b"9" * 20_000 + b"}",
    "a field twice": b'{"training_steps": 1, "final_loss": 2.0, "final_loss": 3.0}',
    "half a surrogate": b'{"training_steps": 1, "final_loss": 2.0, "run_title": "\\ud800"}',
    "steps are text": b'{"training_steps": "many", "final_loss": 2.0}',
    "loss is true": b'{"training_steps": 1, "final_loss": true}',
    "half a step": b'{"training_steps": 1.5, "final_loss": 2.0}',
    "metrics are a list": json.dumps(block(eval_result_metrics=[1, 2])).encode(),
    "a metric is text": json.dumps(block(eval_result_metrics={"sae": {"a": "0.5"}})).encode(),
    "details are a number": json.dumps(block(eval_result_details=3)).encode(),
    "settings are a list": json.dumps(block(eval_config=[1])).encode(),
    "time is text": json.dumps(block(datetime_epoch_millis="today")).encode(),
    "deep settings": json.dumps(block(eval_config={"a": json.loads("[" * 200 + "]" * 200)})).encode(),
    "our record cut": OURS.read_bytes()[:-40],
    "our record of the future": json.dumps({**json.loads(OURS.read_bytes()), "schema_version": 99}).encode(),
    "our record with a field of its own": json.dumps({**json.loads(OURS.read_bytes()), "colour": 3}).encode(),
    "trailing text": OURS.read_bytes() + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_finding(tmp_path, name):
    (tmp_path / "bad.json").write_bytes(HOSTILE[name])
    (tmp_path / "good.json").write_bytes(OURS.read_bytes())
    collected = collect([tmp_path])
    [finding] = collected.findings
    assert (finding.rule, finding.severity, finding.record) == ("R01", "blocker", "bad.json")
    [(_, why)] = finding.evidence
    assert 10 < len(why) < 400
    assert "\n" not in why
    assert [e.name for e in collected.evidence] == ["good.json"], "the other file is read"
    assert audit(collected.evidence) == ()


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}", '{"a": 1}', "[1, 2]", "[[]]", "[{}]"])
def test_json_that_is_no_record_is_told(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    collected = collect([tmp_path])
    assert [(f.rule, f.severity) for f in collected.findings] == [("R02", "warning")]


def test_a_large_file_is_not_read(tmp_path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**40)
    [finding] = collect([tmp_path]).findings
    assert "1048576.0 MiB, more than the 64 of max_file_mib" in finding.evidence[0][1]
    (tmp_path / "large.json").write_bytes(OURS.read_bytes())
    assert len(collect([tmp_path], Tolerances(max_file_mib=0.001)).findings) == 1


def test_a_string_of_a_hundred_megabytes_is_not_read_and_one_below_the_limit_is_no_record(tmp_path):
    text = b'{"eval_type_id": "' + b"a" * (100 * 2**20) + b'"}'
    (tmp_path / "long.json").write_bytes(text)
    [finding] = collect([tmp_path]).findings
    assert (finding.rule, "100.0 MiB, more than the 64" in finding.evidence[0][1]) == ("R01", True)
    (tmp_path / "long.json").write_bytes(text[: 40 * 2**20] + b'"}')
    [finding] = collect([tmp_path]).findings
    assert finding.rule == "R02"
    assert len(finding.evidence[0][1]) < 400


def test_a_long_name_in_a_record_is_cut_in_what_is_told(tmp_path):
    (tmp_path / "long.json").write_text(json.dumps(block(eval_result_metrics={"sae": {"a" * 10**6: "no number"}})))
    [finding] = collect([tmp_path]).findings
    assert len(finding.evidence[0][1]) < 400


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    """Asked of the system call, for the superuser may read anything."""
    (tmp_path / "good.json").write_bytes(OURS.read_bytes())
    (tmp_path / "secret.json").write_bytes(OURS.read_bytes())
    opened = os.open

    def refuse(path, *args, **options):
        if str(path).endswith("secret.json"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    collected = collect([tmp_path])
    assert [(f.record, f.evidence[0][1]) for f in collected.findings] == [
        ("secret.json", "it cannot be opened: Permission denied")
    ]
    assert [e.name for e in collected.evidence] == ["good.json"]


def test_a_file_that_fails_while_it_is_read_is_told(tmp_path):
    """A disk error: here the kernel's own memory, which opens and cannot be read from its start."""
    if not os.access("/proc/self/mem", os.R_OK):
        pytest.skip("no such file on this system")
    (tmp_path / "broken.json").symlink_to("/proc/self/mem")
    [finding] = collect([tmp_path]).findings
    assert finding.rule == "R01"


def test_a_folder_with_the_name_of_a_record_is_a_folder_where_it_is_given_itself(tmp_path):
    (tmp_path / "x.json").mkdir()
    (tmp_path / "x.json" / "good.json").write_bytes(OURS.read_bytes())
    assert [e.name for e in collect([tmp_path / "x.json"]).evidence] == ["good.json"]


def test_pipes_folders_devices_and_loops_are_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.json" / "inside.json").write_text("{}")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "broken.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    (tmp_path / "self").symlink_to(tmp_path, target_is_directory=True)
    collected = collect([tmp_path])
    found = {f.record: f.evidence[0][1] for f in collected.findings}
    assert found.keys() == {f"{n}.json" for n in ("pipe", "folder", "loop", "broken", "device")}
    assert (found["pipe.json"], found["folder.json"]) == ("it is a pipe, not a file", "it is a folder")
    assert found["device.json"] == "it is a device, not a file"
    assert len(collected.findings) == 5


def test_a_special_file_named_directly_is_told_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert len(collect([tmp_path / "pipe.json", tmp_path / "loop.json"]).findings) == 2


def test_names_that_no_terminal_should_see_are_escaped(tmp_path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\x1b[2J.json"))).write_text("{}")
    [finding] = collect([tmp_path]).findings
    assert finding.record == "a\\xff\\x1b[2J.json"


@pytest.mark.parametrize(
    "name", ["a1²2", "²", "run_²", "run_²3", "run_٣", "run_" + "9" * 200, "①", "run_-1", "run_1_000"]
)
def test_digits_that_are_no_numbers_may_stand_in_names(tmp_path, name):
    """`'²'.isdigit()` is true, and `int('²')` fails."""
    source = (GEMMA / "temporal" / "run_1.json").read_bytes()
    (tmp_path / "run_1.json").write_bytes(source)
    (tmp_path / f"{name}.json").write_bytes(source)
    collected = collect([tmp_path])
    assert collected.findings == ()
    audit(collected.evidence)


def test_one_file_by_two_ways_is_read_once(tmp_path):
    (tmp_path / "a.json").write_bytes(OURS.read_bytes())
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    collected = collect([tmp_path, tmp_path / "a.json"])
    assert (len(collected.evidence), collected.files) == (1, 1)


def test_manifests_and_hidden_files_are_no_records(tmp_path):
    shutil.copytree(ROOT / "baselines" / "tiny" / "identity", tmp_path / "identity")
    (tmp_path / ".hidden.json").write_text("no JSON")
    collected = collect([tmp_path])
    assert collected.findings == ()
    assert len(collected.evidence) == 3


def test_a_list_of_records_is_as_many(tmp_path):
    records = [json.loads(OURS.read_text()), block()]
    (tmp_path / "all.json").write_text(json.dumps(records))
    assert [(e.name, e.kind) for e in collect([tmp_path]).evidence] == [
        ("all.json#0", "harness"),
        ("all.json#1", "saebench"),
    ]


@pytest.mark.parametrize("paths", [["nothing-here.json"], [""], ["a\0b"]])
def test_a_path_that_is_not_there_is_a_users_error(tmp_path, paths):
    with pytest.raises(RecordError, match=r"No file or folder|There is no JSON file"):
        collect([tmp_path / p for p in paths])


def test_names_of_several_folders_do_not_clash():
    collected = collect([GEMMA / "temporal", GEMMA / "topk_orthogonality"])
    names = [e.name for e in collected.evidence]
    assert len(set(names)) == len(names) == 22
    assert all(name.startswith(str(GEMMA)) for name in names)


def test_the_formats_are_told_apart(tmp_path):
    (tmp_path / "probing.json").write_text(json.dumps(block()))
    collected = collect([tmp_path, GEMMA / "topk_orthogonality" / "run_1.json", TOPK])
    kinds = {e.name.rpartition("/")[2]: e.kind for e in collected.evidence}
    assert kinds == {"probing.json": "saebench", "run_1.json": "combined", "baseline_topk.json": "combined"}


def test_a_combined_record_is_read_whole():
    [record] = collect([TOPK]).evidence
    assert set(record.evaluations) == {"absorption", "core", "scr", "sparse_probing", "unlearning"}
    assert (record.d_sae, record.d_in, record.lm) == (65536, 2304, "google/gemma-2-2b")
    assert record.training is not None
    assert (record.training.steps, record.training.loss, record.training.lr) == (4882, 2314.96337890625, 0.0001)
    assert record.metric("core", "explained_variance") == 0.7890625
    assert len(record.evaluations["absorption"].letters) == 26


def test_a_record_of_ours_is_read_whole():
    [record] = collect([OURS]).evidence
    assert record.kind == "harness"
    assert (record.study, record.method) == ("tiny", "topk")
    assert record.evaluations["core"].metrics["l0"] == record.training.target_l0  # type: ignore[union-attr]
    assert record.l0() == ("core", record.training.target_l0)  # type: ignore[union-attr]


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + OURS.read_bytes())
    assert len(collect([tmp_path]).evidence) == 1
