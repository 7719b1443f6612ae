"""The judge's client, against a real HTTP server on loopback that plays the endpoint."""

from __future__ import annotations

import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.errors import ConfigError, DataError
from harness.evaluation.judge import (
    KEY,
    MODEL,
    URL,
    Budget,
    Endpoint,
    Judge,
    JudgeBudgetError,
    JudgeError,
    Message,
    Patience,
    endpoint_of,
)

SECRET = "sk-very-secret-1234567890"
ASKED = [Message("system", "Answer."), Message("user", "What is it?")]


def reply(text="a river", **extra):
    body = {"choices": [{"message": {"role": "assistant", "content": text}}], **extra}
    return (200, {}, json.dumps(body))


class Server:
    """Plays `answers` one after the other, the last one for ever; keeps what it was sent."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.path, dict(self.headers), json.loads(body)))
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer == "hang":
                    time.sleep(1.0)
                    return
                status, headers, text = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class Slept(list):
    """Stands in for time.sleep."""

    def patience(self, **options):
        return Patience(sleep=self.append, timeout_s=0.2, **options)


def endpoint(server, slept, **options):
    return Endpoint(server.url, "judge-1", SECRET, slept.patience(**options))


def test_a_question_is_sent_and_its_reply_read():
    slept = Slept()
    with Server(reply(usage={"prompt_tokens": 11, "completion_tokens": 3})) as server:
        found = endpoint(server, slept).complete(ASKED, 30)
    assert found == ("a river", 11, 3, 0)
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body == {
        "model": "judge-1",
        "messages": [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What is it?"}],
        "max_tokens": 30,
        "temperature": 0,
    }
    assert slept == []


def test_without_usage_tokens_are_counted_too_high_and_not_too_low():
    with Server(reply("abcdefg")) as server:
        found = endpoint(server, Slept()).complete(ASKED, 30)
    assert found.tokens_in == -(-len("Answer.What is it?") // 3)
    assert found.tokens_out == 3


def test_too_many_requests_wait_as_long_as_the_server_says():
    slept = Slept()
    with Server((429, {"Retry-After": "7"}, "slow down"), reply()) as server:
        assert endpoint(server, slept).complete(ASKED, 30).text == "a river"
    assert slept == [7.0]


def test_a_date_to_retry_after_and_an_endless_wait_are_bounded():
    slept = Slept()
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    answers = ((503, {"Retry-After": in_an_hour}, ""), (429, {"Retry-After": "nonsense"}, ""), reply())
    with Server(*answers) as server:
        endpoint(server, slept, longest_wait_s=5.0).complete(ASKED, 30)
    assert slept == [5.0, 2.0]


def test_server_errors_are_tried_again_with_doubled_waits_and_then_told():
    slept = Slept()
    with (
        Server((500, {}, f"broken, and your key is {SECRET}")) as server,
        pytest.raises(JudgeError, match="failed 4 times; last: HTTP 500") as told,
    ):
        endpoint(server, slept, retries=3).complete(ASKED, 30)
    assert slept == [1.0, 2.0, 4.0]
    assert len(server.seen) == 4
    assert SECRET not in str(told.value)
    assert told.value.__cause__ is None


@pytest.mark.parametrize("text", ["not json", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'])
def test_a_malformed_reply_is_tried_again(text):
    slept = Slept()
    with Server((200, {}, text), reply()) as server:
        assert endpoint(server, slept).complete(ASKED, 30).text == "a river"
    assert slept == [1.0]


def test_a_malformed_reply_may_have_been_charged_and_counts(tmp_path):
    answers = ((200, {}, "x" * 90), reply(usage={"prompt_tokens": 5, "completion_tokens": 1}))
    with Server(*answers) as server:
        judge = Judge(endpoint(server, Slept()), tmp_path)
        judge.ask(ASKED, 30)
    assert judge.tokens_in == 5 + -(-len("Answer.What is it?") // 3) + 30


def test_a_malformed_reply_for_ever_is_told():
    with Server((200, {}, f"<html>{SECRET}</html>")) as server, pytest.raises(JudgeError, match="html") as told:
        endpoint(server, Slept(), retries=1).complete(ASKED, 30)
    assert SECRET not in str(told.value)


def test_a_server_that_does_not_answer_in_time_is_tried_again():
    slept = Slept()
    with Server("hang", reply()) as server:
        assert endpoint(server, slept).complete(ASKED, 30).text == "a river"
    assert slept == [1.0]


def test_a_server_that_is_not_there_is_told():
    with Server(reply()) as server:
        gone = endpoint(server, Slept(), retries=0)
    with pytest.raises(JudgeError, match="failed 1 times"):
        gone.complete(ASKED, 30)


def test_a_key_at_the_end_of_what_is_told_is_not_cut_but_taken_out():
    for length in range(360, 400, 7):
        with Server((400, {}, "x" * length + SECRET)) as server, pytest.raises(JudgeError) as told:
            endpoint(server, Slept()).complete(ASKED, 30)
        assert SECRET[:4] not in str(told.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again(status):
    slept = Slept()
    with (
        Server((status, {}, f"no such thing for {SECRET}")) as server,
        pytest.raises(JudgeError, match=f"refuses: HTTP {status}: no such thing") as told,
    ):
        endpoint(server, slept).complete(ASKED, 30)
    assert (len(server.seen), slept) == (1, [])
    assert SECRET not in str(told.value)


def test_a_redirect_is_refused_since_it_would_carry_the_key_along():
    with Server(reply()) as other:
        with (
            Server((307, {"Location": other.url}, "")) as server,
            pytest.raises(JudgeError, match="HTTP 307"),
        ):
            endpoint(server, Slept()).complete(ASKED, 30)
        assert other.seen == []


def test_the_second_time_a_question_costs_no_call(tmp_path):
    with Server(reply()) as server:
        first = Judge(endpoint(server, Slept()), tmp_path)
        again = Judge(endpoint(server, Slept()), tmp_path)
        assert first.ask(ASKED, 30) == first.ask(ASKED, 30) == again.ask(ASKED, 30)
        assert len(server.seen) == 1
        assert (first.calls, again.calls, again.tokens_in) == (1, 0, 0)
        again.ask(ASKED, 31)
        again.ask([Message("user", "Another?")], 30)
        assert len(server.seen) == 3


def test_another_model_or_address_is_asked_anew(tmp_path):
    with Server(reply()) as server:
        Judge(endpoint(server, Slept()), tmp_path).ask(ASKED, 30)
        Judge(Endpoint(server.url, "judge-2", "", Slept().patience()), tmp_path).ask(ASKED, 30)
        assert len(server.seen) == 2


def test_the_key_is_in_no_file_and_changes_no_address(tmp_path):
    with Server(reply(f"you said {SECRET}")) as server:
        Judge(endpoint(server, Slept()), tmp_path).ask(ASKED, 30)
        Judge(Endpoint(server.url, "judge-1", "another-key", Slept().patience()), tmp_path).ask(ASKED, 30)
        assert len(server.seen) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert SECRET not in files[0].read_text()


def test_a_damaged_file_is_asked_again(tmp_path):
    with Server(reply()) as server:
        Judge(endpoint(server, Slept()), tmp_path).ask(ASKED, 30)
        next(path for path in tmp_path.rglob("*.json")).write_text("{")
        assert Judge(endpoint(server, Slept()), tmp_path).ask(ASKED, 30).text == "a river"
        assert len(server.seen) == 2


def test_the_budget_is_asked_before_each_call_and_cached_replies_are_free(tmp_path):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    with Server(reply(usage=usage)) as server:
        judge = Judge(endpoint(server, Slept()), tmp_path, Budget(max_tokens=150))
        judge.ask(ASKED, 30)
        with pytest.raises(JudgeBudgetError, match=r"spent after 1 calls: .* \(allowed 150\).*goes on from here"):
            judge.ask([Message("user", "More?" * 10)], 30)
        judge.ask(ASKED, 30)
        assert len(server.seen) == 1


def test_the_budget_in_dollars_uses_the_prices():
    budget = Budget(max_usd=0.0009, usd_per_million_in=5.0, usd_per_million_out=10.0)
    with Server(reply(usage={"prompt_tokens": 150, "completion_tokens": 10})) as server:
        judge = Judge(endpoint(server, Slept()), None, budget)
        judge.ask(ASKED, 10)
        with pytest.raises(JudgeBudgetError, match="USD"):
            judge.ask(ASKED, 10)
    assert len(server.seen) == 1


def test_a_budget_in_dollars_without_prices_is_refused():
    with pytest.raises(ConfigError, match="usd_per_million_in"):
        Budget(max_usd=1.0)


def test_no_judge_is_told_with_the_mend():
    with pytest.raises(DataError, match=f"not evaluated: no judge is configured. Set {URL} and {MODEL}"):
        endpoint_of("", "", environ={})


def test_options_come_before_the_environment_and_the_key_by_its_name():
    with Server(reply()) as server:
        environ = {URL: server.url, MODEL: "from-environment", KEY: "one", "MY_KEY": "two"}
        endpoint_of("", "", environ=environ).complete(ASKED, 5)
        endpoint_of("", "from-option", "MY_KEY", environ=environ).complete(ASKED, 5)
    assert [(body["model"], headers["Authorization"]) for _, headers, body in server.seen] == [
        ("from-environment", "Bearer one"),
        ("from-option", "Bearer two"),
    ]
    with pytest.raises(ConfigError, match="MY_KEY, which is not set"):
        endpoint_of(server.url, "m", "MY_KEY", environ={})


@pytest.mark.parametrize(
    ("url", "model", "key", "told"),
    [
        ("ftp://host/v1", "m", "", "http"),
        ("localhost:8000", "m", "", "http"),
        ("https://user:pass@host/v1", "m", "", "no user, password"),
        ("https://host/v1?key=1", "m", "", "no user, password or query"),
        ("http://judge.example/v1", "m", SECRET, "unencrypted"),
        ("https://host/v1", "", "", "needs a model"),
        ("https://host/v1", "m", "two\nlines", "line ends"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(url, model, key, told):
    with pytest.raises(ConfigError, match=told) as error:
        Endpoint(url, model, key)
    assert SECRET not in str(error.value)
    assert "pass@" not in str(error.value)


def test_a_key_may_go_unencrypted_to_this_machine():
    assert Endpoint("http://localhost:1/v1", "m", SECRET).identity["model"] == "m"
