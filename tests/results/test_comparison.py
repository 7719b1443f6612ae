"""Verdicts: planted effects are found, what is unlike is refused, and symmetry holds."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RecordError
from harness.results.comparison import compare, protocol_differences, protocol_line
from harness.results.record import EvaluationEntry, Taint


def noisy(level, sd=0.002, salt=""):
    """A curve that falls with log L0, lifted by `level`, with noise fixed by (salt, seed, L0)."""

    def value(seed, l0):
        rng = random.Random(f"{salt} {seed} {l0:.6g}")
        return 0.5 - 0.08 * math.log(l0) + level + rng.gauss(0, sd)

    return value


def only(comparison):
    assert len(comparison.rows) == 1
    return comparison.rows[0]


def test_a_planted_shift_is_found_in_the_right_direction(factory):
    base, up = factory.make_side(value=noisy(0.0)), factory.make_side("idea", noisy(0.05, salt="b"))
    assert only(compare(up, base, [factory.FVU])).verdict == "worse"
    assert only(compare(base, up, [factory.FVU])).verdict == "better"
    higher = replace(factory.FVU, better="higher")
    assert only(compare(up, base, [higher])).verdict == "better"


def test_the_difference_is_the_mean_over_log_l0(factory):
    # Straight lines over log L0: 2 - u against 1 - u / 2, u = octaves above 8 from 0 to 3: mean of 1 - u / 2 is 0.25.
    base = factory.make_side(value=lambda s, l0: 1 - math.log2(l0 / 8) / 2)
    idea = factory.make_side("idea", lambda s, l0: 2 - math.log2(l0 / 8))
    row = only(compare(idea, base, [factory.FVU]))
    assert row.difference == pytest.approx(0.25)
    assert (row.l0_low, row.l0_high) == pytest.approx((8, 64))
    at = only(compare(idea, base, [factory.FVU], at_l0=16))
    assert at.difference == pytest.approx(0.5)


def test_matching_is_by_measured_l0_not_by_target(factory):
    # One and the same frontier, but the candidate fires a third more latents at each target.
    curve = noisy(0.0, sd=0.0)
    idea = factory.make_side("idea", curve, l0=lambda seed, target: target * (1.3 + 0.01 * seed))
    row = only(compare(idea, factory.make_side(value=curve), [factory.FVU]))
    assert row.verdict == "within noise"
    assert row.difference == pytest.approx(0.0, abs=1e-12)
    assert row.l0_low == pytest.approx(8 * 1.32)
    assert row.l0_high == pytest.approx(64)


def test_equal_records_are_within_noise(factory):
    base = factory.make_side(value=noisy(0.0))
    row = only(compare(factory.make_side("idea", noisy(0.0)), base, [factory.FVU]))
    assert (row.verdict, row.difference) == ("within noise", 0.0)


@settings(max_examples=25, deadline=None)
@given(level=st.floats(-0.05, 0.05), stretch=st.floats(0.8, 1.2), seeds=st.sampled_from([(0, 1, 2), (0, 1, 3, 4)]))
def test_swapping_sides_negates_the_difference(factory, level, stretch, seeds):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(level, salt="b"), seeds=seeds, l0=lambda s, t: t * stretch)
    there, back = only(compare(idea, base, [factory.FVU])), only(compare(base, idea, [factory.FVU]))
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
    opposite = {"better": "worse", "worse": "better"}
    assert there.verdict == opposite.get(back.verdict, back.verdict)


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0.1, 10))
def test_scaling_the_l0_of_both_sides_changes_nothing(factory, factor):
    def sides(scale):
        return [
            factory.make_side(
                method,
                lambda seed, l0, salt=salt: noisy(0.01, salt=salt)(seed, l0 / scale),
                l0=lambda seed, target: target * scale,
            )
            for method, salt in (("idea", "b"), ("topk", "a"))
        ]

    plain, scaled = only(compare(*sides(1.0), [factory.FVU])), only(compare(*sides(factor), [factory.FVU]))
    assert scaled.difference == pytest.approx(plain.difference, abs=1e-6)
    assert scaled.verdict == plain.verdict


def test_pairing_follows_the_seeds(factory):
    base = factory.make_side(value=noisy(0.0))
    assert only(compare(factory.make_side("idea", noisy(0.0, salt="b")), base, [factory.FVU])).method == "paired"
    other = factory.make_side("idea", noisy(0.0, salt="b"), seeds=(3, 4, 5))
    assert only(compare(other, base, [factory.FVU])).method == "welch"


def test_pairs_without_a_stretch_common_to_all_are_read_off_their_own_overlap(factory):
    def shifted(seed, target):
        return target * 12.0**seed

    curve = noisy(0.0, sd=0.001)
    base = factory.make_side(value=curve, l0=shifted)
    idea = factory.make_side("idea", lambda s, l0: curve(s, l0) + 0.01, l0=shifted)
    row = only(compare(idea, base, [factory.FVU]))
    assert row.difference == pytest.approx(0.01)
    assert only(compare(idea[4:], base, [factory.FVU])).verdict == "not comparable"


@pytest.mark.parametrize(("seeds", "reason"), [((0,), "n=1 seed"), ((0, 1), "n=2 seeds")])
def test_fewer_than_three_seeds_stay_unresolved(factory, seeds, reason):
    idea = factory.make_side("idea", noisy(0.3), seeds=seeds)
    row = only(compare(idea, factory.make_side(value=noisy(0.0)), [factory.FVU]))
    assert (row.verdict, row.reason) == ("unresolved", reason)
    assert row.candidate_n == len(seeds)
    assert (row.low is None) == (len(seeds) == 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lm_sha256", "9" * 64),
        ("tokenizer_sha256", "9" * 64),
        ("hookpoint", "blocks.2.hook_resid_post"),
        ("d_in", 1),
        ("d_sae", 3072),
        ("n_tokens", 1_000_000),
        ("batch_size", 2048),
        ("train_data", "9" * 64),
        ("eval_data", "9" * 64),
        ("seq_len", 64),
        ("store_dtype", "float16"),
        ("stream_seed", 1),
        ("evaluation_seed", 1),
    ],
)
def test_any_protocol_field_that_differs_forbids_the_comparison(factory, field, value):
    base = factory.make_side(value=noisy(0.0))
    found = compare(factory.with_protocol(base, **{field: value}), base, [factory.FVU, factory.L0])
    assert [d.field for d in found.differences] == [field]
    for row in found.rows:
        assert row.verdict == "not comparable"
        assert row.difference is row.baseline_mean is row.candidate_mean is None
        assert field in row.reason
        assert str(value)[:12] in row.reason
    assert found.by_level == ()


def test_names_of_suite_and_lm_do_not_matter(factory):
    other = replace(factory.PROTOCOL, suite="mine", lm="the same by another name")
    assert protocol_differences(other, factory.PROTOCOL) == []


def test_without_overlap_there_is_no_number(factory):
    identity = factory.make_side("identity", lambda s, l0: 0.0, grid=(None,), l0=lambda s, t: 192.0, control=True)
    found = compare(identity, factory.make_side(value=noisy(0.0)), [factory.FVU, factory.L0])
    for row in found.rows:
        assert row.verdict == "not comparable"
        assert row.reason == "no overlap in L0: candidate 192, baseline 8–64"
    assert "identity is a control: it is never ranked" in found.notes


def test_an_l0_outside_the_overlap_is_refused(factory):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(0.1), l0=lambda s, t: 1.25 * t)
    row = only(compare(idea, base, [factory.FVU], at_l0=9))
    assert row.reason == "no overlap at L0 9 in L0: candidate 10–80, baseline 8–64"


def test_single_points_within_one_per_cent_are_the_same_l0(factory):
    base = factory.make_side(value=noisy(0.0), grid=(32,))
    idea = factory.make_side("idea", noisy(0.1, salt="b"), grid=(32,), l0=lambda s, t: 31.9)
    assert only(compare(idea, base, [factory.FVU])).verdict == "worse"
    far = factory.make_side("idea", noisy(0.1, salt="b"), grid=(32,), l0=lambda s, t: 31.0)
    assert only(compare(far, base, [factory.FVU])).verdict == "not comparable"


def test_levels_lie_at_the_baselines_measured_l0_inside_the_overlap(factory):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(0.05, salt="b"), l0=lambda s, t: 1.5 * t)
    found = compare(idea, base, [factory.FVU, factory.L0])
    assert [level.l0 for level in found.by_level] == pytest.approx([16, 32, 64])
    assert all([r.metric for r in level.rows] == ["fvu"] for level in found.by_level)
    assert {r.verdict for level in found.by_level for r in level.rows} == {"worse"}


def test_l0_is_shown_as_matched_and_undirected_metrics_get_no_verdict(factory):
    base = factory.make_side(value=noisy(0.0), metric="density_slope")
    idea = factory.make_side("idea", noisy(0.2), metric="density_slope")
    found = compare(idea, base, [factory.L0, factory.DENSITY])
    assert found.verdicts == {"l0": "matched", "density_slope": "no direction"}
    assert found.rows[1].difference == pytest.approx(0.2)


def test_metric_versions_are_never_mixed(factory):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(0.0), versions={"fvu": 2})
    row = only(compare(idea, base, [factory.FVU]))
    assert row.reason == "fvu version: 2 (candidate) vs 1 (baseline)"
    assert row.difference is None


def test_results_under_other_options_of_an_evaluator_are_never_compared(factory):
    small = {"core": EvaluationEntry(status="done", options={"n": 8})}
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(0.0), evaluations=small)
    row = only(compare(idea, base, [factory.FVU]))
    assert row.reason == "options of core: n=8 (candidate) vs none (baseline)"
    alike = factory.make_side(value=noisy(0.0), evaluations=small)
    assert only(compare(idea, alike, [factory.FVU])).difference is not None


def test_a_metric_on_one_side_only_is_told(factory):
    base, idea = factory.make_side(value=noisy(0.0)), factory.make_side("idea", noisy(0.0), metric="gap")
    gap = replace(factory.FVU, name="gap")
    found = compare(idea, base, [gap, factory.FVU, replace(gap, name="nowhere")])
    assert [r.reason for r in found.rows] == ["not in the baseline", "not in the candidate", "not measured"]


def test_a_failed_evaluation_is_the_reason(factory):
    base = factory.make_side(value=noisy(0.0))
    failed = {"core": EvaluationEntry(status="failed", reason="out of memory")}
    idea = factory.make_side("idea", noisy(0.0), metric="other", evaluations=failed)
    found = compare(idea, base, [factory.FVU])
    assert only(found).reason == "core failed in the candidate: out of memory"
    assert "idea: core failed in 12 of 12 records: out of memory" in found.notes


def test_records_that_lack_a_metric_are_counted(factory):
    base, idea = factory.make_side(value=noisy(0.0)), factory.make_side("idea", noisy(0.0))
    idea[1] = replace(idea[1], metrics={"l0": idea[1].metrics["l0"]})
    assert "idea: fvu is missing in 1 of 12 records" in compare(idea, base, [factory.FVU]).notes


def test_tainted_records_are_refused_with_the_finding(factory):
    base = factory.make_side(value=noisy(0.0), taints=[Taint(rule="F03", reason="spliced core")])
    idea = factory.make_side("idea", noisy(0.1))
    with pytest.raises(RecordError, match=r"topk, seed 0, target L0 8 is tainted: F03: spliced core.*--allow-tainted"):
        compare(idea, base, [factory.FVU])
    found = compare(idea, base, [factory.FVU], allow_tainted=True)
    assert only(found).difference is not None
    assert any("used although tainted" in note for note in found.notes)


def test_a_tainted_evaluation_takes_only_its_own_metrics_out(factory):
    base = factory.make_side(value=noisy(0.0), taints=[Taint(rule="F01", reason="copied", evaluator="core")])
    found = compare(factory.make_side("idea", noisy(0.1)), base, [factory.FVU])
    assert only(found).reason == "tainted in the baseline: F01: copied"
    elsewhere = factory.make_side(value=noisy(0.0), taints=[Taint(rule="F01", reason="copied", evaluator="absorption")])
    assert only(compare(factory.make_side("idea", noisy(0.1)), elsewhere, [factory.FVU])).difference is not None


def test_a_missed_l0_target_and_a_faulty_preset_are_noted(factory):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", noisy(0.1), preset="run4", faulty=True, l0_reached=False)
    found = compare(idea, base, [factory.FVU])
    assert found.candidate == "idea@run4"
    assert "idea@run4 reproduces a published mistake: it is never ranked" in found.notes
    assert any("12 of 12 records ended more than 5 % from their target L0" in n for n in found.notes)


def test_a_shared_setting_that_differs_is_noted(factory):
    base, idea = factory.make_side(value=noisy(0.0)), factory.make_side("idea", noisy(0.0), options={"lr": 3e-3})
    notes = compare(idea, base, [factory.FVU]).notes
    (note,) = notes
    assert note.startswith("confounded: 2 factors differ (method topk vs idea, lr 0.001 vs 0.003)")


def test_one_setting_of_one_method_is_no_confounding(factory):
    base = factory.make_side("idea", noisy(0.0), preset="weak")
    idea = factory.make_side("idea", noisy(0.0), preset="strong", options={"strength": 0.2})
    weak = [replace(r, method=replace(r.method, options={**r.method.options, "strength": 0.1})) for r in base]
    assert compare(idea, weak, [factory.FVU]).notes == ("one factor differs: strength 0.1 vs 0.2",)


def test_a_setting_of_the_extended_trainer_is_held_against_the_baselines_own(factory):
    ours = factory.make_side("idea", options={"base.lr": 0.003, "strength": 0.1})
    theirs = factory.make_side("topk", options={"lr": 0.001})
    notes = compare(ours, theirs, [factory.FVU]).notes
    (note,) = notes
    assert note.startswith("confounded: 2 factors differ (method topk vs idea, lr 0.001 vs 0.003)")


def test_a_dead_record_stands_on_no_curve(factory):
    base = factory.make_side(value=noisy(0.0))
    idea = factory.make_side("idea", lambda s, l0: 0.3, l0=lambda s, t: 0.0 if t == 8 else float(t))
    found = compare(idea, base, [factory.FVU])
    assert only(found).l0_low == pytest.approx(16)
    assert any("3 of 12 records have L0 0" in n for n in found.notes)
    silent = factory.make_side("idea", lambda s, l0: 1.0, l0=lambda s, t: 0.0)
    assert only(compare(silent, base, [factory.FVU])).verdict == "not comparable"


def test_mixed_doubled_or_absent_records_are_errors(factory):
    base, idea = factory.make_side(value=noisy(0.0)), factory.make_side("idea", noisy(0.0))
    for bad, message in (
        ([], "The candidate has no records"),
        (idea + base, "several methods: idea, topk"),
        (idea + idea[:1], "two records of seed 0 and target L0 8"),
        (idea[:4] + factory.with_protocol(idea[4:], d_sae=1), "differ in d_sae"),
    ):
        with pytest.raises(RecordError, match=message):
            compare(bad, base, [factory.FVU])


def test_the_protocol_is_one_line(factory):
    records = factory.make_side(value=noisy(0.0)) + factory.make_side("idea", noisy(0.0), seeds=(0, 1))
    assert protocol_line(records, "a first look") == (
        "tiny · SAE-harness tiny LM · blocks.1.hook_resid_post · d_sae 1536 · L0 8–64 · 600 k tokens · "
        "2–3 seeds · a first look"
    )


def test_comparing_loads_no_heavy_library():
    code = (
        "import sys, harness.results.comparison, harness.results.leaderboard, harness.results.baseline_store, "
        "harness.report.tables; print([m for m in ('torch', 'numpy', 'scipy', 'tabulate') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


EFFECT = 0.005
"""With the noise of `planted`: seen alone, and not among nine metrics."""


def planted(factory, effects, salt=""):
    """Both sides with several metrics: metric i is shifted by effects[i] and has noise of its own."""
    names = [f"metric_{i}" for i in range(len(effects))]
    sides = []
    for method, sign in (("idea", 1.0), ("topk", 0.0)):
        records = []
        for seed in factory.SEEDS:
            rng = random.Random(f"{salt} {method} {seed}")
            values = {n: 1.0 + sign * e + rng.gauss(0, 1e-3) for n, e in zip(names, effects, strict=True)}
            records += [factory.make_record(method, seed=seed, target_l0=l0, values=values) for l0 in factory.GRID]
        sides.append(records)
    return sides, [replace(factory.FVU, name=n) for n in names]


def test_a_row_that_does_not_survive_holms_correction_is_within_noise_with_the_reason(factory):
    (idea, base), metrics = planted(factory, [EFFECT, *[0.0] * 8])
    alone = only(compare(idea, base, metrics[:1]))
    assert alone.verdict == "worse"
    assert alone.p_value == alone.p_corrected
    row = compare(idea, base, metrics).rows[0]
    assert (row.low, row.high, row.p_value) == (alone.low, alone.high, alone.p_value)
    assert row.low is not None
    assert row.low > 0
    assert row.p_corrected == pytest.approx(9 * row.p_value)
    assert (row.verdict, row.reason) == ("within noise", "not after Holm's correction over 9 metrics")


def test_a_clear_effect_survives_the_correction(factory):
    (idea, base), metrics = planted(factory, [0.2, *[0.0] * 8])
    found = compare(idea, base, metrics)
    assert found.rows[0].verdict == "worse"
    assert {r.verdict for level in found.by_level for r in level.rows[:1]} == {"worse"}


def test_primary_metrics_stand_first_and_are_corrected_among_themselves(factory):
    (idea, base), metrics = planted(factory, [EFFECT, *[0.0] * 8])
    together = {r.metric: r for r in compare(idea, base, metrics).rows}
    last = [*metrics[1:], metrics[0]]
    found = compare(idea, base, last, primary=("metric_0", "metric_4", "of another suite"))
    assert [r.metric for r in found.rows[:2]] == ["metric_4", "metric_0"]
    assert [r.primary for r in found.rows] == [True] * 2 + [False] * 7
    effect, before = found.rows[1], together["metric_0"]
    assert effect.p_value == before.p_value
    assert effect.p_corrected == pytest.approx(2 * effect.p_value)
    assert (effect.verdict, before.verdict) == ("worse", "within noise")
    others = [r for r in found.rows if not r.primary]
    assert min(r.p_value for r in others) * 7 == pytest.approx(min(r.p_corrected for r in others))
    assert {tuple(r.metric for r in level.rows[:2]) for level in found.by_level} == {("metric_4", "metric_0")}


def test_of_equal_methods_a_primary_metric_is_decided_in_5_percent_of_tables_at_most(factory):
    n = 200
    decided = 0
    for number in range(n):
        (idea, base), metrics = planted(factory, [0.0] * 6, salt=f"equal {number}")
        rows = compare(idea, base, metrics, primary=("metric_0", "metric_1", "metric_2")).rows
        decided += any(r.verdict in ("better", "worse") for r in rows if r.primary)
    assert decided / n <= 0.05 + 2 * (0.05 * 0.95 / n) ** 0.5  # two standard errors of the share


def test_rows_that_are_not_judged_do_not_count_in_the_correction(factory):
    (idea, base), metrics = planted(factory, [EFFECT, *[0.0] * 8])
    silent = [metrics[0], *(replace(m, compared=False) for m in metrics[1:4])]
    silent += [replace(m, better="none") for m in metrics[4:]]
    found = compare(idea, base, silent)
    assert found.rows[0].verdict == "worse"
    assert {r.p_corrected for r in found.rows[1:]} == {r.p_value for r in found.rows[1:]} == {None}


def test_a_misleading_metric_takes_no_part_in_the_correction(factory):
    (idea, base), metrics = planted(factory, [EFFECT, *[0.0] * 8])
    labels = dict.fromkeys((m.name for m in metrics[1:]), "misleading")
    assert compare(idea, base, metrics, labels=labels).rows[0].verdict == "worse"


def test_a_difference_of_rounding_alone_is_within_noise_after_the_correction(factory):
    base = factory.make_side(value=lambda s, l0: 0.3)
    idea = factory.make_side("idea", lambda s, l0: 0.3 * (1 + 2e-16))
    row = only(compare(idea, base, [factory.FVU]))
    assert (row.verdict, row.p_corrected) == ("within noise", 1.0)
