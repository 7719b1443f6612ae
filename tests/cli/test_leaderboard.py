"""`leaderboard`: stored baselines and own records in one list."""

from __future__ import annotations

import shutil

import pytest

BOARD = ("leaderboard", "--suite", "micro")


def entries(project, *args) -> dict[str, dict]:
    return {entry["label"]: entry for entry in project.json(*BOARD, *args)["entries"]}


def test_stored_and_own_records_are_listed_and_controls_are_not_ranked(micro):
    found = entries(micro)
    assert set(found) == {"topk", "identity", "random", "pca", "relu"}
    assert found["topk"]["rank"] == 1
    for name in ("identity", "random", "pca"):
        assert found[name]["rank"] is None
        assert found[name]["control"]
        assert "control" in found[name]["reason"]


def test_a_method_that_shares_no_l0_is_listed_with_the_reason(micro):
    entry = entries(micro)["relu"]
    assert entry["rank"] is None
    assert "no overlap in L0" in entry["reason"]


def test_methods_the_noise_does_not_part_share_a_rank(project, install_methods):
    """`drawn` at strength 0 is topk to the bit."""
    package = install_methods()
    plugin = package / "plugin.py"
    plugin.write_text(plugin.read_text().replace('"strength": 0.5', '"strength": 0.0'))
    project = type(project)(project.root, plugins="builtin,methods")
    project.ok("run", "drawn@strong", "--suite", "micro", "--quiet")
    found = entries(project)
    assert (found["topk"]["rank"], found["drawn@strong"]["rank"]) == (1, 1)
    assert "1–2" in project.ok(*BOARD)


def test_stored_only_leaves_own_records_out(micro):
    assert "relu" not in entries(micro, "--stored-only")


def test_own_records_that_are_stored_are_listed_once_and_others_beside_the_stored(project):
    assert "topk (own)" not in entries(project)
    project.edit_registry("topk: {lr: 0.01}", "topk: {lr: 0.011}")
    project.ok("run", "topk", "--suite", "micro", "--quiet")
    assert {"topk", "topk (own)"} <= set(entries(project))


def test_without_a_cache_the_stored_ones_stand(project):
    shutil.rmtree(project.cache)
    assert set(entries(project)) == {"topk", "identity", "random", "pca"}


def test_another_metric_ranks(micro):
    data = micro.json(*BOARD, "--by", "cosine")
    assert data["primary"] == "cosine"


@pytest.mark.parametrize(("fmt", "mark"), [("md", "|:---"), ("github", "|---"), ("csv", "rank,method")])
def test_formats(micro, fmt, mark):
    assert mark in micro.ok(*BOARD, "--format", fmt)


def test_the_protocol_stands_first_and_chosen_metrics_alone_follow(micro):
    first, _, header, *_ = micro.ok(*BOARD, "--metrics", "cosine").splitlines()
    assert first.startswith("micro · lm · ")
    assert header.split() == ["rank", "method", "seeds", "fvu", "↓", "cosine", "↑", "note"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((*BOARD, "--by", "fvuu"), "Did you mean fvu"),
        ((*BOARD, "--metrics", "cosin"), "Did you mean cosine"),
        (("leaderboard", "--suite", "mikro"), "Did you mean micro"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(micro, args, told):
    assert told in micro.error(*args)


def test_nothing_to_rank_says_what_to_run(fresh):
    assert "run `sae-harness run METHOD --suite micro` first" in fresh.error(*BOARD)


def test_a_clashing_name_does_not_end_the_board(micro, monkeypatch):
    """Two distributions provide topk: the stored records are listed as before."""
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "fixtures" / "distributions" / "clash")
    project = type(micro)(micro.root, plugins="builtin,clash")
    found = entries(project)
    assert found["topk"]["rank"] == 1
    for name in [name for name in sys.modules if name.startswith("fixture_")]:
        del sys.modules[name]
