"""`sae-harness suites`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli

OWN = """
suites:
  mine:
    summary: A suite of my own.
    claim: none
    lm: {source: package:somewhere}
    text: {source: package:somewhere/text.jsonl.gz, n_train_tokens: 1000, n_eval_sequences: 4}
    hookpoint: blocks.1.hook_resid_post
    d_sae: 64
    l0_grid: [8, 16]
    seeds: [0]
    n_tokens: 1000
    batch_size: 100
  mixed:
    summary: A suite that trains on more.
    claim: none
    lm: {source: package:somewhere}
    text:
      source: package:somewhere/text.jsonl.gz
      mix: [{source: "table:words", part: forget, share: 0.25}, {source: more.jsonl, share: 0.5}]
      n_train_tokens: 1000
      n_eval_sequences: 4
    hookpoint: blocks.1.hook_resid_post
    d_sae: 64
    l0_grid: [8]
    seeds: [0]
    n_tokens: 1000
    batch_size: 100
"""


@pytest.fixture
def invoke(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)

    def run(*args: str):
        return CliRunner().invoke(cli, ["--registry", str(tmp_path / "own.yaml"), *args], prog_name="sae-harness")

    return run


@pytest.mark.parametrize("args", [("suites",), ("suites", "list")])
def test_all_suites_are_listed_the_users_own_too(invoke, args):
    lines = invoke(*args).stdout.splitlines()
    assert lines[0].split()[:2] == ["suite", "hookpoint"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert {"tiny", "mine"} <= rows.keys()
    assert "A suite of my own." in rows["mine"]
    assert max(map(len, lines)) <= 120
    assert rows["mine"].split()[1:6] == ["blocks.1.hook_resid_post", "64", "8–16", "1,000", "0"]
    assert int(rows["tiny"].split()[5]) > 5, "counted, not named"


@pytest.mark.parametrize("args", [("suites", "--json"), ("suites", "list", "--json")])
def test_the_list_as_json(invoke, args):
    suites = json.loads(invoke(*args).stdout)
    assert suites["mine"]["l0_grid"] == [8, 16]
    assert suites["mine"]["text"]["n_eval_sequences"] == 4


def test_one_suite_is_shown_with_all_it_fixes(invoke):
    shown = dict(line.split(maxsplit=1) for line in invoke("suites", "show", "mine").stdout.splitlines() if " " in line)
    assert shown["l0_grid"] == "8, 16"
    assert shown["lm.source"] == "package:somewhere"
    assert shown["text.seq_len"] == "128", "defaults are shown as well"
    assert "temporal, topk" in invoke("suites", "show", "tiny").stdout.splitlines()[-1]


def test_one_suite_as_json(invoke):
    assert json.loads(invoke("suites", "show", "mine", "--json").stdout)["name"] == "mine"


def test_a_mix_is_shown_source_by_source(invoke):
    shown = dict(
        line.split(maxsplit=1) for line in invoke("suites", "show", "mixed").stdout.splitlines() if " " in line
    )
    assert (shown["text.mix.0.source"], shown["text.mix.0.share"]) == ("table:words", "0.25")
    assert shown["text.mix.1.source"] == "more.jsonl"
    mix = json.loads(invoke("suites", "show", "mixed", "--json").stdout)["text"]["mix"]
    assert [entry["part"] for entry in mix] == ["forget", ""]
    assert "mix" not in json.loads(invoke("suites", "show", "mine", "--json").stdout)["text"]
    assert json.loads(invoke("suites", "--json").stdout)["mixed"]["text"]["mix"] == mix


def test_an_unknown_suite_exits_2_and_says_what_is_known(invoke):
    done = invoke("suites", "show", "min")
    assert done.exit_code == 2
    assert "Did you mean mine" in done.stderr


def test_a_faulty_registry_exits_2_and_names_the_file(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("suits: {}\n")
    done = CliRunner().invoke(cli, ["--registry", str(tmp_path / "bad.yaml"), "suites"])
    assert done.exit_code == 2
    assert "bad.yaml: unknown key 'suits'" in done.stderr
