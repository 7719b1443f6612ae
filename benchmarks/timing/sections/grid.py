"""A whole run: SAEs of several sparsities and seeds, from text to checkpoints, on an LM of GPT-2 small's shape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.report.tables import render as table

from ..lms import GPT2_SMALL, GPT2_TOY, SEQ_LEN, write_text
from ..machine import BusyMeter, peak_memory_mib
from ..plan import Parts, Plan
from ..summary import paragraph, significant
from ..team import OURS, Team
from .training import SAE_LENS, SPARSIFY, measured

ALONE = f"{SPARSIFY}, one SAE a run"
"""sparsify where seeds are not trained together: one run is measured for each k, as a seed changes no time."""
_SIDES = {OURS: OURS, SAE_LENS: SAE_LENS, SPARSIFY: SPARSIFY, ALONE: SPARSIFY}
_WAYS = {OURS: "all SAEs on one stream", SAE_LENS: "one SAE a run", SPARSIFY: "the seeds of one k a run"}
_CHARACTERS_A_TOKEN = 24
"""Text that is written for each token trained on: several times what is needed, as sides choose differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is trained."""

    name: str
    shape: Mapping[str, int]
    layer: int
    d_sae: int
    batch: int
    ks: tuple[int, ...] = (16, 32, 64, 128)
    n_seeds: int = 3
    lr: float = 3e-4

    @property
    def n_saes(self) -> int:
        """SAEs in all."""
        return len(self.ks) * self.n_seeds


GRIDS = {
    "toy": Grid(name="toy", shape=GPT2_TOY, layer=1, d_sae=512, batch=1024, ks=(4, 8, 16, 32)),
    "gpt2": Grid(name="gpt2", shape=GPT2_SMALL, layer=5, d_sae=12288, batch=2048),
}


def measure(team: Team, plan: Plan) -> Parts:
    """One part a grid: the toy where only the toy size was asked for."""
    name = "toy" if {size.name for size in plan.sizes} == {"toy"} else "gpt2"
    yield f"grid/{name}", _measure(team, plan, GRIDS[name])


def _measure(team: Team, plan: Plan, grid: Grid) -> dict[str, Any]:
    plan.tell(f"grid {grid.name}: setting up")
    folder = plan.folder / f"lm-{grid.name}"
    team.ask(OURS, {"op": "make_lm", "folder": str(folder), "shape": dict(grid.shape)})
    n_tokens = plan.grid_tokens // grid.batch * grid.batch
    text = write_text(plan.folder, n_tokens * _CHARACTERS_A_TOKEN)
    common = {
        "op": "run",
        "lm": str(folder),
        "text": str(text),
        "seq_len": SEQ_LEN,
        "n_tokens": n_tokens,
        "batch": grid.batch,
        "d_in": grid.shape["n_embd"],
        "d_sae": grid.d_sae,
        "layer": grid.layer,
        "hookpoint": f"blocks.{grid.layer}.hook_resid_post",
        "lr": grid.lr,
        "device": plan.device,
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    for row, job in _order(plan, grid, common, [s for s in (SAE_LENS, SPARSIFY) if s in team.peers]):
        number = len(runs.setdefault(row, []))
        plan.tell(f"grid {grid.name}: {row}, run {number + 1}")
        runs[row].append(_run(team, plan, _SIDES[row], job))
    versions = {row: team.process(_SIDES[row]).versions for row in runs}
    team.dismiss()
    wanted = {OURS: 1, SAE_LENS: grid.n_saes, SPARSIFY: len(grid.ks), ALONE: grid.n_saes}
    return {
        "grid": {**asdict(grid), "shape": dict(grid.shape)},
        "n_tokens": n_tokens,
        "sides": {
            row: {"runs": done, "runs_wanted": wanted[row], "versions": versions[row]} for row, done in runs.items()
        },
        "measured": plan.stamp(),
    }


def _order(plan: Plan, grid: Grid, common: Mapping[str, Any], peers: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(row, job): ours at the beginning and at the end, the peers' runs between, in turns."""
    ours = {
        **common,
        "l0_grid": list(grid.ks),
        "n_seeds": grid.n_seeds,
        "n_train_tokens": common["n_tokens"],
        "n_eval_sequences": 1,
        "evaluators": [],
    }
    yield OURS, ours
    for number, k in enumerate(grid.ks):
        for seed in range(grid.n_seeds):
            if SAE_LENS in peers and _wanted(plan, number * grid.n_seeds + seed, grid.n_saes):
                yield SAE_LENS, {**common, "k": k, "seed": seed}
        if SPARSIFY in peers and _wanted(plan, number, len(grid.ks)):
            yield SPARSIFY, {**common, "k": k, "n_seeds": grid.n_seeds}
            yield ALONE, {**common, "k": k, "n_seeds": 1}
    yield OURS, ours


def _wanted(plan: Plan, number: int, total: int) -> bool:
    """Whether run `number` of `total` is measured: where not all are, they are spread over the values of k."""
    n = plan.grid_runs
    return n is None or number in {i * total // n for i in range(n)}


def _run(team: Team, plan: Plan, side: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """One run in an empty folder."""
    out = plan.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    process, meter = team.process(side), BusyMeter()
    meter.start(team.pids)
    reply = process.run({**job, "out": str(out), "cache": str(out)})
    found = {**reply, "others": meter.stop(), "peak_rss_mib": peak_memory_mib(process.pid), "k": job.get("k")}
    shutil.rmtree(out)
    return found


def whole_seconds(side: Mapping[str, Any], ours: bool) -> float:
    """Seconds of the whole grid. Each of our runs makes all of it: their mean. Of theirs: the sum, multiplied where
    not all were measured."""
    seconds = [run["seconds"] for run in side["runs"]]
    mean = sum(seconds) / len(seconds)
    return mean if ours else mean * side["runs_wanted"]


_HEADERS = ("side", "runs", "seconds a run", "whole grid, s", "times ours", "SAEs saved", "peak MiB")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each grid."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    grid, sides = part["grid"], part["sides"]
    n_saes = len(grid["ks"]) * grid["n_seeds"]
    others = [run["others"] for side in sides.values() for run in side["runs"]]
    head = (
        f"**{name}**: {n_saes} TopK SAEs (k {', '.join(map(str, grid['ks']))}; {grid['n_seeds']} seeds each) of "
        f"d_sae {grid['d_sae']} after block {grid['layer'] + 1} of {grid['shape']['n_layer']}, d_in "
        f"{grid['shape']['n_embd']}, {part['n_tokens']:,} tokens, {grid['batch']} a step. "
        f"{measured(part['measured'], others)}"
    )
    ours = whole_seconds(sides[OURS], True)
    rows = [_row(side, found, ours) for side, found in sides.items()]
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"


def _row(name: str, side: Mapping[str, Any], ours: float) -> list[str]:
    runs = side["runs"]
    seconds = whole_seconds(side, name == OURS)
    n, wanted = len(runs), side["runs_wanted"]
    made = f"{n} of {wanted}, multiplied" if n < wanted else f"{n}" if name != OURS else f"1, made {n} times"
    each = [run["seconds"] for run in runs]
    peaks = [run["peak_rss_mib"] for run in runs if run["peak_rss_mib"] is not None]
    return [
        name if name == ALONE else f"{name}, {_WAYS[name]}",
        made,
        f"{significant(min(each))}–{significant(max(each))}",
        significant(seconds),
        "1" if name == OURS else f"{seconds / ours:.2f}",
        f"{sum(run['n_saes'] for run in runs) // (n if name == OURS else 1)}",
        f"{max(peaks):.0f}" if peaks else "-",
    ]
