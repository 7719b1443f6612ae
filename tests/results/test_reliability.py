"""Reliability of metrics on synthetic records whose noise and order are planted."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics

import pytest
from scipy.stats import spearmanr

from harness.errors import BaselineError, RecordError, UnknownNameError
from harness.results.comparison import compare
from harness.results.leaderboard import leaderboard
from harness.results.reliability import FILE, labels, load, reliability, save, spearman

MEANS = {"good": 0.2, "fair": 0.3, "poor": 0.5}
"""fvu of the methods; lower is better."""


def records(
    factory, *, seed_sd=0.01, evaluation_sd=0.0, oracle=0.0, floor=0.9, truth=True, seeds=range(4), means=MEANS
):
    """Of each method, seed and evaluation seed: fvu with planted noise; truth_f1 falls as the mean fvu rises."""
    draw = random.Random(0)
    found = []
    for method, mean in {**means, "random": floor, "oracle": oracle}.items():
        for seed in seeds:
            own = mean + draw.gauss(0, seed_sd)
            for evaluation_seed in range(3):
                values = {"fvu": own + draw.gauss(0, evaluation_sd), **({"truth_f1": 1 - own} if truth else {})}
                record = factory.make_record(
                    method,
                    seed=seed,
                    target_l0=None if method == "oracle" else 32,
                    values=values,
                    control=method in ("random", "oracle"),
                )
                protocol = dataclasses.replace(record.protocol, evaluation_seed=evaluation_seed)
                found.append(dataclasses.replace(record, protocol=protocol))
    return found


def only(factory, **planted):
    (entry,) = reliability(records(factory, **planted), [factory.FVU]).metrics
    return entry


def test_planted_noise_is_found_apart_for_evaluation_and_training(factory):
    quiet = only(factory, seeds=range(40), seed_sd=0.01)
    assert quiet.seed_noise == pytest.approx(0.01, rel=0.15)
    assert (quiet.evaluation_noise, quiet.evaluation_cv) == (0.0, 0.0)
    noisy = only(factory, seeds=range(40), seed_sd=0.0, evaluation_sd=0.02)
    assert noisy.evaluation_noise == pytest.approx(0.02, rel=0.1)
    assert quiet.spread == pytest.approx(0.3, abs=0.02)


def test_the_smallest_difference_is_found_with_the_stated_power(factory):
    entry = only(factory, seeds=range(60), seed_sd=0.1)
    draw = random.Random(1)
    found = 0
    for _ in range(2000):
        a, b = ([draw.gauss(mean, 0.1) for _ in range(5)] for mean in (entry.smallest["5"], 0.0))
        # The noise is known from many SAEs, so that the test is all but normal.
        found += abs(statistics.mean(a) - statistics.mean(b)) > 1.96 * 0.1 * (2 / 5) ** 0.5
    assert found / 2000 == pytest.approx(0.8, abs=0.06)
    assert entry.smallest["1"] > entry.smallest["3"] > entry.smallest["5"]


@pytest.mark.parametrize(
    ("planted", "order", "label"),
    [
        ({}, "holds", "usable"),
        ({"oracle": 0.35}, "a trained SAE above the oracle", "misleading"),
        ({"floor": 0.3}, "random not below trained", "blind"),
        ({"seed_sd": 0.6, "floor": 5.0, "oracle": -5.0}, "holds", "noisy"),
        ({"means": {"good": 0.2}}, "holds", "unknown"),
    ],
)
def test_the_label_follows_from_order_and_noise(factory, planted, order, label):
    entry = only(factory, **planted)
    assert (entry.order, entry.label) == (order, label)


def test_a_metric_that_follows_the_truth_correlates_and_one_that_runs_against_it_anticorrelates(factory):
    entry = only(factory)
    assert entry.truth == "truth_f1"
    assert entry.truth_correlation == pytest.approx(1.0)
    against = dataclasses.replace(factory.FVU, better="higher")
    (turned,) = reliability(records(factory), [against]).metrics
    assert turned.truth_correlation == pytest.approx(-1.0)
    assert only(factory, truth=False).truth_correlation is None


def test_rank_correlation_is_scipys():
    draw = random.Random(3)
    for _ in range(50):
        pairs = [(float(draw.randint(0, 5)), float(draw.randint(0, 5))) for _ in range(9)]
        wanted = spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic
        found = spearman(pairs)
        assert (found is None and wanted != wanted) or found == pytest.approx(wanted)


def test_records_of_two_protocols_and_none_are_refused(factory):
    other = dataclasses.replace(factory.PROTOCOL, d_sae=99)
    with pytest.raises(RecordError, match="d_sae"):
        reliability([factory.make_record(), factory.make_record(protocol=other)], [factory.FVU])
    with pytest.raises(RecordError, match="there are none"):
        reliability([], [factory.FVU])


def test_what_is_stored_comes_back_and_its_labels_are_of_the_present_version(factory, tmp_path):
    found = reliability(records(factory, oracle=0.35), [factory.FVU], command="as typed", harness_version="0.1.0")
    save(found, tmp_path)
    assert load(tmp_path, "tiny") == (found,)
    assert load(tmp_path, "smollm2") == ()
    assert labels(tmp_path, "tiny", [factory.FVU]) == {"fvu": "misleading"}
    # What a world's truth refutes is refuted everywhere; noise is of its own suite.
    assert labels(tmp_path, "smollm2", [factory.FVU]) == {"fvu": "misleading"}
    assert labels(tmp_path, "tiny", [dataclasses.replace(factory.FVU, version=2)]) == {}
    save(reliability(records(factory), [factory.FVU]), tmp_path)
    assert labels(tmp_path, "smollm2", [factory.FVU]) == {}
    (tmp_path / "tiny" / FILE).write_text('{"schema_version": 1}')
    with pytest.raises(BaselineError, match="reliability --suite tiny --store"):
        load(tmp_path, "tiny")


def test_storing_one_evaluators_metrics_keeps_those_of_others(factory, tmp_path):
    cosine = dataclasses.replace(factory.FVU, name="cosine")
    old = reliability(records(factory), [factory.FVU], command="first")
    other = dataclasses.replace(old, command="second", metrics=(dataclasses.replace(old.metrics[0], metric="cosine"),))
    save(old, tmp_path)
    save(other, tmp_path)
    assert load(tmp_path, "tiny") == (old, other)
    assert set(labels(tmp_path, "tiny", [factory.FVU, cosine])) == {"fvu", "cosine"}
    again = dataclasses.replace(old, command="third")
    save(again, tmp_path)
    assert load(tmp_path, "tiny") == (other, again)


def test_a_file_with_one_measurement_of_before_is_read(factory, tmp_path):
    found = reliability(records(factory), [factory.FVU])
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / FILE).write_text(json.dumps({"schema_version": 1, **dataclasses.asdict(found)}))
    assert load(tmp_path, "tiny") == (found,)


def test_a_misleading_metric_gets_no_verdict_and_ranks_nothing(factory):
    base = factory.make_side(value=lambda seed, l0: 1.0 + 0.01 * seed)
    idea = factory.make_side("idea", lambda seed, l0: 0.5 + 0.01 * seed)
    assert compare(idea, base, [factory.FVU]).verdicts == {"fvu": "better"}
    (row,) = compare(idea, base, [factory.FVU], labels={"fvu": "misleading"}).rows
    assert (row.verdict, row.reason, row.reliability) == ("information", "misleading", "misleading")
    assert compare(idea, base, [factory.FVU], labels={"fvu": "noisy"}).rows[0].verdict == "better"
    with pytest.raises(UnknownNameError, match="rank nothing"):
        leaderboard({"topk": base, "idea": idea}, [factory.FVU], labels={"fvu": "misleading"})
    board = leaderboard({"topk": base, "idea": idea}, [factory.FVU], labels={"fvu": "noisy"})
    assert any(note.startswith("noisy here") and note.endswith("fvu.") for note in board.notes)
