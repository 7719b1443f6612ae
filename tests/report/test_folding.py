"""Tables that keep to the page."""

from __future__ import annotations

from harness.report.folding import folded, wrapped


def test_a_table_that_fits_is_one():
    assert folded([["a", "1", "2"]], ["name", "x", "y"], keys=1) == "name  x  y\na     1  2"


def test_columns_without_room_begin_again_with_the_keys():
    told = folded([["a", "1", "2"], ["b", "3", "4"]], ["name", "x", "y"], keys=1, width=8)
    assert told == "name  x\na     1\nb     3\n\nname  y\na     2\nb     4"


def test_a_column_wider_than_the_page_stands_alone():
    assert folded([["a", "11111111", "2"]], ["n", "x", "y"], keys=1, width=4).count("\n\n") == 1


def test_the_text_column_goes_on_below_itself():
    text = "one two three four five six seven eight"
    told = wrapped([["a", text], ["b", ""]], ["n", "text"], column=1, width=30).splitlines()
    assert told == ["n  text", "a  one two three four five six", "   seven eight", "b"]
    assert wrapped([], ["n", "text"], column=1) == "n  text"


def test_a_long_word_is_not_broken():
    assert "x" * 40 in wrapped([["a", "x" * 40]], ["n", "text"], column=1, width=20)
