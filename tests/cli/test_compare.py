"""`compare`: a table of verdicts against stored or freshly trained baselines."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from harness.results.record import SCHEMA_VERSION

AGAINST_RANDOM = ("compare", "topk", "--baseline", "random", "--suite", "micro")


def verdicts(project, *args) -> dict[str, str]:
    return {row["metric"]: row["verdict"] for row in project.json(*args)["rows"]}


def test_the_protocol_is_on_the_first_line_and_the_table_has_the_promised_columns(micro):
    out = micro.ok(*AGAINST_RANDOM)
    protocol, _, header, *rows = out.splitlines()
    assert protocol.startswith("micro · lm · blocks.0.hook_resid_post · d_sae 64 · L0 2–8")
    assert protocol.endswith("for tests alone")
    for column in ("metric", "random (3 seeds)", "topk (3 seeds)", "difference [95 %]", "verdict"):
        assert column in header
    assert any(row.startswith("fvu") and row.endswith("better") for row in rows)
    assert "paired by seed" in out


def test_better_and_worse_are_told_by_the_direction_of_the_metric(micro):
    assert verdicts(micro, *AGAINST_RANDOM)["fvu"] == "better"
    assert verdicts(micro, *AGAINST_RANDOM)["ce_loss_recovered"] == "better"
    turned = verdicts(micro, "compare", "random", "--baseline", "topk", "--suite", "micro")
    assert turned["fvu"] == turned["ce_loss_recovered"] == "worse"
    assert turned["l0"] == "matched"
    assert turned["mse"] == "information"


def test_against_itself_all_is_within_noise(micro):
    found = verdicts(micro, "compare", "topk", "--baseline", "topk", "--suite", "micro")
    assert found["fvu"] == found["cosine"] == found["ce_loss_recovered"] == "within noise"
    assert "~ within noise" in micro.ok("compare", "topk", "--baseline", "topk", "--suite", "micro")


def test_no_common_l0_is_not_comparable_with_the_reason(micro):
    out = micro.ok("compare", "relu", "--baseline", "topk", "--suite", "micro")
    assert "x not comparable [1]" in out
    assert "no overlap in L0" in out


def test_a_stored_baseline_of_another_protocol_is_not_comparable_with_the_field(project):
    project.edit_registry("n_tokens: 4096\n    batch", "n_tokens: 2048\n    batch")
    out = project.ok(*AGAINST_RANDOM, "--l0", "4", "--seeds", "1", "--quiet")
    assert "x not comparable" in out
    assert "n_tokens" in out
    assert "better  " not in out.split("verdict")[1]
    assert project.invoke(*AGAINST_RANDOM, "--l0", "4", "--seeds", "1", "--fail-on", "not-comparable").exit_code == 1


def test_too_few_seeds_are_unresolved(micro):
    out = micro.ok(*AGAINST_RANDOM, "--seeds", "2")
    assert "? unresolved (n=2 seeds)" in out


def test_controls_stand_beside_the_comparison(micro):
    out = micro.ok(*AGAINST_RANDOM)
    header = next(line for line in out.splitlines() if line.startswith("control"))
    assert all(name in header for name in ("identity (L0", "pca (L0", "random (L0"))


def test_the_candidate_is_trained_where_it_has_no_records(project):
    before = len(project.artefacts("record"))
    out = project.ok("compare", "jumprelu", "--baseline", "topk", "--suite", "micro", "--l0", "4", "--quiet")
    assert "jumprelu (3 seeds)" in out
    assert len(project.artefacts("record")) == before + 3


def test_a_baseline_that_is_not_stored_is_trained_and_told_and_the_second_call_is_silent(project):
    asked = ("compare", "topk", "--baseline", "jumprelu", "--suite", "micro", "--l0", "4", "--seeds", "1")
    done = project.invoke(*asked, "--quiet")
    assert done.exit_code == 0, done.output
    assert "No stored records of 'jumprelu' in suite micro (stored: identity, pca, random, topk)" in done.stderr
    again = project.invoke(*asked)
    assert (again.stdout, again.stderr) == (done.stdout, "")


def test_from_stored_takes_stored_records_and_trains_nothing(project):
    shutil.rmtree(project.cache)
    out = project.ok("compare", "topk", "--baseline", "random", "--suite", "micro", "--from-stored")
    assert "better" in out
    assert not project.artefacts("sae")


def test_from_stored_without_any_names_the_stored_ones(micro):
    line = micro.error("compare", "relu", "--suite", "micro", "--from-stored")
    assert "No stored records of 'relu' in suite micro: stored are identity, pca, random, topk" in line
    assert "sae-harness baselines build relu --suite micro" in line


def test_retraining_gives_the_identical_table(project):
    first = project.ok(*AGAINST_RANDOM)
    times = [p.stat().st_mtime_ns for p in project.cache.glob("sae/*/*/sae.json")]
    assert project.ok(*AGAINST_RANDOM, "--retrain", "--quiet") == first
    again = [p.stat().st_mtime_ns for p in project.cache.glob("sae/*/*/sae.json")]
    assert len(again) == len(times)
    assert sum(a not in times for a in again) == 9  # the candidate's, not the baseline's


def test_json_is_the_comparison(micro):
    data = micro.json(*AGAINST_RANDOM)
    assert (data["kind"], data["candidate"], data["baseline"]) == ("sae-harness/comparison", "topk", "random")
    row = next(row for row in data["rows"] if row["metric"] == "fvu")
    assert row["difference"] == pytest.approx(row["candidate_mean"] - row["baseline_mean"])
    assert row["low"] < row["difference"] < row["high"] < 0


@pytest.mark.parametrize(("fmt", "mark"), [("md", "|:---"), ("github", "|---"), ("csv", "candidate,baseline,metric")])
def test_formats(micro, fmt, mark):
    out = micro.ok(*AGAINST_RANDOM, "--format", fmt)
    assert mark in out
    assert (fmt == "csv") is out.startswith("candidate,")


def test_chosen_metrics_alone_and_in_order(micro):
    data = micro.json(*AGAINST_RANDOM, "--metrics", "cosine,fvu")
    assert [row["metric"] for row in data["rows"]] == ["cosine", "fvu"]


def test_levels_and_detail(micro):
    out = micro.ok(*AGAINST_RANDOM, "--levels", "--detail")
    assert "detectable" in out
    assert all(f"at L0 {l0}" in out for l0 in (2, 4, 8))


def test_at_l0(micro):
    assert "at L0 4" in micro.ok(*AGAINST_RANDOM, "--at-l0", "4")
    assert "No record reaches L0 100 of --at-l0: measured are" in micro.error(*AGAINST_RANDOM, "--at-l0", "100")


def test_fail_on_worse_exits_1_with_the_table(micro):
    worse = ("compare", "random", "--baseline", "topk", "--suite", "micro", "--fail-on", "worse")
    done = micro.invoke(*worse)
    assert done.exit_code == 1
    assert "worse" in done.stdout
    assert micro.invoke(*worse, "--metrics", "l0,l2_ratio").exit_code == 0
    better = micro.invoke(*AGAINST_RANDOM, "--metrics", "fvu", "--fail-on", "worse")
    assert better.exit_code == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("compare", "topkk", "--suite", "micro"), "Unknown method 'topkk'"),
        (("compare", "topk", "--baseline", "rluu", "--suite", "micro"), "Unknown method 'rluu'"),
        (("compare", "absent", "--suite", "micro"), "pip install absent"),
        (("compare", "topk", "--suite", "nano"), "Unknown suite 'nano'"),
        ((*AGAINST_RANDOM, "--metrics", "cosinus"), "Did you mean cosine"),
        ((*AGAINST_RANDOM, "--seeds", "0"), "--seeds must be at least 1"),
        ((*AGAINST_RANDOM, "--l0", "4;8"), "--l0 must be whole numbers"),
        ((*AGAINST_RANDOM, "--fail-on", "better"), "'better' is not one of"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(micro, args, told):
    assert told in micro.error(*args)


def test_a_stored_record_of_a_newer_schema_is_refused(project):
    import hashlib

    folder = project.baselines / "micro" / "random"
    manifest = json.loads((folder / "manifest.json").read_text())
    name = sorted(manifest["records"])[0]
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**data, "schema_version": SCHEMA_VERSION + 1}))
    manifest["records"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert f"newer sae-harness (schema {SCHEMA_VERSION + 1})" in project.error(*AGAINST_RANDOM)


def test_a_tampered_baseline_is_refused(project):
    record = next((project.baselines / "micro" / "random").glob("[0-9a-f]*.json"))
    record.write_text(record.read_text().replace('"seed": ', '"seed":  ', 1))
    assert "differs from its manifest" in project.error(*AGAINST_RANDOM)


def test_evaluators_the_suite_does_not_ask_for_have_no_rows_unless_named(micro):
    asked = ("compare", "topk", "--baseline", "topk", "--suite", "micro", "--quiet")
    table = micro.ok(*asked)
    assert "fvu" in table
    assert "sparse_probing" not in table
    assert "truth_f1" not in table
    assert "truth_f1" in micro.ok(*asked, "--metrics", "fvu,truth_f1")


def test_a_stored_baseline_without_the_asked_evaluator_is_made_here(project):
    project.ok("baselines", "build", "topk", "--suite", "micro", "--quiet")
    args = ("--suite", "micro", "--evaluators", "geometry", "--metrics", "decoder_mean_cosine")
    done = project.invoke("compare", "batchtopk", *args)
    assert done.exit_code == 0
    assert "The stored records of 'topk' have no geometry: training and evaluating it here." in done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("decoder_mean"))
    assert "not comparable" not in row


def test_pareto_sets_the_frontiers_in_two_metrics_beside_each_other(micro):
    out = micro.ok(*AGAINST_RANDOM, "--pareto", "l0,fvu")
    assert "frontier in l0 and fvu" in out
    assert micro.json(*AGAINST_RANDOM, "--pareto", "l0,fvu")["pareto"]["verdict"] == "better"
    assert "--pareto takes two metrics" in micro.error(*AGAINST_RANDOM, "--pareto", "fvu")


def test_several_judged_metrics_are_corrected_and_told(micro):
    rows = micro.json(*AGAINST_RANDOM)["rows"]
    judged = [r for r in rows if r["p_corrected"] is not None]
    assert len(judged) > 1
    assert all(r["p_corrected"] >= r["p_value"] for r in judged)
    assert f"Verdicts on the {len(judged)} metrics judged are after Holm's correction" in micro.ok(*AGAINST_RANDOM)


def test_a_verdict_does_not_depend_on_which_metrics_are_shown(micro):
    every = {r["metric"]: r for r in micro.json(*AGAINST_RANDOM)["rows"]}
    for name in [metric for metric, row in every.items() if row["p_corrected"] is not None]:
        assert micro.json(*AGAINST_RANDOM, "--metrics", name)["rows"] == [every[name]]
    assert "of the metrics judged are not shown" in " ".join(micro.ok(*AGAINST_RANDOM, "--metrics", name).split())


def test_options_that_contradict_each_other_are_refused_before_anything_is_made(micro):
    assert "give one of the two" in micro.error(*AGAINST_RANDOM, "--from-stored", "--retrain")
    assert "tables of their own" in micro.error(*AGAINST_RANDOM, "--format", "csv", "--pareto", "l0,fvu")
    for option in ("--pareto", "--trade"):
        assert f"{option} takes" in micro.error("compare", "topk", "--suite", "micro", option, "fvu")
        assert "fvo" in micro.error("compare", "topk", "--suite", "micro", option, "fvo,l0")
    unfetched = micro.error("compare", "batchtopk", "--suite", "micro", "--evaluators", "absorption")
    assert "sae-harness fetch words" in unfetched
    itself = ("compare", "topk", "--baseline", "topk", "--suite", "micro", "--from-stored")
    assert "against themselves" in micro.error(*itself)


def test_what_the_baseline_alone_was_measured_by_is_no_row(project):
    more = project.json("run", "random", "--suite", "micro", "--evaluators", "geometry", "--quiet")
    (project.root / "more.json").write_text(json.dumps(more))
    project.ok("baselines", "add", str(project.root / "more.json"), "--suite", "micro", "--replace")
    rows = project.json(*AGAINST_RANDOM)["rows"]
    assert "composition" not in {r["metric"] for r in rows}
    back = project.json("compare", "random", "--baseline", "topk", "--suite", "micro", "--from-stored", "--quiet")[
        "rows"
    ]
    assert [r["reason"] for r in back if r["metric"] == "composition"] == ["not in the baseline"]


def test_what_differs_in_two_factors_has_no_verdict_unless_asked_for_as_a_whole(project):
    # The suite sets another learning rate for topk, and none for batchtopk.
    args = ("compare", "batchtopk", "--baseline", "topk", "--suite", "micro", "--metrics", "fvu", "--quiet")
    (row,) = project.json(*args)["rows"]
    assert (row["verdict"], row["p_value"]) == ("confounded", None)
    assert row["difference"] is not None
    assert "lr" in project.ok(*args)
    (whole,) = project.json(*args, "--as-a-whole")["rows"]
    assert whole["verdict"] in ("better", "worse", "within noise")
    assert whole["difference"] == row["difference"]


def test_the_suites_primary_metrics_stand_first(project):
    project.edit_registry("    l0_grid: [2, 4, 8]\n", "    l0_grid: [2, 4, 8]\n    primary: [cosine]\n")
    rows = project.json(*AGAINST_RANDOM)["rows"]
    assert [r["metric"] for r in rows if r["primary"]] == ["cosine"]
    assert [r["metric"] for r in rows[:2]] == ["l0", "cosine"]


def test_several_candidates_get_a_table_each_and_one_csv(project):
    args = ("compare", "topk", "batchtopk", "--baseline", "random", "--suite", "micro", "--metrics", "fvu", "--quiet")
    table = project.ok(*args)
    assert [line.split()[1:6] for line in table.splitlines() if line.startswith("metric")] == [
        ["random", "(3", "seeds)", "topk", "(3"],
        ["random", "(3", "seeds)", "batchtopk", "(3"],
    ]
    found = project.json(*args)
    assert [data["candidate"] for data in found] == ["topk", "batchtopk"]
    rows = project.ok(*args, "--format", "csv").splitlines()
    assert [row.split(",")[0] for row in rows] == ["candidate", "topk", "batchtopk"]


def test_what_is_won_is_set_against_what_is_paid(micro):
    asked = (*AGAINST_RANDOM, "--trade", "fvu,dead_latent_fraction")
    out = micro.ok(*asked)
    assert "won in fvu" in out
    assert "won per unit paid" in out
    found = micro.json(*asked)["trade"]
    row = next(row for row in micro.json(*AGAINST_RANDOM)["rows"] if row["metric"] == "fvu")
    assert found["won"]["estimate"] == pytest.approx(-row["difference"])
    assert "takes what is won and what is paid" in micro.error(*AGAINST_RANDOM, "--trade", "fvu")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra")
def test_a_figure_of_the_frontiers_is_written_and_told_on_stderr(micro, tmp_path):
    path = tmp_path / "frontier.svg"
    done = micro.invoke(*AGAINST_RANDOM, "--figure", str(path), "--metrics", "fvu,cosine", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["candidate"] == "topk"
    assert f"Wrote {path}." in done.stderr
    assert "topk beside random · micro" in path.read_text()
    missing = micro.error(*AGAINST_RANDOM, "--figure", str(path), "--metrics", "decoder_mean_cosine")
    assert "--evaluators geometry --metrics decoder_mean_cosine" in missing
    assert "its ending must be one of" in micro.error(*AGAINST_RANDOM, "--figure", str(tmp_path / "f.pdf"))
