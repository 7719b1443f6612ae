"""`evaluate PATH`: any saved SAE, with the same numbers as its record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def saved(micro, tmp_path_factory) -> Path:
    """A topk SAE, L0 4, seed 0, as `run --out` copies it."""
    out = tmp_path_factory.mktemp("saes")
    micro.ok("run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1", "--out", str(out))
    return out / "topk-l0-4-seed-0"


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "sae"))


def evaluated(project, path, *args):
    return ("evaluate", str(path), "--suite", "micro", "--quiet", *args)


def edit(path: Path, **changes) -> None:
    config = path / "sae.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def test_the_metrics_are_those_of_the_record(micro, saved):
    [record] = micro.json("run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1")
    found = micro.json(*evaluated(micro, saved))
    assert found["sae_id"] == record["sae_id"]
    wanted = {n: {k: m[k] for k in ("value", "stderr", "n")} for n, m in record["metrics"].items()}
    assert found["metrics"] == wanted
    done = {"status": "done", "reason": ""}
    assert {n: e for n, e in found["evaluations"].items() if e["status"] != "skipped"} == {
        "core": done,
        "behaviour": done,
    }
    assert all(e["reason"] for e in found["evaluations"].values() if e["status"] == "skipped")


def test_the_table_says_what_the_sae_is(micro, saved):
    first, _, header, *rows = micro.ok(*evaluated(micro, saved)).splitlines()
    told = "topk · seed 0 · target L0 4 · trained for suite micro · architecture topk · d_in 32 · d_sae 64 · "
    assert first.startswith(told)
    assert header.split() == ["metric", "value", "stderr", "n", "of", "better", "version"]
    assert rows[0].split()[:2] == ["l0", "4"]
    units = {row.split()[0]: row.split()[4] for row in rows}
    assert (units["l0"], units["dead_latent_fraction"], units["ce_loss_recovered"]) == (
        "documents",
        "latents",
        "documents",
    )
    assert rows[0].endswith("v1")


def test_an_sae_from_elsewhere_is_shown_without_what_is_not_known(micro, copy):
    (copy / "training.json").unlink()
    first = micro.ok(*evaluated(micro, copy)).splitlines()[0]
    assert first.startswith("method not known · architecture topk · d_in 32 · d_sae 64 · ")


def test_an_sae_in_the_cache_is_shown_with_what_its_manifest_says(micro, saved):
    wanted = json.loads((saved / "sae.json").read_text())["sae_id"]
    files = micro.cache.glob("sae/**/sae.json")
    folder = next(file.parent for file in files if json.loads(file.read_text())["sae_id"] == wanted)
    first = micro.ok(*evaluated(micro, folder)).splitlines()[0]
    assert first.startswith("topk (preset not known) · seed 0 · target L0 4 · architecture topk · ")


def test_another_suite_than_it_was_trained_for_is_told(micro, copy):
    file = copy / "training.json"
    facts = json.loads(file.read_text())
    facts["trained_as"] |= {"suite": "other", "preset": "strong"}
    file.write_text(json.dumps(facts))
    done = micro.invoke(*evaluated(micro, copy))
    assert done.stdout.startswith("topk@strong · ")
    assert "trained for suite other and is evaluated on suite micro" in done.stderr
    assert micro.json(*evaluated(micro, copy))["trained_as"]["suite"] == "other"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "absorption",
            "Evaluator 'absorption' cannot run: labelled texts 'words' are not here: run: sae-harness fetch",
        ),
        ("ground_truth", "it needs a synthetic world, whose true features are known, and suite 'micro' is none"),
        ("seed_stability", "it needs an SAE of the same method and another seed: give it with --twin"),
    ],
)
def test_an_evaluator_that_was_named_and_cannot_run_is_refused(micro, saved, name, told):
    assert told in micro.error(*evaluated(micro, saved, "--evaluators", f"core,{name}"))


def test_all_evaluators_tell_what_was_skipped_each_reason_once(micro, saved):
    done = micro.invoke(*evaluated(micro, saved, "--evaluators", "all", "--metrics", "absorption_rate"))
    assert done.exit_code == 0
    lines = done.stderr.splitlines()
    assert "absorption skipped: labelled texts 'words' are not here: run: sae-harness fetch words" in lines
    assert lines[0] == "None of the metrics asked for was measured."
    assert len(lines) == len({line.partition("skipped: ")[2] for line in lines})


def test_chosen_metrics_alone(micro, saved):
    assert list(micro.json(*evaluated(micro, saved, "--metrics", "fvu"))["metrics"]) == ["fvu"]
    rows = micro.ok(*evaluated(micro, saved, "--metrics", "fvu")).splitlines()[3:]
    assert [row.split()[0] for row in rows] == ["fvu"]


def test_a_failed_evaluator_exits_1_and_is_told(micro, saved, install_methods):
    install_methods()
    project = type(micro)(micro.root, plugins="builtin,methods")
    done = project.invoke(*evaluated(project, saved, "--evaluators", "core,moody"), FIXTURE_MOOD="bad")
    assert done.exit_code == 1
    assert "Evaluator 'moody' failed: RuntimeError: in a bad mood" in done.stderr
    assert "fvu" in done.stdout
    assert "mood" in project.ok(*evaluated(project, saved, "--evaluators", "moody"))


def test_a_missing_folder_is_one_line(micro, tmp_path):
    assert "No saved SAE at" in micro.error(*evaluated(micro, tmp_path / "nowhere"))


def test_a_corrupt_checkpoint_is_one_line(micro, copy):
    weights = copy / "sae.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 4
    weights.write_bytes(data)
    line = micro.error(*evaluated(micro, copy))
    assert "sae.safetensors is corrupt: its sha256 differs" in line


def test_a_truncated_checkpoint_is_one_line(micro, copy):
    weights = copy / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "is corrupt" in micro.error(*evaluated(micro, copy))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architecture": "topkk"}, "Unknown SAE architecture 'topkk'"),
        ({"options": {"k": 3}}, "weights or options differ from sae_id"),
        ({"d_in": "many"}, "holds values no SAE can have"),
        ({"format": 9}, "upgrade sae-harness"),
    ],
)
def test_an_edited_config_is_one_line(micro, copy, changes, told):
    edit(copy, **changes)
    assert told in micro.error(*evaluated(micro, copy))


def test_an_sae_of_another_width_names_the_suite(micro, tmp_path):
    import torch

    from harness.builtin.saes.relu import ReluSAE
    from harness.interfaces.sae import SAEConfig
    from harness.training.checkpoint import save_sae

    sae = ReluSAE(SAEConfig(architecture="relu", d_in=8, d_sae=16))
    sae.reset_parameters(torch.Generator().manual_seed(0))
    save_sae(sae, tmp_path / "sae")
    line = micro.error(*evaluated(micro, tmp_path / "sae"))
    assert "acts on d_in 8; blocks.0.hook_resid_post of suite micro has 32" in line
    assert "--suite" in line


def test_an_unknown_metric_is_one_line(micro, saved):
    assert "Did you mean fvu" in micro.error(*evaluated(micro, saved, "--metrics", "fvuu"))


def test_the_evaluators_named_are_run_and_a_twin_is_looked_at(micro, saved, tmp_path):
    found = micro.json(*evaluated(micro, saved, "--evaluators", "seed_stability", "--twin", str(saved)))
    assert found["metrics"]["twin_share"]["value"] == 1.0
    assert {name: outcome["status"] for name, outcome in found["evaluations"].items()} == {"seed_stability": "done"}
    assert "geometry" in micro.error(*evaluated(micro, saved, "--evaluators", "geometri"))
