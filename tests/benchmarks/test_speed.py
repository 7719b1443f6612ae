"""The speed benchmark without its peers: medians, ratios, limits, results, page, rounds, and how a loop is paced."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "A Processor", "cores": 2}
STAMP = {"date": "2026-01-02", "threads": 2, "rounds": 3, "device": "cpu"}


def _side(ms: list[float], **more: Any) -> dict[str, Any]:
    figures = {"sse": 100.0, "l0": 32.0}
    return {
        "ms": ms,
        "cpu_ms": [2 * value for value in ms],
        "others": [0.0] * len(ms),
        "before": figures,
        "after_warm": figures,
        "at_end": figures,
        "peak_rss_mib": 512.0,
        "versions": {"torch": "2.13.0"},
        **more,
    }


def _training_part() -> dict[str, Any]:
    return {
        "size": {"name": "A", "d_in": 512, "d_sae": 4096, "k": 32, "batch": 1024},
        "kind": "topk",
        "l0": 32.0,
        "sides": {"sae-harness": _side([50.0, 60.0, 40.0]), "dictionary_learning": _side([250.0, 240.0, 240.0])},
        "limit": {"harmonic_mean": [172.0, 172.0, 172.0], "others": [0.0, 0.1, None]},
        "measured": STAMP,
    }


def _results(**parts: Any) -> dict[str, Any]:
    return {"format": 1, "machine": MACHINE, "parts": parts}


def test_a_spread_is_the_median_with_the_least_and_the_most(load: Any) -> None:
    spread = load("timing.summary").Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)
    assert spread.text() == "2 (1–3)"


def test_a_ratio_is_taken_within_each_round(load: Any) -> None:
    # The second round was twice as slow for both: it says nothing about which is faster.
    assert load("timing.summary").ratios([4.0, 8.0], [2.0, 4.0]) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234567.0, "1230000"), (0.000012345, "0.0000123"), (9.87, "9.87")]
)
def test_numbers_are_shown_without_exponent(load: Any, value: float, text: str) -> None:
    assert load("timing.summary").significant(value) == text


def test_a_step_at_the_limit_has_a_share_of_one(load: Any) -> None:
    size = load("timing.sizes").SIZES["A"]
    gflops = 172.0
    at_dense = size.dense_flops() / (gflops * 1e9) * 1e3
    sparse, dense = load("timing.sections.training").limit_shares([at_dense], [gflops], size, 32.0)
    assert dense == [pytest.approx(1.0)]
    # Six products over the encoder's and four that touch k of d_sae.
    assert 1 / sparse[0] == pytest.approx(6 / (1 + 4 * 32 / 4096))


def test_what_is_measured_again_replaces_its_part_and_no_other(load: Any, tmp_path: Path) -> None:
    store, path = load("timing.store"), tmp_path / "results" / "speed-cpu.json"
    store.merge(path, MACHINE, "training/A/topk", {"n": 1})
    store.merge(path, MACHINE, "core/tiny", {"n": 2})
    store.merge(path, MACHINE, "training/A/topk", {"n": 3})
    assert json.loads(path.read_text())["parts"] == {"core/tiny": {"n": 2}, "training/A/topk": {"n": 3}}


def test_results_of_another_machine_are_refused(load: Any, tmp_path: Path) -> None:
    store, path = load("timing.store"), tmp_path / "speed-cpu.json"
    store.check_machine(path, MACHINE)
    store.merge(path, MACHINE, "core/tiny", {})
    with pytest.raises(store.ResultsError, match=r"cores 2, here 4.*--out"):
        store.check_machine(path, {**MACHINE, "cores": 4})


def test_a_file_that_holds_no_results_is_refused(load: Any, tmp_path: Path) -> None:
    store = load("timing.store")
    (tmp_path / "results.json").write_text('{"format": 0}')
    with pytest.raises(store.ResultsError, match=r"format 1.*--out"):
        store.read(tmp_path / "results.json")


def test_sizes_and_methods_keep_their_order(load: Any) -> None:
    names = ["training/B/topk", "training/A/relu", "training/toy/topk", "training/A/topk", "core/tiny"]
    found = load("timing.store").of_section({"parts": {name: {} for name in names}}, "training")
    assert list(found) == ["toy/topk", "A/topk", "A/relu", "B/topk"]


def test_the_page_holds_the_figures_of_the_results(load: Any) -> None:
    page = load("timing.page").page({"cpu": _results(**{"training/A/topk": _training_part()})})
    assert "cpu A Processor, cores 2" in page
    assert "others kept 0.00 (most 0.10) cores busy" in page
    rows = [line for line in page.splitlines() if line.startswith("| dictionary_learning")]
    assert "240 (240–250)" in rows[0]
    assert "5 (4–6)" in rows[0]
    assert "| topk training step | A      | dictionary_learning | 5.0 times our time" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120


def test_the_page_of_the_project_is_made_of_its_results(load: Any) -> None:
    module, store = load("timing.page"), load("timing.store")
    files = sorted((ROOT / "benchmarks" / "results").glob("speed-*.json"))
    if not files:
        assert not module.PAGE.exists(), "docs/performance.md has no results: measure with `make bench`"
        return
    found = {path.stem.partition("-")[2]: store.read(path) for path in files}
    assert module.PAGE.read_text(encoding="utf-8") == module.page(found), "run: python benchmarks/speed.py --render"


def test_the_page_can_be_made_without_measuring(load: Any, tmp_path: Path) -> None:
    out, page = tmp_path / "speed-cpu.json", tmp_path / "docs" / "performance.md"
    out.write_text(json.dumps(_results(**{"training/A/topk": _training_part()})))
    speed = load("speed")
    done = CliRunner().invoke(speed.main, ["--render", "--out", str(out), "--page", str(page)])
    assert done.exit_code == 0, done.output
    assert "times our time" in page.read_text(encoding="utf-8")


def test_an_unknown_section_is_told_with_those_that_exist(load: Any) -> None:
    done = CliRunner().invoke(load("speed").main, ["--only", "training,sleeping"])
    assert done.exit_code == 2
    assert "sleeping: known are training, encode, startup" in done.output


def test_every_section_of_the_page_measures_and_renders(load: Any) -> None:
    for name in load("timing.page").SECTIONS:
        module = load(f"timing.sections.{name}")
        assert callable(module.measure)
        assert module.render({}) == ""


class _Recorder:
    """A side that writes down when it had its turn."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self._turns = name, turns

    def block(self, seconds: float) -> dict[str, float]:
        self._turns.append(self.name)
        return {"ms": seconds}


def test_each_round_begins_with_another_side(load: Any) -> None:
    turns: list[str] = []
    sides = [_Recorder(name, turns) for name in "abc"]
    blocks = load("timing.rounds").interleave(sides, 3, 0.5, [])
    assert "".join(turns) == "abcbcacab"
    assert [block["ms"] for block in blocks["b"]] == [0.5] * 3
    assert load("timing.rounds").columns([{"ms": 1, "others": None}, {"ms": 2, "others": 0.5}])["ms"] == [1, 2]


def test_pools_have_the_scale_of_training_and_whole_batches(load: Any, tmp_path: Path) -> None:
    size = load("timing.sizes").SIZES["toy"].replace(batch=300)
    rows = np.load(load("timing.pool").write_pool(size, tmp_path))
    assert rows.dtype == np.float32
    assert len(rows) % 300 == 0
    assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(math.sqrt(size.d_in), rel=1e-4)


class _Channel:
    """Jobs from a list; replies are kept."""

    def __init__(self, *jobs: dict[str, Any]) -> None:
        self._jobs, self.replies = list(jobs), []

    def next(self) -> dict[str, Any] | None:
        return self._jobs.pop(0) if self._jobs else None

    def reply(self, **reply: Any) -> None:
        self.replies.append(reply)


def test_a_paced_loop_runs_in_blocks_and_stops_from_within(load: Any) -> None:
    serve = load("serve")
    channel = _Channel({"op": "facts"}, {"op": "block", "steps": 4}, {"op": "stop"})
    pacer = serve.Pacer(channel, 3, lambda: {"sse": 1.0})
    for _ in range(6):
        pacer.tick()
    with pytest.raises(serve.Stopped):
        pacer.tick()
    warm, facts, block = channel.replies
    assert (warm["steps"], block["steps"]) == (3, 4)
    assert facts == {"steps_done": 3, "sse": 1.0}


def test_a_paced_loop_ends_when_the_conductor_is_gone(load: Any) -> None:
    serve = load("serve")
    with pytest.raises(serve.Stopped):
        serve.Pacer(_Channel(), 1, dict).tick()


def test_the_peak_of_this_process_is_read(load: Any) -> None:
    machine = load("timing.machine")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    import os

    assert (machine.peak_memory_mib(os.getpid()) or 0) > 10


def test_our_side_begins_with_the_weights_given_and_trains_through_fit(load: Any, tmp_path: Path) -> None:
    serve, side = load("serve"), load("side_ours")
    size = load("timing.sizes").SIZES["toy"]
    pool = load("timing.pool").write_pool(size, tmp_path)
    weights = tmp_path / "weights.npz"
    job = {**size.as_dict(), "x": str(pool), "device": "cpu", "kind": "relu", "method": "relu", "lr": 1e-6, "l0": 60}
    side.weights({**job, "file": str(weights)}, _Channel())
    channel = _Channel({"op": "facts"}, {"op": "stop"})
    side.train({**job, "weights": str(weights), "warm": 2}, channel)
    before, _warm, after, _stopped = channel.replies
    assert before["l0"] == pytest.approx(60, rel=0.1)
    assert after["l0"] == pytest.approx(60, rel=0.1)
    assert after["steps_done"] == 2
    loaded = serve.load_weights(str(weights))
    assert set(loaded) == {"W_enc", "b_enc", "W_dec", "b_dec"}
