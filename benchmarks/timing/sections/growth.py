"""How a TopK step grows with d_sae, k, the batch and the number of SAEs: ours and the fastest peer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.tables import render as table

from ..plan import Parts, Plan
from ..pool import write_pool
from ..rounds import LoopSide, columns, interleave
from ..sizes import SIZES, Size
from ..summary import Spread, paragraph, ratios
from ..team import OURS, Team
from .training import SPARSIFY, base_job, measured

AXES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "A": {
        "d_sae": (1024, 2048, 4096, 8192, 16384),
        "k": (8, 16, 32, 64, 128),
        "batch": (256, 512, 1024, 2048, 4096),
        "n_saes": (1, 2, 4, 8),
    },
    "toy": {"d_sae": (256, 512), "k": (4, 8), "batch": (128, 256), "n_saes": (1, 2)},
}
NAMES = {"d_sae": "d_sae", "k": "k", "batch": "tokens a step", "n_saes": "SAEs on one stream"}
PEER = f"{SPARSIFY}, adam"


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each axis, about size A; about the toy size where only that was asked for."""
    name = "toy" if {size.name for size in plan.sizes} == {"toy"} else "A"
    for axis, values in AXES[name].items():
        plan.tell(f"growth {name} {axis}")
        yield f"growth/{name}/{axis}", _measure(team, plan, SIZES[name], axis, values)


def _measure(team: Team, plan: Plan, base: Size, axis: str, values: tuple[int, ...]) -> dict[str, Any]:
    points = []
    for value in values:
        size = base if axis == "n_saes" else base.replace(**{axis: value})
        job = base_job(team, plan, size, "topk", "topk")
        # One pool for all points: only one thing changes from one to the next.
        job |= {"x": str(write_pool(base, plan.folder)), "n_saes": value if axis == "n_saes" else 1}
        loops = [LoopSide(OURS, team.process(OURS), job)]
        if SPARSIFY in team.peers:
            loops.append(LoopSide(PEER, team.process(SPARSIFY), {**job, "optimiser": "adam"}))
        for loop in loops:
            loop.begin()
        blocks = interleave(loops, plan.rounds, plan.block_seconds / 2, team.pids)
        sides = {
            loop.name: {**columns(blocks[loop.name]), "peak_rss_mib": loop.end()["peak_rss_mib"]} for loop in loops
        }
        points.append({"value": value, "sides": sides})
    versions = {**team.process(OURS).versions}
    team.dismiss()
    return {"size": base.as_dict(), "axis": axis, "points": points, "versions": versions, "measured": plan.stamp()}


_HEADERS = ("", "ours, ms", "sparsify, ms", "times ours", "ours, peak MiB", "sparsify, peak MiB")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each axis."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    size = part["size"]
    others = [v for point in part["points"] for side in point["sides"].values() for v in side["others"]]
    head = (
        f"**{name.replace('/', ', ')}**: about d_in {size['d_in']}, d_sae {size['d_sae']}, k {size['k']}, "
        f"{size['batch']} tokens a step. {measured(part['measured'], others)}"
    )
    rows = []
    for point in part["points"]:
        ours, theirs = point["sides"][OURS], point["sides"].get(PEER)
        rows.append(
            [
                f"{NAMES[part['axis']]} {point['value']}",
                Spread.of(ours["ms"]).text(),
                Spread.of(theirs["ms"]).text() if theirs else "-",
                Spread.of(ratios(theirs["ms"], ours["ms"])).text() if theirs else "-",
                _mib(ours),
                _mib(theirs),
            ]
        )
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"


def _mib(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None or side["peak_rss_mib"] is None else f"{side['peak_rss_mib']:.0f}"


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """The curves of all axes as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).flatten()
    for part, plot in zip(parts.values(), axes, strict=False):
        for side in (OURS, PEER):
            points = [(p["value"], p["sides"][side]["ms"]) for p in part["points"] if side in p["sides"]]
            if not points:
                continue
            spreads = [Spread.of(ms) for _, ms in points]
            middle = [spread.median for spread in spreads]
            low = [spread.median - spread.low for spread in spreads]
            high = [spread.high - spread.median for spread in spreads]
            plot.errorbar([value for value, _ in points], middle, yerr=[low, high], marker="o", capsize=3, label=side)
        plot.set_xscale("log", base=2)
        plot.set_yscale("log")
        plot.set_xticks([point["value"] for point in part["points"]])
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        plot.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))  # with every digit labelled they overlap
        plot.set_xticks([], minor=True)
        plot.set_xlabel(NAMES[part["axis"]])
        plot.set_ylabel("ms a step")
        plot.grid(True, which="major", alpha=0.3)
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
