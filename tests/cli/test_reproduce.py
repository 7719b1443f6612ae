"""`reproduce` and `baselines verify --rerun`: records made again and held against what is stored."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import yaml


@pytest.fixture
def stored(micro):
    """A stored record of topk, as its file."""
    return sorted(p for p in (micro.baselines / "micro" / "topk").iterdir() if p.name != "manifest.json")[0]


def changed(path, tmp_path, change) -> str:
    """A copy of a record's file with something changed in it."""
    data = json.loads(path.read_text())
    change(data)
    copy = tmp_path / "changed.json"
    copy.write_text(json.dumps(data))
    return str(copy)


def test_a_record_comes_out_the_same_to_the_last_bit_and_the_cache_stays_as_it_was(micro, stored):
    before = {p: p.stat().st_mtime_ns for kind in ("sae", "record") for p in micro.artefacts(kind)}
    [found] = micro.json("reproduce", str(stored), "--quiet")
    assert found["holds"] is True
    assert found["environment"] == {}
    assert found["same_sae"] is True
    assert {row["verdict"] for row in found["metrics"]} == {"identical"}
    assert {row["metric"] for row in found["metrics"]} == set(json.loads(stored.read_text())["metrics"])
    assert {p: p.stat().st_mtime_ns for kind in ("sae", "record") for p in micro.artefacts(kind)} == before
    assert not list((micro.cache / "tmp").glob("reproduce-*"))


def test_what_does_not_depend_on_the_sae_is_kept_for_the_next(micro, stored):
    """In an empty cache the activations are made once, not once a record."""
    fresh = micro.cache.parent / "fresh"
    micro.invoke("--cache", str(fresh), "reproduce", str(stored), "--quiet")
    kinds = {p.name for p in fresh.iterdir()}
    assert "activations" in kinds
    assert not kinds & {"sae", "record"}
    assert list((fresh / "tmp").iterdir()) == []


def test_what_a_killed_run_leaves_is_collected_and_what_runs_is_not(micro):
    from harness.artefacts.cache import Cache
    from harness.cli.reproduce import _beside

    cache = Cache(micro.cache)
    with _beside(cache) as other:
        (other.root / "sae").mkdir()
        assert cache.collect_garbage().removed == ()
        assert other.root.is_dir()
        left = micro.cache / "tmp" / f"reproduce-{'0' * 64}-1"
        shutil.copytree(other.root, left, symlinks=True)
    assert not (micro.cache / "locks" / f"{other.root.name.split('-')[1]}.lock").exists()
    assert [r.path for r in cache.collect_garbage().removed] == [left]
    assert (micro.cache / "activations").is_dir(), "links are removed, not what they lead to"


def test_a_number_that_was_never_measured_is_found(micro, stored, tmp_path):
    def change(data):
        data["metrics"]["fvu"]["value"] *= 1.0000001

    done = micro.invoke("reproduce", changed(stored, tmp_path, change), "--quiet")
    assert done.exit_code == 1
    [row] = [line for line in done.stdout.splitlines() if line.startswith("fvu ")]
    assert row.endswith("outside")
    assert "10 of 11 metrics reproduced." in done.stdout


def test_in_another_environment_differences_within_the_noise_are_allowed_and_told(micro, stored, tmp_path):
    def change(data):
        data["provenance"]["distributions"]["torch"] = "1.0"
        data["metrics"]["fvu"]["value"] *= 1.0000001
        data["metrics"]["cosine"]["value"] *= 1.5

    done = micro.invoke("reproduce", changed(stored, tmp_path, change), "--quiet")
    assert done.exit_code == 1
    assert "Another environment: torch 1.0 there, " in done.stdout
    verdicts = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line}
    assert (verdicts["fvu"], verdicts["cosine"], verdicts["l0"]) == ("within", "outside", "identical")


def test_another_protocol_is_refused_with_the_field(project):
    record = next((project.baselines / "micro" / "topk").glob("[0-9a-f]*.json"))
    project.edit_registry("batch_size: 128", "batch_size: 64")
    line = project.error("reproduce", str(record), "--quiet")
    assert "batch_size: 128 in the record, 64 here" in line


def test_options_of_the_record_hold_where_the_suite_has_changed_its_own(project):
    record = next((project.baselines / "micro" / "topk").glob("[0-9a-f]*.json"))
    project.edit_registry("topk: {lr: 0.01}", "topk: {lr: 0.02}")
    [found] = project.json("reproduce", str(record), "--quiet")
    assert found["holds"] is True
    assert found["same_sae"] is True


def test_an_option_that_the_method_does_not_have_is_refused(micro, stored, tmp_path):
    def change(data):
        data["method"]["options"]["sae.shape"] = "round"

    line = micro.error("reproduce", changed(stored, tmp_path, change), "--quiet")
    assert "cannot be given the options of the record of topk: sae.shape differ" in line


def test_a_metric_of_an_evaluator_that_is_not_here_is_told(micro, stored, tmp_path):
    def change(data):
        data["metrics"]["charm"] = {"value": 1.0, "n": 1, "version": 1, "evaluator": "charms"}
        data["evaluations"]["charms"] = {"status": "done"}

    done = micro.invoke("reproduce", changed(stored, tmp_path, change), "--quiet")
    assert done.exit_code == 1
    assert "charms: charms was skipped: evaluator not installed" in done.stdout


def test_an_imported_record_is_refused_with_its_source(micro, stored, tmp_path):
    def change(data):
        data["provenance"]["source"] = "theirs.json, sha256 0"

    line = micro.error("reproduce", changed(stored, tmp_path, change))
    assert "topk is imported from theirs.json, sha256 0" in line


def test_a_control_without_l0_is_made_again(micro):
    record = next((micro.baselines / "micro" / "identity").glob("[0-9a-f]*.json"))
    manifest = str(record.parent / "manifest.json")
    assert "metrics reproduced." in micro.ok("reproduce", str(record), manifest, "--quiet")
    assert "There are no records in" in micro.error("reproduce", manifest)


def test_verify_makes_a_sample_again(project):
    done = project.invoke("baselines", "verify", "--rerun", "2", "--rerun-seed", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout == "4 stored methods, all as their manifests say.\n"
    told = [line for line in done.stderr.splitlines() if "metrics reproduced (same environment)." in line]
    assert len(told) == 2
    again = project.invoke("baselines", "verify", "--rerun", "2", "--rerun-seed", "3")
    assert [line for line in again.stderr.splitlines() if "reproduced" in line] == told


def test_verify_finds_a_record_that_was_forged_with_its_manifest(project):
    folder = project.baselines / "micro" / "identity"
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in list(manifest["records"]):
        data = json.loads((folder / name).read_text())
        data["metrics"]["cosine"]["value"] = 0.5
        text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / name).write_text(text)
        manifest["records"][name] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    registry = project.registry.read_text()
    old = yaml.safe_load(registry)["baselines"]["micro"]["identity"]
    project.registry.write_text(registry.replace(old, told))
    assert project.invoke("baselines", "verify").exit_code == 0
    done = project.invoke("baselines", "verify", "--rerun", "30")
    assert done.exit_code == 1
    assert done.stdout.count("cosine is 0.5, made again 1 (allowed 0)") == 3
