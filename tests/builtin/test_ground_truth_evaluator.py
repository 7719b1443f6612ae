"""The ground_truth evaluator on a small world: an SAE that is the truth scores 1, and planted faults are counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness import SAE, ConfigError, DataError, SAEConfig
from harness.activations.store import ActivationStore
from harness.activations.worlds import WorldStore, truth_of, truth_tensors
from harness.builtin.evaluators.ground_truth import GroundTruthEvaluator
from harness.builtin.evaluators.ground_truth_specs import GROUND_TRUTH
from harness.config import WorldConfig
from harness.data.worlds import World
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.evaluation.metrics import dense

# No more features than dimensions, and orthogonal ones: codes can be read off by projection.
CONFIG = WorldConfig(
    n_features=20, d_in=24, seq_len=64, n_train_tokens=64, n_eval_sequences=40, p_max=0.4, p_min=0.1, roots=3,
    branching=3, depth=1, sticky_share=0.5, dwell_min=3.0, dwell_max=20.0, bias_norm=0.0,
    orthogonal_steps=2000, orthogonal_lr=0.01,
)  # fmt: skip


class Projection(SAE):
    """codes = relu(x Eᵀ - threshold), x̂ = codes D: E and D given."""

    def __init__(self, encoder: Tensor, decoder: Tensor, threshold: float = 0.5) -> None:
        super().__init__(SAEConfig(architecture="projection", d_in=decoder.shape[1], d_sae=decoder.shape[0]))
        self.encoder, self.decoder, self.threshold = encoder, decoder, threshold

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill."""

    def encode(self, x: Tensor) -> Tensor:
        found = x @ self.encoder.T
        return torch.where(found > self.threshold, found, 0.0)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.decoder

    def fold_input_scale(self, scale: float) -> None:
        """Not needed here."""

    def decoder_directions(self) -> Tensor:
        return self.decoder


class Absorbing(Projection):
    """The truth, but that the parent's latent is silent where the child's fires."""

    def __init__(self, features: Tensor, child: int, parent: int) -> None:
        decoder = features.clone()
        decoder[child] += features[parent]
        super().__init__(features, decoder)
        self.child, self.parent = child, parent

    def encode(self, x: Tensor) -> Tensor:
        codes = super().encode(x)
        codes[..., self.parent] *= codes[..., self.child] == 0
        return codes


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


@pytest.fixture(scope="module")
def store(world) -> WorldStore:
    batch = world.batch("eval", range(CONFIG.n_eval_sequences))
    held_out = ActivationStore.from_tensors(batch.activations, document=batch.document, mask=batch.mask)
    return WorldStore(held_out, truth_of(truth_tensors(world)))


def context_of(store, **options) -> StoreEvalContext:
    return StoreEvalContext(store, hookpoint="", data_id="world", seed=0, **options)


def measured(sae, store, **options) -> dict[str, float]:
    found = GroundTruthEvaluator().evaluate(sae, context_of(store, **options))
    assert set(found) == {metric.name for metric in GROUND_TRUTH.metrics}
    return {name: value.value for name, value in found.items()}


PERFECT = (
    "mcc", "mcc_signed", "uniqueness", "truth_precision", "truth_recall", "truth_f1", "recovered",
    "recovered_frequent", "recovered_middle", "recovered_rare", "hierarchy_recall", "temporal_fidelity", "shrinkage",
)  # fmt: skip


def test_the_features_of_this_world_can_be_read_off(world, store):
    codes = dense(store.truth.codes, 20)
    read = store.sequences(0, 40).view(-1, 24) @ world.features.T
    assert float((read - codes).abs().max()) < 0.3


def test_an_sae_that_is_the_truth_scores_one_everywhere(world, store):
    found = measured(Projection(world.features, world.features), store)
    assert {name: found[name] for name in PERFECT} == pytest.approx(dict.fromkeys(PERFECT, 1.0), abs=0.02)
    assert (found["true_absorption"], found["absorbed_pairs"], found["splitting"]) == (0, 0, 0)


def test_a_permuted_decoder_has_the_mcc_of_the_truth_and_detects_nothing(world, store):
    found = measured(Projection(world.features, world.features.roll(1, 0)), store)
    assert found["mcc"] == pytest.approx(1.0)
    assert found["truth_f1"] < 0.4
    assert found["recovered"] < 0.2
    assert abs(found["temporal_fidelity"]) < 0.5


def test_random_directions_are_far_from_the_truth(world, store):
    random = torch.nn.functional.normalize(torch.randn(20, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    found, best = measured(Projection(random, random), store), measured(Projection(*[world.features] * 2), store)
    for name in PERFECT[:-1]:
        assert found[name] < 0.75 * best[name], name
    assert found["recovered"] == 0


def test_directions_that_point_the_other_way_are_found_by_the_unsigned_matching_alone(world, store):
    found = measured(Projection(world.features, -world.features), store)
    assert found["mcc"] == pytest.approx(1.0)
    assert found["mcc_signed"] < 0.2
    assert found["recovered"] == 0


def test_one_planted_absorbed_pair_is_one(world, store):
    parent = world.structure.parent
    child = int((parent >= 0).nonzero()[0])
    found = measured(Absorbing(world.features, child, int(parent[child])), store)
    assert found["absorbed_pairs"] == 1
    firings = torch.bincount(store.truth.codes.latents, minlength=20)
    share = float(firings[child] / firings[parent >= 0].sum())
    assert found["true_absorption"] == pytest.approx(share, abs=0.02)
    assert found["hierarchy_recall"] == pytest.approx(1 - share, abs=0.02)


def test_a_duplicated_latent_is_one_split(world, store):
    twice = torch.cat([world.features, world.features[4:5]])
    value = GroundTruthEvaluator().evaluate(Projection(twice, twice), context_of(store))["splitting"]
    assert value.value == pytest.approx(1 / 21)
    assert value.detail == {"surplus": (1.0,)}


def test_dead_latents_are_left_out(world, store):
    dead = torch.zeros(30, 24)
    ours = measured(Projection(torch.cat([world.features, dead]), torch.cat([world.features, 1 - dead])), store)
    assert ours == pytest.approx(measured(Projection(world.features, world.features), store))


def test_values_do_not_depend_on_the_batch(world, store):
    sae = Projection(world.features, world.features.roll(1, 0))
    assert measured(sae, store, batch_sequences=1) == pytest.approx(measured(sae, store, batch_sequences=17))


def test_halved_codes_show_as_shrinkage(world, store):
    found = measured(Projection(world.features / 2, world.features, threshold=0.25), store)
    assert found["shrinkage"] == pytest.approx(0.5, abs=0.02)


def test_an_sae_that_is_silent_everywhere_is_refused(world, store):
    with pytest.raises(DataError, match="no latent fires"):
        measured(Projection(world.features, world.features, threshold=1e9), store)


def test_truth_of_other_tokens_is_refused(world, store):
    other = World(CONFIG).batch("eval", range(39)).activations
    with pytest.raises(DataError, match="the truth is of 2560 tokens"):
        measured(
            Projection(world.features, world.features), ActivationStore.from_tensors(other), truth=store.truth
        )  # fmt: skip


def test_it_is_skipped_where_there_is_no_world(world, store):
    held_out = ActivationStore.from_tensors(store.sequences(0, 2))
    planned = PlannedEvaluator(GROUND_TRUTH, GroundTruthEvaluator, {})
    outcome = evaluate_sae(Projection(*[world.features] * 2), [planned], context_of(held_out)).outcomes["ground_truth"]
    assert (outcome.status, outcome.reason) == ("skipped", "needs a synthetic world, whose true features are known")
    with pytest.raises(DataError, match="no ground truth"):
        _ = context_of(held_out).truth


def test_it_takes_no_options():
    with pytest.raises(ConfigError, match="takes no options"):
        GroundTruthEvaluator({"k": 1})
