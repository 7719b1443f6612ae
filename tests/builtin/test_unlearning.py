"""Unlearning: a planted concept is removed exactly, other latents change nothing, and guessing is not measured."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.activations.store import ActivationStore
from harness.builtin.evaluators.unlearning import UnlearningEvaluator
from harness.builtin.evaluators.unlearning_specs import UNLEARNING, UNLEARNING_TEXT, planted_rows
from harness.builtin.evaluators.unlearning_text import UnlearningTextEvaluator
from harness.data.local_questions import read_local
from harness.errors import ConfigError, DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.labelled import Sample, Sizes
from harness.interfaces.prompts import PromptBatch
from harness.interfaces.sae import SAE, SAEConfig
from harness.interfaces.specs import MetricValue
from harness.interfaces.texts import TextBatch
from harness.testing.fixtures import HOOKPOINT, TinyLM, identity_sae, random_sae, tiny_store
from harness.testing.texts import PlantedTexts

N_WORDS, CONCEPT, NOISE, WIDTH = 32, 32, 33, 36
"""Words 0 to 15 are to be forgotten. A dimension a word, one of the concept, three that the LM does not read."""
EXACT: dict[str, Any] = {"selectors": "rate:0.01", "latents": "1", "strengths": "1"}


def concept_activations(tokens: Tensor) -> Tensor:
    """[..., WIDTH]: a word's own dimension; the concept at words to be forgotten; noise at some of all words."""
    x = torch.zeros(*tokens.shape, WIDTH)
    word = tokens < N_WORDS
    x[..., :N_WORDS] = torch.nn.functional.one_hot(tokens.clamp_max(N_WORDS - 1), N_WORDS) * word[..., None]
    x[..., CONCEPT] = 2.0 * (tokens < N_WORDS // 2)
    for place in range(3):
        x[..., NOISE + place] = 1.0 * word * (tokens % 3 == place)
    return x


class ConceptLM(TinyLM):
    """Repeats the word it reads; a word to be forgotten in proportion to the concept, so that below 0 it avoids it.

    With `guesses`, it knows nothing.
    """

    vocab_size = 40

    def __init__(self, *, guesses: bool = False) -> None:
        super().__init__()
        self.guesses = guesses

    def _read(self, activations: Tensor) -> Tensor:
        self.n_calls += 1
        words = activations[..., :N_WORDS].clone()
        words[..., : N_WORDS // 2] *= activations[..., CONCEPT : CONCEPT + 1]
        logits = torch.cat([words, torch.zeros(*words.shape[:-1], self.vocab_size - N_WORDS)], dim=-1)
        return torch.zeros_like(logits) if self.guesses else logits


class ConceptTexts:
    """Questions that hold their answer, as token numbers; token 39 says nothing and stands before each prompt."""

    def __init__(self) -> None:
        self.n_captured = 0

    def missing(self, collections: Iterable[str]) -> str:
        return ""

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        return ()

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        raise AssertionError("not asked for")

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        assert name == "wordnet-questions"
        rows = []
        for word in range(N_WORDS):
            side = "forget" if word < N_WORDS // 2 else "retain"
            for filler in (33, 34, 35, 36):
                rows.append(
                    {
                        "side": side,
                        "domain": side,
                        "lemmas": [str(word)],
                        "question": f"{filler} {word}",
                        "answer": f" {word}",
                        "text": f"{word} {word} {filler} {word}",
                    }
                )
        return tuple(rows)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(part) for part in text.split()] for text in texts]

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        for index, prompt in enumerate(prompts):
            self.n_captured += 1
            ids = [(n, token) for n, part in enumerate(self.token_ids(prompt)) for token in part][:max_tokens]
            tokens = torch.tensor([[39, *(token for _, token in ids)]])
            yield PromptBatch(
                index=torch.tensor([index]),
                tokens=tokens,
                part=torch.tensor([[-1, *(n for n, _ in ids)]]),
                activations=concept_activations(tokens),
            )


class DimensionSAE(SAE):
    """Latents are some dimensions, where they are positive; the others are its error."""

    def __init__(self, dimensions: Sequence[int]) -> None:
        super().__init__(SAEConfig(architecture="dimensions", d_in=WIDTH, d_sae=len(dimensions)))
        self.register_buffer("rows", torch.eye(WIDTH)[list(dimensions)])

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill."""

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.rows.T).relu()  # type: ignore[operator]

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.rows  # type: ignore[operator]

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold."""

    def decoder_directions(self) -> Tensor:
        return self.rows  # type: ignore[return-value]


def concept_context(texts: ConceptTexts | None = None, *, guesses: bool = False, seed: int = 0) -> StoreEvalContext:
    store = ActivationStore.from_tensors(
        torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0)),
        tokens=torch.ones(2, 4, dtype=torch.int64),
        document=torch.arange(2),
        mask=torch.ones(2, 4, dtype=torch.bool),
    )
    return StoreEvalContext(
        store,
        hookpoint=HOOKPOINT,
        data_id="concept",
        seed=seed,
        language_model=ConceptLM(guesses=guesses),
        lm_sha256="concept",
        texts=texts or ConceptTexts(),
    )


def planted_context(seed: int = 0) -> StoreEvalContext:
    lm = TinyLM()
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=lm,
        lm_sha256="tiny",
        texts=PlantedTexts(lm, rows=planted_rows),
    )


def measure(
    sae: SAE, context: StoreEvalContext, options: Mapping[str, Any] = EXACT, *, text: bool = False
) -> dict[str, MetricValue]:
    spec, load = (UNLEARNING_TEXT, UnlearningTextEvaluator) if text else (UNLEARNING, UnlearningEvaluator)
    outcome = evaluate_sae(sae, [PlannedEvaluator(spec, load, options)], context).outcomes[spec.name]
    assert outcome.status == "done", outcome.reason
    return dict(outcome.metrics)


def with_concept() -> SAE:
    return DimensionSAE([NOISE, CONCEPT, NOISE + 1, NOISE + 2])


def without_concept() -> SAE:
    return DimensionSAE([NOISE, NOISE + 1, NOISE + 2])


def test_a_planted_concept_is_forgotten_exactly_and_the_rest_is_kept():
    metrics = measure(with_concept(), concept_context())
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["unlearning_forget_accuracy"] == values["unlearning_retain_accuracy"] == 1.0
    assert (values["unlearning_forget_drop"], metrics["unlearning_forget_drop"].stderr) == (1.0, 0.0)
    assert (values["unlearning_retain_kept"], values["unlearning_retain_ce_rise"]) == (1.0, 0.0)
    assert (values["unlearning_frontier_auc"], metrics["unlearning_frontier_auc"].stderr) == (1.0, 0.0)
    assert values["saebench_unlearning_score"] == 1.0
    assert values["unlearning_forget_ce_rise"] > 0.5


def test_latents_that_are_no_part_of_the_concept_change_nothing():
    metrics = measure(without_concept(), concept_context(), EXACT | {"selectors": "rate:2, ratio:0"})
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["unlearning_forget_drop"] == 0.0
    assert values["unlearning_frontier_auc"] == 0.5
    assert values["unlearning_forget_ce_rise"] == values["unlearning_retain_ce_rise"] == 0.0
    assert values["saebench_unlearning_score"] == 0.0


def test_random_latents_of_the_same_sae_are_a_control_of_zero():
    values = {
        name: metric.value for name, metric in measure(with_concept(), concept_context()).items() if "matched" in name
    }
    assert values == {"unlearning_matched_drop": 0.0}


def test_the_whole_sweep_and_the_choice_are_kept():
    detail = measure(with_concept(), concept_context(), EXACT | {"strengths": "0, 0.5, 2"})[
        "unlearning_forget_drop"
    ].detail
    assert detail is not None
    assert detail["strength"] == (0.0, 0.5, 2.0)
    assert detail["forget_drop"][1:] == (1.0, 1.0)
    assert detail["retain_kept"] == (1.0, 1.0, 1.0)
    assert detail["chosen"] == (1.0,), "the first of the best"


def test_texts_of_the_concept_rise_and_others_stay():
    metrics = measure(with_concept(), concept_context(), text=True)
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["unlearning_text_forget_rise"] == pytest.approx(values["unlearning_text_frontier"])
    assert values["unlearning_text_forget_rise"] > 0.1
    assert values["unlearning_text_retain_rise"] == values["unlearning_text_matched_rise"] == 0.0
    none = measure(without_concept(), concept_context(), text=True)
    assert {none[name].value for name in none if "rise" in name or "frontier" in name} == {0.0}


def test_an_lm_that_guesses_is_not_evaluated_and_its_accuracy_is_told():
    with pytest.raises(DataError, match=r"Not evaluated: the language model answers 0\.\d+ of \d+ forget questions"):
        UnlearningEvaluator(EXACT).evaluate(with_concept(), concept_context(guesses=True))


def test_what_does_not_depend_on_the_sae_is_made_once():
    texts = ConceptTexts()
    context = concept_context(texts)
    measure(with_concept(), context)
    first = texts.n_captured
    measure(without_concept(), context)
    assert texts.n_captured - first == first / 2, "the clean run is kept; the codes are the SAE's own"


@pytest.mark.parametrize("text", [False, True])
def test_results_do_not_depend_on_which_sae_came_first(text):
    context = planted_context()
    forth = [measure(sae, context, {}, text=text) for sae in (random_sae(), identity_sae())]
    context = planted_context()
    back = [measure(sae, context, {}, text=text) for sae in (identity_sae(), random_sae())]
    assert forth == back[::-1]
    assert forth[0] != forth[1]


@pytest.mark.parametrize("text", [False, True])
def test_another_evaluation_seed_draws_others(text):
    one, again, other = (measure(random_sae(), planted_context(seed), {}, text=text) for seed in (0, 0, 1))
    assert one == again
    name = "unlearning_text_forget_ce" if text else "unlearning_known_questions"
    assert one[name] != other[name]


def test_ones_own_files_are_used_instead_of_the_table(tmp_path: Path):
    generator = random.Random(0)
    for side, words in (("forget", range(16)), ("retain", range(16, 32))):
        asked = [
            {"question": str(generator.choice(words)), "choices": ["33", "34", "35", "36"], "answer": 0}
            for _ in range(60)
        ]
        for what, rows in (("questions", asked), ("texts", [{"text": f"{word} {word}"} for word in words])):
            (tmp_path / what / side).mkdir(parents=True)
            (tmp_path / what / side / "own.json").write_text(json.dumps(rows))
    sha256 = read_local(tmp_path).sha256
    metrics = measure(
        with_concept(), concept_context(), EXACT | {"files": str(tmp_path), "files_sha256": sha256}, text=True
    )
    assert metrics["unlearning_text_forget_rise"].n == 8
    with pytest.raises(ConfigError, match="files_sha256"):
        UnlearningTextEvaluator({"files": str(tmp_path)}).evaluate(with_concept(), concept_context())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_forgot": 1}, "has no option n_forgot: known are n_forget, n_retain"),
        ({"n_texts": "many"}, "n_texts must be of type int"),
        ({"n_texts": 0}, "n_texts must be at least 1"),
        ({"selectors": "rate"}, "selectors are written as"),
        ({"latents": "5; 20"}, "latents as '5, 20'"),
        ({"selectors": "best:0.1"}, "Unknown ways to choose latents: best"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        UnlearningEvaluator(options)
