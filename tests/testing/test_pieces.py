"""The self-tests of a loss's pieces pass what is sound and catch the published faults."""

from __future__ import annotations

import math

import pytest
import torch

from harness.errors import ConformanceError
from harness.testing import check_competition, check_correlation, check_moving_maximum, check_schedule
from harness.training.pairs import competition, correlation, pair_statistics, select_pairs
from harness.training.relative_scale import RelativeScale


def tracker(kind, decay=0.99):
    """A moving maximum, or an average of that name."""

    def make():
        held = None

        def update(value):
            nonlocal held
            mean = value if held is None else decay * held + (1 - decay) * value
            held = {"max": max(value, mean), "ema": mean, "ever": max(value, held or value)}[kind]
            return held

        return update

    return make


def test_a_moving_maximum_is_at_least_its_last_input():
    check_moving_maximum(tracker("max"))


@pytest.mark.parametrize(("kind", "match"), [("ema", "at least its last input"), ("ever", "does not move")])
def test_an_average_and_a_maximum_of_all_are_caught(kind, match):
    with pytest.raises(ConformanceError, match=match):
        check_moving_maximum(tracker(kind))


def schedule(relative):
    def make():
        maximum = tracker("max")()

        def factor(loss):
            gap = maximum(loss) - loss
            return 1 / (1 + math.exp(min(700.0, -5 * gap / (maximum(loss) if relative else 1.0))))

        return factor

    return make


def test_a_schedule_of_a_ratio_has_no_units():
    check_schedule(schedule(relative=True))


def test_a_sigmoid_of_a_loss_is_caught():
    with pytest.raises(ConformanceError, match="times as large"):
        check_schedule(schedule(relative=False))


def test_a_share_of_the_loss_is_one_in_any_units():
    """RelativeScale's weight over the loss it is a share of."""

    def make():
        scale = RelativeScale()
        return lambda loss: scale.update(loss, 0.25) / loss

    check_schedule(make)


def dense(found, scores):
    table = torch.zeros(len(found.fires), len(found.fires))
    table[found.first, found.second] = scores
    return table + table.t()


@pytest.mark.parametrize("kind", ["cos", "phi", "jaccard"])
def test_the_harness_own_correlations_are_one_for_equal_columns(kind):
    def correlate(codes):
        found = pair_statistics(codes, 4, n_tokens=len(codes))
        return dense(found, correlation(found, kind))

    check_correlation(correlate)


def test_a_correlation_divided_by_the_tokens_is_caught():
    """Fault F38: columns of norm 1, and then the mean over the batch."""

    def correlate(codes):
        unit = codes / codes.norm(dim=0)
        return unit.t() @ unit / len(codes)

    with pytest.raises(ConformanceError, match="a threshold would select nothing"):
        check_correlation(correlate)


def test_a_correlation_that_keeps_the_graph_is_caught():
    weight = torch.ones((), requires_grad=True)
    with pytest.raises(ConformanceError, match="detach the codes"):
        check_correlation(lambda codes: weight * torch.corrcoef(codes.t()))


def test_a_shrunk_coefficient_passes_and_one_over_the_smaller_count_is_caught():
    """Fault F39: a latent seen once competes with all of its strength."""

    def of(kind):
        def compete(codes):
            found = pair_statistics(codes, 4, n_tokens=len(codes))
            return dense(found, competition(found, kind))

        return compete

    check_competition(of("shrunk"))
    with pytest.raises(ConformanceError, match="fired once"):
        check_competition(of("min"))


def test_pairs_seen_too_seldom_have_no_part_whatever_the_coefficient():
    def compete(codes):
        found = pair_statistics(codes, 4, n_tokens=len(codes))
        scores = competition(found, "min")
        kept = select_pairs(scores, found, fraction=1.0, min_count=3)
        return dense(found.at(kept), scores[kept])

    check_competition(compete)
