"""Absorption: a planted absorbed word is found and counted, dead latents win nothing, and only the LM sets the letters.

In the world here a word is a letter and two of twelve stems, and its activation is the sum of the three directions.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from harness.builtin.evaluators.absorption import AbsorptionEvaluator
from harness.builtin.evaluators.absorption_specs import ABSORPTION
from harness.errors import ConfigError, DataError
from harness.evaluation.absorption_words import TEST, draw, words_of
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE, SAEConfig
from harness.interfaces.specs import MetricValue
from harness.interfaces.texts import TextBatch
from harness.testing.fixtures import HOOKPOINT, TinyLM, random_sae, tiny_store

LETTERS, N_STEMS, D = "abcd", 12, 16
D_SAE = 1024
"""Nearly all of it never active: SAEBench's L1 probe starts at random, and few latents would start too large."""
PAIRS = list(itertools.combinations(range(N_STEMS), 2))
ROWS = [{"word": f"{letter}{first:x}{second:x}", "letter": letter} for letter in LETTERS for first, second in PAIRS]
N = len(ROWS)
STRENGTH = 2.0


def parts_of(word: str) -> tuple[int, int, int]:
    return LETTERS.index(word[0]), int(word[1], 16), int(word[2], 16)


def row_of(word: str, strength: float = STRENGTH, shift: float = 0.0) -> Tensor:
    letter, first, second = parts_of(word)
    row = torch.zeros(D)
    row[[len(LETTERS) + first, len(LETTERS) + second]] = 1.0
    row[letter] = strength
    row[0] += shift
    return row


class LetterTexts:
    """Prompts whose last word's activation is known. `knows=False`: it says nothing of the letter."""

    def __init__(self, *, knows: bool = True, shift: float = 0.0, rows: Sequence[dict[str, str]] = ROWS) -> None:
        self.knows, self.shift, self.rows = knows, shift, rows
        self.n_read = 0

    def missing(self, collections: Iterable[str]) -> str:
        return ""

    def table(self, name: str) -> tuple[dict[str, str], ...]:
        assert name == "words"
        return tuple(self.rows)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        # A word is one token; what stands before it in a prompt is another.
        ends = [[sum(ord(c) << 8 * i for i, c in enumerate(text.rsplit(" ", 1)[-1]))] for text in texts]
        return [([1] if "\n" in text else []) + end for text, end in zip(texts, ends, strict=True)]

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        assert last_tokens == 1
        self.n_read += 1
        for start in range(0, len(texts), 50):
            words = [text.rsplit(" ", 1)[-1] for text in texts[start : start + 50]]
            rows = torch.stack([row_of(word, STRENGTH if self.knows else 0.0, self.shift) for word in words])
            yield TextBatch(rows=rows, text=torch.arange(start, start + len(words)))


class LookupSAE(SAE):
    """Codes of known rows, by table; the decoder is linear."""

    def __init__(self, words: Sequence[str], codes: Tensor, rows: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(SAEConfig(architecture="lookup", d_in=D, d_sae=codes.shape[1]))
        shift = 0.0 if bias is None else float(bias[0])
        self._codes = {
            row_of(word, shift=shift).numpy().tobytes(): code for word, code in zip(words, codes, strict=True)
        }
        self._bias = torch.zeros(D) if bias is None else bias
        self.W_dec = torch.nn.Parameter(rows, requires_grad=False)

    def reset_parameters(self, generator: torch.Generator) -> None: ...

    def fold_input_scale(self, scale: float) -> None: ...

    def encode(self, x: Tensor) -> Tensor:
        return torch.stack([self._codes[row.numpy().tobytes()] for row in x])

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self._bias

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def make_sae(absorbed: Iterable[str] = (), *, scale: float = 1.0, bias: Tensor | None = None) -> SAE:
    """A latent for each letter and stem; an absorbed word has one of its own instead of all three."""
    absorbed = list(absorbed)
    words = [row["word"] for row in ROWS]
    codes = torch.zeros(N, D_SAE)
    rows = torch.zeros(D_SAE, D)
    rows[:D] = torch.eye(D)
    for place, word in enumerate(words):
        letter, first, second = parts_of(word)
        codes[place, [letter, len(LETTERS) + first, len(LETTERS) + second]] = torch.tensor([STRENGTH, 1.0, 1.0])
    for number, word in enumerate(absorbed):
        codes[words.index(word)] = 0.0
        norm = row_of(word).norm()
        codes[words.index(word), D + number] = norm
        rows[D + number] = row_of(word) / norm
    return LookupSAE(words, codes / scale, rows * scale, bias)


def make_context(texts: LetterTexts | None = None, seed: int = 0) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=2),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=TinyLM(),
        lm_sha256="tiny",
        texts=texts or LetterTexts(),  # pyright: ignore[reportArgumentType]
    )


def measure(sae: SAE, context: StoreEvalContext | None = None, **options) -> dict[str, MetricValue]:
    context = context or make_context()
    outcome = evaluate_sae(sae, [PlannedEvaluator(ABSORPTION, AbsorptionEvaluator, options)], context)
    outcome = outcome.outcomes["absorption"]
    assert outcome.status == "done", outcome.reason
    return dict(outcome.metrics)


def measured_words(letter: str, seed: int = 0) -> list[str]:
    """The words of a letter that the evaluator measures on."""
    context, texts = make_context(seed=seed).scoped("absorption", ""), LetterTexts()
    words = words_of(ROWS)
    drawn = draw(words, texts.token_ids([w.text for w in words]), 150, context.generator("words"))
    chosen = drawn.place[(drawn.part == TEST) & (drawn.letter == LETTERS.index(letter))]
    return [ROWS[place]["word"] for place in chosen.tolist()]


def column(metrics: dict[str, MetricValue], letter: str) -> tuple[float, ...]:
    detail = metrics["absorption_letters"].detail
    assert detail is not None
    return detail[letter]


def test_without_absorption_the_rate_is_exactly_0():
    metrics = measure(make_sae())
    for name in ("absorption_rate", "absorption_fraction", "absorption_rate_pooled"):
        assert (metrics[name].value, metrics[name].stderr) == (0.0, 0.0), name
    assert metrics["saebench_full_absorption"].value == 0.0
    assert metrics["split_latents"].value == 1.0
    assert metrics["first_letter_f1"].value == 1.0
    assert metrics["absorption_letters"].value == 4


def test_a_planted_absorbed_word_is_found_with_the_exact_count():
    mine = measured_words("b")
    metrics = measure(make_sae(mine[:1]))
    assert len(mine) == 13
    assert metrics["absorption_rate"].value == pytest.approx(1 / 13 / 4, abs=1e-15)
    assert metrics["absorption_fraction"].value == pytest.approx(1 / 13 / 4, abs=1e-15)
    assert (metrics["absorption_rate_pooled"].value, metrics["absorption_rate_pooled"].n) == (1 / 52, 52)
    assert column(metrics, "b")[:4] == (1.0, 1 / 13, 1 / 13, 13.0)
    assert column(metrics, "a")[:4] == (1.0, 0.0, 0.0, 13.0)
    assert metrics["saebench_full_absorption"].value == pytest.approx(1 / 13 / 4)


def test_an_absorbed_word_that_is_not_measured_counts_nothing():
    measured = set(measured_words("b"))
    word = next(row["word"] for row in ROWS if row["letter"] == "b" and row["word"] not in measured)
    assert measure(make_sae([word]))["absorption_rate"].value == 0.0


def test_standard_errors_are_over_letters():
    words = measured_words("a")[:3] + measured_words("c")[:1]
    metrics = measure(make_sae(words))
    rates = torch.tensor([3 / 13, 0.0, 1 / 13, 0.0], dtype=torch.float64)
    assert metrics["absorption_rate"].n == 4
    assert metrics["absorption_rate"].value == pytest.approx(float(rates.mean()))
    assert metrics["absorption_rate"].stderr == pytest.approx(float(rates.std()) / 2)
    assert metrics["absorption_rate_pooled"].stderr == pytest.approx(float(rates.std()) / 2), "all have 13 words"


def test_dead_latents_are_not_perfect():
    sae = make_sae()
    dead = LookupSAE([row["word"] for row in ROWS], torch.zeros(N, 8), torch.eye(D)[:8])
    metrics = measure(dead)
    for name in ("absorption_rate", "absorption_fraction", "absorption_rate_pooled"):
        assert metrics[name].value == 1.0, name
    assert metrics["first_letter_f1"].value == metrics["split_latents"].value == 0.0
    assert metrics["saebench_full_absorption"].value == 0.0, "the published score calls it perfect"
    assert column(metrics, "a")[:2] == (0.0, 0.0)
    # The letters are those of the LM: as many as for an SAE that has them all.
    assert metrics["absorption_letters"].value == measure(sae)["absorption_letters"].value


def test_one_missing_letter_counts_1_and_the_others_what_they_are():
    sae = make_sae()
    codes = torch.stack([sae.encode(row_of(row["word"])[None])[0] for row in ROWS])
    codes[:, 0] = 0.0
    metrics = measure(LookupSAE([row["word"] for row in ROWS], codes, sae.decoder_directions()))
    assert metrics["absorption_rate"].value == 0.25
    assert metrics["absorption_rate_pooled"].value == 0.25
    assert metrics["absorption_rate"].detail == {"letter": (1.0, 0.0, 0.0, 0.0)}


def test_the_norm_of_decoder_rows_and_the_decoders_bias_change_nothing():
    absorbed = measured_words("a")[:2]
    plain = measure(make_sae(absorbed))
    scaled = measure(make_sae(absorbed, scale=7.0))
    shift = torch.zeros(D)
    shift[0] = -9.0
    moved = measure(make_sae(absorbed, bias=shift), make_context(LetterTexts(shift=-9.0)))
    for name in ("absorption_rate", "absorption_fraction"):
        assert plain[name].value == scaled[name].value == moved[name].value == pytest.approx(2 / 13 / 4)
    published = [values["saebench_full_absorption"].value for values in (plain, moved)]
    assert published[0] == pytest.approx(2 / 13 / 4)
    assert published[1] != published[0], "the published score takes the bias for the word's own"


def test_an_lm_that_knows_no_letters_is_not_evaluated():
    with pytest.raises(
        DataError, match=r"not evaluated: .* 0 letters have a probe .* 4 are needed of 4\. F1 by letter"
    ):
        AbsorptionEvaluator().evaluate(make_sae(), make_context(LetterTexts(knows=False)))


def test_too_few_single_token_words_are_not_evaluated():
    few = [row for row in ROWS if row["letter"] == "a"] + ROWS[-9:]
    with pytest.raises(DataError, match="1 letters have 10 of them or more; two are needed"):
        AbsorptionEvaluator().evaluate(make_sae(), make_context(LetterTexts(rows=few)))


def test_results_do_not_depend_on_which_sae_came_first():
    saes = [make_sae(measured_words("a")[:2]), make_sae(measured_words("d")[:3])]
    context = make_context()
    forth = [measure(sae, context) for sae in saes]
    context = make_context()
    back = [measure(sae, context) for sae in reversed(saes)]
    assert forth == back[::-1]
    assert forth[0] != forth[1]


def test_what_does_not_depend_on_the_sae_is_made_once():
    texts = LetterTexts()
    context = make_context(texts)
    measure(make_sae(), context)
    measure(make_sae(measured_words("a")[:1]), context)
    assert texts.n_read == 1


def test_another_evaluation_seed_measures_other_words():
    assert measured_words("a") != measured_words("a", seed=1)
    sae = make_sae(measured_words("a"))
    one, again, other = (measure(sae, make_context(seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one["absorption_rate"] != other["absorption_rate"]


def test_other_words_and_options_never_find_the_probes_of_these():
    texts = LetterTexts()
    context = make_context(texts)
    measure(make_sae(), context)
    texts.rows = ROWS[:-1]
    measure(make_sae(), context)
    measure(make_sae(), context, words_per_letter=40)
    measure(make_sae(), context, n_examples=2)
    assert texts.n_read == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, "has no option k"),
        ({"words_per_letter": "many"}, "words_per_letter must be a whole number from 10"),
        ({"words_per_letter": 9}, "words_per_letter must be a whole number from 10"),
        ({"n_examples": True}, "n_examples must be a whole number from 0"),
    ],
)
def test_options_that_are_not_allowed_are_told(options, message):
    with pytest.raises(ConfigError, match=message):
        AbsorptionEvaluator(options)


def test_words_that_are_not_there_skip_it_with_the_mend():
    class Absent(LetterTexts):
        def missing(self, collections: Iterable[str]) -> str:
            return f"run: sae-harness fetch {next(iter(collections))}"

    plan = [PlannedEvaluator(ABSORPTION, AbsorptionEvaluator, {})]
    outcome = evaluate_sae(random_sae(), plan, make_context(Absent())).outcomes["absorption"]
    assert outcome.status == "skipped"
    assert "run: sae-harness fetch words" in outcome.reason


def test_metrics_say_what_they_rest_on():
    assert {metric.name: metric.compared for metric in ABSORPTION.metrics if metric.compared} == {
        "absorption_rate": True,
        "absorption_fraction": True,
        "first_letter_f1": True,
        "split_latents": True,
    }
    for name in ("absorption_rate", "absorption_fraction"):
        metric = next(metric for metric in ABSORPTION.metrics if metric.name == name)
        assert "counts 1" in metric.formula
        assert dataclasses.asdict(metric)["better"] == "lower"
