"""Encoding with a TopK SAE: ours gives indices and values, the peers what their `encode` gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.tables import render as table

from ..plan import Parts, Plan
from ..rounds import CallSide, LoopSide, columns, interleave
from ..sizes import Size
from ..summary import Spread, paragraph, ratios, significant
from ..team import OURS, Team
from .training import LIMIT, base_job, limit_job, measured

PEERS = ("dictionary_learning", "sae_lens", "sae_bench", "sparsify")


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each size."""
    for size in plan.sizes:
        yield f"encode/{size.name}", _measure(team, plan, size)


def _measure(team: Team, plan: Plan, size: Size) -> dict[str, Any]:
    plan.tell(f"encode {size.name}")
    base = {**base_job(team, plan, size, "topk", "topk"), "op": "encode"}
    loops = []
    for side in (OURS, *(peer for peer in PEERS if peer in team.peers)):
        codes = plan.folder / f"codes-{side}.npy"
        loops.append(LoopSide(side, team.process(side), {**base, "codes": str(codes)}))
    for loop in loops:
        loop.begin()
    limit = CallSide(LIMIT, team.process(OURS, LIMIT), limit_job(plan, size))
    blocks = interleave([*loops, limit], plan.rounds, plan.block_seconds, team.pids)
    sides = {}
    for loop in loops:
        end = loop.end()
        sides[loop.name] = {
            **columns(blocks[loop.name]),
            "difference": largest_difference(Path(loop.job["codes"]), Path(loops[0].job["codes"])),
            "peak_rss_mib": end["peak_rss_mib"],
            "versions": loop.process.versions,
        }
    team.dismiss()
    return {"size": size.as_dict(), "sides": sides, LIMIT: columns(blocks[LIMIT]), "measured": plan.stamp()}


def largest_difference(theirs: Path, ours: Path) -> float:
    """The largest difference between two sides' dense codes, relative to the largest code."""
    a, b = np.load(theirs), np.load(ours)
    return float(np.abs(a - b).max() / np.abs(b).max())


_HEADERS = ("side", "ms a batch", "tokens/s", "times ours", "of the product's limit", "codes differ by", "peak MiB")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each size."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    size, sides, limit = Size(**part["size"]), part["sides"], part[LIMIT]
    others = [value for side in sides.values() for value in side["others"]] + list(limit["others"])
    speeds = [gflops["encode"] for gflops in limit["gflops"]]
    head = (
        f"**{name}**: d_in {size.d_in}, d_sae {size.d_sae}, k {size.k}, {size.batch} tokens a batch. The encoder's "
        f"matrix product: {Spread.of(speeds).text()} GFLOP/s. {measured(part['measured'], others)}"
    )
    rows = []
    for row, side in sides.items():
        shares = [size.encode_flops() / (g * 1e6) / t for t, g in zip(side["ms"], speeds, strict=True)]
        rows.append(
            [
                row,
                Spread.of(side["ms"]).text(),
                significant(1e3 * size.batch / Spread.of(side["ms"]).median),
                Spread.of(ratios(side["ms"], sides[OURS]["ms"])).text() if row != OURS else "1",
                f"{Spread.of(shares).median:.2f}",
                f"{side['difference']:.0e}",
                "-" if side["peak_rss_mib"] is None else f"{side['peak_rss_mib']:.0f}",
            ]
        )
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"
