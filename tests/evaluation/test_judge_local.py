"""The embedded LM as a judge: what it says is no use, but it says the same each time, and no more than it may."""

from __future__ import annotations

import pytest

from harness.errors import MissingModelError
from harness.evaluation.judge import Judge, JudgeError, Message
from harness.evaluation.judge_local import LocalJudge, _is_list, _may_become

TINY = "package:harness.builtin.tiny"
ASKED = [Message("system", "Answer."), Message("user", "Where does the river flow?")]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return LocalJudge(TINY, tmp_path_factory.mktemp("cache"))


def test_the_same_question_has_the_same_reply(judge):
    first = judge.complete(ASKED, 6)
    assert first == judge.complete(ASKED, 6)
    assert 1 <= first.tokens_out <= 6
    assert first.text
    assert judge.complete(ASKED, 3).text == first.text[: len(judge.complete(ASKED, 3).text)]


def test_weights_and_tokenizer_are_its_identity(judge, tmp_path):
    assert judge.identity == LocalJudge(TINY, tmp_path).identity
    assert len(judge.identity["weights"]) == 64


def test_a_question_that_is_too_long_is_told(judge):
    with pytest.raises(JudgeError, match="longer context"):
        judge.complete([Message("user", "river " * 5000)], 6)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(MissingModelError, match="smollm2"):
        LocalJudge("fetched:smollm2", tmp_path)


def test_a_judge_that_follows_no_instruction_is_held_to_a_list(judge, tmp_path):
    assert not _is_list(judge.complete(ASKED, 24).text, 14)
    for question in ("Where does the river flow?", "Name some numbers.", "Which of them?"):
        reply = judge.complete_list([Message("user", question)], 14, 24)
        assert _is_list(reply.text, 14), reply.text
        assert reply == judge.complete_list([Message("user", question)], 14, 24)
        assert reply.tokens_out <= 24
    kept = Judge(judge, tmp_path)
    assert kept.ask(ASKED, 24, listing=14) != kept.ask(ASKED, 24)
    assert kept.ask(ASKED, 24, listing=14) == judge.complete_list(ASKED, 14, 24)
    assert kept.calls == 2


def test_what_the_length_cuts_through_is_left_out(judge):
    for length in (1, 2, 3):
        assert _is_list(judge.complete_list(ASKED, 14, length).text, 14)


@pytest.mark.parametrize("text", ["None", "1", "14", "2, 5", "1, 2, 14"])
def test_lists_and_their_beginnings(text):
    assert _is_list(text, 14)
    assert all(_may_become(text[:end], 14) for end in range(1, len(text) + 1))


@pytest.mark.parametrize("text", ["15", "0", "2, 2", "5, 2", "1,2", " 1", "1, None", "Nope", "14, ", "2,,", "1 2"])
def test_what_is_no_list_cannot_become_one(text):
    assert not _is_list(text, 14)
    assert not _may_become(text, 14)
