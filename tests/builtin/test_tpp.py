"""TPP: ablating a planted class harms its own probe exactly and no other, and what has no effect scores 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from harness.builtin.evaluators.scr_tpp_specs import NS, TPP, planted
from harness.builtin.evaluators.tpp import TppEvaluator
from harness.errors import ConfigError, DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE
from harness.interfaces.specs import MetricValue
from harness.interfaces.texts import TextBatch
from harness.testing.fixtures import D_IN, HOOKPOINT, TinyLM, identity_sae, random_sae, tiny_store
from harness.testing.texts import PlantedTexts

SMALL = {"n_train": 64, "n_selection": 32, "n_test": 64}
CLASSES = ("apple", "bread", "cloud")


class ClassTexts(PlantedTexts):
    """Texts "class number": a class has a dimension of its own. With `coins`, classes are drawn."""

    def __init__(self, *, coins: bool = False) -> None:
        super().__init__(TinyLM())
        self.n_read = 0
        self._coins = coins

    def table(self, name: str) -> tuple[dict[str, str], ...]:
        drawn = torch.randint(0, 3, (900,), generator=torch.Generator().manual_seed(0)).tolist()
        return tuple(
            {
                "text": f"{CLASSES[i % 3]} {i}",
                "set": "things",
                "class": CLASSES[drawn[i] if self._coins else i % 3],
            }
            for i in range(900)
        )

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        self.n_read += 1
        for index, text in enumerate(texts):
            word, number = text.split()
            rows = torch.zeros(2, D_IN)
            rows[0, CLASSES.index(word)] = 1.0
            rows[1, 5 + int(number) % 5] = 0.125
            yield TextBatch(rows=rows, text=torch.full((2,), index))


def make_context(texts: PlantedTexts, seed: int = 0) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=TinyLM(),
        lm_sha256="tiny",
        texts=texts,
    )


def in_the_planted_world(seed: int = 0) -> StoreEvalContext:
    return make_context(PlantedTexts(TinyLM(), rows=planted), seed)


def measure(sae: SAE, context: StoreEvalContext, **options) -> dict[str, MetricValue]:
    plan = [PlannedEvaluator(TPP, TppEvaluator, {**SMALL, **options})]
    outcome = evaluate_sae(sae, plan, context).outcomes["tpp"]
    assert outcome.status == "done", outcome.reason
    return dict(outcome.metrics)


def test_ablating_a_planted_class_takes_its_probe_to_chance_and_leaves_the_others():
    metrics = measure(identity_sae(), make_context(ClassTexts()))
    assert metrics["tpp_classes"].value == 3
    for name, wanted in (("tpp", 0.5), ("tpp_intended", 0.5), ("tpp_unintended", 0.0)):
        assert metrics[f"{name}_n2"].detail == {"each": (wanted,) * 3}, name
        assert metrics[f"{name}_n2"].stderr == 0.0


def test_a_latent_that_does_not_write_what_it_reads_has_no_effect():
    class Elsewhere(type(identity_sae())):
        """The control: codes written along dimensions that no activation uses."""

        def decode(self, codes):
            return super().decode(codes).roll(11, dims=-1).clone().index_fill(-1, torch.arange(3, 11), 0.0)

        def decoder_directions(self):
            return super().decoder_directions().roll(11, dims=-1).clone().index_fill(-1, torch.arange(3, 11), 0.0)

    sae = Elsewhere(identity_sae().config).eval()
    metrics = measure(sae, make_context(ClassTexts()))
    for n in NS:
        assert metrics[f"tpp_intended_n{n}"].value == metrics[f"tpp_unintended_n{n}"].value == 0.0


def test_the_value_is_own_drop_minus_that_of_the_others():
    metrics = measure(random_sae(), in_the_planted_world())
    for n in NS:
        whole, own, others = (metrics[f"{name}_n{n}"].value for name in ("tpp", "tpp_intended", "tpp_unintended"))
        assert whole == pytest.approx(own - others)


def test_an_lm_that_does_not_carry_the_classes_is_not_evaluated():
    with pytest.raises(DataError, match=r"Not evaluated: no set has two classes .* of 3 is 0\.\d+ ± 0\.\d+ \(things"):
        TppEvaluator(SMALL).evaluate(identity_sae(), make_context(ClassTexts(coins=True)))


def test_results_do_not_depend_on_which_sae_came_first():
    context = in_the_planted_world()
    forth = [measure(random_sae(seed), context) for seed in (0, 1)]
    context = in_the_planted_world()
    back = [measure(random_sae(seed), context) for seed in (1, 0)]
    assert forth == back[::-1]
    assert forth[0] != forth[1]


def test_another_evaluation_seed_draws_other_texts_and_probes():
    one, again, other = (measure(random_sae(), in_the_planted_world(seed)) for seed in (0, 0, 1))
    assert one == again
    assert one["tpp_classes"].detail != other["tpp_classes"].detail
    assert one["tpp_n20"] != other["tpp_n20"]


def test_what_does_not_depend_on_the_sae_is_made_once():
    texts = ClassTexts()
    context = make_context(texts)
    measure(identity_sae(), context)
    assert texts.n_read == 2, "once for the probes, once for the SAE"
    measure(random_sae(), context)
    assert texts.n_read == 3


def test_another_table_can_give_the_classes():
    metrics = measure(identity_sae(), make_context(ClassTexts()), set_column="", class_column="class")
    assert metrics["tpp_classes"].detail is not None
    assert set(metrics["tpp_classes"].detail) == {f"class: {name}" for name in CLASSES}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 3}, "Evaluator 'tpp' has no option n: known are table"), ({"n_test": 2.0}, "n_test must be of type int")],
)
def test_options_that_are_not_allowed_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        TppEvaluator(options)
