"""`analyse METHOD|SAE`: the SAE is found or trained, each analysis writes a folder whole, one that fails stops none."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import TrainingLog
from harness.cli.analysis_files import Subject, attribution

PLUGIN = """\
from harness import AnalysisSpec, hookimpl


@hookimpl
def register_analyses():
    yield AnalysisSpec(name="sizes", target="looking.found:Sizes", summary="Sizes of latents.")
    yield AnalysisSpec(name="log_only", target="looking.found:log_only", summary="The log.", methods=("topk",))
    yield AnalysisSpec(name="worldly", target="looking.found:log_only", summary="Of worlds.", needs={"world"})
    yield AnalysisSpec(name="for_relu", target="looking.found:log_only", summary="Of relu.", methods=("relu",))
    yield AnalysisSpec(name="beside", target="looking.found:Beside", summary="Of two.", methods=("batchtopk",))
    yield AnalysisSpec(name="unable", target="looking.found:unable", summary="Of none.", methods=("batchtopk",))
"""
FOUND = """\
from harness import Analysis, AnalysisResult, DataError, Figure, Line, NotEvaluatedError, Panel


class Sizes(Analysis):
    def run(self, sae, context, training):
        counts = [len(part.codes.latents) / len(part.rows) for part in context.encoded(sae)]
        line = Line(x=list(range(len(counts))), y=counts)
        panel = Panel(marks=(line,), x_label="batch", y_label="L0 (latents)")
        figure = Figure(name="sizes_by_batch", title="Sizes", panels=(panel,))
        return AnalysisResult(values={"l0": counts[0]}, series={"l0": counts}, figures=(figure,))


def log_only(sae, context, training):
    if not training.method:
        raise DataError("no method is known")
    return AnalysisResult(values={"rows": len(training.rows), "method": training.method, "seed": training.seed})


class Beside(Analysis):
    compares = True

    def run(self, sae, context, training):
        own, other = training.seed, self.reference.training.seed
        label, d_sae = self.reference.label, self.reference.sae.config.d_sae
        return AnalysisResult(values={"own": own, "other": other, "label": label, "d_sae": d_sae})


def unable(sae, context, training):
    raise NotEvaluatedError("not evaluated: no latent is alive")
"""
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra"
)


@pytest.fixture
def looking(micro, tmp_path, monkeypatch):
    """The project with a plugin of four analyses."""
    site = tmp_path / "site"
    (site / "looking").mkdir(parents=True)
    (site / "looking" / "__init__.py").write_text("")
    (site / "looking" / "plugin.py").write_text(PLUGIN)
    (site / "looking" / "found.py").write_text(FOUND)
    info = site / "looking-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: looking\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[sae_harness]\nlooking = looking.plugin\n")
    monkeypatch.syspath_prepend(site)
    yield type(micro)(micro.root, plugins="builtin,looking")
    for name in [name for name in sys.modules if name.partition(".")[0] == "looking"]:
        del sys.modules[name]


def args(target: object, *more: str, out: Path) -> tuple[str, ...]:
    return ("analyse", str(target), *more, "--suite", "micro", "--quiet", "--out", str(out))


@dataclass
class Part:
    """A batch in which `active` latents fire on `n` tokens."""

    active: int
    n: int

    @property
    def codes(self) -> SimpleNamespace:
        return SimpleNamespace(latents=[0] * self.active)

    @property
    def rows(self) -> list[int]:
        return [0] * self.n


def subject(origin: str, **fields) -> Subject:
    sae = SimpleNamespace(config=SimpleNamespace(d_sae=64))
    return Subject(label="label", origin=origin, sae=sae, sae_id="", **{"log": TrainingLog(), **fields})


def test_a_figure_says_of_which_sae_it_is():
    context = SimpleNamespace(encoded=lambda sae: [Part(30, 10), Part(2, 6)])
    ours = subject("mine@abs weight=2", log=TrainingLog(seed=3), target_l0=4).measured(context)
    saved = subject("runs/mine (relu)").measured(context)
    assert ours.describe() == "mine@abs weight=2, L0 2 (target 4), seed 3"
    assert saved.describe() == "runs/mine (relu), L0 2"
    assert attribution(ours, saved, "suite tiny (lm, here)") == (
        "mine@abs weight=2, L0 2 (target 4), seed 3 · reference: runs/mine (relu), L0 2"
        " · suite tiny (lm, here) · d_sae 64"
    )
    assert subject("x").measured(SimpleNamespace(encoded=lambda sae: [])).describe() == "x"


@needs_matplotlib
def test_all_that_apply_to_a_method_are_run_and_written(looking, tmp_path):
    out = tmp_path / "out"
    found = looking.json(*args("topk", "--l0", "4", "--seed", "1", out=out))
    assert {name: entry["status"] for name, entry in found.items()} == {
        "sizes": "done",
        "log_only": "done",
        "worldly": "skipped",
    }
    assert "synthetic world" in found["worldly"]["reason"]
    folder = out / "micro" / "topk-l0-4-seed-1"
    assert sorted(path.name for path in (folder / "sizes").iterdir()) == [
        "sizes.json",
        "sizes_by_batch.png",
        "sizes_by_batch.svg",
    ]
    document = json.loads((folder / "sizes" / "sizes.json").read_text())
    assert document["values"] == {"l0": 4.0}
    assert (document["analysis"], document["suite"], document["sae"]["architecture"]) == ("sizes", "micro", "topk")
    assert (document["sae"]["l0"], document["sae"]["target_l0"]) == (4.0, 4)
    svg = (folder / "sizes" / "sizes_by_batch.svg").read_text()
    assert "topk, L0 4 (target 4), seed 1 · suite micro (" in svg
    log = json.loads((folder / "log_only" / "log_only.json").read_text())["values"]
    assert (log["method"], log["seed"]) == ("topk", 1)
    assert document["sae"]["seed"] == 1
    assert log["rows"] > 10
    assert sorted(path.name for path in folder.iterdir()) == ["log_only", "sizes"]


def test_a_second_run_gives_the_same_bytes_and_trains_nothing(looking, tmp_path):
    def run() -> tuple[bytes, int]:
        looking.ok(*args("topk", "sizes", "--l0", "4", "--no-figures", out=tmp_path))
        path = tmp_path / "micro" / "topk-l0-4-seed-0" / "sizes" / "sizes.json"
        return path.read_bytes(), len(looking.artefacts("sae"))

    assert run() == run()


def test_a_saved_sae_is_analysed_with_what_is_for_any_sae(looking, tmp_path):
    looking.ok("run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1", "--out", str(tmp_path / "saes"))
    path = tmp_path / "saes" / "topk-l0-4-seed-0"
    told = looking.ok(*args(path, "--no-figures", out=tmp_path))
    assert f"sizes: {tmp_path}/micro/topk-l0-4-seed-0/sizes\n  l0: 4\n" in told
    assert "log_only" not in told
    assert "choose among those of a method" in looking.error(*args(path, "--l0", "4", out=tmp_path))


def test_one_that_fails_is_told_and_the_others_are_written(looking, tmp_path):
    looking.ok("run", "topk", "--suite", "micro", "--l0", "4", "--seeds", "1", "--out", str(tmp_path / "saes"))
    path = tmp_path / "saes" / "topk-l0-4-seed-0"
    done = looking.invoke(*args(path, "log_only", "sizes", "--no-figures", out=tmp_path))
    assert done.exit_code == 1
    assert "log_only: failed: no method is known" in done.stdout
    assert (tmp_path / "micro" / "topk-l0-4-seed-0" / "sizes" / "sizes.json").is_file()


def test_a_killed_run_leaves_what_was_there(looking, tmp_path, monkeypatch):
    from harness.cli import analyse, analysis_files

    looking.ok(*args("topk", "sizes", "--l0", "4", "--no-figures", out=tmp_path))
    folder = tmp_path / "micro" / "topk-l0-4-seed-0"
    before = (folder / "sizes" / "sizes.json").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(analyse, "require_matplotlib", lambda _: None)
    monkeypatch.setattr(analysis_files, "render_figure", killed)
    assert looking.invoke(*args("topk", "sizes", "--l0", "4", out=tmp_path)).exit_code == 130
    assert [path.name for path in folder.iterdir()] == ["sizes"]
    assert (folder / "sizes" / "sizes.json").read_bytes() == before


def test_two_saes_are_held_against_each_other_where_a_reference_is_named(looking, tmp_path):
    alone = looking.json(*args("batchtopk", "--l0", "4", out=tmp_path))
    assert alone["beside"] == {
        "status": "skipped",
        "reason": "needs another SAE beside this one: name it with --reference",
    }
    assert alone["unable"] == {"status": "skipped", "reason": "not evaluated: no latent is alive"}
    found = looking.json(*args("batchtopk", "beside", "--l0", "4", "--seed", "1", "--reference", "topk", out=tmp_path))
    assert found["beside"]["values"] == {"own": 1, "other": 1, "label": "topk-l0-4-seed-1", "d_sae": 64}
    folder = tmp_path / "micro" / "batchtopk-l0-4-seed-1-beside-topk-l0-4-seed-1"
    document = json.loads((folder / "beside" / "beside.json").read_text())
    assert (document["sae"]["label"], document["reference"]["label"]) == ("batchtopk-l0-4-seed-1", "topk-l0-4-seed-1")


def test_mistakes_are_one_line(looking, tmp_path):
    assert "Unknown analysis 'size'" in looking.error(*args("topk", "size", out=tmp_path))
    assert "is for SAEs of relu, not of topk" in looking.error(*args("topk", "for_relu", out=tmp_path))
    assert "Unknown method 'topkk'" in looking.error(*args("topkk", out=tmp_path))
    assert "No saved SAE at" in looking.error(*args("no/where", out=tmp_path))
    assert "--l0 must be in [1, d_sae = 64]" in looking.error(*args("topk", "--l0", "65", out=tmp_path))
    assert "name a method" in looking.error("analyse", "--suite", "micro")


def test_the_list_says_what_each_is_for(looking):
    lines = looking.ok("analyse", "--list").splitlines()
    assert lines[0].split() == ["analysis", "methods", "needs", "from", "summary"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["beside", "batchtopk", "-", "looking"],
        ["for_relu", "relu", "-", "looking"],
        ["log_only", "topk", "-", "looking"],
        ["sizes", "any", "-", "looking"],
        ["unable", "batchtopk", "-", "looking"],
        ["worldly", "any", "world", "looking"],
    ]
