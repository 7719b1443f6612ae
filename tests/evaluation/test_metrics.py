from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.errors import DataError, NonFiniteError, ShapeError
from harness.evaluation import metrics
from harness.interfaces.sae import RaggedCodes

X = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 4.0], [3.0, 4.0]])
"""Mean (2, 2); squared deviations sum to 4·1 + 4·4 = 20."""
X_HAT = torch.tensor([[1.0, 0.0], [3.0, 1.0], [1.0, 4.0], [1.0, 4.0]])
"""Squared error 1 + 4 = 5."""


def rows(seed: int, n: int = 24, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) + 1.0
    x_hat = x + 0.3 * torch.randn(n, d, generator=generator)
    return x, x_hat, torch.randint(0, 5, (n,), generator=generator)


def running(x: Tensor, x_hat: Tensor, document: Tensor, batch: int) -> metrics.RunningReconstruction:
    total = metrics.RunningReconstruction()
    for i in range(0, len(x), batch):
        total.update(x[i : i + batch], x_hat[i : i + batch], document[i : i + batch])
    return total


NAMES = ("fvu", "mse", "cosine", "l2_ratio", "relative_reconstruction_bias")


def all_of(total: metrics.RunningReconstruction) -> dict[str, tuple[float, float]]:
    values = {name: getattr(total, name)() for name in NAMES}
    return {name: (v.value, v.stderr) for name, v in values.items()}


# --- known answers ---------------------------------------------------------------------------------------------


def test_fvu_and_mse_by_hand():
    assert metrics.fvu(X, X_HAT).item() == 5 / 20
    assert metrics.mse(X, X_HAT).item() == 5 / 8


def test_fvu_is_zero_for_the_input_and_one_for_its_mean():
    assert metrics.fvu(X, X).item() == 0.0
    assert metrics.fvu(X, X.mean(0).expand_as(X)).item() == 1.0


def test_cosine_and_l2_ratio_by_hand():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    x_hat = torch.tensor([[6.0, 8.0], [0.0, 5.0], [0.0, 0.0], [1.0, 0.0]])
    assert metrics.cosine(x, x_hat).tolist() == [1.0, 0.0, 0.0, 0.0]
    ratio = metrics.l2_ratio(x, x_hat).tolist()
    assert ratio[:3] == [2.0, 5.0, 0.0]
    assert math.isnan(ratio[3])


def test_bias_is_the_factor_by_which_everything_is_shrunk():
    assert metrics.relative_reconstruction_bias(X, 0.75 * X).item() == pytest.approx(0.75, abs=1e-15)
    assert metrics.relative_reconstruction_bias(X, 0 * X).item() == 0.0


def test_bias_of_an_orthogonal_reconstruction_is_refused():
    with pytest.raises(DataError, match="undefined"):
        metrics.relative_reconstruction_bias(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))


def test_firing_counts_non_zero_latents_of_either_sign():
    codes = torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.5, 0.0]])
    assert metrics.l0(codes).tolist() == [2, 1]
    assert metrics.firing_counts(codes).tolist() == [0, 2, 1]


def test_kl_by_hand():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert metrics.kl_divergence(p.log() + 7, q.log() - 3).item() == pytest.approx(expected, rel=1e-6)
    assert metrics.kl_divergence(p.log(), p.log()).item() == 0.0


def test_kl_is_finite_where_a_softmax_would_round_to_zero():
    value = metrics.kl_divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, -300.0]))
    assert value.item() == pytest.approx(150 - math.log(2), rel=1e-6)


def test_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    assert metrics.cross_entropy(logits, torch.tensor([1, 0])).tolist() == pytest.approx(
        [math.log(4 / 3), math.log(2)], rel=1e-6
    )


def test_a_prediction_counts_where_it_and_its_target_count():
    mask = torch.tensor([[False, True, True, False, True, True], [False] * 5 + [True]])
    assert metrics.predicting_positions(mask).tolist() == [[False, True, False, False, True, False], [False] * 6]


def test_next_token_cross_entropy_pairs_a_position_with_the_token_after_it():
    tokens = torch.tensor([[0, 1, 2]])
    logits = torch.zeros(1, 3, 3)
    logits[0, 1, 2] = math.log(2.0)
    loss = metrics.next_token_cross_entropy(logits, tokens, torch.tensor([[False, True, True]]))
    assert loss.tolist() == pytest.approx([math.log(2.0)], rel=1e-6)


def test_ratio_and_its_standard_error_by_hand():
    estimate = metrics.ratio_estimate(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
    # Ratio 1; deviations -1 and +1; sqrt(2/1 · 2) / 4.
    assert (estimate.value, estimate.n, estimate.stderr) == (1.0, 2, 0.5)


def test_a_single_document_has_no_standard_error():
    assert metrics.ratio_estimate(torch.tensor([1.0]), torch.tensor([2.0])).stderr is None


def test_ratio_of_equal_sized_groups_has_the_standard_error_of_a_mean():
    means = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimate = metrics.ratio_estimate(means * 8, torch.full((50,), 8.0))
    assert estimate.stderr == pytest.approx((means.std() / math.sqrt(50)).item(), rel=1e-12)


def test_standard_error_agrees_with_the_jackknife_over_documents():
    x, x_hat, _ = rows(0, n=2000)
    document = torch.arange(2000) // 10
    leave_one_out = torch.stack([metrics.fvu(x[document != g], x_hat[document != g]) for g in range(200)])
    jackknife = math.sqrt(199 / 200 * (leave_one_out - leave_one_out.mean()).square().sum().item())
    assert running(x, x_hat, document, 512).fvu().stderr == pytest.approx(jackknife, rel=0.02)


def test_density_counts_dense_latents_and_bins_the_live_ones():
    codes = torch.zeros(1000, 4)
    codes[:, 0] = 1.0  # always: the last bin
    codes[:10, 1] = 1.0  # 1 %: not above it
    codes[:11, 2] = 1.0  # 1.1 %
    firings = metrics.RunningFirings(4)
    firings.update(codes, torch.zeros(1000, dtype=torch.int64))
    density = firings.density()
    assert density.value == 0.5
    assert firings.dead_fraction().value == 0.25
    assert firings.l0().value == pytest.approx(1021 / 1000)
    assert density.detail is not None
    counts = dict(zip(density.detail["log10_edges"], density.detail["counts"], strict=False))
    assert (counts[-0.25], counts[-2.0], sum(counts.values())) == (1, 2, 3)
    assert len(density.detail["log10_edges"]) == len(density.detail["counts"]) + 1


def test_ragged_codes_are_counted_as_the_dense_ones_they_stand_for():
    dense = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    ragged = RaggedCodes(
        torch.tensor([1, 2, 3, 1]), torch.tensor([0, 3, 3, 4]), torch.tensor([2.0, 0.0, -1.0, 3.0])
    )  # latent 2 of the first token has a slot and the value 0
    document = torch.tensor([0, 0, 1])
    found = metrics.RunningFirings(4), metrics.RunningFirings(4)
    for firings, codes in zip(found, (dense, ragged), strict=True):
        firings.update(codes, document)
        assert firings.counts.tolist() == [0, 2, 0, 1]
        assert firings.l0().value == 1.0
    assert found[0].l0() == found[1].l0()


def test_the_variation_may_be_measured_before():
    x, x_hat, document = rows(3)
    variation = metrics.RunningVariation()
    for i in range(0, len(x), 5):
        variation.update(x[i : i + 5], document[i : i + 5])
    given = metrics.RunningReconstruction(variation.total())
    given.update(x, x_hat, document)
    assert given.fvu().value == pytest.approx(metrics.fvu(x, x_hat).item(), rel=1e-12)
    assert given.fvu().stderr == pytest.approx(running(x, x_hat, document, 24).fvu().stderr, rel=1e-12)


# --- properties ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 30))
def test_values_do_not_depend_on_the_batch_size(seed: int, batch: int):
    data = rows(seed)
    whole, parts = all_of(running(*data, batch=24)), all_of(running(*data, batch=batch))
    for name in NAMES:
        assert parts[name] == pytest.approx(whole[name], rel=1e-12), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_values_do_not_depend_on_the_order_of_tokens(seed: int):
    x, x_hat, document = rows(seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    straight, mixed = running(x, x_hat, document, 7), running(x[order], x_hat[order], document[order], 7)
    for name in NAMES:
        assert all_of(mixed)[name] == pytest.approx(all_of(straight)[name], rel=1e-12), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 30))
def test_streaming_equals_the_pure_functions(seed: int, batch: int):
    x, x_hat, document = rows(seed)
    total = running(x, x_hat, document, batch)
    assert total.fvu().value == pytest.approx(metrics.fvu(x, x_hat).item(), rel=1e-12)
    assert total.mse().value == pytest.approx(metrics.mse(x, x_hat).item(), rel=1e-12)
    assert total.cosine().value == pytest.approx(metrics.cosine(x, x_hat).mean().item(), rel=1e-12)
    assert total.l2_ratio().value == pytest.approx(metrics.l2_ratio(x, x_hat).mean().item(), rel=1e-12)
    bias = metrics.relative_reconstruction_bias(x, x_hat).item()
    assert total.relative_reconstruction_bias().value == pytest.approx(bias, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_only_mse_depends_on_a_common_scale(seed: int, scale: float):
    x, x_hat, document = (t.double() if t.is_floating_point() else t for t in rows(seed))
    before, after = all_of(running(x, x_hat, document, 8)), all_of(running(scale * x, scale * x_hat, document, 8))
    for name in NAMES:
        factor = scale**2 if name == "mse" else 1.0
        assert after[name] == pytest.approx([factor * v for v in before[name]], rel=1e-9), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-1e4, 1e4))
def test_fvu_and_mse_do_not_depend_on_a_common_shift(seed: int, shift: float):
    x, x_hat, document = (t.double() if t.is_floating_point() else t for t in rows(seed))
    before, after = running(x, x_hat, document, 8), running(x + shift, x_hat + shift, document, 8)
    assert after.fvu().value == pytest.approx(before.fvu().value, rel=1e-9)
    assert after.mse().value == pytest.approx(before.mse().value, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-2, 1e2))
def test_cosine_does_not_depend_on_the_scale_of_the_reconstruction(seed: int, scale: float):
    x, x_hat, _ = rows(seed)
    assert torch.allclose(metrics.cosine(x, scale * x_hat.double()), metrics.cosine(x, x_hat), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_kl_is_not_negative_and_ignores_a_common_logit(seed: int):
    generator = torch.Generator().manual_seed(seed)
    p, q = 5 * torch.randn(2, 6, 11, generator=generator)
    kl = metrics.kl_divergence(p, q)
    assert bool((kl > 0).all())
    assert torch.allclose(metrics.kl_divergence(p + 2.0, q - 1.0), kl, rtol=1e-4, atol=1e-5)


def test_a_large_common_offset_costs_no_precision():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 2, generator=generator, dtype=torch.float64) + 1e7
    x_hat = x + 0.1
    document = torch.arange(1000) // 100
    assert running(x, x_hat, document, 3).fvu().value == pytest.approx(metrics.fvu(x, x_hat).item(), rel=1e-7)


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [metrics.fvu, metrics.mse, metrics.cosine, metrics.l2_ratio])
def test_unlike_shapes_are_refused(function):
    with pytest.raises(ShapeError, match=r"\(4, 2\) and \(4, 3\)"):
        function(X, torch.zeros(4, 3))


@pytest.mark.parametrize("function", [metrics.fvu, metrics.mse, metrics.relative_reconstruction_bias])
def test_no_rows_are_refused(function):
    with pytest.raises(DataError, match="no activations"):
        function(X[:0], X[:0])


def test_constant_rows_have_no_variance_to_explain():
    with pytest.raises(DataError, match="no variance"):
        metrics.fvu(torch.ones(3, 2), torch.zeros(3, 2))


def test_running_metrics_without_data_are_refused():
    for name in NAMES:
        with pytest.raises(DataError):
            getattr(metrics.RunningReconstruction(), name)()
    firings = metrics.RunningFirings(3)
    for name in ("l0", "dead_fraction", "density"):
        with pytest.raises(DataError):
            getattr(firings, name)()


def test_non_finite_values_are_refused():
    document = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(NonFiniteError, match="reconstruction"):
        metrics.RunningReconstruction().update(X, X * math.nan, document)
    with pytest.raises(NonFiniteError, match="codes"):
        metrics.RunningFirings(2).update(X * math.inf, document)
    with pytest.raises(NonFiniteError):
        metrics.ratio_estimate(torch.tensor([math.nan]), torch.tensor([1.0]))


def test_a_variation_of_other_documents_is_refused():
    variation = metrics.Variation(torch.tensor([7]), torch.tensor([20.0], dtype=torch.float64))
    total = metrics.RunningReconstruction(variation)
    total.update(X, X_HAT, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match="not of the same data"):
        total.fvu()


def test_misfitting_ragged_codes_are_refused():
    codes = RaggedCodes(torch.tensor([1, 5]), torch.tensor([0, 1, 2]), torch.ones(2))
    with pytest.raises(ShapeError, match="6 latents"):
        metrics.RunningFirings(4).update(codes, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="2 tokens"):
        metrics.RunningFirings(6).update(codes, torch.zeros(3, dtype=torch.int64))


def test_misfitting_documents_columns_and_targets_are_refused():
    with pytest.raises(ShapeError):
        metrics.RunningReconstruction().update(X, X, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError):
        metrics.RunningFirings(3).update(X, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ShapeError):
        metrics.GroupedSums("a", "b").add(torch.zeros(4, dtype=torch.int64), a=torch.ones(4))
    with pytest.raises(ShapeError):
        metrics.cross_entropy(torch.zeros(4, 5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError):
        metrics.kl_divergence(torch.zeros(4, 5), torch.zeros(4, 6))
    with pytest.raises(ShapeError):
        metrics.predicting_positions(torch.ones(2, 3))
