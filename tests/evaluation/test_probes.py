"""Probes: the optimum scikit-learn finds, scores with known answers, and errors that say what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from harness.errors import DataError, NonFiniteError, ShapeError
from harness.evaluation.probes import _solve, auc, fit_logistic, reduce, score


def stack(b: int = 5, n: int = 60, p: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, p, generator=generator)
    y = (x[..., 0] - 0.5 * x[..., 1] + torch.randn(b, n, generator=generator) > 0.3).double()
    return x, y, torch.ones(b, n)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_coefficients_are_those_of_scikit_learn(c):
    x, y, weights = stack()
    probe = fit_logistic(x, y, weights, torch.full((5,), c))
    for task in range(5):
        peer = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        peer.fit(x[task].double().numpy(), y[task].numpy())
        assert probe.coefficients[task].numpy() == pytest.approx(peer.coef_[0], abs=1e-6)
        assert float(probe.intercept[task]) == pytest.approx(float(peer.intercept_[0]), abs=1e-6)


def test_padding_changes_nothing():
    x, y, weights = stack()
    weights[:, 40:] = 0
    spoiled = x.clone()
    spoiled[:, 40:] = 1e3
    padded = fit_logistic(spoiled, y, weights, torch.ones(5))
    alone = fit_logistic(x[:, :40], y[:, :40], weights[:, :40], torch.ones(5))
    assert torch.allclose(padded.coefficients, alone.coefficients, atol=1e-6)


def test_a_problem_does_not_depend_on_its_stack():
    x, y, weights = stack()
    together = fit_logistic(x, y, weights, torch.ones(5))
    alone = fit_logistic(x[3:4], y[3:4], weights[3:4], torch.ones(1))
    assert torch.allclose(together.coefficients[3], alone.coefficients[0], atol=1e-7)


def test_separable_classes_have_a_finite_probe():
    x = torch.tensor([[[-1.0], [-2.0], [1.0], [2.0]]])
    y = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    probe = fit_logistic(x, y, torch.ones(1, 4), torch.tensor([1e4]))
    logits = probe.logits(x)
    assert ((logits > 0) == (y > 0)).all()
    assert torch.isfinite(probe.coefficients).all()


def test_wide_features_are_fitted_in_the_span_of_the_examples():
    generator = torch.Generator().manual_seed(1)
    x, others = torch.randn(30, 200, generator=generator), torch.randn(10, 200, generator=generator)
    y = (x[:, 0] > 0).double()
    reduced = reduce(x, others)
    probe = fit_logistic(reduced.training[None], y[None], torch.ones(1, 30), torch.ones(1))
    peer = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(x.double().numpy(), y.numpy())
    expected = peer.decision_function(others.double().numpy())
    assert probe.logits(reduced.others[None])[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_features_that_are_all_zero_give_chance():
    reduced = reduce(torch.zeros(6, 3), torch.zeros(2, 3))
    y = torch.tensor([[0.0, 1.0] * 3])
    probe = fit_logistic(reduced.training[None], y, torch.ones(1, 6), torch.ones(1))
    assert probe.logits(reduced.others[None]).abs().max() < 1e-9


def test_scores_are_those_of_scikit_learn():
    x, y, weights = stack(n=41)
    logits = x[..., 0].double() - 0.1
    found = score(logits, y, weights)
    for task in range(5):
        said, truth = (logits[task] > 0).numpy(), y[task].numpy()
        assert float(found.auc[task]) == pytest.approx(roc_auc_score(truth, logits[task].numpy()))
        assert float(found.f1[task]) == pytest.approx(f1_score(truth, said))
        share = float((said == truth).mean())
        assert float(found.accuracy[task]) == pytest.approx(share)
        assert float(found.accuracy_stderr[task]) == pytest.approx(math.sqrt(share * (1 - share) / 41))


def test_the_standard_errors_are_the_spread_of_repeated_draws():
    generator = torch.Generator().manual_seed(2)
    y = (torch.arange(100) % 2).double().expand(600, 100)
    logits = y + torch.randn(600, 100, generator=generator, dtype=torch.float64) - 0.5
    found = score(logits, y, torch.ones(600, 100))
    for name in ("accuracy", "auc", "f1"):
        spread = float(getattr(found, name).std())
        assert float(getattr(found, f"{name}_stderr").mean()) == pytest.approx(spread, rel=0.15), name


def test_ties_count_half_and_perfect_order_counts_one():
    y = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    logits = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4], [4, 3, 2, 1]])
    area, error = auc(logits, y, torch.ones(3, 4))
    assert area.tolist() == [0.5, 1.0, 0.0]
    assert error.tolist() == [0.0, 0.0, 0.0]


def test_one_class_alone_is_refused():
    x, _, weights = stack()
    with pytest.raises(DataError, match="one class alone"):
        fit_logistic(x, torch.ones(5, 60), weights, torch.ones(5))
    with pytest.raises(DataError, match="both classes"):
        auc(x[..., 0], torch.ones(5, 60), weights)


def test_features_that_are_not_finite_are_refused():
    x, y, weights = stack()
    x[0, 0, 0] = float(np.nan)
    with pytest.raises(NonFiniteError, match="probe's features"):
        fit_logistic(x, y, weights, torch.ones(5))


def test_shapes_that_do_not_fit_are_told():
    x, y, weights = stack()
    with pytest.raises(ShapeError, match=r"labels and weights \[b, n\]"):
        fit_logistic(x, y[:, 1:], weights, torch.ones(5))


def test_newton_systems_are_solved_exactly_in_any_batch_and_singular_ones_too():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(9, 64, 128, generator=generator, dtype=torch.float64)
    matrices = h @ h.mT / 64
    wanted = torch.randn(9, 64, generator=generator, dtype=torch.float64)
    right = torch.einsum("bpq,bq->bp", matrices, wanted)
    torch.testing.assert_close(_solve(matrices, right), wanted)
    # An intercept of which nothing depends: any value solves its row.
    matrices[0, -1], matrices[0, :, -1], right[0, -1] = 0.0, 0.0, 0.0
    found = _solve(matrices, right)
    torch.testing.assert_close(torch.einsum("bpq,bq->bp", matrices, found), right, rtol=1e-6, atol=1e-6)
