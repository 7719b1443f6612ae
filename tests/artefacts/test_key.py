"""One text for one value; any change of an input is another key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.artefacts.key import artefact_key, canonical_json, file_sha256, folder_sha256, source_sha256
from harness.errors import ConfigError, PluginError

INPUTS = {"weight": 0.1, "config": {"d_sae": 64, "dtype": "float32"}, "documents": ["a", "b"], "seed": 0}
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@dataclasses.dataclass(frozen=True)
class Config:
    b: int
    a: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ((1, [2, 3]), "[1,[2,3]]"),
        (frozenset({"b", "a"}), '["a","b"]'),
        (Config(b=1, a="x"), '{"a":"x","b":1}'),
        (MappingProxyType({"k": None}), '{"k":null}'),
        ([1, 1.0, True], "[1,1.0,true]"),
        (0.1 + 0.2, "0.30000000000000004"),
        (np.float64(0.5), "0.5"),
        ("é\n", '"\\u00e9\\n"'),
    ],
)
def test_the_canonical_text(value, text):
    assert canonical_json(value) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [float("nan")]}, r"\$\.a\[0\] is nan"),
        (float("inf"), "only finite"),
        ({"path": Path("x")}, r"\$\.path is a PosixPath.*file_sha256"),
        ({1: "a"}, "key 1: keys must be strings"),
        (b"bytes", "bytes, which has no canonical form"),
        (np.int64(1), "int64"),
        (Config, "type, which has no canonical form"),
    ],
)
def test_what_has_no_canonical_form_is_refused_with_its_place(value, message):
    with pytest.raises(ConfigError, match=message):
        canonical_json(value)


@settings(max_examples=40, deadline=None)
@given(values)
def test_the_text_is_json_of_the_same_value_and_survives_the_way_through_a_manifest(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), scalars, min_size=2))
def test_the_order_of_keys_does_not_matter(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize(
    "changed",
    [
        {**INPUTS, "weight": 0.1000000001},
        {**INPUTS, "config": {"d_sae": 65, "dtype": "float32"}},
        {**INPUTS, "config": {"d_sae": 64, "dtype": "bfloat16"}},
        {**INPUTS, "config": {"d_sae": 64.0, "dtype": "float32"}},
        {**INPUTS, "documents": ["b", "a"]},
        {**INPUTS, "documents": ["a", "b", ""]},
        {**INPUTS, "seed": 1},
        {**INPUTS, "seed": False},
        {**INPUTS, "more": None},
    ],
)
def test_any_single_change_of_the_inputs_is_another_key(changed):
    assert artefact_key("store", changed, 1) != artefact_key("store", INPUTS, 1)


def test_kind_and_version_are_part_of_the_key():
    keys = {artefact_key("store", INPUTS, 1), artefact_key("store", INPUTS, 2), artefact_key("sae", INPUTS, 1)}
    assert len(keys) == 3
    assert artefact_key("store", dict(INPUTS), 1) in keys


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path):
    content = bytes(range(256)) * 9000  # more than two pieces
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_folder_sees_content_names_and_new_files(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("2")
    seen = [folder_sha256(tmp_path)]
    assert folder_sha256(tmp_path) == seen[0]
    (tmp_path / "a").write_text("x")
    seen.append(folder_sha256(tmp_path))
    (tmp_path / "a").rename(tmp_path / "c")
    seen.append(folder_sha256(tmp_path))
    (tmp_path / "d").write_text("")
    seen.append(folder_sha256(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("compiled")
    assert len({*seen, folder_sha256(tmp_path)}) == 4


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "hashed_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    (folder / "trainer.py").write_text("WEIGHT = 1\n")
    (folder / "inner" / "more.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_source_of_a_target_is_all_python_of_its_package_and_is_not_imported(package):
    before = source_sha256("hashed_package.trainer:Trainer")
    assert before == source_sha256("hashed_package")
    (package / "notes.txt").write_text("not code")
    assert source_sha256("hashed_package") == before
    (package / "inner" / "more.py").write_text("X = 1\n")
    assert source_sha256("hashed_package.trainer:Trainer") != before
    assert "hashed_package" not in sys.modules


def test_only_narrows_the_source(package):
    before = source_sha256("hashed_package", only=["inner"])
    (package / "trainer.py").write_text("WEIGHT = 2\n")
    assert source_sha256("hashed_package", only=["inner"]) == before
    assert source_sha256("hashed_package", only=["inner", "trainer.py"]) != before
    with pytest.raises(PluginError, match="no Python files under nothing"):
        source_sha256("hashed_package", only=["nothing"])


def test_a_plain_module_has_a_source(tmp_path, monkeypatch):
    (tmp_path / "hashed_module.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_sha256("hashed_module:Trainer")
    (tmp_path / "hashed_module.py").write_text("X = 2\n")
    assert source_sha256("hashed_module:Trainer") != before


def test_a_built_in_stands_for_the_code_that_makes_its_numbers():
    ours = source_sha256("harness.builtin.trainers.topk:TopKTrainer")
    assert ours == source_sha256("harness.builtin.saes.relu:ReluSAE")
    assert ours != source_sha256("harness", only=["training"])


def test_an_unknown_package_is_refused():
    with pytest.raises(PluginError, match="'no_such_package' cannot be found"):
        source_sha256("no_such_package.trainer:Trainer")
