"""What is won per unit paid: known ratios, Fieller's interval, and no ratio to nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import ConfigError, RecordError
from harness.results.trade import fieller, trade


@pytest.fixture
def side(factory):
    """Records in which the first metric falls with the seed, and neither depends on L0."""

    def make(
        method: str, ce: float, fvu: float, *, spread: float = 0.0, seeds=factory.SEEDS, grid=factory.GRID, **more
    ):
        return [
            factory.make_record(
                method,
                seed=seed,
                target_l0=l0,
                values={"ce_loss_recovered": ce - 0.01 * seed, "fvu": fvu + spread * (seed - 1)},
                **more,
            )
            for seed in seeds
            for l0 in grid
        ]

    return make


def test_what_is_won_and_paid_is_turned_so_that_more_is_more(factory, side):
    ce, fvu = factory.CE, factory.FVU
    found = trade(side("temporal", 0.9, 0.12), side("topk", 0.8, 0.10), (ce, fvu))
    assert found.won.estimate == pytest.approx(0.1)
    assert found.paid.estimate == pytest.approx(0.02)
    assert (found.ratio, found.low, found.high) == (pytest.approx(5.0),) * 3
    assert (found.candidate, found.baseline, found.metrics, found.n) == (
        "temporal",
        "topk",
        ("ce_loss_recovered", "fvu"),
        3,
    )
    assert found.l0 == pytest.approx((8.0, 64.0))
    back = trade(side("temporal", 0.9, 0.12), side("topk", 0.8, 0.10), (fvu, ce))
    assert (back.won.estimate, back.paid.estimate) == (pytest.approx(-0.02), pytest.approx(-0.1))


def test_the_interval_is_fiellers():
    ratio, low, high = fieller([0.2, 0.21, 0.19], [0.1, 0.09, 0.11])
    assert ratio == pytest.approx(2.0)
    # The bounds are the ratios at which mean(a - r b) is t standard errors from 0.
    for r in (low, high):
        each = [a - r * b for a, b in zip([0.2, 0.21, 0.19], [0.1, 0.09, 0.11], strict=True)]
        mean = sum(each) / 3
        stderr = (sum((e - mean) ** 2 for e in each) / 2 / 3) ** 0.5
        assert abs(mean) / stderr == pytest.approx(4.30265, rel=1e-4)
    with pytest.raises(ValueError, match="two pairs or more"):
        fieller([1.0], [1.0])


def test_a_ratio_to_nothing_is_no_number(factory, side):
    ce, fvu = factory.CE, factory.FVU
    found = trade(side("temporal", 0.9, 0.1001, spread=0.01), side("topk", 0.8, 0.10), (ce, fvu))
    assert found.ratio is None
    assert found.paid.low < 0 < found.paid.high


def test_what_cannot_be_traded_is_told(factory, side):
    ce, fvu, topk = factory.CE, factory.FVU, side("topk", 0.8, 0.1)
    with pytest.raises(ConfigError, match="twice"):
        trade(side("temporal", 0.9, 0.1), topk, (ce, ce))
    with pytest.raises(ConfigError, match="no direction"):
        trade(side("temporal", 0.9, 0.1), topk, (ce, factory.DENSITY))
    with pytest.raises(RecordError, match="paired by seed"):
        trade(side("temporal", 0.9, 0.1, seeds=(0, 1)), topk, (ce, fvu))
    with pytest.raises(RecordError, match="two protocols"):
        trade(side("temporal", 0.9, 0.1, protocol=replace(factory.PROTOCOL, d_sae=8)), topk, (ce, fvu))
    with pytest.raises(RecordError, match="No L0 is reached"):
        trade(side("temporal", 0.9, 0.1, grid=(2, 4)), topk, (ce, fvu))
    with pytest.raises(RecordError, match="ce_loss_recovered is not in temporal"):
        trade([factory.make_record("temporal", values={"fvu": 1.0})], topk, (ce, fvu))
