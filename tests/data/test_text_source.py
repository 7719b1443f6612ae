from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from harness.config import TextConfig
from harness.data.text_source import resolve_text
from harness.errors import DataError


def _config(source: Path | str, **changes: Any) -> TextConfig:
    return TextConfig(source=str(source), n_train_tokens=1, n_eval_sequences=1, **changes)


def test_a_file_is_known_by_content_a_folder_by_names_too(tmp_path: Path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    first, second = resolve_text(_config(tmp_path / "a.txt")), resolve_text(_config(tmp_path / "b.txt"))
    assert first.sha256 == second.sha256
    whole = resolve_text(_config(tmp_path))
    assert [p.name for p in whole.files] == ["a.txt", "b.txt"]
    (tmp_path / "b.txt").write_text("other")
    assert resolve_text(_config(tmp_path)).sha256 != whole.sha256
    assert resolve_text(_config(tmp_path / "b.txt")).sha256 != second.sha256


def test_a_file_in_a_package_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "packaged_text_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "sample.txt").write_text("text")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_text(_config("package:packaged_text_for_test/sample.txt")).files == (package / "sample.txt",)
    with pytest.raises(DataError, match="names no file"):
        resolve_text(_config("package:packaged_text_for_test"))
    with pytest.raises(DataError, match="does not exist"):
        resolve_text(_config("package:packaged_text_for_test/missing.txt"))
    with pytest.raises(DataError, match="no importable package 'no_such_package'"):
        resolve_text(_config("package:no_such_package/a.txt"))


def test_what_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(DataError, match=r"no text file: allowed endings are \.txt, \.jsonl, \.jsonl\.gz"):
        resolve_text(_config(tmp_path))
    with pytest.raises(DataError, match="no text file"):
        resolve_text(_config(tmp_path / "a.csv"))
    with pytest.raises(DataError, match="does not exist"):
        resolve_text(_config(tmp_path / "none.txt"))


def test_a_hub_data_set_is_known_by_its_commit():
    first, second = (resolve_text(_config("hub:org/set", revision=commit)) for commit in ("abc", "abd"))
    assert (first.dataset, first.revision, first.files) == ("org/set", "abc", ())
    assert first.sha256 != second.sha256


def test_a_hub_folder_is_known_by_its_files(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}')
    first = resolve_text(_config(f"hub:{tmp_path}"))
    (tmp_path / "train.jsonl").write_text('{"text": "b"}')
    assert resolve_text(_config(f"hub:{tmp_path}")).sha256 != first.sha256


def test_a_hub_data_set_without_network_is_told(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def unreachable(self: Any, name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match=r"cannot be reached \(ConnectionError: no network\).*text\.revision"):
        resolve_text(_config("hub:org/set"))


def test_keys_are_made_without_torch():
    code = (
        "import sys, harness.activations.keys, harness.activations.sources, harness.data.text;"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
