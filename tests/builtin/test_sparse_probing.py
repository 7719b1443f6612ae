"""Sparse probing: a planted concept is one latent away, chance is chance, and nothing depends on what came before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch

from harness.builtin.evaluators.probing_specs import SPARSE_PROBING
from harness.builtin.evaluators.sparse_probing import SparseProbingEvaluator
from harness.data.labelled import LabelledSet, sample
from harness.errors import ConfigError, DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.labelled import Sample, Sizes
from harness.interfaces.sae import SAE
from harness.interfaces.specs import MetricValue
from harness.interfaces.texts import TextBatch
from harness.testing.fixtures import D_IN, HOOKPOINT, TinyLM, identity_sae, random_sae, tiny_store
from harness.testing.texts import PlantedTexts

CONCEPTS = ("apple", "bread", "cloud")


class ConceptTexts:
    """Texts of words with a direction each: a task asks for one word. With `coin`, labels are coins."""

    def __init__(self, *, coin: bool = False) -> None:
        self.coin = coin
        self.n_read = 0

    def missing(self, collections: Iterable[str]) -> str:
        return ""

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        return tuple(sample(self._task(concept), sizes, seed) for concept in range(len(CONCEPTS)))

    def _task(self, concept: int) -> LabelledSet:
        generator = torch.Generator().manual_seed(concept)
        has = (torch.arange(400)[:, None] >> torch.arange(len(CONCEPTS))) & 1
        words = [[word for word, on in zip(CONCEPTS, row, strict=True) if on] for row in has.tolist()]
        labels = torch.randint(0, 2, (400,), generator=generator) if self.coin else has[:, concept]
        return LabelledSet(
            name=CONCEPTS[concept],
            texts=tuple(" ".join([f"text {i}", *own]) for i, own in enumerate(words)),
            labels=tuple(labels.tolist()),
            classes=("without", "with"),
            licence="Apache-2.0",
            source="made",
        )

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        self.n_read += 1
        for index, text in enumerate(texts):
            words = text.split()[1:]
            rows = torch.zeros(len(words), D_IN)
            for place, word in enumerate(words):
                # A number has its own small noise; a concept has a dimension of its own.
                if word in CONCEPTS:
                    rows[place, CONCEPTS.index(word)] = 1.0
                else:
                    rows[place, 5 + int(word) % 9] = 0.1
            yield TextBatch(rows=rows, text=torch.full((len(words),), index))


def make_context(texts, seed: int = 0) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=TinyLM(),
        lm_sha256="tiny",
        texts=texts,
    )


def planted(seed: int = 0) -> StoreEvalContext:
    return make_context(PlantedTexts(TinyLM()), seed)


def measure(sae: SAE, context: StoreEvalContext, **options) -> dict[str, MetricValue]:
    plan = [PlannedEvaluator(SPARSE_PROBING, SparseProbingEvaluator, options)]
    outcome = evaluate_sae(sae, plan, context).outcomes["sparse_probing"]
    assert outcome.status == "done", outcome.reason
    return dict(outcome.metrics)


def test_a_planted_concept_is_one_latent_away():
    metrics = measure(identity_sae(), make_context(ConceptTexts()))
    for name in ("sparse_probing_top1_auc", "sparse_probing_top1_accuracy", "sparse_probing_top1_f1"):
        assert (metrics[name].value, metrics[name].n, metrics[name].stderr) == (1.0, 3, 0.0), name
    assert metrics["saebench_sparse_probing_top1_accuracy"].value == 1.0
    assert metrics["probing_tasks"].value == 3


def test_what_the_lm_does_not_carry_does_not_count():
    metrics = measure(random_sae(), planted())
    tasks = metrics["probing_tasks"]
    assert (tasks.value, tasks.n) == (2, 3)
    assert tasks.detail is not None
    assert {name: row[0] for name, row in tasks.detail.items()} == {"coin": 0.0, "marked": 1.0, "starred": 1.0}
    assert metrics["raw_probing_auc"].n == 2


def test_an_lm_that_carries_no_task_is_not_evaluated():
    with pytest.raises(DataError, match="carries 0 of 3 probing tasks"):
        SparseProbingEvaluator().evaluate(identity_sae(), make_context(ConceptTexts(coin=True)))


def test_an_average_is_the_mean_of_its_tasks():
    metric = measure(random_sae(), planted())["sparse_probing_top5_auc"]
    assert metric.detail is not None
    own = torch.tensor(metric.detail["task"], dtype=torch.float64)
    assert metric.value == pytest.approx(float(own.mean()))
    assert metric.stderr == pytest.approx(float(own.std()) / len(own) ** 0.5)
    assert len(metric.detail["task_stderr"]) == len(own)


def test_results_do_not_depend_on_which_sae_came_first():
    context = planted()
    forth = [measure(random_sae(seed), context) for seed in (0, 1)]
    context = planted()
    back = [measure(random_sae(seed), context) for seed in (1, 0)]
    assert forth == back[::-1]
    assert forth[0] != forth[1]


def test_another_evaluation_seed_draws_other_texts_and_probes():
    one, again, other = (measure(random_sae(), planted(seed)) for seed in (0, 0, 1))
    assert one == again
    assert one["raw_probing_auc"] != other["raw_probing_auc"]
    assert one["sparse_probing_top1_auc"] != other["sparse_probing_top1_auc"]


def test_what_does_not_depend_on_the_sae_is_made_once():
    texts = ConceptTexts()
    context = make_context(texts)
    measure(identity_sae(), context)
    assert texts.n_read == 2, "once for raw activations, once for the SAE"
    measure(random_sae(), context)
    assert texts.n_read == 3


def test_other_options_never_find_the_raw_probes_of_these():
    context = planted()
    whole = measure(random_sae(), context)
    short = measure(random_sae(), context, last_tokens=5)
    assert whole["raw_probing_auc"] != short["raw_probing_auc"]


def test_the_number_of_tasks_can_be_bounded():
    assert measure(identity_sae(), make_context(ConceptTexts()), max_tasks=2)["probing_tasks"].n == 2


def test_texts_that_are_not_there_skip_it_with_the_mend():
    class Absent(PlantedTexts):
        def missing(self, collections: Iterable[str]) -> str:
            return f"run: sae-harness fetch {next(iter(collections))}"

    plan = [PlannedEvaluator(SPARSE_PROBING, SparseProbingEvaluator, {})]
    for texts, reason in ((Absent(TinyLM()), "run: sae-harness fetch sae-probes"), (None, "needs the labelled texts")):
        outcome = evaluate_sae(random_sae(), plan, make_context(texts)).outcomes["sparse_probing"]
        assert outcome.status == "skipped"
        assert reason in outcome.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, "has no option k"),
        ({"n_train": "many"}, "n_train must be of type int"),
        ({"max_tasks": True}, "max_tasks must be of type int"),
    ],
)
def test_options_that_are_not_allowed_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        SparseProbingEvaluator(options)


def test_too_few_texts_are_refused():
    with pytest.raises(DataError, match="at least 8 texts of each class"):
        SparseProbingEvaluator({"n_train": 8})
