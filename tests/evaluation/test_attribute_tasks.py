"""Two-attribute and class tasks: balanced, biased where they should be, and no text in two parts."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from harness.errors import DataError
from harness.evaluation.attribute_tasks import Pair, Pairs, Sizes, classes_of, pairs_of

SIZES = Sizes(train=20, validation=10, test=8)


def crossed(n: int = 200, sources=("a", "b", "c")) -> list[dict[str, str]]:
    return [
        {"text": f"{source} {mood} {i}", "source": source, "mood": mood}
        for source in sources
        for mood in ("bad", "good")
        for i in range(n)
    ]


def pairs(seed: int = 0, rows=None, most: int = 0) -> Pairs:
    return pairs_of(rows or crossed(), target="source", spurious="mood", sizes=SIZES, seed=seed, most=most)


def parts(pair: Pair):
    return (pair.training, pair.selection, pair.test)


def test_each_combination_is_a_fourth_of_the_balanced_texts():
    found = pairs()
    assert [pair.name for pair in found.pairs] == ["a/b", "a/c", "b/c"]
    for pair in found.pairs:
        for part, q in zip(parts(pair), (20, 10, 8), strict=True):
            for target, spurious in ((0, 0), (0, 1), (1, 0), (1, 1)):
                here = part.balanced[(part.target == target) & (part.spurious == spurious)]
                words = {tuple(found.texts[index].split()[:2]) for index in here.tolist()}
                assert len(here) == q
                assert words == {(pair.name.split("/")[1 - target], ("bad", "good")[spurious])}


def test_biased_texts_have_equal_attributes():
    found = pairs()
    for pair in found.pairs:
        one, zero = pair.name.split("/")
        for part, q in zip(parts(pair), (20, 10, 8), strict=True):
            for label, words in ((1, (one, "good")), (0, (zero, "bad"))):
                here = part.biased.texts[part.biased.labels == label]
                assert {tuple(found.texts[i].split()[:2]) for i in here.tolist()} == {words}
                assert len(set(here.tolist())) == 2 * q


def test_no_text_is_in_two_parts_of_any_pair():
    found = pairs()
    seen = [set(), set(), set()]
    for pair in found.pairs:
        for own, part in zip(seen, parts(pair), strict=True):
            own |= set(part.balanced.tolist()) | set(part.biased.texts.tolist())
    for one, other in combinations(seen, 2):
        assert not one & other


def test_another_seed_draws_other_texts_and_the_order_of_rows_means_nothing():
    one, again, other = pairs(0), pairs(0, rows=crossed()[::-1]), pairs(1)
    assert one.texts == again.texts
    assert all(torch.equal(a.test.balanced, b.test.balanced) for a, b in zip(one.pairs, again.pairs, strict=True))
    assert one.texts != other.texts


def test_pairs_of_too_few_texts_are_left_out_and_told():
    rows = crossed() + crossed(30, sources=("d",))
    found = pairs(rows=rows)
    assert [pair.name for pair in found.pairs] == ["a/b", "a/c", "b/c"]
    assert len(found.left_out) == 3
    assert "a/d, attributes equal" in found.left_out[0]
    with pytest.raises(
        DataError, match=r"No pair of values of 'source' has enough texts\. Task 'a/b, attributes equal'"
    ):
        pairs(rows=crossed(30))


def test_the_number_of_pairs_can_be_bounded():
    assert [pair.name for pair in pairs(most=2).pairs] == ["a/b", "a/c"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("source", "weather"), "A row has no weather: its columns are mood, source, text"),
        (("mood", "source"), "'source' must have two values to be crossed with, got 3"),
    ],
)
def test_columns_that_do_not_fit_are_told(columns, message):
    with pytest.raises(DataError, match=message):
        pairs_of(crossed(), target=columns[0], spurious=columns[1], sizes=SIZES, seed=0)


def labelled(n: int = 100) -> list[dict[str, str]]:
    return [
        {"text": f"{label} {i}", "set": label[0], "class": label}
        for label in ("x1", "x2", "x3", "y1", "y2")
        for i in range(n)
    ]


def test_a_class_meets_equally_many_of_each_other_class_of_its_set():
    found = classes_of(labelled(), set_column="set", class_column="class", sizes=SIZES, seed=0)
    assert [(task.set, task.name) for task in found.tasks] == [
        ("x", "x1"),
        ("x", "x2"),
        ("x", "x3"),
        ("y", "y1"),
        ("y", "y2"),
    ]
    for task in found.tasks:
        for part, n in ((task.training, 20), (task.selection, 10), (task.test, 8)):
            names = [found.texts[index].split()[0] for index in part.texts.tolist()]
            own = [name for name, label in zip(names, part.labels.tolist(), strict=True) if label]
            others = [name for name, label in zip(names, part.labels.tolist(), strict=True) if not label]
            assert own == [task.name] * n
            assert len(others) == n
            assert {name[0] for name in others} == {task.set}
            counts = [others.count(name) for name in sorted(set(others))]
            assert max(counts) - min(counts) <= 1


def test_class_parts_share_no_text_and_sets_can_be_one():
    found = classes_of(labelled(), set_column="", class_column="class", sizes=SIZES, seed=0)
    assert {task.set for task in found.tasks} == {"class"}
    seen = [
        {index for task in found.tasks for index in getattr(task, part).texts.tolist()}
        for part in ("training", "selection", "test")
    ]
    for one, other in combinations(seen, 2):
        assert not one & other


def test_sets_of_too_few_texts_are_left_out_and_told():
    rows = labelled() + [{"text": f"z {i}", "set": "z", "class": "z1"} for i in range(99)]
    found = classes_of(rows, set_column="set", class_column="class", sizes=SIZES, seed=0)
    assert found.left_out == ("Set 'z' has 1 class: two are needed.",)
    with pytest.raises(DataError, match="No set of classes of 'class' has enough texts"):
        classes_of(labelled(20), set_column="set", class_column="class", sizes=SIZES, seed=0)
