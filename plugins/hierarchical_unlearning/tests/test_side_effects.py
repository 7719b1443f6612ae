"""True side effects where the answer is known: an SAE whose latents are the features."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning.metrics import TRUE_SIDE_EFFECTS
from sae_harness_hierarchical_unlearning.side_effects import (
    SETTINGS,
    TrueSideEffectsEvaluator,
    World,
    WorldInterventions,
)
from sae_harness_hierarchical_unlearning.truth import FiringChanges, Tally, forget_features

from harness import ConfigError, WorldTruth
from harness.testing.fixtures import tiny_truth


def truth(features, codes, **more) -> WorldTruth:
    n = len(features)
    given = {
        "bias": torch.zeros(features.shape[1]),
        "probability": torch.full((n,), 0.1, dtype=torch.float64),
        "autocorrelation": torch.zeros(n, dtype=torch.float64),
        "parent": torch.full((n,), -1),
        "forget": torch.tensor([True] + [False] * (n - 1)),
        "forget_document": torch.zeros(1, dtype=torch.bool),
    }
    return WorldTruth(features=features, codes=codes, **{**given, **more})


@pytest.fixture
def slanted():
    """Two features at 60 degrees, and one that is orthogonal to both."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.5, 3**0.5 / 2, 0.0], [0.0, 0.0, 1.0]])


def test_a_change_is_split_between_the_features_that_fire(slanted, codes_of):
    codes = codes_of([[2.0, 4.0, 0.0], [0.0, 0.0, 1.0], [2.0, 0.0, 0.0]])
    found = FiringChanges(truth(slanted, codes), torch.device("cpu"))
    change = torch.stack([-2.0 * slanted[0], 0.3 * slanted[2], -2.0 * slanted[1]])
    relative = found.relative(torch.arange(3), change)
    assert torch.allclose(relative, torch.tensor([-1.0, 0.0, 0.3, -0.5]), atol=1e-3)


def test_removed_and_disturbed_firings_are_counted_by_document(slanted, codes_of):
    codes = codes_of([[2.0, 4.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    known = truth(slanted, codes)
    tally = Tally(FiringChanges(known, torch.device("cpu")), known.forget, torch.tensor([0, 0, 1]))
    assert tally.forget_firings.tolist() == [2.0, 1.0]
    assert tally.retain_firings.tolist() == [2.0, 0.0]
    # Token 0 loses the forget feature, token 1 the other, token 2 gains: gaining removes nothing.
    change = torch.stack([-2.0 * slanted[0], -1.0 * slanted[2], 1.0 * slanted[0]])
    removed, disturbed = tally.count(torch.arange(3), change)
    assert removed.tolist() == [1.0, 0.0]
    assert disturbed.tolist() == [1.0, 0.0]
    assert tally.by_feature(torch.arange(3), change).tolist() == [1.0, 0.0, 1.0]


def test_worlds_without_marks_get_the_tree_nearest_to_an_eighth(slanted, codes_of):
    rows = [[0.0, 0.0, 1.0]] * 6 + [[1.0, 1.0, 0.0]] + [[0.0, 0.0, 0.0]]
    unmarked = truth(slanted, codes_of(rows), forget=torch.zeros(3, dtype=torch.bool), parent=torch.tensor([-1, 0, -1]))
    assert forget_features(unmarked).tolist() == [True, True, False]
    assert int(forget_features(tiny_truth()).sum()) == 1


def test_an_sae_of_the_true_features_forgets_without_side_effects(feature_sae, context):
    found = TrueSideEffectsEvaluator().evaluate(feature_sae, context)
    assert found.keys() == {metric.name for metric in TRUE_SIDE_EFFECTS.metrics}
    assert found["true_forget_removed"].value == pytest.approx(1.0)
    assert found["true_retain_disturbed"].value == 0.0
    assert found["true_frontier"].value == pytest.approx(1.0)
    assert found["true_forget_removed_random"].value < 0.5, "random latents of like rates do not do it"
    assert found["true_frontier"].value == found["true_frontier_base"].value, "there is one level"


def test_standard_errors_are_over_the_documents_of_one_half(feature_sae, context):
    found = TrueSideEffectsEvaluator().evaluate(feature_sae, context)
    assert {metric.n for metric in found.values()} == {20}
    assert found["true_forget_removed_random"].stderr is not None


def test_nothing_is_chosen_on_the_half_that_is_read(feature_sae, context):
    world = World(feature_sae, context)
    forget, retain = world.firings(world.codes, 24)
    assert forget.n_tokens + retain.n_tokens == 16 * int((~world.report).sum())


@pytest.mark.parametrize("method", ["unlearning", "mixture", "linked"])
def test_an_sae_of_two_levels_has_every_level_in_the_detail(make_job, train, context, method):
    [result] = train([make_job(f"hierarchical_{method}", lr=1e-2)], 60)
    with torch.no_grad():
        found = TrueSideEffectsEvaluator().evaluate(result.sae.eval(), context)
    detail = found["true_frontier"].detail or {}
    for level in ("base", "gated", "concept", "coordinated"):
        assert len(detail[f"{level}/removed"]) == len(SETTINGS)
        assert 0.0 <= detail[f"{level}/area"][0] <= 1.0
    assert found["true_frontier"].value == detail["coordinated/area"][0]
    assert found["true_frontier_base"].value == detail["base/area"][0]


def test_a_gate_touches_no_more_than_the_clamp(make_job, train, context):
    [result] = train([make_job("hierarchical_prefixes", lr=1e-2)], 40)
    with torch.no_grad():
        world = World(result.sae.eval(), context)
        made = WorldInterventions(world)
        for setting in SETTINGS[:4]:
            base, gated = (set(world.changed(make(setting))[0].tolist()) for make in (made.base, made.gated))
            assert gated <= base


def test_options_are_refused():
    with pytest.raises(ConfigError, match="takes no options"):
        TrueSideEffectsEvaluator({"n": 1})
