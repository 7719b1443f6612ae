"""Labelled texts: each once, no text on both sides of a split, and a split that follows from content and seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.data.labelled import (
    LabelledSet,
    Sample,
    Sizes,
    binary,
    collection_sha256,
    distinct,
    load_collection,
    sample,
    write_collection,
)
from harness.errors import DataError

SIZES = Sizes(train=20, validation=10, test=10)


def make_set(texts, labels, name="fruit", classes=("apple", "pear")) -> LabelledSet:
    return LabelledSet(
        name=name, texts=tuple(texts), labels=tuple(labels), classes=tuple(classes), licence="CC0", source="here"
    )


def numbered(n: int = 200, start: int = 0, name: str = "fruit") -> LabelledSet:
    return make_set([f"text number {i}" for i in range(start, start + n)], [i % 2 for i in range(n)], name=name)


def test_repeated_texts_are_kept_once_and_contradicted_ones_not_at_all():
    texts = ["a  b", "A b", "c", "d", "D ", " ", "e"]
    kept, labels = distinct(texts, [1, 1, 0, 0, 1, 0, 1])
    assert kept == ("a  b", "c", "e")
    assert labels == (1, 0, 1)


def test_a_set_with_a_text_twice_is_refused():
    with pytest.raises(DataError, match="1 texts a second time"):
        make_set(["one", "One "], [0, 1])


def test_a_label_without_a_class_is_refused():
    with pytest.raises(DataError, match=r"has the labels \[2\]; its 2 classes allow 0 to 1"):
        make_set(["one", "two"], [0, 2])


def test_a_sample_with_a_text_on_both_sides_is_refused():
    with pytest.raises(DataError, match="a test text is in the sample twice"):
        Sample(name="fruit", texts=("a", "b", "c", "A"), labels=(0, 1, 0, 1), ends=(1, 2, 4))


def test_a_sample_has_as_many_of_each_class_in_each_part():
    drawn = sample(numbered(), SIZES, seed=0)
    for part, size in zip(drawn.parts(drawn.labels), (40, 20, 20), strict=True):
        assert len(part) == size
        assert sum(part) == size // 2


def test_a_text_is_for_the_same_in_every_set():
    first, second = (sample(numbered(400, start), SIZES, seed=0) for start in (0, 50))
    train, _, test = (set(part) for part in first.parts(first.texts))
    other_train, _, other_test = (set(part) for part in second.parts(second.texts))
    assert not train & other_test
    assert not test & other_train
    assert train & other_train, "sets with texts in common choose the same ones"


def test_the_order_of_a_set_changes_nothing():
    ordered = numbered()
    turned = make_set(reversed(ordered.texts), reversed(ordered.labels))
    assert sample(ordered, SIZES, 0) == sample(turned, SIZES, 0)


def test_another_seed_draws_other_texts():
    labelled = numbered()
    assert sample(labelled, SIZES, 0) == sample(labelled, SIZES, 0)
    assert set(sample(labelled, SIZES, 0).texts) != set(sample(labelled, SIZES, 1).texts)


def test_a_set_that_is_too_small_says_by_how_much():
    with pytest.raises(DataError, match=r"Task 'fruit' has . .* texts of its rarer class, and needs 8"):
        sample(numbered(20), SIZES, 0)


def test_several_classes_become_one_against_the_rest():
    labelled = make_set(["a", "b", "c"], [0, 1, 2], classes=("x", "y", "z"))
    assert [(task.name, task.labels) for task in binary(labelled)] == [
        ("fruit_x", (1, 0, 0)),
        ("fruit_y", (0, 1, 0)),
        ("fruit_z", (0, 0, 1)),
    ]


def test_a_collection_comes_back_as_it_was_written(tmp_path: Path):
    sets = (make_set(["a\u2028b\nc", 'd"', "é"], [0, 1, 0]), numbered(name="other/one"))
    (tmp_path / "fruits").mkdir()
    write_collection(tmp_path / "fruits", sets, {"note": "two sets"})
    assert load_collection(tmp_path, "fruits") == sets
    assert len(collection_sha256(tmp_path, "fruits")) == 64


def test_a_collection_that_is_not_there_says_how_to_get_it(tmp_path: Path):
    assert collection_sha256(tmp_path, "sae-probes") == ""
    with pytest.raises(DataError, match="run: sae-harness fetch sae-probes"):
        load_collection(tmp_path, "sae-probes")


def test_a_collection_whose_texts_were_changed_is_refused(tmp_path: Path):
    folder = tmp_path / "fruits"
    folder.mkdir()
    write_collection(folder, [numbered()], {})
    index = json.loads((folder / "fetched.json").read_text())
    index["tasks"][0]["sha256"] = "0" * 64
    (folder / "fetched.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="Remove the folder, then run: sae-harness fetch fruits"):
        load_collection(tmp_path, "fruits")
