"""The registered analyses give the known answers of planted data, and their figures can be drawn."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from sae_harness_sparsity_guided_orthogonality.change import CompetitionChangeAnalysis
from sae_harness_sparsity_guided_orthogonality.counting import Counting, statistics
from sae_harness_sparsity_guided_orthogonality.graph_analysis import CompetitionGraphAnalysis
from sae_harness_sparsity_guided_orthogonality.held_out import (
    competition_options,
    places,
    sample,
    strongest_tokens,
    untrained,
)
from sae_harness_sparsity_guided_orthogonality.options import SparsityGuidedOptions
from sae_harness_sparsity_guided_orthogonality.plugin import register_analyses
from sae_harness_sparsity_guided_orthogonality.relations import CompetitionCosine, ThresholdEffectAnalysis
from sae_harness_sparsity_guided_orthogonality.traces import CompetitionTraces
from torch import Tensor

from harness import SAE, DataError, Graph, NotEvaluatedError, SAEConfig, TrainingLog
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.metrics import dense, n_active
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
    """[4096, 40] of planted twins (2i, 2i + 1)."""
    return torch.cat([stream.codes(seed) for seed in range(16)])


def log_of(**changes) -> TrainingLog:
    options = SparsityGuidedOptions(**changes)
    return TrainingLog(options={field.name: getattr(options, field.name) for field in fields(options)})


def test_planted_twins_are_the_communities_and_chance_has_none(codes):
    found = run(CompetitionGraphAnalysis, codes, torch.eye(40), log_of(threshold=0.4))
    assert found.values["edges"] == 20
    assert found.values["communities"] == 20
    assert found.values["mean_degree"] == 1.0
    assert found.values["modularity"] == pytest.approx(1 - 1 / 20, abs=0.01)
    assert found.values["edges/null"] == 0
    assert found.values["modularity/null"] < 0.8 < found.values["modularity"]
    pairs = {tuple(row[:3:2]) for row in found.tables["competitors"].rows}
    assert pairs == {(i, i ^ 1) for i in range(40)}


def test_competitors_come_with_tokens_on_which_both_fire(codes):
    found = run(CompetitionGraphAnalysis, codes, torch.eye(40), log_of(threshold=0.4))
    latent, _, other, *_, told = found.tables["competitors"].rows[0]
    for place in told.split(" | "):
        token = int(place[place.index("[") + 1 : -1])  # the store numbers its tokens
        assert f"document {token // LENGTH}, position {token % LENGTH}" in place
        assert codes[token, latent] > 0
        assert codes[token, other] > 0


def test_a_graph_without_edges_is_told(codes):
    alone = torch.eye(40).repeat(8, 1)
    found = run(CompetitionGraphAnalysis, alone, torch.eye(40))
    assert (found.values["edges"], found.values["modularity"]) == (0, None)
    assert any("No pair competes" in note for note in found.notes)
    with pytest.raises(DataError, match="No latent fires"):
        run(CompetitionGraphAnalysis, torch.zeros(64, 40), torch.eye(40))


def test_rows_that_follow_competition_correlate_with_it_and_untrained_ones_do_not(codes):
    W = torch.eye(40)
    W[1::2] += W[::2]  # twins have cosine .71, others 0
    found = run(CompetitionCosine, codes, W, log_of(threshold=0.4)).values
    assert found["competing_pairs/this_SAE"] == 20
    assert found["mean_cosine_of_competing/this_SAE"] == pytest.approx(0.5**0.5)
    assert found["spearman/this_SAE"] > 0.25 > abs(found["spearman/its_initialisation"])
    assert run(CompetitionCosine, codes, torch.eye(40)).values["spearman/this_SAE"] is None


def test_untrained_codes_are_those_of_the_centred_activations(codes):
    sae, context = CodesAreInputs(torch.eye(40)), context_of(codes)
    with torch.no_grad():
        found = sample(sae, context, 64)
        rows, sparse, name, note = untrained(sae, context, found, NO_LOG)
    assert name == "its initialisation"
    assert "drawn anew" in note
    k = round(float((codes > 0).sum(1).double().mean()))
    assert set(n_active(sparse).tolist()) == {k}
    products = (codes - codes.mean(0)) @ rows.T
    f = dense(sparse, 40)
    torch.testing.assert_close(f.sum(1), products.topk(k, dim=1).values.sum(1), atol=1e-4, rtol=1e-4)


def test_a_known_seed_gives_the_true_initialisation(make_job, stream):
    job = make_job("sparsity_guided_orthogonality", seed=5)
    job.sae.reset_parameters(torch.Generator().manual_seed(5))
    begun = torch.nn.functional.normalize(job.sae.decoder_directions().detach(), dim=1)
    sae = copy.deepcopy(job.sae).requires_grad_(False).eval()
    sae.W_dec.copy_(sae.W_dec.flip(0))  # as if trained
    context = context_of(stream.batch(0).activations)
    with torch.no_grad():
        found = sample(sae, context, 64)
        rows, *_, note = untrained(sae, context, found, TrainingLog(seed=5, steps=40))
    assert torch.equal(rows, begun)
    assert "training seed 5" in note


class WordContext(StoreEvalContext):
    """With a tokenizer whose tokens are ` w0`, ` w1`, …; the 0th ends a line."""

    def token_text(self, ids):
        return ["\n" if i == 0 else f" w{i}" for i in ids]


def test_examples_are_text_where_there_is_a_tokenizer(codes):
    sae = CodesAreInputs(torch.eye(40))
    store = MemoryStore(codes.view(-1, LENGTH, 40))
    context = WordContext(store, hookpoint="here", data_id="d", seed=3)
    with torch.no_grad():
        found = sample(sae, context, 64)
        where = places(sae, context, found)
        [best] = strongest_tokens(sae, context, found, torch.tensor([4]))
        result = CompetitionGraphAnalysis().run(sae, context, log_of(threshold=0.4))
    assert where[1] == "document 0, position 1: ⏎[ w1]"
    assert where[9] == "document 0, position 9: w4 w5 w6 w7 w8[ w9]".replace(": w4", ":  w4")
    assert best == f"w{int(codes[:, 4].argmax())}"
    assert not any("token ids" in note for note in result.notes)
    drawn = next(panel.marks[0] for panel in result.figures[0].panels if isinstance(panel.marks[0], Graph))
    assert all(" w" in label for label in drawn.nodes)


def beside(codes: Tensor, ours: Tensor, theirs: Tensor):
    """`competition_change` of an SAE of rows `ours` against one of rows `theirs`, both with the same codes."""
    analysis = CompetitionChangeAnalysis()
    analysis.reference = Reference(label="without", sae=CodesAreInputs(theirs).eval(), training=NO_LOG)
    with torch.no_grad():
        result = analysis.run(CodesAreInputs(ours), context_of(codes), log_of(threshold=0.4))
    json.dumps(result.to_json(), allow_nan=False)
    return result


def test_rows_that_turn_while_latents_compete_as_before_are_told_apart_from_less_competition(codes):
    twins = torch.eye(40)
    twins[1::2] += twins[::2]
    found = beside(codes, torch.eye(40), twins).values
    assert found["overlap_ratio"] == pytest.approx(1.0)
    assert (found["pairs/reference"], found["pairs/this_SAE"]) == (20, 20)
    assert found["weighed_cosine/reference"] == pytest.approx(0.5**0.5)
    assert found["weighed_cosine/this_SAE"] == 0.0
    assert CompetitionChangeAnalysis.compares
    with pytest.raises(NotEvaluatedError, match="give it a reference"):
        run(CompetitionChangeAnalysis, codes, torch.eye(40))


def test_a_sample_has_the_codes_and_places_of_its_tokens(codes, monkeypatch):
    monkeypatch.setattr("sae_harness_sparsity_guided_orthogonality.held_out.MAX_TOKENS", 100)
    sae, context = CodesAreInputs(torch.eye(40)), context_of(codes)
    with torch.no_grad():
        found = sample(sae, context, 64)
        where = places(sae, context, found)
        best = strongest_tokens(sae, context, found, torch.tensor([0, 7]))
    assert best == ["", ""]  # no tokenizer: no text
    assert found.n == len(where) == 100
    tokens = [int(place[place.index("[") + 1 : -1]) for place in where]
    assert tokens == sorted(set(tokens))
    torch.testing.assert_close(dense(found.codes, 40), codes[tokens])


def test_thresholds_leave_the_twins_and_then_nothing(codes):
    found = run(ThresholdEffectAnalysis, codes, torch.eye(40))
    table = {row[0]: row for row in found.tables["thresholds"].rows}
    columns = found.tables["thresholds"].columns
    assert table[0.4][columns.index("n_pairs")] == 20
    assert table[0.4][columns.index("n_pairs_null")] == 0
    assert table[0.0][columns.index("n_pairs_null")] > 700
    assert found.values["threshold"] == 0.1


def test_a_share_of_pairs_becomes_the_threshold_that_leaves_it(codes):
    options = SparsityGuidedOptions(threshold_kind="top", threshold=20 / 780)
    sae, context = CodesAreInputs(torch.eye(40)), context_of(codes)
    with torch.no_grad():
        found = statistics(sample(sae, context, 64).codes, sae, options)
    chosen = Counting.of(options, found).edges(found)
    assert len(chosen.c) == 20
    assert bool((chosen.second == chosen.first + 1).all())


def test_options_come_from_the_log_or_are_the_defaults():
    assert competition_options(log_of(competition="shrunk"))[0].competition == "shrunk"
    options, note = competition_options(NO_LOG)
    assert options == SparsityGuidedOptions()
    assert "was not trained" in note


def test_traces_are_those_of_a_true_training(make_job, train):
    [result] = train([make_job("sparsity_guided_orthogonality", lr=1e-2)], 40)
    log = TrainingLog.of({"log": list(result.log)})
    found = run(CompetitionTraces, torch.ones(LENGTH, 2), torch.eye(2), log)
    assert found.values["sum_w/last_tenth"] > 0
    assert found.values["share_of_loss/first"] == pytest.approx(0.02, rel=1e-3)
    assert len(found.figures[0].panels) == 6
    assert not found.notes
    with pytest.raises(DataError, match=r"holds no 'term/orthogonality' \(it is empty\)"):
        run(CompetitionTraces, torch.ones(LENGTH, 2), torch.eye(2))


def test_all_are_registered_and_found(catalogue):
    specs = {spec.name: spec for spec in register_analyses()}
    assert list(specs) == [
        "competition_graph",
        "competition_cosine",
        "competition_change",
        "threshold_effect",
        "competition_traces",
    ]
    assert specs["competition_traces"].methods == ("sparsity_guided_orthogonality",)
    for name in specs:
        assert catalogue.analysis(name).load() is not None
