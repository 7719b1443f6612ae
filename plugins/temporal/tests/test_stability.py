"""The evaluator, from codes whose agreement is known."""

from __future__ import annotations

import pytest
import torch
from sae_harness_temporal import stability
from sae_harness_temporal.plugin import STABILITY
from sae_harness_temporal.stability import StabilityEvaluator

from harness import SAE, RaggedCodes, SAEConfig
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae


class Identity(SAE):
    """Codes are the activations."""

    def __init__(self, d_in: int) -> None:
        super().__init__(SAEConfig(architecture="identity", d_in=d_in, d_sae=d_in))

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        return x

    def decode(self, codes):
        return codes

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return torch.eye(self.config.d_in)


def run(context, d_in, options=None):
    planned = [PlannedEvaluator(STABILITY, StabilityEvaluator, options or {})]
    (outcome,) = evaluate_sae(Identity(d_in), planned, context).outcomes.values()
    return outcome


def measure(context, d_in):
    outcome = run(context, d_in)
    assert outcome.status == "done", outcome.reason
    return {name: metric.value for name, metric in outcome.metrics.items()}


def one_hot(*latents: int, d: int = 6) -> torch.Tensor:
    return torch.eye(d)[list(latents)]


def test_codes_that_stay_and_differ_between_documents_are_perfectly_steady(make_context):
    found = measure(make_context(torch.stack([one_hot(0, 0, 0), one_hot(1, 1, 1), one_hot(2, 2, 2)])), 6)
    assert found == {
        "temporal_distance": 0.0,
        "temporal_distance_shuffled": 2.0,
        "temporal_gain": 1.0,
        "lag1_jaccard": 1.0,
        "flip_rate": 0.0,
    }


def test_codes_that_always_change_are_at_distance_2(make_context):
    found = measure(make_context(torch.stack([one_hot(0, 1, 0), one_hot(2, 3, 4)])), 6)
    assert found["temporal_distance"] == 2.0
    assert found["lag1_jaccard"] == 0.0
    assert found["flip_rate"] == 1.0


def test_codes_without_memory_gain_nothing(make_context):
    codes = torch.rand(200, 20, 12, generator=torch.Generator().manual_seed(0))
    outcome = run(make_context(codes * (codes > 0.7)), 12)
    gain = outcome.metrics["temporal_gain"]
    assert gain.n == 200
    assert gain.stderr is not None
    assert abs(gain.value) < 4 * gain.stderr < 0.05


def test_hand_computed_pairs_that_are_negative_overlap_or_change_size(make_context):
    # Pairs: (2, -1, 0) then (1, 0, 3): |-1| + |1| + |3| = 5 of (3 + 4) / 2; active {0, 1} then {0, 2}.
    first = torch.tensor([[2.0, -1.0, 0.0], [1.0, 0.0, 3.0]])
    # (1, 1, 1) then (1, 1, 0): 1 of 2.5; active {0, 1, 2} then {0, 1}.
    second = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = measure(make_context(torch.stack([first, second])), 3)
    assert found["temporal_distance"] == pytest.approx((5 / 3.5 + 1 / 2.5) / 2)
    assert found["lag1_jaccard"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert found["flip_rate"] == pytest.approx(1 / 4)
    # With one pair a document, the stranger is the other document's first token: (1, 1, 1) and (2, -1, 0).
    assert found["temporal_distance_shuffled"] == pytest.approx((3 / 3.5 + 3 / 2.5) / 2)
    assert found["temporal_gain"] == pytest.approx(1 - found["temporal_distance"] / found["temporal_distance_shuffled"])


def test_distances_of_sparse_codes_are_those_of_the_dense_ones():
    generator = torch.Generator().manual_seed(0)
    f, g = (torch.randn(40, 30, generator=generator) for _ in range(2))
    f, g = f * (f > 0.9), g * (g.abs() > 1.4)
    f[:, 7] = 1.0  # no f is empty
    g[3] = 0.0
    g[5] = f[5]
    distance, n_shared = stability._compare(ragged(f), ragged(g))
    f, g = f.double(), g.double()
    wanted = (f - g).abs().sum(1) / (0.5 * (f.abs().sum(1) + g.abs().sum(1)))
    assert distance.tolist() == pytest.approx(wanted.tolist(), rel=1e-12)
    assert (distance[3], distance[5]) == (2.0, 0.0)
    assert n_shared.tolist() == ((f != 0) & (g != 0)).sum(1).tolist()


def ragged(codes: torch.Tensor) -> RaggedCodes:
    tokens, latents = codes.nonzero(as_tuple=True)
    counts = torch.bincount(tokens, minlength=len(codes))
    return RaggedCodes(latents, torch.cat([torch.zeros(1).long(), counts.cumsum(0)]), codes[tokens, latents])


def test_pairs_do_not_cross_sequences_or_uncounted_tokens(make_context):
    activations = torch.stack([one_hot(0, 0, 1, 1), one_hot(2, 2, 3, 3)])
    mask = torch.tensor([[True, True, False, True], [True, True, False, True]])
    document = torch.tensor([0, 1])
    found = measure(make_context(activations, mask, document), 6)
    assert found["temporal_distance"] == 0.0  # (0, 0) and (2, 2) alone


def test_pairs_whose_second_code_is_empty_are_left_out(make_context):
    empty = torch.zeros(1, 6)
    rows = [torch.cat([one_hot(0, 0), empty, empty, one_hot(1)]), torch.cat([one_hot(2, 2), empty, empty, one_hot(3)])]
    found = measure(make_context(torch.stack(rows)), 6)
    # Left: the first pairs at distance 0, and the last ones, whose first code is empty, at 2.
    assert found["temporal_distance"] == 1.0
    assert found["flip_rate"] == 0.5


def test_values_do_not_depend_on_the_size_of_batches(make_context, world):
    activations = world.sequences(9, 11, seed=1)
    mask = torch.rand(9, 11, generator=torch.Generator().manual_seed(2)) > 0.2
    document = torch.tensor([3, 3, 1, 1, 7, 7, 7, 0, 0])
    reference = measure(make_context(activations, mask, document), 24)
    for batch_sequences in (1, 4):
        found = measure(make_context(activations, mask, document, batch_sequences=batch_sequences), 24)
        assert found == pytest.approx(reference, rel=1e-12)


def test_the_null_depends_on_the_seed_and_on_nothing_else(make_context, world):
    activations = world.sequences(9, 11, seed=1)
    first, again, other = (measure(make_context(activations, seed=seed), 24) for seed in (3, 3, 4))
    assert first == again
    assert first["temporal_distance_shuffled"] != other["temporal_distance_shuffled"]
    assert first["temporal_distance"] == other["temporal_distance"]


@pytest.mark.parametrize("pool", [40, 4096])
def test_partners_are_first_tokens_of_other_documents(make_context, monkeypatch, pool):
    monkeypatch.setattr(stability, "POOL", pool)
    n, length = 12, 9
    document = torch.randint(0, 5, (n,), generator=torch.Generator().manual_seed(0))
    row = torch.arange(float(n * length)).view(n, length, 1)
    shared = stability._partners(make_context(row, document=document))
    assert len(shared["partner"]) == n * (length - 1)
    assert len(shared["activations"]) == min(pool, n * (length - 1))
    partners = shared["activations"][shared["partner"], 0].long()
    own = document.repeat_interleave(length - 1)
    assert not bool((document[partners // length] == own).any())
    assert bool((partners % length < length - 1).all())  # the last token of a sequence precedes none


def test_one_document_is_refused(make_context):
    outcome = run(make_context(torch.stack([one_hot(0, 1), one_hot(2, 3)]), document=torch.tensor([5, 5])), 6)
    assert outcome.status == "failed"
    assert "neighbouring tokens of 1 documents are too few" in outcome.reason


def test_data_without_neighbours_is_refused(make_context):
    outcome = run(make_context(torch.stack([one_hot(0), one_hot(2)])), 6)
    assert outcome.status == "failed"
    assert "0 neighbouring tokens" in outcome.reason


def test_an_sae_that_is_silent_has_no_value(make_context):
    outcome = run(make_context(torch.zeros(3, 4, 6)), 6)
    assert outcome.status == "failed"
    assert "no latent is active" in outcome.reason


def test_nan_codes_are_refused(make_context):
    activations = torch.stack([one_hot(0, 1), one_hot(2, 3)])
    activations[0, 0, 0] = float("nan")
    assert "NaN or infinite" in run(make_context(activations), 6).reason


def test_options_are_refused(make_context):
    context = make_context(torch.stack([one_hot(0, 0), one_hot(1, 1)]))
    assert "takes no options, got lag" in run(context, 6, {"lag": 2}).reason
