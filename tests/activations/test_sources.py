from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import MissingModelError


def _fake_lm(folder: Path) -> Path:
    """Files of the right names: resolving reads no tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("not part of the model")
    return folder


def _resolve(source: str | Path, cache_root: Path, revision: str = ""):
    return resolve_lm(LMConfig(source=str(source), revision=revision), cache_root)


def test_a_folder_is_known_by_content_not_by_name(tmp_path: Path):
    first = _resolve(_fake_lm(tmp_path / "a"), tmp_path)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("another text")
    second = _resolve(tmp_path / "b", tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert (first.weights_sha256, first.tokenizer_sha256) == (second.weights_sha256, second.tokenizer_sha256)


@pytest.mark.parametrize(("file", "weights", "tokenizer"), [
    ("config.json", True, False), ("model.safetensors", True, False), ("tokenizer.json", False, True),
    ("special_tokens_map.json", False, True), ("model-00002.safetensors", True, False),
])  # fmt: skip
def test_every_file_counts_in_its_own_hash(tmp_path: Path, file: str, weights: bool, tokenizer: bool):
    folder = _fake_lm(tmp_path / "a")
    before = _resolve(folder, tmp_path)
    (folder / file).write_text("changed")
    after = _resolve(folder, tmp_path)
    assert (after.weights_sha256 != before.weights_sha256) is weights
    assert (after.tokenizer_sha256 != before.tokenizer_sha256) is tokenizer


def test_a_package_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = _fake_lm(tmp_path / "packaged_lm_for_test")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = _resolve("package:packaged_lm_for_test", tmp_path)
    assert source.folder == folder
    assert source.name == "packaged_lm_for_test"
    with pytest.raises(MissingModelError, match="no importable package 'no_such_package'"):
        _resolve("package:no_such_package", tmp_path)


def test_a_fetched_model_lies_in_the_cache(tmp_path: Path):
    with pytest.raises(MissingModelError, match="run: sae-harness fetch smollm2"):
        _resolve("fetched:smollm2", tmp_path)
    _fake_lm(tmp_path / "models" / "smollm2")
    assert _resolve("fetched:smollm2", tmp_path).name == "smollm2"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str):
    folder = _fake_lm(tmp_path / "a")
    (folder / missing).unlink()
    with pytest.raises(MissingModelError, match=missing.replace("model.", r"\*.")):
        _resolve(folder, tmp_path)


def test_a_gguf_holds_weights_and_tokenizer(tmp_path: Path):
    path = tmp_path / "tiny.Q4.gguf"
    path.write_bytes(b"GGUF....")
    source = _resolve(path, tmp_path)
    assert (source.name, source.gguf, source.folder) == ("tiny.Q4", "tiny.Q4.gguf", tmp_path)
    assert source.weights_sha256 == source.tokenizer_sha256
    assert _resolve(tmp_path, tmp_path).gguf == "tiny.Q4.gguf", "a folder with one GGUF is that GGUF"
    path.write_bytes(b"not a model")
    with pytest.raises(MissingModelError, match="not a GGUF file"):
        _resolve(path, tmp_path)


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "missing.gguf", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(tmp_path: Path, source: str):
    with pytest.raises(MissingModelError, match="no such file or folder"):
        _resolve(source, tmp_path)


# huggingface_hub reads its environment on import, so each case has an interpreter of its own.
_RESOLVE = """
import sys
from pathlib import Path
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import MissingModelError
try:
    source = resolve_lm(LMConfig(source="org/name"), Path("unused"))
    print(source.name, source.folder.name, source.weights_sha256)
except MissingModelError as error:
    print("MISSING", error)
assert "torch" not in sys.modules
"""


def _run_offline(hf_home: Path) -> str:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(hf_home)}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", _RESOLVE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hub_id_without_network_says_where_to_put_the_files(tmp_path: Path):
    said = _run_offline(tmp_path)
    assert said.startswith("MISSING Language model 'org/name' is neither a local folder nor in the local hub cache")
    assert "Put config.json, *.safetensors and tokenizer.json" in said


def test_a_hub_id_in_the_local_hub_cache_needs_no_network(tmp_path: Path):
    repo = tmp_path / "hub" / "models--org--name"
    snapshot = _fake_lm(repo / "snapshots" / "0123abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    expected = _resolve(snapshot, tmp_path).weights_sha256
    assert _run_offline(tmp_path).split() == ["org/name", "0123abc", expected]
    (snapshot / "model.safetensors").unlink()
    assert _run_offline(tmp_path).startswith("MISSING"), "a part of a snapshot is no model"
