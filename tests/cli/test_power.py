"""`power`: seeds from the noise that is stored, stated where it comes from."""

from __future__ import annotations

import pytest

from harness.results.reliability import reliability, save

FVU = ("power", "--metric", "fvu", "--suite", "micro")


def test_the_noise_of_one_stored_method_is_used_and_named(micro):
    out = micro.ok(*FVU, "--effect", "0.001")
    assert "stored records of topk; 3 seeds" in out
    assert "the standard deviation of one method over seeds, known to 2 degrees of freedom" in out
    assert "seeds needed for power 0.8:" in out
    assert "upper 90 % limit" in out


def test_a_given_deviation_gives_the_textbook_answer(micro):
    data = micro.json(*FVU, "--effect", "0.8", "--sd", "1")
    assert (data["seeds"], data["design"], data["source"]) == (26, "unpaired", "--sd")


def test_more_judged_metrics_need_more_seeds(micro):
    one, nine = (micro.json(*FVU, "--effect", "0.8", "--sd", "1", "--judged", n)["seeds"] for n in ("1", "9"))
    assert nine > one


def test_a_metric_that_is_not_judged_is_said_to_be_none(micro):
    told = micro.ok("power", "--suite", "micro", "--metric", "l0", "--effect", "1", "--sd", "1")
    assert "l0 has no direction or is not judged" in told


def test_stored_reliability_comes_before_the_noise_of_one_method(project):
    from harness.interfaces.specs import MetricSpec
    from harness.results.baseline_store import BaselineStore

    spec = MetricSpec(name="fvu", better="lower", formula="1 - explained")
    records = BaselineStore(project.baselines).load("micro", "topk")
    save(reliability(records, [spec]), project.baselines)
    assert project.json(*FVU, "--effect", "0.001")["source"].startswith("reliability.json of topk")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--effect", "0"), "other than 0"),
        (("--effect", "0.1", "--sd", "-1"), "--sd must be"),
        (("--effect", "0.1", "--power", "1"), "--power must lie between 0 and 1"),
        (("--effect", "0.1", "--judged", "0"), "--judged must be at least 1"),
        (("--metric", "fvuu", "--effect", "0.1"), "Did you mean fvu"),
        (("--metric", "truth_f1", "--effect", "0.1"), "No stored record of suite micro has truth_f1"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(micro, args, told):
    assert told in micro.error(*FVU, *args)
