"""`sae-harness plugins`, and a plugin from the template."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.errors import ConfigError
from harness.testing.scaffold import write_plugin

DISTRIBUTIONS = Path(__file__).parents[1] / "fixtures" / "distributions"


@pytest.fixture
def invoke(monkeypatch):
    for name in ("good", "import_error", "clash"):
        monkeypatch.syspath_prepend(DISTRIBUTIONS / name)

    def run(*args: str, only: str = "builtin,good,import_error,clash"):
        return CliRunner().invoke(cli, ["plugins", *args], prog_name="sae-harness", env={"SAE_HARNESS_PLUGINS": only})

    yield run
    for name in [name for name in sys.modules if name.startswith(("fixture_", "sae_harness_my_idea"))]:
        del sys.modules[name]


def test_the_table_lists_plugin_distribution_version_and_what_it_provides(invoke):
    lines = invoke(only="good").stdout.splitlines()
    assert lines[0].split() == ["plugin", "distribution", "version", "provides"]
    assert lines[1].split() == ["good", "fixture-good", "0.1", "methods", "good,", "hollow,", "no_class"]


def test_failures_and_clashes_are_listed_with_their_cause(invoke):
    done = invoke()
    assert done.exit_code == 0
    assert "RuntimeError: the import of this fixture fails" in done.stdout
    assert "fixture-clash, sae-harness" in done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith("Plugin fixture-import-error:import_error 0.1 left out:")


def test_what_the_registry_knows_and_is_not_installed_is_listed_with_its_command(invoke):
    assert "comes with" not in invoke(only="good").stdout
    assert re.search(r"not installed .*install with", invoke(only="good").stdout)


def test_the_same_as_json(invoke):
    found = json.loads(invoke("--json").stdout)
    assert {p["plugin"] for p in found["plugins"]} == {"builtin", "good", "clash"}
    assert found["failures"] == [
        {
            "plugin": "import_error",
            "distribution": "fixture-import-error",
            "version": "0.1",
            "cause": "RuntimeError: the import of this fixture fails",
        }
    ]
    assert found["clashes"] == [{"name": "topk", "what": "method", "owners": ["fixture-clash", "sae-harness"]}]
    assert "sae-harness:topk" in found["trainers"]
    assert {"good", "hollow"} <= set(found["unregistered"])


def test_new_writes_an_installable_folder(invoke, tmp_path):
    done = invoke("new", "my_idea", "--into", str(tmp_path))
    assert done.stdout.strip() == str(tmp_path / "my_idea")
    assert "sae-harness compare my_idea --baseline topk" in done.stderr
    written = {path.relative_to(tmp_path / "my_idea").as_posix() for path in (tmp_path / "my_idea").rglob("*.*")}
    assert written == {
        "pyproject.toml",
        "README.md",
        "sae_harness_my_idea/__init__.py",
        "sae_harness_my_idea/plugin.py",
        "sae_harness_my_idea/trainer.py",
        "tests/test_conformance.py",
        "tests/test_trainer.py",
    }
    for name in written:
        text = (tmp_path / "my_idea" / name).read_text()
        assert "{{" not in text
        if name.endswith(".py"):
            compile(text, name, "exec")


@pytest.mark.parametrize(("name", "owner"), [("topk", "sae-harness"), ("temporal", "sae-harness-temporal")])
def test_new_refuses_the_name_of_a_method_installed_or_known(invoke, tmp_path, name, owner):
    """Its plugin would clash: it could neither be run nor checked."""
    done = invoke("new", name, "--into", str(tmp_path), only="builtin")
    assert done.exit_code == 2
    assert f"The method name {name!r} is taken by {owner}: choose another. Taken are april, batchtopk" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_tables_keep_to_the_page(invoke):
    done = invoke(only="")
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "temporal_stability" in done.stdout or "sparse_probing" in done.stdout


def test_new_refuses_to_overwrite(invoke, tmp_path):
    invoke("new", "my_idea", "--into", str(tmp_path))
    done = invoke("new", "my_idea", "--into", str(tmp_path))
    assert done.exit_code == 2
    assert "exists already" in done.stderr


@pytest.mark.parametrize("name", ["My_Idea", "my-idea", "2fast", "class", "a__b", "a_", "../up", ""])
def test_a_name_that_cannot_be_a_methods_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be the name of a method"):
        write_plugin(name, tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written.*--into"):
        write_plugin("my_idea", tmp_path / "file")


@pytest.fixture
def written_plugin(tmp_path, monkeypatch):
    """The template's plugin, installed as its pyproject.toml declares it."""
    folder = write_plugin("my_idea", tmp_path)
    project = (folder / "pyproject.toml").read_text()
    found = re.search(r"\[project\.entry-points\.sae_harness\]\n(\w+) = \"([\w.]+)\"", project)
    assert found is not None
    info = folder / "sae_harness_my_idea-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sae-harness-my-idea\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[sae_harness]\n{found[1]} = {found[2]}\n")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_written_plugin_is_found_and_its_loss_is_topks_and_one_term(invoke, written_plugin):
    import torch

    from harness import ActivationBatch, TrainState
    from harness.methods import build, resolve_method
    from harness.plugins import load_catalogue

    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,my_idea", "SAE_HARNESS_STRICT": "1"})
    batch = ActivationBatch(
        activations=torch.randn(32, 8, generator=torch.Generator().manual_seed(0)),
        document=torch.zeros(32, dtype=torch.int64),
        position=torch.arange(32),
    )

    def loss(method: str):
        trainer, sae = build(resolve_method(catalogue, method), d_in=8, d_sae=16, target_l0=4)
        sae.reset_parameters(torch.Generator().manual_seed(1))
        state = TrainState(
            step=0,
            n_steps=10,
            tokens_seen=0,
            target_l0=4,
            coefficient=0.0,
            dead=torch.zeros(16, dtype=torch.bool),
            generator=torch.Generator().manual_seed(2),
        )
        return trainer.loss(sae, batch, state)

    topk, idea, off = loss("topk"), loss("my_idea"), loss("my_idea@off")
    assert set(idea.values) - set(topk.values) == {"code_size"}
    assert idea.values["code_size"].item() > 0
    torch.testing.assert_close(idea.total, topk.total + 0.01 * idea.values["code_size"])
    assert off.total.item() == topk.total.item(), "without the idea it is topk, to the bit"
