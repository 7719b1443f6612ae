"""`run`: train, evaluate, copy; what is wrong is one line."""

from __future__ import annotations

import json
import shutil

import pytest

RUN = ("run", "topk", "--suite", "micro")
ONE = ("--l0", "4", "--seeds", "1", "--quiet")


def test_it_trains_and_shows_a_row_for_each_l0(fresh):
    out = fresh.ok("run", "jumprelu", "--suite", "micro", "--l0", "2,8", "--seeds", "2", "--quiet")
    protocol, table, *_ = out.split("\n\n")
    header, *rows = table.splitlines()
    assert max(map(len, out.splitlines())) <= 120
    assert (
        protocol
        == "micro · lm · blocks.0.hook_resid_post · d_sae 64 · L0 2–8 · 4.096 k tokens · 2 seeds · for tests alone"
    )
    assert header.split()[:4] == ["method", "target", "L0", "reached"]
    assert [row.split()[:2] for row in rows] == [["jumprelu", "2"], ["jumprelu", "8"]]
    assert len(fresh.artefacts("record")) == len(fresh.artefacts("sae")) == 4


def test_progress_goes_to_stderr(fresh):
    done = fresh.invoke(*RUN, "--l0", "4", "--seeds", "1")
    assert done.exit_code == 0, done.output
    for what in ("capturing training activations", "training 1 SAEs", "evaluating SAEs", "sse", "aux", "dead"):
        assert what in done.stderr
        assert what not in done.stdout.replace("dead_latent_fraction", "")


def test_a_second_call_says_the_same_and_is_silent(micro):
    first = micro.invoke(*RUN)
    assert first.exit_code == 0
    assert first.stderr == ""
    assert micro.invoke(*RUN).stdout == first.stdout


def test_json_is_a_list_of_records_that_read_back(micro):
    from harness.results.record import Record

    records = [Record.from_json(json.dumps(item)) for item in micro.json(*RUN)]
    assert len(records) == 9
    assert all(r.method.name == "topk" for r in records)


@pytest.mark.parametrize(("fmt", "begins"), [("md", "| method"), ("github", "| method"), ("csv", "method,target L0")])
def test_formats(micro, fmt, begins):
    assert begins in micro.ok(*RUN, "--format", fmt)


def test_csv_is_the_table_alone(micro):
    lines = micro.ok(*RUN, "--format", "csv").splitlines()
    assert len(lines) == 4
    assert len({line.count(",") for line in lines}) == 1


def test_chosen_metrics_are_shown_alone(micro):
    header = micro.ok(*RUN, "--metrics", "mse,fvu", "--format", "csv").splitlines()[0]
    assert header == "method,target L0,reached,l0,mse,fvu,seeds,training s"


def test_a_target_that_was_missed_is_shown(micro):
    """A run of 32 steps is too short for the controller, and says so."""
    row = micro.ok("run", "relu", "--suite", "micro", "--format", "csv").splitlines()[1]
    assert row.startswith("relu,2,0 of 3,")


@pytest.mark.parametrize("name", ["identity", "random", "pca"])
def test_controls_run(micro, name):
    records = micro.json("run", name, "--suite", "micro")
    assert len(records) == (3 if name == "identity" else 9)
    assert all(r["method"]["control"] for r in records)


def test_set_changes_an_option_and_is_kept_in_the_record(project):
    [record] = project.json(*RUN, *ONE, "--set", "aux_weight=1", "--set", "lr=2e-2")
    assert (record["method"]["options"]["aux_weight"], record["method"]["options"]["lr"]) == (1.0, 0.02)
    assert record["provenance"]["command"] == "sae-harness run topk --suite micro --set aux_weight=1 --set lr=2e-2"


def test_the_rows_are_called_by_the_options_that_were_set(project):
    table = project.ok(*RUN, *ONE, "--set", "aux_weight=1", "--set", "lr=2e-2", "--format", "csv").splitlines()
    assert table[1].startswith("topk aux_weight=1 lr=0.02,4,")


def test_an_sae_that_is_worse_than_none_is_told_in_a_note(project):
    asked = (*RUN, *ONE, "--set", "lr=20", "--metrics", "fvu")
    told = "Worse than predicting the mean: topk lr=20 at L0 4 (fvu "
    assert project.ok(*asked).splitlines()[-1].startswith(told)
    done = project.invoke(*asked, "--format", "csv")
    assert told in done.stderr
    assert told not in done.stdout


def test_what_was_skipped_is_told_under_the_table(project):
    done = project.invoke(*RUN, *ONE, "--evaluators", "all")
    assert done.exit_code == 0, done.output
    assert "absorption skipped: labelled texts 'words' are not here: run: sae-harness fetch words" in done.stderr
    assert "ground_truth" in done.stderr
    assert project.invoke(*RUN, *ONE).stderr == ""


def test_set_base_chooses_the_base(project, install_methods):
    install_methods()
    project = type(project)(project.root, plugins="builtin,methods")
    [record] = project.json("run", "drawn", "--suite", "micro", *ONE, "--set", "base=relu", "--set", "strength=1")
    assert record["method"]["architecture"] == "relu"
    # Own options, the base's from the suite, none of another base's.
    assert record["method"]["options"]["strength"] == 1.0
    assert record["method"]["options"]["base.lr"] == 0.01
    assert "base.aux_weight" not in record["method"]["options"]
    assert record["metrics"]["mood"]["value"] == 1.0


def test_retrain_gives_the_same_metrics(project):
    before = project.json(*RUN, *ONE)
    again = project.json(*RUN, *ONE, "--retrain")
    assert again[0]["sae_id"] == before[0]["sae_id"]
    assert again[0]["metrics"] == before[0]["metrics"]


def test_out_copies_the_saes(project, tmp_path):
    done = project.invoke(*RUN, "--l0", "4", "--seeds", "2", "--out", str(tmp_path / "saes"))
    assert done.exit_code == 0, done.output
    folders = sorted(p.name for p in (tmp_path / "saes").iterdir())
    assert folders == ["topk-l0-4-seed-0", "topk-l0-4-seed-1"]
    files = {p.name for p in (tmp_path / "saes" / folders[0]).iterdir()}
    assert files == {"sae.json", "sae.safetensors", "training.json"}
    facts = json.loads((tmp_path / "saes" / folders[1] / "training.json").read_text())
    assert facts["trained_as"] == {"method": "topk", "preset": "", "target_l0": 4, "suite": "micro"}
    assert facts["seed"] == 1
    assert done.stderr.splitlines()[-1] == f"Copied 2 SAEs to {tmp_path / 'saes'}."


def test_a_failed_evaluation_is_told_on_stderr_and_run_again(project, install_methods):
    install_methods()
    project = type(project)(project.root, plugins="builtin,methods")
    asked = ("run", "drawn", "--suite", "micro", *ONE)
    done = project.invoke(*asked, FIXTURE_MOOD="bad")
    assert done.exit_code == 0
    assert "moody failed: RuntimeError: in a bad mood" in done.stderr
    assert "mood" not in done.stdout
    done = project.invoke(*asked)
    assert "mood" in done.stdout
    assert "failed" not in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("run", "topkk", "--suite", "micro"), "Did you mean topk"),
        (("run", "topk@nonsense", "--suite", "micro"), "preset of topk 'nonsense'"),
        (("run", "absent", "--suite", "micro"), "absent is not installed: pip install absent"),
        (("run", "topk", "--suite", "mikro"), "Did you mean micro"),
        ((*RUN, "--seeds", "0"), "--seeds must be at least 1, got 0"),
        ((*RUN, "--seeds", "many"), "'many' is not a valid integer"),
        ((*RUN, "--l0", "bad"), "--l0 must be whole numbers"),
        ((*RUN, "--l0", "65"), "[1, d_sae = 64]"),
        ((*RUN, "--metrics", "fvuu"), "Unknown metric 'fvuu'"),
        ((*RUN, "--metrics", "fvuu"), "Did you mean fvu"),
        ((*RUN, "--set", "lr"), "--set takes name=value"),
        ((*RUN, "--set", "bogus=1"), "unknown option 'bogus'; allowed are aux_k_fraction, aux_weight"),
        ((*RUN, "--set", "lr=fast"), "option lr must be of type float, got 'fast'"),
        ((*RUN, "--set", "lr=nan"), "only finite numbers"),
        ((*RUN, "--set", "lr=-1"), "topk: option lr must be above 0, got -1."),
        (("run", "topk", "--suite", "micro", "--evaluators", "absorption"), "run: sae-harness fetch words"),
        (
            (*RUN, "--evaluators", "core,ground_truth"),
            "Evaluator 'ground_truth' cannot run: it needs a synthetic world",
        ),
        ((*RUN, "--seeds", "1", "--evaluators", "seed_stability"), "another seed: train --seeds 2 or more"),
        ((*RUN, "--set", "base=relu"), "unknown option 'base'"),
        ((*RUN, "--format", "pdf"), "'pdf' is not one of"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(micro, args, told):
    line = micro.error(*args)
    assert line.startswith("Error: ")
    assert told in line


def test_an_unknown_hookpoint_is_one_line(project):
    project.edit_registry("hookpoint: blocks.0.hook_resid_post", "hookpoint: blocks.9.hook_resid_post")
    line = project.error(*RUN, "--quiet")
    assert "blocks.9.hook_resid_post" in line
    assert "0" in line
    assert "1" in line


def test_a_missing_lm_or_text_is_one_line(project):
    project.edit_registry("/lm}", "/nowhere}")
    assert "no such file or folder" in project.error(*RUN)
    project.edit_registry("/nowhere}", "/lm}")
    project.edit_registry("/text.jsonl", "/nothing.jsonl")
    assert "does not exist" in project.error(*RUN)


def test_nan_activations_are_one_line(project):
    from safetensors.torch import load_file, save_file

    project.with_own_inputs()
    path = project.root / "lm" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][3:] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    assert "hold NaN or infinity" in project.error(*RUN, "--quiet")


def test_a_cache_that_cannot_be_written_is_one_line(fresh):
    fresh.cache.write_text("a file, no folder")
    assert "cannot be written" in fresh.error(*RUN, "--quiet")


def test_a_full_disk_is_one_line(project, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.training.checkpoint.save_file", full)
    assert "The disk is full" in project.error(*RUN, *ONE, "--set", "aux_weight=0.9")


def test_an_out_that_cannot_be_written_is_one_line(project, tmp_path):
    (tmp_path / "file").write_text("")
    assert "Give another --out" in project.error(*RUN, *ONE, "--out", str(tmp_path / "file" / "saes"))


def test_an_sae_that_left_the_cache_is_one_line(project, tmp_path):
    shutil.rmtree(project.cache / "sae")
    assert "run again with --retrain" in project.error(*RUN, *ONE, "--out", str(tmp_path / "saes"))


def test_more_evaluators_run_besides_the_suites(project):
    [record] = project.json("run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1", "--evaluators", "geometry")
    assert {"core", "behaviour", "geometry"} <= record["evaluations"].keys()
    assert record["metrics"]["decoder_mean_cosine"]["value"] > 0
    assert "geometry" in project.error("run", "topk", "--suite", "micro", "--evaluators", "geometri")
