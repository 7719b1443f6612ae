"""Ranks: ties by noise, and who is not ranked and why."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from harness.errors import RecordError, UnknownNameError
from harness.results.leaderboard import leaderboard
from harness.results.record import EvaluationEntry, Taint


def noisy(level, sd=0.001, salt=""):
    def value(seed, l0):
        return 0.5 - 0.08 * math.log(l0) + level + random.Random(f"{salt} {seed} {l0:.6g}").gauss(0, sd)

    return value


@pytest.fixture
def board(factory):
    def build(*sides, metrics=None, **options):
        named = {(r := side[0].method).name + (f"@{r.preset}" if r.preset else ""): side for side in sides}
        return leaderboard(named, metrics or [factory.L0, factory.FVU], **options)

    return build


def lines(found):
    return {entry.label: entry for entry in found.entries}


def test_methods_that_noise_does_not_part_share_a_rank(factory, board):
    found = board(
        factory.make_side("good", noisy(0.0, salt="a")),
        factory.make_side("equal", noisy(0.0, salt="b")),
        factory.make_side("poor", noisy(0.1, salt="c")),
    )
    ranks = {label: (e.rank, e.worst_rank) for label, e in lines(found).items()}
    assert ranks == {"good": (1, 2), "equal": (1, 2), "poor": (3, 3)}
    assert found.entries[-1].label == "poor"
    assert found.primary == "fvu"


def test_a_method_that_varies_much_stands_by_its_mean_with_all_the_ranks_it_can_have(factory, board):
    found = board(
        factory.make_side("good", noisy(0.0, salt="a")),
        factory.make_side("poor", noisy(0.1, salt="c")),
        factory.make_side("wild", lambda seed, l0: noisy(0.15)(seed, l0) + (-0.2, 0.0, 0.2)[seed]),
    )
    assert [(e.label, e.rank, e.worst_rank) for e in found.entries] == [("good", 1, 2), ("poor", 2, 3), ("wild", 1, 3)]


def test_a_method_that_is_there_twice_is_listed_and_tightens_no_correction(factory, board):
    sides = [factory.make_side(name, noisy(0.01 * i, salt=name)) for i, name in enumerate("abc")]
    alone = board(*sides[:2])
    found = board(*sides, unranked={"c": "stored too: ranked once"})
    assert lines(found)["c"].reason == "stored too: ranked once"
    assert lines(found)["c"].rank is None
    assert [lines(found)[x].worst_rank for x in "ab"] == [lines(alone)[x].worst_rank for x in "ab"]


def test_equal_methods_are_ranked_apart_in_five_per_cent_of_leaderboards(factory):
    """Six methods without a difference, three seeds: each pair alone is parted in one list of twenty, and more than a
    fifth of all lists would rank some of them apart."""
    rng, boards, wrong = random.Random(5), 300, 0
    for _ in range(boards):
        sides = {
            name: factory.make_side(name, lambda s, l0: 0.1 + rng.gauss(0, 0.001), grid=(32,)) for name in "abcdef"
        }
        found = leaderboard(sides, [factory.L0, factory.FVU])
        wrong += any(entry.rank != 1 for entry in found.entries)
    assert wrong / boards <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / boards)


def test_clear_differences_are_ranked_among_many_methods(factory):
    rng = random.Random(6)
    sides = {
        name: factory.make_side(name, lambda s, l0, m=mean: m + rng.gauss(0, 0.0001), grid=(32,))
        for name, mean in {"a": 0.1, "b": 0.1, "c": 0.2, "d": 0.2, "e": 0.3, "f": 0.4}.items()
    }
    found = leaderboard(sides, [factory.L0, factory.FVU])
    assert {entry.label: entry.rank for entry in found.entries} == {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5, "f": 6}
    assert any("15 pairs of methods" in note and "5 % at most" in note for note in found.notes)


def test_a_difference_that_its_pair_alone_would_show_is_a_tie_among_many(factory):
    def values(shift):
        return lambda seed, l0: 0.1 + shift + 0.001 * seed

    def jittered(seed, l0):
        return 0.1 + 0.001 * seed + 0.003 + 0.0004 * (seed - 1)  # t = 13 paired, p = .006

    two = {"a": factory.make_side("a", values(0.0), grid=(32,)), "b": factory.make_side("b", jittered, grid=(32,))}
    others = {
        name: factory.make_side(name, noisy(0.3, sd=0.05, salt=name), grid=(32,))
        for name in ("c", "d", "e", "f", "g", "h")
    }
    alone = lines(leaderboard(two, [factory.L0, factory.FVU]))
    among = lines(leaderboard({**two, **others}, [factory.L0, factory.FVU]))
    assert (alone["a"].rank, alone["b"].rank) == (1, 2)
    assert among["b"].rank == 1


def test_one_pair_needs_no_correction_and_no_note(factory, board):
    found = board(factory.make_side("good", noisy(0.0)), factory.make_side("poor", noisy(0.1, salt="c")))
    assert not any("pairs of methods" in note for note in found.notes)


def test_rank_follows_the_metrics_direction(factory, board):
    sides = [factory.make_side("low", noisy(0.0)), factory.make_side("high", noisy(0.1, salt="b"))]
    assert board(*sides).entries[0].label == "low"
    assert board(*sides, metrics=[replace(factory.FVU, better="higher")]).entries[0].label == "high"


def test_values_stand_for_the_l0_common_to_the_ranked(factory, board):
    def line(seed, l0):
        return math.log2(l0)

    found = board(factory.make_side("a", line), factory.make_side("b", line, l0=lambda s, t: 2.0 * t))
    assert found.window == pytest.approx((16, 64))
    assert [e.values["fvu"].mean for e in found.entries] == pytest.approx([5.0, 5.0])


def test_a_method_without_overlap_does_not_narrow_the_others(factory, board):
    found = board(
        factory.make_side("a", noisy(0.0)),
        factory.make_side("b", noisy(0.0, salt="b")),
        factory.make_side("far", noisy(0.0), l0=lambda s, t: 100.0 * t),
    )
    assert found.window == pytest.approx((8, 64))
    far = lines(found)["far"]
    assert (far.rank, far.values, far.reason) == (None, {}, "no overlap in L0: 800–6400 against 8–64")


def test_who_is_not_ranked_is_listed_with_the_reason(factory, board):
    failed = {"core": EvaluationEntry(status="failed", reason="out of memory")}
    found = lines(
        board(
            factory.make_side("topk", noisy(0.0)),
            factory.make_side("identity", lambda s, l0: 0.0, grid=(None,), l0=lambda s, t: 192.0, control=True),
            factory.make_side("random", noisy(0.4), control=True),
            factory.make_side("idea", noisy(0.0), preset="run4", faulty=True),
            factory.make_side("single", noisy(-0.2), seeds=(0,)),
            factory.make_side("broken", noisy(0.0), metric="other", evaluations=failed),
            factory.with_protocol(factory.make_side("shorter", noisy(-0.2)), n_tokens=1),
            factory.make_side("old", noisy(-0.2), versions={"fvu": 7}),
        )
    )
    assert found["topk"].rank == 1
    reasons = {label: e.reason for label, e in found.items() if e.rank is None}
    assert reasons == {
        "identity": "control",
        "random": "control",
        "idea@run4": "faulty preset",
        "single": "n=1 seed",
        "broken": "no fvu: core failed in broken: out of memory",
        "shorter": "other protocol: n_tokens",
        "old": "fvu version 7, not 1",
    }
    assert found["identity"].l0 == pytest.approx((192, 192))
    assert found["identity"].values["fvu"].mean == 0.0
    assert found["random"].values["fvu"].mean > 0.5
    assert found["shorter"].values == {}
    assert "fvu" not in found["old"].values


def test_one_name_of_two_evaluators_is_two_metrics(factory, board):
    """SAEBench's unlearning score as imported has the name of one of ours, from other questions."""
    ours = [factory.make_side(name, noisy(0.0, salt=name)) for name in ("a", "b")]
    theirs = factory.make_side("other", noisy(-0.2))
    theirs = [
        replace(r, metrics={n: replace(e, evaluator="saebench_core") for n, e in r.metrics.items()}) for r in theirs
    ]
    found = lines(board(*ours, theirs))
    assert (found["other"].rank, found["other"].reason) == (None, "fvu of saebench_core, not core")
    assert "fvu" not in found["other"].values
    assert found["a"].rank == found["b"].rank == 1


def test_tainted_methods_are_refused_or_shown_unranked(factory, board):
    sides = [
        factory.make_side("topk", noisy(0.0)),
        factory.make_side("idea", noisy(-0.1), taints=[Taint(rule="F01", reason="copied")]),
    ]
    with pytest.raises(RecordError, match="F01: copied"):
        board(*sides)
    assert lines(board(*sides, allow_tainted=True))["idea"].reason == "tainted"


def test_only_a_directed_metric_ranks(factory, board):
    with pytest.raises(UnknownNameError, match="Unknown metric to rank by 'l0': known are fvu"):
        board(factory.make_side("topk", noisy(0.0)), primary="l0")
    with pytest.raises(UnknownNameError):
        board(factory.make_side("topk", noisy(0.0)), metrics=[factory.L0])


def test_no_records_are_refused(factory):
    with pytest.raises(RecordError, match="needs records"):
        leaderboard({}, [factory.FVU])
