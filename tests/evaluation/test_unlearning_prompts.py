"""The LM under an intervention: the error term stays, untouched prompts are not run, and both ways to score agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.activations.language_model import load_language_model
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.texts import TextData
from harness.evaluation.unlearning import Clamp
from harness.evaluation.unlearning_prompts import (
    CodedPrompts,
    Question,
    Quiz,
    clean_text_losses,
    modified_text_losses,
)
from harness.testing.fixtures import HOOKPOINT, TinyLM, _readout, random_sae, tiny_activations, tiny_store
from harness.testing.texts import PlantedTexts

HOOK = "blocks.1.hook_resid_post"
PROMPTS = [("5 6 7",), ("9 10",), ("11 12 13 14",), ("20 21",)]


def planted() -> StoreEvalContext:
    lm = TinyLM()
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=0,
        language_model=lm,
        lm_sha256="tiny",
        texts=PlantedTexts(lm, batch_texts=2),
    )


def embedded(folder: Path) -> StoreEvalContext:
    config = LMConfig(source="package:harness.builtin.tiny")
    source = resolve_lm(config, folder)
    lm = load_language_model(config, source)
    texts = TextData(lm, hookpoint=HOOK, lm_identity={"lm": "tiny"}, collections=folder)
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOK,
        data_id="tiny",
        seed=0,
        language_model=lm,
        lm_sha256=source.weights_sha256,
        texts=texts,
    )


def everything(n: int) -> torch.Tensor:
    return torch.ones(n, dtype=torch.bool)


def test_activations_change_by_the_change_of_the_reconstruction_and_nowhere_else():
    sae = random_sae()
    coded = CodedPrompts(sae, planted(), PROMPTS)
    tokens = torch.tensor([[0, 5, 6, 7]])
    x = tiny_activations(tokens)
    z = sae.encode(x)
    latent = int(z[0, 2].argmax())
    clamp = Clamp(torch.tensor([latent]), torch.tensor([-3.0]))
    edited = z.clone()
    edited[0, 1:, latent] = torch.where(z[0, 1:, latent] > 0, -3.0, 0.0)
    wanted = x + sae.decode(edited) - sae.decode(z)
    found = {
        int(i): a for batch, rows in coded.touched(clamp, everything(4)) for i, a in zip(batch.index, rows, strict=True)
    }
    torch.testing.assert_close(found[0][None], wanted)
    assert torch.equal(found[0][0], x[0, 0]), "what the suite puts before a prompt is left"
    off = (z[0, :, latent] == 0).nonzero().squeeze(1)
    assert torch.equal(found[0][off], x[0, off]), "to the bit"


def test_prompts_in_which_no_chosen_latent_fires_are_not_run():
    context = planted()
    sae = random_sae()
    coded = CodedPrompts(sae, context, PROMPTS)
    fires = coded.firings(torch.tensor([True, False, False, False])).fired
    elsewhere = coded.firings(torch.tensor([False, True, True, True])).fired
    only = int(((fires > 0) & (elsewhere == 0)).nonzero()[0])
    clamp = Clamp(torch.tensor([only]), torch.tensor([-5.0]))
    assert [batch.index.tolist() for batch, _ in coded.touched(clamp, everything(4))] == [[0]]
    assert not list(coded.touched(clamp, torch.tensor([False, True, True, True])))
    assert not list(coded.touched(None, everything(4)))


def test_firings_are_those_of_the_prompts_own_tokens():
    sae = random_sae()
    coded = CodedPrompts(sae, planted(), PROMPTS)
    wanted = sum(
        (sae.encode(tiny_activations(torch.tensor([[0, *map(int, text.split())]])))[0, 1:] > 0).sum(0)
        for (text,) in PROMPTS
    )
    found = coded.firings(everything(4))
    assert found.n_tokens == 11
    assert found.fired.tolist() == torch.as_tensor(wanted).double().tolist()


def test_attribution_is_the_slope_of_the_log_probability_as_codes_shrink():
    """By definition d log p / d s at s = 1, where all codes of a latent are multiplied by s."""
    context, sae = planted(), random_sae()
    coded = CodedPrompts(sae, context, PROMPTS)
    chosen = torch.tensor([True, True, False, True])
    found = coded.firings(chosen).attribution
    assert found is not None
    fired = coded.firings(chosen).fired > 0

    def log_probability(latent: int, scale: float) -> float:
        total = 0.0
        for (text,), wanted in zip(PROMPTS, chosen.tolist(), strict=True):
            if not wanted:
                continue
            tokens = torch.tensor([[0, *map(int, text.split())]])
            x = tiny_activations(tokens).double()
            z = sae.encode(x.float()).double()
            shrunk = z.clone()
            shrunk[..., latent] *= scale
            x[:, 1:] += ((shrunk - z) @ sae.decoder_directions().double())[:, 1:]
            logits = (x + 0.1 * x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]) @ _readout().double()
            logp = logits.log_softmax(-1)[0, :-1]
            total += float(logp.gather(1, tokens[0, 1:, None]).sum())
        return total / 7

    for latent in fired.nonzero().squeeze(1)[:5].tolist():
        slope = (log_probability(latent, 1.001) - log_probability(latent, 0.999)) / 0.002
        assert float(found()[latent]) == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert not bool(found()[~fired].any())


def test_one_run_of_a_question_scores_as_a_run_of_each_option(tmp_path: Path):
    context = embedded(tmp_path)
    single = Question(prompt="The sun is in the", options=(" and", " the", " of", " to"), answer=1)
    longer = Question(prompt="A dog has four", options=(" and the", " of", " in the", " to"), answer=1)
    assert all(len(ids) == 1 for ids in context.token_ids(single.options))
    quiz = Quiz([single, longer], context)
    assert len(quiz.prompts) == 5, "one for the first question, four for the second"
    scores = quiz.clean(context)
    for row, question in enumerate((single, longer)):
        for place, option in enumerate(question.options):
            parts = [context.token_ids([part])[0] for part in (question.prompt, option)]
            before = next(iter(context.prompt_batches([(question.prompt,)]))).tokens[0, :1].tolist()
            ids = torch.tensor([[*before, *parts[0], *parts[1]]])
            plain = context.language_model.logits(ids).log_softmax(-1)[0]
            start = len(before) + len(parts[0])
            wanted = sum(float(plain[start + i - 1, token]) for i, token in enumerate(parts[1]))
            assert float(scores[row, place]) == pytest.approx(wanted, abs=2e-3)


def test_options_of_unlike_numbers_are_allowed_and_chance_knows_them():
    context = planted()
    quiz = Quiz(
        [
            Question(prompt="5 6 7", options=(" 8", " 20"), answer=0),
            Question(prompt="9 10", options=(" 30", " 11", " 40", " 2"), answer=1),
        ],
        context,
    )
    assert quiz.chance().tolist() == [0.5, 0.25]
    assert quiz.correct(quiz.clean(context)).tolist() == [True, True]


def test_a_quiz_without_questions_or_with_an_empty_option_is_refused():
    with pytest.raises(DataError, match="needs questions"):
        Quiz([], planted())
    with pytest.raises(DataError, match="has no token"):
        Quiz([Question(prompt="5", options=(" 6", " "), answer=0)], planted())


def test_text_losses_are_those_of_the_whole_text_and_rise_under_a_clamp():
    context, sae = planted(), random_sae()
    texts = [prompt[0] for prompt in PROMPTS]
    chosen = torch.tensor([True, True, False, True])
    clean = clean_text_losses(context, texts, chosen, max_tokens=3)
    assert clean.n.tolist() == [3.0, 2.0, 0.0, 2.0]
    logp = context.language_model.logits(torch.tensor([[0, 5, 6, 7]])).log_softmax(-1)[0]
    assert float(clean.ce[0]) == pytest.approx(-float(logp[0, 5] + logp[1, 6] + logp[2, 7]), abs=1e-4)
    coded = CodedPrompts(sae, context, PROMPTS, max_tokens=3)
    latents = coded.firings(chosen).fired.nonzero().squeeze(1)
    clamp = Clamp(latents, torch.full((len(latents),), -5.0))
    changed = modified_text_losses(context, coded, clamp, clean, torch.tensor([True, False, False, True]))
    assert float(changed.ce[0]) != float(clean.ce[0])
    assert torch.equal(changed.ce[1:3], clean.ce[1:3]), "texts that were not asked for stay"
    assert torch.equal(modified_text_losses(context, coded, None, clean, chosen).ce, clean.ce)
