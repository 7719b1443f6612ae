"""SCR: a planted spurious pair is mended exactly, what has no effect scores 0, weak probes are not evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from harness.builtin.evaluators.scr import ScrEvaluator
from harness.builtin.evaluators.scr_tpp_specs import NS, SCR, planted
from harness.errors import ConfigError, DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE, SAEConfig
from harness.interfaces.specs import MetricValue
from harness.interfaces.texts import TextBatch
from harness.testing.fixtures import D_IN, HOOKPOINT, TinyLM, identity_sae, random_sae, tiny_store
from harness.testing.texts import PlantedTexts

SMALL = {"n_train": 64, "n_selection": 64, "n_test": 64}
SPURIOUS = [1, 2, 3]
"""Dimensions that carry the spurious attribute, where one carries the target: a biased probe leans on the three."""


class CrossedTexts(PlantedTexts):
    """Texts "target spurious number", each attribute written as + or - along directions of its own.

    With `coins`, the labels are coins.
    """

    def __init__(self, *, coins: bool = False) -> None:
        super().__init__(TinyLM())
        self.n_read = 0
        self._coins = coins

    def table(self, name: str) -> tuple[dict[str, str], ...]:
        coin = torch.randint(0, 2, (10_000,), generator=torch.Generator().manual_seed(0)).tolist()
        rows = [(a, b, i) for i in range(160) for a in "+-" for b in "+-"]
        return tuple(
            {
                "text": f"{a} {b} {i}",
                "source": "+-"[coin[2 * n]] if self._coins else a,
                "sentiment": "+-"[coin[2 * n + 1]] if self._coins else b,
            }
            for n, (a, b, i) in enumerate(rows)
        )

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        self.n_read += 1
        for index, text in enumerate(texts):
            target, spurious, number = text.split()
            rows = torch.zeros(2, D_IN)
            rows[0, 0] = 1.0 if target == "+" else -1.0
            rows[0, SPURIOUS] = 1.0 if spurious == "+" else -1.0
            rows[1, 5 + int(number) % 5] = 0.125
            yield TextBatch(rows=rows, text=torch.full((2,), index))


class Dictionary(SAE):
    """Two latents a direction, for its two signs; what is in no direction is left to the error."""

    def __init__(self, read: Tensor, write: Tensor | None = None) -> None:
        super().__init__(SAEConfig(architecture="dictionary", d_in=D_IN, d_sae=2 * len(read)))
        self.read = torch.cat([read, -read])
        self.write = self.read if write is None else torch.cat([write, -write])

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill."""

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.read.T).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.write

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold."""

    def decoder_directions(self) -> Tensor:
        return self.write


def directions() -> Tensor:
    """[2, D_IN]: the target's, and the spurious attribute's."""
    found = torch.zeros(2, D_IN)
    found[0, 0] = 1.0
    found[1, SPURIOUS] = 3**-0.5
    return found


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
    plan = [PlannedEvaluator(SCR, ScrEvaluator, {**SMALL, **options})]
    outcome = evaluate_sae(sae, plan, context).outcomes["scr"]
    assert outcome.status == "done", outcome.reason
    return dict(outcome.metrics)


def test_ablating_the_planted_latents_restores_the_clean_accuracy_exactly():
    metrics = measure(Dictionary(directions()), make_context(CrossedTexts()))
    detail = metrics["scr_pairs"].detail
    assert detail is not None
    counts, direction, *_, clean_target, clean_spurious, biased_target, biased_spurious = detail["+/-"]
    assert (counts, direction) == (1.0, 1.0)
    assert (clean_target, clean_spurious, biased_target, biased_spurious) == (1.0, 1.0, 0.5, 1.0)
    for n in NS:
        score, gain = metrics[f"scr_n{n}"], metrics[f"scr_dir1_gain_n{n}"]
        assert (score.value, score.stderr) == (1.0, 0.0)
        assert gain.value == 0.5
        assert metrics[f"scr_dir2_gain_n{n}"].value == 0.0, "without the target, it still reads the other attribute"
        assert metrics[f"saebench_scr_n{n}"].value == 1.0


def test_an_entangled_latent_mends_nothing():
    """One latent for both attributes: ablating it takes the target away as well."""
    both = directions().sum(0, keepdim=True)
    metrics = measure(Dictionary(both), make_context(CrossedTexts()))
    assert metrics["scr_n2"].value < 0.5


def test_what_is_written_elsewhere_has_no_effect():
    """The control: true codes, each written along a dimension that no activation uses."""
    elsewhere = torch.zeros(2, D_IN)
    elsewhere[0, 12], elsewhere[1, 13] = 1.0, 1.0
    metrics = measure(Dictionary(directions(), elsewhere), make_context(CrossedTexts()))
    for n in NS:
        for name in (f"scr_n{n}", f"scr_dir1_gain_n{n}", f"scr_dir2_gain_n{n}"):
            assert metrics[name].value == 0.0, name


def test_an_lm_that_does_not_carry_the_attributes_is_not_evaluated():
    with pytest.raises(DataError, match=r"Not evaluated: in 0 of 1 pairs .* accuracy is 0\.\d+ \(target\)"):
        ScrEvaluator(SMALL).evaluate(identity_sae(), make_context(CrossedTexts(coins=True)))


def test_pairs_are_averaged_as_a_ratio_of_sums():
    metrics = measure(random_sae(), in_the_planted_world())
    score, pairs = metrics["scr_n20"], metrics["scr_pairs"]
    assert score.detail is not None
    assert score.n == pairs.value == 3
    assert score.value == pytest.approx(sum(score.detail["gain"]) / sum(score.detail["gap"]))
    assert score.stderr is not None
    assert score.stderr > 0


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
    assert one["scr_pairs"].detail != other["scr_pairs"].detail
    assert one["saebench_scr_n20"] != other["saebench_scr_n20"]


def test_what_does_not_depend_on_the_sae_is_made_once():
    texts = CrossedTexts()
    context = make_context(texts)
    measure(Dictionary(directions()), context)
    assert texts.n_read == 2, "once for the probes, once for the SAE"
    measure(identity_sae(), context)
    assert texts.n_read == 3


def test_other_options_never_find_the_probes_of_these():
    context = in_the_planted_world()
    whole = measure(random_sae(), context)
    short = measure(random_sae(), context, max_tokens=3)
    assert whole["scr_pairs"].detail != short["scr_pairs"].detail


def test_the_number_of_pairs_can_be_bounded():
    assert measure(random_sae(), in_the_planted_world(), max_pairs=2)["scr_pairs"].n == 2


def test_a_table_that_is_not_there_skips_it_with_the_mend():
    class Absent(PlantedTexts):
        def missing(self, collections: Iterable[str]) -> str:
            return f"run: sae-harness fetch {next(iter(collections))}"

    plan = [PlannedEvaluator(SCR, ScrEvaluator, {})]
    outcome = evaluate_sae(random_sae(), plan, make_context(Absent(TinyLM()))).outcomes["scr"]
    assert (outcome.status, outcome.reason) == ("skipped", "run: sae-harness fetch vader-attributes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3}, "Evaluator 'scr' has no option n: known are table"),
        ({"n_train": "many"}, "n_train must be of type int"),
        ({"max_pairs": True}, "max_pairs must be of type int"),
        ({"table": 3}, "table must be of type str"),
    ],
)
def test_options_that_are_not_allowed_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        ScrEvaluator(options)
