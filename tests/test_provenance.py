"""What a record says of where it was made."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

from harness import __version__, provenance
from harness.registry import load_registry


def suite_of(micro, **changes):
    return load_registry([micro.registry]).suite("micro").replace(**changes)


def test_versions_machine_and_command_are_told(micro):
    made = provenance.provenance(suite_of(micro), "sae-harness-idea", "1.2", "cpu", "sae-harness run idea")
    assert made.harness_version == __version__
    assert made.distributions["torch"] == importlib.metadata.version("torch")
    assert made.distributions["sae-harness-idea"] == "1.2"
    assert (made.device, made.command) == ("cpu", "sae-harness run idea")
    assert made.python == ".".join(map(str, sys.version_info[:3]))
    assert made.threads >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made.created)
    assert made.commit == "" or re.fullmatch(r"[0-9a-f]{40}", made.commit)


def test_the_suites_hash_is_of_every_field(micro):
    suite = suite_of(micro)
    assert provenance.suite_sha256(suite) == provenance.suite_sha256(suite_of(micro))
    assert provenance.suite_sha256(suite) != provenance.suite_sha256(suite_of(micro, claim="another"))


def test_peak_memory_is_plausible_in_mib():
    assert 10 < provenance.peak_memory_mib() < 1_000_000


def test_outside_a_checkout_and_without_git_the_commit_is_not_known(micro, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "__file__", str(tmp_path / "harness" / "provenance.py"))
        assert provenance._commit() == ""

    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert provenance._commit() == ""
