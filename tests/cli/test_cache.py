"""`sae-harness cache`."""

from __future__ import annotations

import json
import os
import time

import click
import pytest
from click.testing import CliRunner

from harness.artefacts.cache import Cache
from harness.cli.cache import DURATION, SIZE
from harness.cli.main import cli


@pytest.fixture
def cache(tmp_path):
    """Two stores, the first not used for ten days, and a record."""
    cache = Cache(tmp_path / "cache")
    for kind, seed in (("store", 0), ("store", 1), ("record", 0)):
        cache.get_or_make(kind, {"seed": seed}, 1, lambda folder: (folder / "file").write_bytes(b"x" * 1000) and None)
    old = cache.find("store", {"seed": 0}, 1)
    assert old is not None
    then = time.time() - 10 * 86400
    os.utime(old / "manifest.json", (then, then))
    return cache


@pytest.fixture
def invoke(cache):
    def run(*args: str):
        return CliRunner().invoke(cli, ["--cache", str(cache.root), "cache", *args], prog_name="sae-harness")

    return run


@pytest.fixture
def corrupt(cache):
    path = cache.find("record", {"seed": 0}, 1)
    (path / "file").write_bytes(b"y" * 1000)
    return path


def test_info_counts_by_kind(invoke, cache):
    done = invoke("info")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["record", "1"], ["store", "2"]]
    assert str(cache.root) in done.stderr


def test_info_as_json(invoke, cache):
    found = json.loads(invoke("info", "--json").stdout)
    assert found["root"] == str(cache.root)
    assert found["kinds"]["store"]["entries"] == 2
    assert found["bytes"] == sum(entry.bytes for entry in cache.entries())


def test_info_on_a_cache_that_is_not_there_yet(tmp_path):
    done = CliRunner().invoke(cli, ["--cache", str(tmp_path / "none"), "cache", "info", "--json"])
    assert json.loads(done.stdout)["bytes"] == 0
    assert not (tmp_path / "none").exists()


def test_verify_of_a_sound_cache_exits_0(invoke):
    done = invoke("verify")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "3 artefacts" in done.stderr


def test_verify_names_what_is_corrupt_and_exits_1(invoke, corrupt):
    done = invoke("verify")
    assert done.exit_code == 1
    assert "another sha256" in done.stdout
    assert corrupt.exists()
    assert len(json.loads(invoke("verify", "--json").stdout)["problems"]) == 1


def test_verify_sets_aside_when_asked(invoke, corrupt):
    assert invoke("verify", "--quarantine").exit_code == 1
    assert not corrupt.exists()
    assert invoke("verify").exit_code == 0


def test_gc_by_age(invoke, cache):
    done = invoke("gc", "--older-than", "7d", "--json")
    report = json.loads(done.stdout)
    assert (len(report["removed"]), report["kept_entries"]) == (1, 2)
    assert cache.find("store", {"seed": 0}, 1) is None
    assert cache.find("store", {"seed": 1}, 1) is not None


def test_gc_by_size(invoke, cache):
    invoke("gc", "--max-size", "2.9kB")
    assert len(list(cache.entries())) == 2
    assert cache.find("store", {"seed": 0}, 1) is None, "the least recently used goes first"


def test_a_dry_run_says_what_would_go_and_removes_nothing(invoke, cache):
    done = invoke("gc", "--max-size", "0B", "--dry-run")
    assert "Would free" in done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert len(list(cache.entries())) == 3


def test_gc_without_limits_keeps_all_artefacts(invoke, cache):
    done = invoke("gc")
    assert "Freed 0 B; 3 artefacts" in done.stderr
    assert len(list(cache.entries())) == 3


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "7d", 604800),
        (DURATION, "12H", 43200),
        (DURATION, "1.5m", 90),
        (DURATION, " 2 w ", 1209600),
        (SIZE, "10GB", 10**10),
        (SIZE, "1.5g", 1_500_000_000),
        (SIZE, "1GiB", 2**30),
        (SIZE, "100 b", 100),
    ],
)
def test_durations_and_sizes_are_read(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(("kind", "text"), [(DURATION, "7"), (DURATION, "-1d"), (DURATION, "d"), (SIZE, "10 apples")])
def test_a_quantity_without_its_unit_is_refused(kind, text):
    with pytest.raises(click.BadParameter, match="write a number and one of"):
        kind.convert(text, None, None)


def test_a_wrong_duration_is_one_line_and_exit_2(invoke):
    done = invoke("gc", "--older-than", "soon")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "7d" in done.stderr
