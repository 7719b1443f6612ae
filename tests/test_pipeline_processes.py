"""Runs that are killed, two at once, and the second call: other processes on one cache."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess

from harness.artefacts.cache import Cache

RUN = ("run", "topk", "--suite", "micro", "--quiet")

KILL_IN_TRAINING = """
import os, signal
import harness.training.fit as fit_module
fit, save = fit_module.fit, fit_module.save_state
def killed(folder, step, tree):
    save(folder, step, tree)
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
fit_module.save_state = killed
fit_module.fit = lambda *a, **k: fit(*a, save_every_s=0.0, **k)
"""

KILL_IN_CAPTURE = """
import os, signal
import harness.activations.capture as capture
import harness.activations.store as store
store.SHARD_BYTES = 64 * 1024
write = capture._Store.write
def killed(self, first, values):
    if first == 3 * self.per_shard:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, first, values)
capture._Store.write = killed
"""


def test_a_run_killed_in_training_goes_on_and_ends_as_an_undisturbed_one(project, micro, monkeypatch):
    shutil.rmtree(project.cache / "sae")
    shutil.rmtree(project.cache / "record")
    assert project.script(KILL_IN_TRAINING, *RUN).returncode == -signal.SIGKILL
    assert project.artefacts("sae") == []
    found = []
    from harness.training import checkpoint

    def noted(folder):
        found.append(checkpoint.load_state(folder))
        return found[-1]

    monkeypatch.setattr("harness.training.fit.load_state", noted)
    compared = ("compare", "topk", "--baseline", "random", "--suite", "micro", "--quiet")
    assert project.ok(*compared) == micro.ok(*compared)
    assert [step for step, _ in found] == [7]
    assert micro.stable(project.json(*RUN)) == micro.stable(micro.json(*RUN))
    assert not any((project.cache / "work" / "cohort").iterdir())


def test_a_run_killed_while_capturing_goes_on_and_ends_as_an_undisturbed_one(fresh, tmp_path, monkeypatch):
    from harness.activations import store

    asked = (*RUN, "--l0", "4", "--seeds", "1")
    undisturbed = dataclasses.replace(fresh, root=tmp_path / "undisturbed")
    shutil.copytree(fresh.root, undisturbed.root)
    assert fresh.script(KILL_IN_CAPTURE, *asked).returncode == -signal.SIGKILL
    assert fresh.artefacts("activations") == []
    shards = sorted(p.name for p in (fresh.cache / "work" / "activations").glob("*/*"))
    assert shards == ["shard-00000.bin", "shard-00001.bin", "shard-00002.bin"]
    monkeypatch.setattr(store, "SHARD_BYTES", 64 * 1024)
    assert fresh.stable(fresh.json(*asked)) == fresh.stable(undisturbed.json(*asked))
    assert Cache(fresh.cache).verify() == []


def test_two_processes_on_one_cache_do_the_work_once(fresh):
    both = [
        subprocess.Popen(
            fresh.command("", "run", "topk", "--suite", "micro", "--l0", "2,4", "--seeds", "2", "--json"),
            **fresh.process_options(),
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    first, second = (json.loads(out) for out, _ in told)
    assert first == second  # times of creation included: one made each record, the other read it
    assert len(fresh.artefacts("sae")) == len(fresh.artefacts("record")) == 4
    assert len(fresh.artefacts("activations")) == 2
    assert not any((fresh.cache / "tmp").iterdir())
    assert Cache(fresh.cache).verify() == []


def test_a_second_call_imports_no_torch_and_says_the_same(micro):
    compared = ("compare", "topk", "--baseline", "random", "--suite", "micro")
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'datasets', 'pandas'}\n"
        "atexit.register(lambda: print(sorted(heavy & sys.modules.keys()), file=sys.stderr))\n"
    )
    done = micro.script(code, *compared)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"
    assert done.stdout == micro.ok(*compared)
