"""RAVEL in a world whose answers are known: one latent an attribute is perfect, everything at once is not, and an LM
that does not know is not scored."""

from __future__ import annotations

import pytest
import torch

from harness.builtin.evaluators.ravel import RavelEvaluator
from harness.builtin.evaluators.ravel_specs import RAVEL, SAEBENCH_RAVEL
from harness.builtin.evaluators.saebench_ravel import SAEBenchRavelEvaluator
from harness.errors import ConfigError, DataError
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.evaluation.interchange import Hits, Interchange, answers, cause_hits, estimate, isolation_hits
from harness.evaluation.ravel import Accepted, Pairs, ask, draw_pairs, knowledge_of, quiz_of
from harness.testing.fixtures import D_IN


def run(sae, context, **options):
    return RavelEvaluator({"n_entities": 160, **options}).evaluate(sae, context)


def eye(*dimensions: int) -> torch.Tensor:
    return torch.eye(D_IN)[list(dimensions)]


def test_one_latent_an_attribute_is_perfect(ravel_world):
    found = run(ravel_world.DirectionsSAE(eye(2, 0, 3, 1, 4)), ravel_world.context())
    for name in ("ravel_cause", "ravel_isolation", "ravel_disentanglement"):
        assert found[name].value == 1.0
        assert found[name].stderr == 0.0
    assert found["ravel_latents"].value == 1.0
    assert found["ravel_ceiling_cause"].value == 1.0
    assert found["ravel_ceiling_isolation"].value < 0.1
    assert found["ravel_pairs"].value == 320
    assert found["ravel_entities"].value == 160


def test_one_latent_for_both_attributes_changes_both(ravel_world):
    both = torch.zeros(1, D_IN)
    both[0, :2] = 0.5**0.5
    found = run(ravel_world.DirectionsSAE(torch.cat([both, eye(2, 3)])), ravel_world.context())
    assert found["ravel_isolation"].value < 0.9
    assert found["ravel_disentanglement"].value < 0.8


def test_latents_that_know_nothing_change_nothing(ravel_world):
    found = run(ravel_world.DirectionsSAE(eye(2, 3, 4, 5, 6)), ravel_world.context())
    assert found["ravel_cause"].value == 0.0
    assert found["ravel_isolation"].value == 1.0
    assert (
        found["ravel_disentanglement"].value
        == 0.5
        == next(m.chance for m in RAVEL.metrics if m.name == "ravel_disentanglement")
    )


def test_an_sae_that_never_fires_changes_nothing(ravel_world):
    found = run(ravel_world.DirectionsSAE(eye(15)), ravel_world.context())
    assert found["ravel_latents"].value == 0.0
    assert (found["ravel_cause"].value, found["ravel_isolation"].value) == (0.0, 1.0)


def test_swapping_every_latent_swaps_all(ravel_world):
    context, sae = ravel_world.context(), ravel_world.DirectionsSAE(torch.eye(D_IN)[:8])
    quiz = quiz_of(context.table("cities"), 160)
    accepted = Accepted(context, quiz)
    asked = ask(context, quiz, accepted)
    usable = torch.ones(len(quiz), dtype=torch.bool)
    swap = Interchange(sae, asked.rows, context.encode(sae, asked.rows))
    for asks, hits, wanted in ((0, cause_hits, 1.0), (1, isolation_hits, 0.0)):
        pairs = draw_pairs(
            quiz, accepted, usable, edited=0, asked=asks, n=50, generator=torch.Generator().manual_seed(0)
        )
        found = answers(context, quiz, pairs.base, swap.rows(pairs, torch.arange(8)))
        assert estimate([hits(quiz, accepted, pairs, found)]).value == wanted


def test_what_the_sae_leaves_unexplained_stays(ravel_world):
    context, sae = ravel_world.context(), ravel_world.DirectionsSAE(eye(0))
    rows = ravel_world.embed(torch.arange(100, 110)[None])[0]
    pairs = Pairs(torch.tensor([0]), torch.tensor([5]))
    codes = context.encode(sae, rows)
    kept = Interchange(sae, rows, codes).rows(pairs, torch.tensor([0]))[0]
    assert torch.allclose(kept[1:], rows[0, 1:])
    assert torch.isclose(kept[0], rows[5, 0])
    lost = Interchange(sae, rows, codes, with_error=False).rows(pairs, torch.tensor([0]))[0]
    assert torch.allclose(lost[1:], torch.zeros(D_IN - 1))


def test_entities_of_the_parts_are_disjoint_and_follow_the_seed(ravel_world):
    quiz = quiz_of(ravel_world.context().table("cities"), 160)
    parts = quiz.parts(0)
    assert torch.equal(sum(part.int() for part in parts.values()), torch.ones(160, dtype=torch.int32))
    assert not torch.equal(parts["test"], quiz.parts(1)["test"])
    fewer = quiz_of(ravel_world.context().table("cities"), 80)
    assert torch.equal(parts["test"][:80], fewer.parts(0)["test"])


def test_pairs_differ_in_both_attributes_and_share_a_template(ravel_world):
    context = ravel_world.context()
    quiz = quiz_of(context.table("cities"), 160)
    accepted = Accepted(context, quiz)
    usable = quiz.parts(0)["test"][quiz.entity]
    pairs = draw_pairs(quiz, accepted, usable, edited=0, asked=1, n=40, generator=torch.Generator().manual_seed(1))
    level = ravel_world.levels()
    assert len(pairs) == 40 == len(pairs.base.unique())
    assert torch.equal(quiz.template[pairs.base], quiz.template[pairs.source])
    assert bool((level[quiz.entity[pairs.base]] != level[quiz.entity[pairs.source]]).all())
    assert bool(usable[pairs.base].all())
    assert bool(usable[pairs.source].all())


def test_an_lm_that_does_not_know_is_not_scored(ravel_world):
    with pytest.raises(DataError, match=r"not evaluated: .* of 640 prompts right \(\d+\.\d%\).*24 training"):
        run(ravel_world.DirectionsSAE(eye(0, 1)), ravel_world.context(ignorant=True))


def test_an_lm_that_reads_elsewhere_is_not_scored(ravel_world):
    with pytest.raises(DataError, match=r"not evaluated: with the whole activation .* 0\.0% of the answers"):
        run(ravel_world.DirectionsSAE(eye(0, 1)), ravel_world.context(deaf=True))


def test_an_answer_that_begins_right_and_goes_on_wrong_is_wrong(ravel_world):
    """Levels 1 and 2 of the first attribute begin with the same token, after which the LM always says 50."""

    class Alike(ravel_world.ReadingLM):
        def run_with_replacement(self, tokens, hookpoint, replace, *, activations=None, positions=None):
            logits = super().run_with_replacement(tokens, hookpoint, replace, activations=activations)
            row, at = (tokens == 11).nonzero(as_tuple=True)
            logits[row, at, 50] = 5.0
            low = logits[..., 10] > logits[..., 11]
            logits[..., 11] = torch.where(low, logits[..., 10] + 1, logits[..., 11])
            return logits if positions is None else logits[:, positions]

    words = lambda attribute, level: [("11 50", "11 51", "12")[level] if attribute == 0 else str(20 + level)]  # noqa: E731
    context = ravel_world.context(ravel_world.ReadingTexts(words))
    context._lm = Alike()
    quiz = quiz_of(context.table("cities"), 160)
    asked = ask(context, quiz, Accepted(context, quiz))
    level = ravel_world.levels()[quiz.entity, 0]
    first = quiz.attribute == 0
    assert bool((asked.answer[first & (level < 2)] == 11).all())
    assert bool(asked.right[first & (level == 0)].all())
    assert not bool(asked.right[first & (level == 1)].any())
    assert bool(asked.right[first & (level == 2)].all())


def test_a_pair_is_known_where_most_templates_are_right(ravel_world):
    quiz = quiz_of(ravel_world.context().table("cities"), 160)
    right = torch.ones(len(quiz), dtype=torch.bool)
    right[(quiz.entity == 3) & (quiz.template == 0)] = False
    found = knowledge_of(quiz, right, quiz.parts(0))
    assert not bool(found.known[0, 3]), "one of two is not most"
    assert bool(found.known[1, 3])
    assert not bool(found.used[(quiz.entity == 3) & (quiz.attribute == 0)].any())


def test_the_standard_error_counts_entities_and_not_pairs(ravel_world):
    once = estimate([Hits(torch.arange(4), torch.tensor([1.0, 0, 1, 0], dtype=torch.float64))])
    assert once.value == 0.5
    assert once.stderr == pytest.approx((1 / 3) ** 0.5 / 2)
    twice = estimate([Hits(torch.arange(4).repeat(2), torch.tensor([1.0, 0, 1, 0], dtype=torch.float64).repeat(2))])
    assert (twice.value, twice.stderr, twice.n_entities) == (0.5, pytest.approx(once.stderr), 4)


def test_the_second_sae_costs_no_run_of_the_lm_for_what_saes_share(ravel_world):
    context = ravel_world.context()
    planned = [PlannedEvaluator(RAVEL, RavelEvaluator, {"n_entities": 160})]
    runs = []
    for _ in range(2):
        before = context.language_model.n_runs
        outcome = evaluate_sae(ravel_world.DirectionsSAE(eye(0, 1)), planned, context).outcomes["ravel"]
        assert outcome.status == "done", outcome.reason
        runs.append(context.language_model.n_runs - before)
    assert runs[1] < runs[0]


def test_results_follow_the_seed_and_not_the_order(ravel_world):
    mixed = torch.zeros(1, D_IN)
    mixed[0, :2] = 0.5**0.5
    saes = [ravel_world.DirectionsSAE(torch.cat([mixed, eye(2)])), ravel_world.DirectionsSAE(eye(0, 1))]
    context = ravel_world.context()
    forward = [run(sae, context)["ravel_isolation"].value for sae in saes]
    other = ravel_world.context()
    backward = [run(sae, other)["ravel_isolation"].value for sae in reversed(saes)]
    assert forward == backward[::-1]
    assert run(saes[0], ravel_world.context(seed=1))["ravel_isolation"].value != forward[0]


@pytest.mark.parametrize("options", [{"n_entity": 3}, {"n_test": 0}, {"table": 3}, {"n_test": True}])
def test_options_it_does_not_have_are_refused(options):
    with pytest.raises(ConfigError, match="ravel"):
        RavelEvaluator(options)


def run_published(sae, context, **options):
    return SAEBenchRavelEvaluator({"n_entities": 160, **options}).evaluate(sae, context)


def test_the_published_mask_finds_the_latents_that_answers_are_read_from(ravel_world):
    """Without the SAE's error, what it does not carry is lost: both attributes must be among its latents."""
    with torch.no_grad():
        found = run_published(ravel_world.DirectionsSAE(eye(2, 0, 3, 1, 4)), ravel_world.context())
    assert set(found) == {metric.name for metric in SAEBENCH_RAVEL.metrics}
    assert found["saebench_ravel_cause"].value == 1.0
    assert found["saebench_ravel_isolation"].value == 1.0


def test_the_published_score_of_latents_that_carry_nothing_is_low(ravel_world):
    with torch.no_grad():
        found = run_published(ravel_world.DirectionsSAE(eye(2, 3, 4)), ravel_world.context())
    assert found["saebench_ravel_disentanglement"].value < 0.6


def test_an_lm_without_gradients_has_no_published_score(ravel_world):
    context = ravel_world.context()
    lm = context.language_model
    lm.run_with_replacement = torch.no_grad()(lm.run_with_replacement)
    with pytest.raises(DataError, match="gives no gradients"):
        run_published(ravel_world.DirectionsSAE(eye(0, 1)), context)


def test_the_published_draw_and_split_follow_the_seed_alone(ravel_world):
    sae = ravel_world.DirectionsSAE(torch.cat([eye(0, 1).sum(0, keepdim=True) / 2**0.5, eye(2)]))
    first, again = (run_published(sae, ravel_world.context())["saebench_ravel_cause"] for _ in range(2))
    assert (first.value, first.stderr) == (again.value, again.stderr)
