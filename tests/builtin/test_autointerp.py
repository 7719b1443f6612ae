"""Autointerp with a judge that follows a rule, behind a real HTTP server: a latent that is a word is explained
perfectly, a latent that is noise is not, and the null score shows what explanations add."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from harness.builtin.evaluators.autointerp import AutointerpEvaluator
from harness.builtin.evaluators.autointerp_specs import AUTOINTERP
from harness.data.labelled import LabelledSet, sample
from harness.errors import ConfigError, DataError
from harness.evaluation.autointerp import Activity, Case, Corpus, balanced_accuracy, eligible, judged
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.evaluation.judge import (
    CACHE,
    KEY,
    LOCAL,
    MODEL,
    URL,
    Budget,
    Completion,
    Endpoint,
    Judge,
    JudgeBudgetError,
    Message,
    Patience,
    local_of,
)
from harness.interfaces.prompts import PromptBatch
from harness.interfaces.sae import SAE, SAEConfig
from harness.testing.fixtures import D_IN, HOOKPOINT, TinyLM, tiny_store

WORDS = tuple(f"word{letter}" for letter in "abcdefghijklmnop")


class WordTexts:
    """Texts of four different words out of sixteen; a word's activation is its own dimension."""

    def missing(self, collections) -> str:
        return ""

    def samples(self, collection, sizes, seed) -> tuple:
        generator = torch.Generator().manual_seed(0)
        rows = sorted({tuple(torch.randperm(16, generator=generator)[:4].tolist()) for _ in range(400)})
        texts = tuple(" ".join(WORDS[i] for i in row) for row in rows)
        labelled = LabelledSet(
            name="half",
            texts=texts,
            labels=tuple(i % 2 for i in range(len(texts))),
            classes=("a", "b"),
            licence="Apache-2.0",
            source="made",
        )
        return (sample(labelled, sizes, 0),)

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        tokens = torch.tensor([[WORDS.index(part.strip()) for part in prompt] for prompt in prompts])
        yield PromptBatch(
            index=torch.arange(len(prompts)),
            tokens=tokens,
            part=torch.arange(tokens.shape[1]).expand_as(tokens),
            activations=torch.eye(D_IN)[tokens],
        )


class WordSAE(SAE):
    """Latent i fires on word i; with `noise`, on a quarter of the words' places at random instead."""

    def __init__(self) -> None:
        super().__init__(SAEConfig(architecture="words", d_in=D_IN, d_sae=D_IN))

    def reset_parameters(self, generator):
        raise NotImplementedError

    def encode(self, x):
        return x.relu()

    def decode(self, codes):
        return codes

    def fold_input_scale(self, scale):
        raise NotImplementedError

    def decoder_directions(self):
        return torch.eye(D_IN)


def context(seed=0):
    return StoreEvalContext(
        tiny_store(1, n_sequences=3),
        hookpoint=HOOKPOINT,
        data_id="words",
        seed=seed,
        language_model=TinyLM(),
        lm_sha256="words",
        texts=WordTexts(),  # type: ignore[arg-type]
    )


def follow_the_rule(system: str, user: str) -> str:
    """Explains by the most frequent marked word; detects that word."""
    if "summarize" in system:
        return f"This neuron activates on {Counter(re.findall(r'<<(.*?)>>', user)).most_common(1)[0][0]}."
    wanted = re.search(r"fires on (\w+)", user)
    lines = re.findall(r"^(\d+)\. (.*)$", user, flags=re.M)
    return ", ".join(n for n, text in lines if wanted and wanted[1] in text.split()) or "None"


@pytest.fixture
def server(monkeypatch):
    """An endpoint that follows the rule; `server.say` replaces it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            http.n_calls += 1
            text = http.say(asked[0]["content"], asked[1]["content"])
            usage = {"prompt_tokens": 499, "completion_tokens": 1}
            body = {"choices": [{"message": {"content": text}}], "usage": usage}
            raw = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.n_calls, http.say = 0, follow_the_rule
    http.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


def judge(server, folder=None, budget=None):
    return Judge(Endpoint(server.url, "rule", "", Patience(retries=0)), folder, budget)


def run(given, seed=0, **options):
    return AutointerpEvaluator({"n_latents": 6, **options}, judge=given).evaluate(WordSAE(), context(seed))


def test_a_latent_that_is_a_word_is_explained_perfectly(server):
    found = run(judge(server))
    assert found["autointerp_score"].value == 1.0
    assert found["autointerp_score"].n == 6
    assert found["autointerp_null_score"].value < 0.6
    assert found["autointerp_gain"].value == pytest.approx(1 - found["autointerp_null_score"].value)
    assert found["autointerp_unreadable"].value == 0
    assert found["autointerp_judge_tokens"].value == 6 * 3 * 500
    assert found["autointerp_latents"].detail == {"counts": (16.0, 16.0, 0.0, 0.0)}
    assert set(found) == {metric.name for metric in AUTOINTERP.metrics}


def test_what_is_drawn_at_random_and_fires_counts_against_the_published_score_alone(server):
    found = run(judge(server))
    assert found["autointerp_score"].value == 1.0
    assert found["saebench_autointerp_score"].value < 1.0


def test_naming_none_scores_chance(server):
    server.say = lambda system, user: "None" if "summarize" not in system else "activates on nothing"
    found = run(judge(server))
    assert found["autointerp_score"].value == found["autointerp_null_score"].value == 0.5
    assert found["saebench_autointerp_score"].value == pytest.approx(10 / 14)


def test_replies_that_cannot_be_read_count_as_nothing_said(server):
    def say(system, user):
        said = follow_the_rule(system, user)
        return "I cannot say" if "summarize" not in system and "wordc" in user.split("\n")[0] else said

    server.say = say
    found = run(judge(server), n_latents=16)
    assert 0 < found["autointerp_unreadable"].value < 0.5
    assert found["autointerp_score"].value == pytest.approx(1 - 0.5 / 16)
    assert found["saebench_autointerp_score"].n == 15


def test_a_judge_that_never_answers_the_question_is_told(server):
    server.say = lambda system, user: "As a language model, I cannot"
    with pytest.raises(DataError, match="not evaluated: none of the judge's 6 replies"):
        run(judge(server))


def test_the_second_run_costs_no_call_and_gives_the_same(server, tmp_path):
    first = run(judge(server, tmp_path))
    n_calls = server.n_calls
    again = run(judge(server, tmp_path))
    assert server.n_calls == n_calls == 18
    assert {n: (v.value, v.stderr, v.detail) for n, v in first.items()} == {
        n: (v.value, v.stderr, v.detail) for n, v in again.items()
    }


def test_a_run_that_stops_at_its_budget_goes_on_later(server, tmp_path):
    with pytest.raises(JudgeBudgetError, match="spent after"):
        run(judge(server, tmp_path, Budget(max_tokens=5000)))
    stopped = server.n_calls
    assert 0 < stopped < 18
    assert run(judge(server, tmp_path))["autointerp_score"].value == 1.0
    assert server.n_calls == 18


def test_draws_follow_the_seed(server):
    first, again, other = (run(judge(server), seed)["autointerp_score"].detail["latent"] for seed in (0, 0, 1))
    assert first == again != other


def test_the_environment_names_the_judge_and_the_key_is_in_no_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv(URL, server.url)
    monkeypatch.setenv(MODEL, "rule")
    monkeypatch.setenv(KEY, "sk-very-secret")
    monkeypatch.setenv(CACHE, str(tmp_path))
    planned = [PlannedEvaluator(AUTOINTERP, AutointerpEvaluator, {"n_latents": 3})]
    outcome = evaluate_sae(WordSAE(), planned, context()).outcomes["autointerp"]
    assert outcome.status == "done", outcome.reason
    files = [path for path in (tmp_path / "judge").rglob("*") if path.is_file()]
    assert len(files) == 9
    assert not any("sk-very-secret" in path.read_text() for path in files)


def test_the_environment_names_a_local_judge_where_there_is_no_endpoint(tmp_path, monkeypatch):
    """The embedded LM, whose context is too short for the question."""
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.setenv(LOCAL, "package:harness.builtin.tiny")
    monkeypatch.setenv(CACHE, str(tmp_path))
    planned = [PlannedEvaluator(AUTOINTERP, AutointerpEvaluator, {"n_latents": 2})]
    outcome = evaluate_sae(WordSAE(), planned, context()).outcomes["autointerp"]
    assert outcome.status == "failed"
    assert "The judge 'harness.builtin.tiny' takes" in outcome.reason
    assert local_of("http://given", {LOCAL: "x"}) == local_of("", {LOCAL: "x", URL: "http://set"}) == ""


def test_without_a_judge_it_says_how_to_name_one(monkeypatch):
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.delenv(LOCAL, raising=False)
    planned = [PlannedEvaluator(AUTOINTERP, AutointerpEvaluator, {})]
    outcome = evaluate_sae(WordSAE(), planned, context()).outcomes["autointerp"]
    assert outcome.status == "skipped"
    assert f"not evaluated: no judge is configured. Set {URL}" in outcome.reason
    local = [PlannedEvaluator(AUTOINTERP, AutointerpEvaluator, {"judge": "local"})]
    outcome = evaluate_sae(WordSAE(), local, context()).outcomes["autointerp"]
    assert "needs the option model" in outcome.reason


def test_rare_and_dense_latents_are_counted_and_not_judged():
    text = torch.cat([torch.arange(20), torch.tensor([0, 1, 19])]).int()
    latent = torch.cat([torch.zeros(20), torch.ones(3)]).int()
    found = eligible(Activity(text, torch.zeros_like(text), latent, torch.ones(23)), 20, 4)
    assert (found.latents.tolist(), found.alive, found.rare, found.dense) == ([], 2, 1, 1)


def test_null_explanations_are_those_of_another_latent():
    seen = []

    class Recorder:
        identity = {"kind": "recorder"}  # noqa: RUF012

        def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
            if "summarize" in messages[0].content:
                return Completion(f"activates on {messages[1].content.split()[-1]}", 1, 1)
            seen.append(re.search(r"fires on (\w+)", messages[1].content)[1])  # type: ignore[index]
            return Completion("1", 1, 1)

    shown = [Case(i, (f"w{i}",), ("x",) * 14, (True,) * 4 + (False,) * 10, (True,) * 14) for i in range(5)]
    judged(Judge(Recorder(), None), shown, torch.Generator().manual_seed(0))
    own, null = seen[::2], seen[1::2]
    assert own == [f"w{i}" for i in range(5)]
    assert sorted(null) == own
    assert all(a != b for a, b in zip(own, null, strict=True))


def test_balanced_accuracy_weighs_both_kinds_alike():
    active = (True, True, False, False, False, False)
    assert balanced_accuracy(frozenset({1, 2}), active) == 1.0
    assert balanced_accuracy(frozenset({1}), active) == 0.75
    assert balanced_accuracy(frozenset(), active) == 0.5
    assert balanced_accuracy(frozenset(range(1, 7)), active) == 0.5
    assert balanced_accuracy(None, active) == 0.5
    assert balanced_accuracy(frozenset({1, 2, 99}), active) == 1.0


def test_a_corpus_gives_its_words_as_parts():
    assert Corpus((("a", "b"),)).prompts == [("a", " b")]


@pytest.mark.parametrize(
    "options",
    [{"judges": "x"}, {"judge": "oracle"}, {"n_latents": 1}, {"max_usd": -1.0}, {"url": 3}, {"n_texts": True}],
)
def test_options_it_does_not_have_are_refused(options):
    with pytest.raises(ConfigError):
        AutointerpEvaluator(options)
