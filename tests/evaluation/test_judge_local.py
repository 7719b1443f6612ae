"""The embedded LM as a judge: what it says is no use, but it says the same each time, and no more than it may."""

from __future__ import annotations

import pytest

from harness.errors import MissingModelError
from harness.evaluation.judge import JudgeError, Message
from harness.evaluation.judge_local import LocalJudge

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
