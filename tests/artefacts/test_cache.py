"""Nothing half-written is ever read; one process makes and the others wait; what is corrupt is found."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import pytest

from harness.artefacts.cache import Cache, CacheWarning, format_bytes
from harness.artefacts.manifest import MANIFEST, read_manifest
from harness.errors import CacheError, ConfigError, CorruptArtefactError, DiskSpaceError

INPUTS = {"seed": 0, "lr": 1e-3}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def write(text: str = "content"):
    def make(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "a.txt").write_text(text)
        (folder / "sub" / "b.txt").write_text("more")

    return make


def refuse(folder: Path) -> None:
    raise AssertionError("must not be made again")


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for each in [path, *path.rglob("*")]:
        os.utime(each, (then, then))


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# ---- making and finding


def test_an_artefact_is_made_once(cache):
    path = cache.get_or_make("store", INPUTS, 1, write())
    assert (path / "a.txt").read_text() == "content"
    assert cache.get_or_make("store", dict(reversed(INPUTS.items())), 1, refuse) == path
    assert cache.find("store", INPUTS, 1) == path


def test_nothing_is_created_by_asking(cache):
    assert cache.find("store", INPUTS, 1) is None
    assert list(cache.entries()) == []
    assert cache.verify() == []
    assert not cache.root.exists()


@pytest.mark.parametrize(
    ("kind", "inputs", "version"),
    [
        ("store", {**INPUTS, "seed": 1}, 1),
        ("store", {**INPUTS, "lr": 2e-3}, 1),
        ("store", INPUTS, 2),
        ("sae", INPUTS, 1),
    ],
)
def test_changing_a_single_input_misses(cache, kind, inputs, version):
    first = cache.get_or_make("store", INPUTS, 1, write())
    assert cache.find(kind, inputs, version) is None
    assert cache.get_or_make(kind, inputs, version, write("other")) != first


def test_the_manifest_holds_the_inputs_in_full_and_each_files_hash(cache):
    path = cache.get_or_make("store", INPUTS, 3, write())
    manifest = read_manifest(path)
    assert (manifest["kind"], manifest["version"], manifest["inputs"]) == ("store", 3, INPUTS)
    assert manifest["key"] == path.name
    assert manifest["files"]["sub/b.txt"]["bytes"] == 4
    assert set(manifest["files"]) == {"a.txt", "sub/b.txt"}
    assert len(manifest["files"]["a.txt"]["sha256"]) == 64


def test_a_make_that_fails_leaves_nothing_and_its_error_passes_on(cache):
    def fail(folder: Path) -> None:
        write()(folder)
        raise ValueError("out of luck")

    with pytest.raises(ValueError, match="out of luck"):
        cache.get_or_make("store", INPUTS, 1, fail)
    assert cache.find("store", INPUTS, 1) is None
    assert left_in(cache.root / "tmp") == []
    cache.get_or_make("store", INPUTS, 1, write())


def test_one_artefact_can_be_made_while_another_is(cache):
    def outer(folder: Path) -> None:
        inner = cache.get_or_make("store", INPUTS, 1, write("inner"))
        shutil.copy(inner / "a.txt", folder / "copy")

    assert (cache.get_or_make("sae", INPUTS, 1, outer) / "copy").read_text() == "inner"


def test_a_file_named_as_the_manifest_is_refused(cache):
    with pytest.raises(CacheError, match=r"wrote a file named manifest\.json"):
        cache.get_or_make("store", INPUTS, 1, lambda folder: (folder / MANIFEST).write_text("{}") and None)


@pytest.mark.parametrize("kind", ["tmp", "work", "Store", "a/b", "a-b", ""])
def test_a_kind_that_is_no_folder_of_artefacts_is_refused(cache, kind):
    with pytest.raises(ConfigError, match="cannot be a kind"):
        cache.find(kind, INPUTS, 1)


# ---- corruption


def test_a_truncated_file_is_set_aside_and_made_anew_with_a_warning(cache):
    path = cache.get_or_make("store", INPUTS, 1, write())
    (path / "a.txt").write_text("cont")
    assert cache.find("store", INPUTS, 1) is None
    with pytest.warns(CacheWarning, match=r"a\.txt has 4 bytes instead of 7.*set aside"):
        assert cache.get_or_make("store", INPUTS, 1, write()) == path
    assert (path / "a.txt").read_text() == "content"
    [aside] = (cache.root / "corrupt").iterdir()
    assert (aside / "a.txt").read_text() == "cont"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "a.txt").unlink(),
        lambda path: (path / "stray").write_text("x"),
        lambda path: (path / MANIFEST).unlink(),
        lambda path: (path / MANIFEST).write_text("{"),
        lambda path: (path / MANIFEST).write_text('{"kind": "store"}'),
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"bytes"', '"bytez"')),
    ],
    ids=["file gone", "stray file", "no manifest", "half a manifest", "empty manifest", "flipped byte in manifest"],
)
def test_other_damage_is_found_on_reading(cache, damage):
    path = cache.get_or_make("store", INPUTS, 1, write())
    damage(path)
    assert cache.find("store", INPUTS, 1) is None
    assert len(cache.verify()) == 1
    with pytest.warns(CacheWarning, match="corrupt"):
        cache.get_or_make("store", INPUTS, 1, write())
    assert cache.verify() == []


def test_a_flipped_byte_is_found_by_verify(cache):
    cache.get_or_make("store", {"seed": 1}, 1, write())
    path = cache.get_or_make("store", INPUTS, 1, write())
    (path / "a.txt").write_text("cOntent")
    [problem] = cache.verify()
    assert (problem.kind, problem.key, problem.path) == ("store", path.name, path)
    assert problem.what == "a.txt has another sha256 than in its manifest"
    assert path.exists(), "verify sets nothing aside unless asked"


def test_inputs_that_do_not_give_the_key_are_found_by_verify(cache):
    path = cache.get_or_make("store", INPUTS, 1, write())
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["inputs"]["seed"] = 1
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert [problem.what for problem in cache.verify()] == ["the inputs in its manifest do not give its key"]


def test_quarantine_sets_aside(cache):
    path = cache.get_or_make("store", INPUTS, 1, write())
    (path / "a.txt").write_text("cOntent")
    [problem] = cache.verify(quarantine=True)
    assert not path.exists()
    assert problem.path.parent == cache.root / "corrupt"
    assert cache.verify() == []


def test_reading_a_manifest_that_is_none_is_told(tmp_path):
    with pytest.raises(CorruptArtefactError, match=r"no readable manifest\.json"):
        read_manifest(tmp_path)


# ---- processes

RACE = """
import sys, time
from pathlib import Path
from harness.artefacts.cache import Cache

root, log, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def make(folder):
    with log.open("a") as file:
        file.write(name)
    time.sleep(0.5)
    (folder / "who").write_text(name)

print((Cache(root).get_or_make("store", {"seed": 0}, 1, make) / "who").read_text())
"""

SLOW = """
import sys, time
from pathlib import Path
from harness.artefacts.cache import Cache

def make(folder):
    (folder / "half").write_text("half")
    print("making", flush=True)
    time.sleep(60)

cache = Cache(Path(sys.argv[1]))
cache.get_or_make("store", {"seed": 0}, 1, make)
"""


def test_of_two_processes_one_makes_and_the_other_reads(cache, tmp_path):
    log = tmp_path / "log"
    processes = [run(RACE, str(cache.root), str(log), name) for name in "AB"]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    made_by = log.read_text()
    assert made_by in ("A", "B"), "made once"
    assert [out.strip() for out, _ in results] == [made_by, made_by]


@pytest.fixture
def slow_maker(cache):
    """A process in the middle of making."""
    process = run(SLOW, str(cache.root))
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    yield process
    process.kill()
    process.communicate()


def test_kill_9_in_the_middle_leaves_nothing_to_read_and_the_next_makes_it(cache, slow_maker):
    slow_maker.send_signal(signal.SIGKILL)
    slow_maker.wait()
    assert len(left_in(cache.root / "tmp")) == 1
    assert cache.find("store", {"seed": 0}, 1) is None
    assert list(cache.entries()) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a dead process's lock is free: no waiting, nothing corrupt
        path = cache.get_or_make("store", {"seed": 0}, 1, write())
    assert not (path / "half").exists()
    assert left_in(cache.root / "tmp") == [], "what it left is gone"


def test_gc_removes_what_a_dead_process_left_and_not_what_a_live_one_is_making(cache, slow_maker):
    assert cache.collect_garbage(older_than_s=0, max_bytes=0).removed == ()
    assert len(left_in(cache.root / "tmp")) == 1
    slow_maker.send_signal(signal.SIGKILL)
    slow_maker.wait()
    assert [removal.reason for removal in cache.collect_garbage(dry_run=True).removed] == [
        "left by a process that died"
    ]
    assert len(left_in(cache.root / "tmp")) == 1
    assert len(cache.collect_garbage().removed) == 1
    assert left_in(cache.root / "tmp") == []


# ---- work in progress


def test_a_working_folder_stays_until_it_is_discarded(cache):
    folder = cache.working_folder("sae", INPUTS, 1)
    (folder / "step-100").write_text("state")
    assert cache.working_folder("sae", INPUTS, 1) == folder
    assert cache.working_folder("sae", {**INPUTS, "seed": 1}, 1) != folder
    assert cache.work_bytes() == 5
    assert list(cache.entries()) == []
    cache.discard_working_folder("sae", INPUTS, 1)
    assert not folder.exists()
    cache.discard_working_folder("sae", INPUTS, 1)


def test_gc_removes_work_by_age_alone(cache):
    folder = cache.working_folder("sae", INPUTS, 1)
    (folder / "step-100").write_text("state")
    assert cache.collect_garbage(max_bytes=0).removed == ()
    age(folder, 100)
    assert cache.collect_garbage(older_than_s=1000).removed == ()
    assert [removal.path for removal in cache.collect_garbage(older_than_s=50).removed] == [folder]
    assert not folder.exists()


# ---- garbage


@pytest.fixture
def three(cache):
    """Three artefacts, used 300, 200 and 100 seconds ago."""
    paths = [cache.get_or_make("store", {"seed": seed}, 1, write("x" * 1000)) for seed in range(3)]
    for path, seconds in zip(paths, (300, 200, 100), strict=True):
        age(path, seconds)
    return paths


def test_gc_removes_by_age(cache, three):
    report = cache.collect_garbage(older_than_s=150)
    assert [removal.path for removal in report.removed] == three[:2]
    assert [path.exists() for path in three] == [False, False, True]
    assert report.kept_entries == 1


def test_gc_removes_the_least_recently_used_until_the_size_fits(cache, three):
    assert cache.find("store", {"seed": 0}, 1) is not None  # used just now
    sizes = {entry.path: entry.bytes for entry in cache.entries()}
    report = cache.collect_garbage(max_bytes=sizes[three[0]] + sizes[three[2]])
    assert [removal.path for removal in report.removed] == [three[1]]
    assert report.freed_bytes == sizes[three[1]]
    assert report.kept_bytes == sizes[three[0]] + sizes[three[2]]


def test_a_dry_run_removes_nothing(cache, three):
    report = cache.collect_garbage(max_bytes=0, dry_run=True)
    assert len(report.removed) == 3
    assert report.kept_entries == 0
    assert all(path.exists() for path in three)


def test_gc_removes_what_was_set_aside(cache, three):
    (three[0] / "a.txt").write_text("")
    cache.verify(quarantine=True)
    assert [removal.reason for removal in cache.collect_garbage().removed] == ["was corrupt"]
    assert left_in(cache.root / "corrupt") == []
    assert [path.exists() for path in three] == [False, True, True]


def test_entries_tell_kind_size_and_use(cache, three):
    entries = list(cache.entries())
    assert {entry.path for entry in entries} == set(three)
    assert {entry.kind for entry in entries} == {"store"}
    assert all(entry.bytes > 1000 and entry.last_used < entry.created for entry in entries)


# ---- a folder that cannot be used


def test_a_root_that_cannot_be_written_gives_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match=r"cannot be written.*--cache FOLDER or SAE_HARNESS_CACHE") as caught:
        cache.get_or_make("store", INPUTS, 1, write())
    assert "\n" not in str(caught.value)
    with pytest.raises(CacheError, match="cannot be written"):
        cache.working_folder("store", INPUTS, 1)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_disk_gives_one_clear_line(cache, monkeypatch, number):
    def mkdir(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CacheError, match="cannot be written"):
        cache.get_or_make("store", INPUTS, 1, write())


def test_what_is_there_can_be_read_from_a_read_only_cache(cache, monkeypatch):
    path = cache.get_or_make("store", INPUTS, 1, write())

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    assert cache.get_or_make("store", INPUTS, 1, refuse) == path


def test_a_disk_that_fills_up_while_making_is_told_and_nothing_stays(cache):
    def fill(folder: Path) -> None:
        write()(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskSpaceError, match=r"The disk is full while making store.*cache gc.*--cache"):
        cache.get_or_make("store", INPUTS, 1, fill)
    assert left_in(cache.root / "tmp") == []


def test_a_full_disk_that_a_library_reports_as_text_is_told_too(cache):
    def fill(folder: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(DiskSpaceError):
        cache.get_or_make("store", INPUTS, 1, fill)


def test_an_estimate_larger_than_the_free_space_is_refused_before_making(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")(100, 50, 1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match=r"needs about 2\.0 GB, and 1\.5 MB are free"):
        cache.get_or_make("store", INPUTS, 1, refuse, estimate_bytes=2_000_000_000)
    cache.get_or_make("store", INPUTS, 1, write(), estimate_bytes=1000)


def test_an_error_of_make_about_another_folder_is_not_blamed_on_the_cache(cache):
    def read_elsewhere(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/model")

    with pytest.raises(PermissionError, match="/elsewhere/model"):
        cache.get_or_make("store", INPUTS, 1, read_elsewhere)


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000_000, "2.0 GB"), (5 * 10**15, "5000.0 TB")]
)
def test_sizes_are_written_for_readers(n, text):
    assert format_bytes(n) == text


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on /proc, where mkdir answers "no such file"."""

    def refuse(self: Path, *_args: object, **_options: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CacheError, match="--cache"):
        Cache(tmp_path / "x").get_or_make("thing", {"a": 1}, 1, lambda folder: None)
