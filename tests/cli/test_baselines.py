"""`baselines`: stored records, their manifests, and the registry they are entered in."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml


def entered(project) -> dict:
    return yaml.safe_load(project.registry.read_text())["baselines"]


def records_of(project, method: str):
    return sorted(p for p in (project.baselines / "micro" / method).iterdir() if p.name != "manifest.json")


def test_building_stores_the_records_and_enters_them_with_comments_kept(micro):
    assert [len(records_of(micro, name)) for name in ("topk", "random", "pca", "identity")] == [9, 9, 9, 3]
    text = micro.registry.read_text()
    assert text.startswith("# The project's comment.\n")
    assert "# kept" in text
    assert "# Below: written by the harness." in text
    assert set(entered(micro)["micro"]) == {"topk", "random", "pca", "identity"}
    assert micro.ok("baselines", "verify") == "4 stored methods, all as their manifests say.\n"


def test_the_commands_are_kept_as_they_can_be_typed(micro):
    [topk] = [row for row in micro.json("baselines", "list") if row["method"] == "topk"]
    assert topk["command"] == "sae-harness baselines build topk --suite micro"
    record = json.loads(records_of(micro, "topk")[0].read_text())
    told = record["provenance"]["command"]
    assert told == "sae-harness baselines build topk identity random pca --suite micro"


def test_list_shows_every_method(micro):
    rows = {row["method"]: row for row in micro.json("baselines", "list")}
    assert {name: (row["records"], row["seeds"], row["tainted"]) for name, row in rows.items()} == {
        "topk": (9, 3, 0),
        "random": (9, 3, 0),
        "pca": (9, 3, 0),
        "identity": (3, 3, 0),
    }
    assert "sae-harness baselines build pca --suite micro" in micro.ok("baselines", "list")


def test_an_empty_store_is_told_on_stderr(fresh):
    done = fresh.invoke("baselines", "list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "No baselines are stored in" in done.stderr
    assert fresh.json("baselines", "list") == []


def test_show_gives_a_row_for_each_l0(micro):
    out = micro.ok("baselines", "show", "topk", "--suite", "micro")
    assert out.startswith("micro · lm · ")
    rows = micro.ok("baselines", "show", "topk", "--suite", "micro", "--format", "csv").splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["topk", "2"], ["topk", "4"], ["topk", "8"]]
    assert len(micro.json("baselines", "show", "topk", "--suite", "micro")) == 9


def test_show_of_what_is_not_stored_names_what_is(micro):
    line = micro.error("baselines", "show", "relu", "--suite", "micro")
    assert "known are identity, pca, random, topk" in line
    assert "sae-harness baselines build relu --suite micro" in line


def test_building_again_changes_nothing(project):
    before = {p: p.read_bytes() for p in project.baselines.rglob("*.json")}
    project.ok("baselines", "build", "topk", "--suite", "micro", "--quiet")
    assert {p: p.read_bytes() for p in project.baselines.rglob("*.json")} == before


def test_overwriting_needs_replace(project):
    project.edit_registry("topk: {lr: 0.01}", "topk: {lr: 0.012}")
    before = entered(project)
    line = project.error("baselines", "build", "topk", "--suite", "micro", "--quiet")
    assert "already holds seed 0, target L0 2" in line
    assert "--replace" in line
    assert entered(project) == before
    project.ok("baselines", "build", "topk", "--suite", "micro", "--quiet", "--replace")
    [record, *_] = project.json("baselines", "show", "topk", "--suite", "micro")
    assert record["method"]["options"]["lr"] == 0.012
    assert entered(project)["micro"]["topk"] != before["micro"]["topk"]
    assert len(records_of(project, "topk")) == 9
    assert project.invoke("baselines", "verify").exit_code == 0


def test_add_stores_what_run_printed(project, tmp_path):
    (tmp_path / "relu.json").write_text(json.dumps(project.json("run", "relu", "--suite", "micro")))
    out = project.ok("baselines", "add", str(tmp_path / "relu.json"), "--suite", "micro")
    assert out == f"Stored 9 records in {project.baselines / 'micro' / 'relu'}.\n"
    assert "relu" in entered(project)["micro"]
    assert project.invoke("baselines", "verify").exit_code == 0
    assert len(project.json("baselines", "show", "relu", "--suite", "micro")) == 9


def test_a_folder_of_baselines_without_a_registry_beside_it_enters_nothing(project, tmp_path):
    """Another store must not take the place of the project's own entries."""
    registry = project.registry.read_text()
    elsewhere = tmp_path / "elsewhere"
    args = ["--cache", str(project.cache), "--registry", str(project.registry), "--baselines", str(elsewhere)]
    from click.testing import CliRunner

    from harness.cli.main import cli

    def invoke(*more):
        return CliRunner().invoke(cli, [*args, *more], env=project.environ(), prog_name="sae-harness")

    done = invoke("baselines", "build", "relu", "--suite", "micro", "--quiet")
    assert done.exit_code == 0, done.output
    assert project.registry.read_text() == registry
    assert len(list((elsewhere / "micro" / "relu").iterdir())) == 10
    assert invoke("baselines", "verify").stdout == "1 stored methods, all as their manifests say.\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("{}", "schema_version is None"),
        ('[{"schema_version": 99}]', "newer sae-harness (schema 99)"),
        ('[{"schema_version": 1}]', "missing field"),
        ("[3]", "must hold a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is no number"),
    ],
)
def test_add_refuses_what_is_no_record(project, tmp_path, content, told):
    (tmp_path / "x.json").write_text(content)
    assert told in project.error("baselines", "add", str(tmp_path / "x.json"), "--suite", "micro")


def test_add_of_no_file_or_of_another_suite_is_refused(project, tmp_path):
    assert "No file" in project.error("baselines", "add", str(tmp_path / "nothing.json"), "--suite", "micro")
    records = project.json("run", "relu", "--suite", "micro")
    for record in records:
        record["protocol"]["suite"] = "other"
    (tmp_path / "other.json").write_text(json.dumps(records))
    assert "of suite 'other'" in project.error("baselines", "add", str(tmp_path / "other.json"), "--suite", "micro")


def test_an_empty_list_of_records_is_refused(project, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    assert "There are no records in" in project.error(
        "baselines", "add", str(tmp_path / "none.json"), "--suite", "micro"
    )


def test_failed_evaluations_are_not_stored(project, install_methods):
    install_methods()
    project = type(project)(project.root, plugins="builtin,methods")
    line = project.error("baselines", "build", "drawn", "--suite", "micro", "--quiet", FIXTURE_MOOD="bad")
    assert "9 of 9 records have a failed evaluation and are not stored: RuntimeError: in a bad mood" in line
    assert not (project.baselines / "micro" / "drawn").exists()


def test_verify_tells_a_tampered_file(project):
    record = records_of(project, "pca")[0]
    record.write_text(record.read_text().replace("0", "1", 1))
    done = project.invoke("baselines", "verify")
    assert done.exit_code == 1
    assert record.name in done.stdout
    assert "differs from its manifest" in done.stdout


def test_verify_tells_a_missing_file_and_an_unlisted_one(project):
    first, second, *_ = records_of(project, "pca")
    first.unlink()
    (second.parent / "stray.json").write_text("{}")
    done = project.invoke("baselines", "verify")
    assert done.exit_code == 1
    assert first.name in done.stdout


def test_verify_tells_a_manifest_the_registry_does_not_know(project):
    manifest = project.baselines / "micro" / "pca" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("build pca", "build  pca"))
    done = project.invoke("baselines", "verify")
    assert done.exit_code == 1
    assert "micro/pca: manifest is" in done.stdout
    assert "the registry says" in done.stdout


def test_verify_tells_entries_without_records_and_records_without_entries(project):
    import shutil

    shutil.rmtree(project.baselines / "micro" / "pca")
    assert "micro/pca: in the registry, not stored" in project.invoke("baselines", "verify").stdout
    text = project.registry.read_text()
    project.registry.write_text(text.partition("\nbaselines:")[0] + "\nbaselines: {}\n")
    done = project.invoke("baselines", "verify")
    assert done.exit_code == 1
    assert "micro/topk: not entered in the registry" in done.stdout


def test_an_unknown_method_trains_nothing(project):
    before = len(project.artefacts("sae"))
    assert "Did you mean relu" in project.error("baselines", "build", "jumprelu", "rellu", "--suite", "micro")
    assert len(project.artefacts("sae")) == before


def test_sums_are_written_checked_and_told_when_something_changed(project):
    done = project.ok("baselines", "sign")
    assert done == f"Summed 34 files in {project.baselines / 'SHA256SUMS'}.\n"
    assert project.invoke("baselines", "verify").exit_code == 0
    (project.baselines / "README.md").write_text("new")
    done = project.invoke("baselines", "verify")
    assert done.exit_code == 1
    assert done.stdout.startswith("README.md: not in SHA256SUMS: restore it from version control, or sign again")


def test_a_signature_is_checked_against_the_allowed_signers(project, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, capture_output=True)
    (tmp_path / "signers").write_text(f"someone {(tmp_path / 'key.pub').read_text()}")
    assert project.invoke("baselines", "verify", "--signers", str(tmp_path / "signers")).exit_code == 1
    assert project.ok("baselines", "sign", "--key", str(key)).startswith("Signed 34 files in ")
    assert project.ok("baselines", "verify", "--signers", str(tmp_path / "signers")).startswith("Signed by someone.\n")
    (tmp_path / "signers").write_text("")
    done = project.invoke("baselines", "verify", "--signers", str(tmp_path / "signers"))
    assert done.exit_code == 1
    assert "by none of the signers" in done.stdout


def test_a_store_with_problems_is_not_signed_and_nothing_is_made_again(project):
    records_of(project, "topk")[0].unlink()
    assert "Not signed: " in project.error("baselines", "sign")
    done = project.invoke("baselines", "verify", "--rerun", "1")
    assert done.exit_code == 1
    assert "Nothing is made again before these are mended." in done.stderr
    assert "--rerun must be at least 0" in project.error("baselines", "verify", "--rerun", "-1")
