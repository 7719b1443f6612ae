"""`unlearn SAE --forget --retain`: the frontier on the half that nothing was chosen on; bad input in a line."""

from __future__ import annotations

import json

import pytest

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
        (("--selectors", "rate"), "--selectors is written as"),
        (("--selectors", "best:1"), "Unknown ways to choose latents: best"),
        (("--budget", "0"), "--budget above 0"),
        (("--texts", "3"), "3 texts"),
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


def test_a_text_on_both_sides_is_refused(micro, saved, texts):
    both = str(texts / "forget.txt")
    assert "are in both" in micro.error("unlearn", str(saved), "--forget", both, "--retain", both)


def test_undominated_settings_gain_more_at_every_step_of_cost():
    gain, cost = [0.1, 0.5, 0.2, -1.0, 0.5], [0.0, 0.3, 0.2, -0.1, 0.4]
    assert undominated(gain, cost) == [0, 2, 1]
