"""The registered analyses give the known answers of planted data, and their figures are drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from sae_harness_topk_orthogonality.decoder_analyses import (
    DecoderCosines,
    Splitting,
    near_pairs,
    shared_firing,
    twin_clusters,
)
from sae_harness_topk_orthogonality.held_out import selection_options, stretches
from sae_harness_topk_orthogonality.matching import SAEMatching
from sae_harness_topk_orthogonality.options import TopKOrthogonalityOptions
from sae_harness_topk_orthogonality.plugin import register_analyses
from sae_harness_topk_orthogonality.stability_analysis import PairSelectionStability
from sae_harness_topk_orthogonality.traces import PairTraces
from torch import Tensor

from harness import SAE, DataError, NotEvaluatedError, RaggedCodes, SAEConfig, TrainingLog
from harness.evaluation.context import StoreEvalContext
from harness.interfaces.analysis import Reference

LENGTH = 32
NO_LOG = TrainingLog()


@dataclass
class MemoryStore:
    """Held-out sequences in memory: what a context reads of an ActivationStore."""

    activations: Tensor

    @property
    def d_in(self) -> int:
        return self.activations.shape[2]

    @property
    def tokens(self) -> Tensor:
        return torch.arange(self.activations.shape[0] * LENGTH).view(-1, LENGTH)

    @property
    def mask(self) -> Tensor:
        return torch.ones(self.activations.shape[:2], dtype=torch.bool)

    @property
    def document(self) -> Tensor:
        return torch.arange(self.activations.shape[0])

    def sequences(self, start: int, stop: int) -> Tensor:
        return self.activations[start:stop]


class CodesAreInputs(SAE):
    """An SAE whose codes are its inputs, with given directions."""

    def __init__(self, W_dec: Tensor) -> None:
        super().__init__(SAEConfig(architecture="inputs", d_in=len(W_dec), d_sae=len(W_dec)))
        self.W_dec = torch.nn.Parameter(W_dec)

    def reset_parameters(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.W_dec.normal_(generator=generator)

    def encode(self, x: Tensor) -> Tensor:
        return x.relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes

    def fold_input_scale(self, scale: float) -> None:
        pass

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def context_of(codes: Tensor) -> StoreEvalContext:
    return StoreEvalContext(MemoryStore(codes.view(-1, LENGTH, codes.shape[1])), hookpoint="here", data_id="d", seed=3)


def run(analysis, codes, W_dec, training=NO_LOG) -> Any:
    with torch.no_grad():
        result = analysis().run(CodesAreInputs(W_dec), context_of(codes), training)
    json.dumps(result.to_json(), allow_nan=False)
    return result


@pytest.fixture(scope="module")
def codes(stream) -> Tensor:
    """[4096, 40] of planted twins (2i, 2i + 1), in which selection has nothing to do with the place in the text."""
    return torch.cat([stream.codes(seed) for seed in range(16)])


def log_of(**changes) -> TrainingLog:
    options = TopKOrthogonalityOptions(**changes)
    return TrainingLog(options={field.name: getattr(options, field.name) for field in fields(options)})


def test_planted_twins_are_selected_again_at_any_lag_and_random_pairs_are_not(codes):
    found = run(PairSelectionStability, codes, torch.eye(40), log_of(fraction=20 / 780, fraction_of="all")).values
    assert found["stretches"] == 8
    assert found["mean_pairs"] == 20
    for lag in (1, 2, 5):
        assert found[f"jaccard_lag{lag}"] > 0.8 > 0.3 > found[f"jaccard_lag{lag}/random_pairs"]
    assert found["jaccard_sampling_noise"] == pytest.approx(found["jaccard_lag1"], abs=0.1)
    assert found["share_persistent"] > 0.7 > found["share_persistent/random_pairs"]
    assert found["half_life"] is None


def test_a_world_that_changes_halfway_loses_its_pairs_and_lies_below_sampling_noise(codes):
    changed = codes.clone()
    changed[2048:] = codes[2048:].roll(1, dims=1)  # now 2i + 1 and 2i + 2 fire together
    found = run(PairSelectionStability, changed, torch.eye(40), log_of(fraction=20 / 780, fraction_of="all")).values
    assert found["jaccard_lag5"] < 0.1 < 0.7 < found["jaccard_sampling_noise"]


def test_options_come_from_the_log_or_are_the_defaults():
    options, note = selection_options(log_of(fraction=0.5))
    assert options.fraction == 0.5
    assert "as in this SAE's training" in note
    options, note = selection_options(TrainingLog(options={"lr": 1e-3}))
    assert options == TopKOrthogonalityOptions()
    assert "not trained by topk_orthogonality" in note


def test_too_little_text_and_empty_selections_are_told(codes):
    with pytest.raises(DataError, match="two stretches of 512 held-out tokens"):
        run(PairSelectionStability, codes[:512], torch.eye(40))
    with pytest.raises(DataError, match="No pair is selected"):
        run(PairSelectionStability, codes, torch.eye(40), log_of(minimum=0.9, divide_by_tokens=True))


def test_stretches_are_whole_and_in_order():
    codes = RaggedCodes(torch.tensor([3, 1, 2, 0, 4]), torch.tensor([0, 1, 1, 3, 4, 5]), torch.arange(1.0, 6.0))
    parts = stretches(codes, 2)
    assert [part.latents.tolist() for part in parts] == [[3], [1, 2, 0]]


def test_orthogonal_directions_lie_farther_apart_than_the_initialisation(codes):
    found = run(DecoderCosines, codes, torch.eye(40))
    assert found.values["largest/this_SAE"] == 0.0
    assert found.values["mean_nearest/its_initialisation"] > 0.2
    assert (found.values["live_latents"], found.values["dead_latents"]) == (40, 0)
    assert "cosine_to_own_beginning" not in found.values  # the seed is not known
    assert any("drawn anew" in note for note in found.notes)
    silent = codes.clone()
    silent[:, 30:] = 0
    assert run(DecoderCosines, silent, torch.eye(40)).values["dead_latents"] == 10


def test_a_known_seed_gives_the_true_beginning_and_how_far_each_row_turned(codes):
    begun = torch.randn(40, 40, generator=torch.Generator().manual_seed(6))
    moved = begun.clone()
    moved[:20] = -moved[:20]
    found = run(DecoderCosines, codes, moved, TrainingLog(method="mine", seed=6, steps=10))
    assert found.values["cosine_to_own_beginning"] == pytest.approx(0.0, abs=1e-6)
    assert sorted({round(value, 4) for value in found.series["cosine_to_own_beginning"]}) == [-1.0, 1.0]
    assert found.values["mean/this_SAE"] == pytest.approx(found.values["mean/its_initialisation"])
    assert any("that of training seed 6" in note for note in found.notes)


def beside(analysis, codes: Tensor, ours: Tensor, theirs: Tensor) -> Any:
    """The analysis of an SAE of rows `ours` beside one of rows `theirs`, both with the same codes."""
    looks = analysis()
    looks.reference = Reference(label="other", sae=CodesAreInputs(theirs).eval(), training=NO_LOG)
    with torch.no_grad():
        result = looks.run(CodesAreInputs(ours), context_of(codes), NO_LOG)
    json.dumps(result.to_json(), allow_nan=False)
    return result


def test_a_references_cosines_stand_beside_ones_own(codes):
    twins = torch.eye(40)
    twins[1::2] += twins[::2]
    found = beside(DecoderCosines, codes, torch.eye(40), twins).values
    assert found["mean_nearest/this_SAE"] == 0.0
    assert found["mean_nearest/other"] == pytest.approx(0.5**0.5)


def test_latents_are_matched_composed_or_new_beside_another_sae(codes):
    theirs = torch.eye(40)
    ours = torch.eye(40)
    ours[0] = theirs[0] + theirs[1] + theirs[2]  # .58 to each, 1 to their sum
    ours[3] = -theirs[3]
    ours[5] = theirs[4] + 0.1 * theirs[5]  # with row 4 a second of one
    found = beside(SAEMatching, codes, ours, theirs)
    assert found.values["matched/this_SAE"] == pytest.approx(38 / 40)
    assert found.values["composed/this_SAE"] == pytest.approx(1 / 40)
    assert found.values["split/this_SAE"] == pytest.approx(1 / 40)
    assert found.values["matched/random_directions"] < 0.1
    unmatched = {row[0]: row for row in found.tables["unmatched"].rows}
    assert set(unmatched) == {0, 3}
    assert (unmatched[0][-1], unmatched[3][-1]) == (True, False)
    with pytest.raises(NotEvaluatedError, match="give it a reference"):
        run(SAEMatching, codes, torch.eye(40))


def test_near_pairs_and_their_clusters_are_those_planted():
    rows = torch.eye(8)
    rows[1] = rows[0] + 0.3 * rows[7]
    rows[2] = rows[0] - 0.3 * rows[7]
    rows[4] = 5 * rows[3]
    rows[6] = -rows[5]
    near = near_pairs(rows)
    assert list(zip(near.first.tolist(), near.second.tolist(), strict=True)) == [(3, 4), (0, 1), (0, 2), (1, 2)]
    assert near.cosine[0] == pytest.approx(1.0)
    assert near.nearest[6] == pytest.approx(0.0)
    assert twin_clusters(near) == [[0, 1, 2], [3, 4]]
    assert twin_clusters(near_pairs(torch.eye(4))) == []


def test_near_pairs_in_blocks_are_the_dense_ones():
    rows = torch.nn.functional.normalize(torch.randn(1500, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    near = near_pairs(rows, threshold=0.999)
    dense = torch.triu(rows @ rows.T, 1)
    assert len(near.cosine) == int((dense > 0.999).sum())
    assert near.cosine.min() > 0.999


def test_shared_firing_counts_tokens_of_both_over_tokens_of_either():
    codes = RaggedCodes(torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 2, 3, 4, 5]), torch.ones(5))
    found = shared_firing(codes, torch.tensor([0, 0, 3]), torch.tensor([1, 2, 4]))
    assert found.tolist() == [pytest.approx(1 / 3), 0.0, 0.0]


def test_repeated_directions_are_counted_and_told_apart_by_what_they_fire_on(codes):
    W = torch.eye(40)
    W[1] = W[0]  # fire together six times in ten
    W[12] = W[2]  # fire independently of each other
    found = run(Splitting, codes, W)
    assert found.values["share_with_near_duplicate"] == pytest.approx(4 / 40)
    assert found.values["twin_clusters"] == 2
    assert found.values["superfluous_share"] == pytest.approx(2 / 40)
    together = {tuple(row[:2]): row[3] for row in found.tables["twins"].rows}
    assert together[(0, 1)] > 0.35 > 0.15 > together[(2, 12)]
    bare = run(Splitting, codes, torch.eye(40))
    assert bare.values["twin_clusters"] == 0
    assert bare.values["shared_firing_of_twins"] is None
    assert any("no near-duplicates" in note for note in bare.notes)


def test_traces_are_those_of_a_true_training(make_job, train):
    [result] = train([make_job("topk_orthogonality", lr=1e-2, fraction=0.05)], 40)
    found = run(PairTraces, torch.ones(LENGTH, 2), torch.eye(2), TrainingLog.of({"log": list(result.log)}))
    assert 0 < found.values["selected/last_tenth"] < found.values["observed/last_tenth"]
    assert found.values["share_of_loss/first"] == pytest.approx(0.05, rel=1e-3)
    assert len(found.series["selected"]) == len(found.series["step"])
    assert len(found.figures[0].panels) == 4
    assert not found.notes


def test_a_log_without_pairs_has_its_term_alone_and_an_empty_one_is_told():
    rows = [{"step": 0.0, "term/sse": 2.0, "term/orthogonality": 0.1}]
    found = run(PairTraces, torch.ones(LENGTH, 2), torch.eye(2), TrainingLog(rows=rows))
    assert found.values["share_of_loss/first"] == pytest.approx(0.05)
    assert any("no number of pairs" in note for note in found.notes)
    with pytest.raises(DataError, match=r"holds no 'term/orthogonality' \(it is empty\)"):
        run(PairTraces, torch.ones(LENGTH, 2), torch.eye(2))


def test_all_are_registered_and_found(catalogue):
    specs = {spec.name: spec for spec in register_analyses()}
    assert list(specs) == ["pair_selection_stability", "decoder_cosines", "splitting", "matching", "pair_traces"]
    assert specs["pair_traces"].methods == ("topk_orthogonality",)
    for name in specs:
        assert catalogue.analysis(name).load() is not None
