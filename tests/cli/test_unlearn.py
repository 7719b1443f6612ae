"""`unlearn SAE --forget --retain`: the frontier on the half that nothing was chosen on; bad input in a line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness.cli import unlearn
from harness.cli.unlearn import undominated


@pytest.fixture(scope="module")
def saved(micro, tmp_path_factory):
    out = tmp_path_factory.mktemp("saes")
    micro.ok("run", "topk", "--suite", "micro", "--quiet", "--out", str(out))
    return sorted(out.iterdir())[0]


@pytest.fixture(scope="module")
def texts(micro, tmp_path_factory):
    """Texts of the suite: those with an odd first letter are to be forgotten."""
    rows = [json.loads(line)["text"] for line in (micro.root / "text.jsonl").read_text().splitlines()]
    folder = tmp_path_factory.mktemp("texts")
    sides = {"forget": [t for t in rows if ord(t[0]) % 2], "retain": [t for t in rows if not ord(t[0]) % 2]}
    for name, own in sides.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in own[:60]))
        (folder / f"{name}.txt").write_text("\n".join(" ".join(t.split()) for t in own[:60]))
    return folder


def asked(project, sae, texts, *more, ending="jsonl"):
    files = [f"--{name}={texts / f'{name}.{ending}'}" for name in ("forget", "retain")]
    return ("unlearn", str(sae), *files, "--suite", "micro", "--quiet", "--latents", "2, 8", "--selectors",
            "rate:0.9", "--strengths", "1, 8", "--max-tokens", "24", *more)  # fmt: skip


def test_the_frontier_is_a_table_with_intervals(micro, saved, texts):
    told = micro.ok(*asked(micro, saved, texts, "--budget", "10"))
    assert "forget rise [95 %]" in told
    assert "random" in told
    assert "Relearning is not tested" in told


def test_json_holds_every_setting_and_the_report_half_of_the_frontier(micro, saved, texts):
    found = micro.json(*asked(micro, saved, texts, "--budget", "10"))
    assert len(found["settings"]) == 4
    assert sum(row["chosen"] for row in found["settings"]) <= 1
    for row in found["settings"]:
        for value, low, high in row.get("report", {}).values():
            assert low <= value <= high


def test_latents_may_be_chosen_by_what_they_do_for_the_losses(micro, saved, texts):
    found = micro.json(*asked(micro, saved, texts, "--selectors", "attribution:0.9", "--budget", "10"))
    rises = [row["selection"]["forget_rise"] for row in found["settings"]]
    assert max(rises) > 0, "latents that help to predict were taken away"


def test_lines_of_text_will_do(micro, saved, texts):
    first = micro.json(*asked(micro, saved, texts, ending="txt"))
    assert first == micro.json(*asked(micro, saved, texts, ending="txt")), "the same again"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--selectors", "rate"), "Error: --selectors must be names with thresholds"),
        (("--selectors", "best:1"), "Unknown ways to choose latents: best"),
        (("--latents", "2, 0"), "Error: --latents must be whole numbers of at least 1, such as '5, 20'; got '2, 0'"),
        (("--strengths", "-1"), "Error: --strengths must be numbers of at least 0, such as '1, 4, 16'; got '-1'"),
        (("--strengths", "nan"), "--strengths must be"),
        (("--budget", "0"), "--budget must be above 0, got 0"),
        (("--texts", "3"), "--texts must be at least 8, got 3"),
        (("--measured", "7"), "--measured must be at least 8, got 7"),
        (("--max-tokens", "1"), "--max-tokens must be at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(micro, saved, texts, more, told):
    assert told in micro.error(*asked(micro, saved, texts, *more))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "a", "neither .txt"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.jsonl", '{"txt": "a"}', "Line 1 of"),
        ("a.jsonl", "not json", "no row with `text`"),
    ],
)
def test_files_that_hold_no_texts_are_one_line(micro, saved, texts, tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    line = micro.error("unlearn", str(saved), "--forget", str(tmp_path / name), "--retain", str(texts / "retain.txt"))
    assert told in line


def test_too_few_texts_are_counted_in_the_users_terms(micro, saved, texts, tmp_path):
    (tmp_path / "ten.txt").write_text("".join(f"text {n}\n" for n in range(10)) + "text 0\n")
    files = ("--forget", str(tmp_path / "ten.txt"), "--retain", str(texts / "retain.txt"))
    line = micro.error("unlearn", str(saved), *files)
    assert "ten.txt holds 10 different texts, 16 are needed: half are to choose settings on" in line
    assert "at least 16 different ones" in " ".join(micro.ok("unlearn", "--help").split())


def test_the_least_number_of_texts_is_that_of_the_evaluation():
    from harness.evaluation import unlearning_sweep

    assert unlearn._LEAST == unlearning_sweep._LEAST_TEXTS


def test_a_missing_sae_is_told_before_torch_is_imported(texts):
    files = ["--forget", str(texts / "forget.txt"), "--retain", str(texts / "retain.txt")]
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom harness.cli.main import cli\n"
        f"done = CliRunner().invoke(cli, ['unlearn', '/nope', *{files!r}])\n"
        "print(done.exit_code, 'No saved SAE at /nope' in done.output, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "True", "False"]


def test_a_text_on_both_sides_is_refused(micro, saved, texts):
    both = str(texts / "forget.txt")
    assert "are in both" in micro.error("unlearn", str(saved), "--forget", both, "--retain", both)


def test_undominated_settings_gain_more_at_every_step_of_cost():
    gain, cost = [0.1, 0.5, 0.2, -1.0, 0.5], [0.0, 0.3, 0.2, -0.1, 0.4]
    assert undominated(gain, cost) == [0, 2, 1]
