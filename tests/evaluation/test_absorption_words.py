"""The words of the first-letter task: one token each, cut by letter, and shown with words of their own part."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from harness.errors import DataError
from harness.evaluation.absorption_words import (
    MIN_WORDS,
    TEST,
    TRAINING,
    VALIDATION,
    Word,
    alphabet_of,
    draw,
    last_activations,
    prompts_of,
    sha256_of,
    words_of,
)
from harness.interfaces.texts import TextBatch


def made(**n: int) -> tuple[tuple[Word, ...], list[list[int]]]:
    """n words of each letter, each one token."""
    names = [
        "".join(letters)
        for first, count in n.items()
        for letters in itertools.islice(itertools.product(first, "abcdefghij", "abcdefghij"), count)
    ]
    words = words_of([{"word": name, "letter": name[0]} for name in names])
    return words, [[place] for place in range(len(words))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_row_becomes_a_token_and_a_solved_example():
    (word,) = words_of([{"word": "apple", "letter": "a"}])
    assert word == (" apple", "a", " apple has the first letter: A\n")


def test_a_row_can_say_how_it_is_written():
    (word,) = words_of([{"word": "7", "letter": "q", "text": "7", "shown": "7 8"}])
    assert word == ("7", "q", "7 8")


@pytest.mark.parametrize("row", [{"word": "apple"}, {"word": "", "letter": "a"}, {"word": 3, "letter": "a"}])
def test_a_row_without_word_or_letter_is_refused(row):
    with pytest.raises(DataError, match="must have a word and its letter"):
        words_of([row])


def test_each_letter_is_cut_into_three_parts():
    words, ids = made(a=100, b=40)
    drawn = draw(words, ids, 50, generator())
    for letter, n in ((0, 50), (1, 40)):
        own = drawn.part[drawn.letter == letter]
        sizes = [int((own == part).sum()) for part in (TRAINING, VALIDATION, TEST)]
        assert sizes == [round(share * n) for share in (0.6, 0.2, 0.2)]
    assert len(set(drawn.place.tolist())) == len(drawn.place), "no word twice"
    assert all(
        words[place].letter == "ab"[own] for place, own in zip(*map(torch.Tensor.tolist, drawn[:2]), strict=True)
    )


def test_words_of_several_tokens_and_rare_letters_are_left_out():
    words, ids = made(a=30, b=30, c=MIN_WORDS, d=MIN_WORDS - 1)
    ids[3] = [3, 4]
    drawn = draw(words, ids, 50, generator())
    assert 3 not in drawn.place
    assert torch.bincount(drawn.letter).tolist() == [29, 30, MIN_WORDS]
    assert alphabet_of(words) == ("a", "b", "c", "d")


def test_one_letter_is_not_enough():
    with pytest.raises(DataError, match=r"1 letters have 10 of them or more; two are needed.*'b': 9"):
        draw(*made(a=30, b=9), 50, generator())


def test_draws_follow_from_the_seed():
    words, ids = made(a=100, b=100)
    one, again, other = (draw(words, ids, 50, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.place, again.place)
    assert not torch.equal(one.place, other.place)


@pytest.mark.parametrize("n", [30, 300], ids=["few words", "many words"])
def test_examples_are_other_words_of_the_same_part(n):
    # 300 words a letter take the quick way to draw, 30 the other.
    words, ids = made(a=min(n, 100), b=min(n, 100), c=min(n, 100))
    drawn = draw(words, ids, n, generator())
    prompts = prompts_of(words, drawn, 5, generator(1))
    part_of = {words[place].text: part for place, part in zip(drawn.place.tolist(), drawn.part.tolist(), strict=True)}
    for prompt, place in zip(prompts, drawn.place.tolist(), strict=True):
        first, *lines, last = prompt.split("\n")
        assert (first, last) == ("", words[place].text)
        shown = [line.partition(" has the first letter: ")[::2] for line in lines]
        assert len({word for word, _ in shown} - {last}) == 5
        assert all(letter == word[1].upper() for word, letter in shown)
        assert {part_of[word] for word, _ in shown} == {part_of[last]}
    assert prompts == prompts_of(words, drawn, 5, generator(1))
    assert prompts != prompts_of(words, drawn, 5, generator(2))


def test_a_part_with_few_words_gives_fewer_examples():
    words, ids = made(a=10, b=10)
    drawn = draw(words, ids, 50, generator())
    assert {prompt.count("has the first letter") for prompt in prompts_of(words, drawn, 10, generator())} == {3, 10}


def test_no_example_is_the_word_alone():
    words, ids = made(a=10, b=10)
    drawn = draw(words, ids, 50, generator())
    assert prompts_of(words, drawn, 0, generator())[0] == "\n" + words[drawn.place[0]].text


def test_the_hash_covers_how_words_are_shown():
    one, other = ({"word": "apple", "letter": "a"}, {"word": "apple", "letter": "a", "shown": "apple: A"})
    assert sha256_of(words_of([one])) == sha256_of(words_of([one]))
    assert sha256_of(words_of([one])) != sha256_of(words_of([other]))


def context(ids: list[list[int]]) -> SimpleNamespace:
    def activations(texts, *, max_tokens, last_tokens):
        assert (max_tokens, last_tokens) == (max(map(len, ids)), 1)
        for index in range(len(texts)):
            yield TextBatch(rows=torch.full((1, 2), float(index)), text=torch.tensor([index]))

    return SimpleNamespace(token_ids=lambda texts: ids, text_activations=activations)


def test_activations_are_those_of_the_last_token():
    rows = last_activations(context([[1, 5], [2, 3, 6]]), ["x", "y"], [5, 6])  # pyright: ignore[reportArgumentType]
    assert rows.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_a_tokenizer_that_joins_the_word_to_what_stands_before_is_told():
    with pytest.raises(DataError, match=r"reads the end of 'y' as token \[7\], and its last word alone as token 6"):
        last_activations(context([[5], [7]]), ["x", "y"], [5, 6])  # pyright: ignore[reportArgumentType]
