"""What is drawn: halves that share no word, options of one length, and the same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from harness.data.local_questions import read_local
from harness.errors import ConfigError, DataError
from harness.evaluation.unlearning_draws import Draws, Sizes, check_enough, draw_from_files, draw_from_table

SIZES = Sizes(questions={"forget": 10, "retain": 20}, texts=12, measured=6)


def tokens(texts: Sequence[str]) -> list[list[int]]:
    """A token a letter pair, so that words of one length have one number of tokens."""
    return [list(range((len(text) + 1) // 2)) for text in texts]


def rows() -> list[dict]:
    found = []
    for number in range(240):
        side, domain = [("forget", "animal"), ("forget", "plant"), ("retain", "act")][number % 3]
        word = f"{chr(97 + number % 26)}{number}" + "x" * (number % 2 * 4)
        found.append(
            {
                "side": side,
                "domain": domain,
                # Some rows share a second word with another, so that some fall between the halves.
                "lemmas": [word, f"shared{number // 5}"] if number % 5 < 2 else [word],
                "question": "" if number % 7 == 0 else f"what is {word}",
                "answer": "" if number % 7 == 0 else f" {word}",
                "text": f"text of {word}",
            }
        )
    return found


def drawn(seed: int = 0, sizes: Sizes = SIZES) -> Draws:
    return draw_from_table(rows(), tokens, sizes, generator=torch.Generator().manual_seed(seed))


def words_of(found: Draws, half: int) -> set[str]:
    of_text = {row["text"]: set(row["lemmas"]) for row in rows()}
    words = {option.strip() for q in found.questions if q.half == half for option in q.question.options}
    return words.union(*(of_text[text.text] for text in found.texts if text.half == half))


@pytest.mark.parametrize("seed", range(4))
def test_no_word_is_in_both_halves(seed):
    found = drawn(seed)
    assert words_of(found, 0)
    assert not words_of(found, 0) & words_of(found, 1)


def test_options_are_of_one_domain_and_length_and_hold_the_answer():
    of_word = {row["answer"]: row for row in rows()}
    for question in drawn().questions:
        asked = question.question
        assert len(set(asked.options)) == 4
        assert asked.prompt == f"what is{asked.options[asked.answer]}"
        assert len({len(ids) for ids in tokens(asked.options)}) == 1
        assert {of_word[option]["domain"] for option in asked.options} == {question.domain}
    places = [question.question.answer for question in drawn().questions]
    assert set(places) == {0, 1, 2, 3}, "the right option is anywhere"


def test_the_shortest_words_are_taken_first_and_the_domains_alike():
    found = drawn()
    for half in (0, 1):
        assert [sum(q.domain == d for q in found.questions if q.half == half) for d in ("animal", "plant")] == [5, 5]
    lengths = [len(tokens(q.question.options)[0]) for q in found.questions if q.domain == "animal"]
    assert max(lengths) <= 3


def test_texts_are_drawn_apart_from_questions():
    fewer = Sizes(questions={"forget": 2, "retain": 2}, texts=12, measured=6)
    assert drawn(sizes=fewer).texts == drawn().texts
    counts = [sum(text.measured for text in drawn().texts if text.forget == side) for side in (True, False)]
    assert counts == [12, 12], "six of each half"


def test_a_seed_draws_the_same_and_another_others():
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_too_few_are_told_with_their_side_and_half():
    check_enough(drawn().questions, "questions", 8)
    forget = [found for found in drawn().questions if found.forget]
    with pytest.raises(
        DataError, match="Not evaluated: there are 0 questions for the retain side in the selection half"
    ):
        check_enough(forget, "questions", 8)


def files(folder: Path) -> Path:
    for side, subject in (("forget", "wmdp-bio"), ("retain", "human_aging")):
        asked = [{"question": f"{side} {i}?", "choices": list("pqrs"), "answer": i % 4} for i in range(9)]
        for what, name, made in (
            ("questions", subject, asked),
            ("texts", "corpus", [{"text": f"{side} text {i}"} for i in range(9)]),
        ):
            (folder / what / side).mkdir(parents=True)
            (folder / what / side / f"{name}.json").write_text(json.dumps(made))
    return folder


def test_questions_of_files_are_asked_by_letters_in_every_order(tmp_path: Path):
    folder = files(tmp_path)
    sha256 = read_local(folder).sha256
    found = draw_from_files(folder, sha256, SIZES, generator=torch.Generator().manual_seed(0))
    asked = next(q for q in found.questions if not q.forget)
    assert asked.question.prompt.startswith(
        "The following are multiple choice questions (with answers) about human aging.\n\nretain "
    )
    assert asked.question.prompt.endswith("?\nA. p\nB. q\nC. r\nD. s\nAnswer:")
    assert asked.question.options == (" A", " B", " C", " D")
    assert len(asked.variants) == 23
    right = "pqrs"[asked.question.answer]
    for variant in asked.variants:
        letter = variant.options[variant.answer].strip()
        assert f"\n{letter}. {right}\n" in variant.prompt
    halves = [{q.question.prompt for q in found.questions if q.half == half} for half in (0, 1)]
    assert not halves[0] & halves[1]


def test_files_must_be_those_a_record_will_name(tmp_path: Path):
    folder = files(tmp_path)
    with pytest.raises(ConfigError, match=rf"have sha256 {read_local(folder).sha256}, the option `files_sha256`"):
        draw_from_files(folder, "", SIZES, generator=torch.Generator())
