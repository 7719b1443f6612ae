"""One training step: ours through the plugin interface, theirs through their own trainers, on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report.tables import render as table

from ..plan import Parts, Plan
from ..pool import write_pool
from ..rounds import CallSide, LoopSide, columns, interleave
from ..sizes import Size
from ..summary import Spread, busy_text, paragraph, ratios, significant
from ..team import OURS, Team

LIMIT = "limit"
TARGET_L0 = 60
"""Of the methods whose L0 is not set by k: below 64 with room for the drift of some dozen steps."""
LEARNING_RATE = {"topk": 1e-4, "batch_topk": 1e-4, "relu": 1e-6, "jumprelu": 1e-6}
"""The same on all sides. It costs no time; where L0 is not set by k it is small, so that L0 stays where it was put."""
_BATCH_TOPK = ("batch_topk", "batchtopk")

DICTIONARY_LEARNING, SAE_LENS, SPARSIFY = "dictionary_learning", "sae_lens", "sparsify"


def sides_of(kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(row, environment, more of the job) of each peer that trains such SAEs."""
    yield DICTIONARY_LEARNING, DICTIONARY_LEARNING, {}
    yield SAE_LENS, SAE_LENS, {"sparse": False}
    if kind == "topk":
        yield f"{SAE_LENS}, sparse", SAE_LENS, {"sparse": True}
        yield f"{SPARSIFY}, adam", SPARSIFY, {"optimiser": "adam"}
        yield f"{SPARSIFY}, signum", SPARSIFY, {"optimiser": "signum"}


def kinds() -> dict[str, str]:
    """Kind of SAE -> our method of that kind, for those that are installed."""
    from harness.plugins import load_catalogue

    installed = load_catalogue().trainers
    found = {kind: kind for kind in ("topk", "relu", "jumprelu") if kind in installed}
    batch_topk = next((name for name in _BATCH_TOPK if name in installed), None)
    return {**found, "batch_topk": batch_topk} if batch_topk else found


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each size and kind of SAE."""
    for size in plan.sizes:
        for kind, method in kinds().items():
            plan.tell(f"training {size.name} {kind}")
            yield f"training/{size.name}/{kind}", measure_kind(team, plan, size, kind, method)


def measure_kind(team: Team, plan: Plan, size: Size, kind: str, method: str) -> dict[str, Any]:
    """All sides of one size and kind, in turns."""
    base = base_job(team, plan, size, kind, method)
    peers = [(row, side, more) for row, side, more in sides_of(kind) if side in team.peers]
    # Rows of one environment get a process each: their loops run side by side.
    loops = [LoopSide(OURS, team.process(OURS), base)]
    if plan.device != "cpu":
        lower = f"{OURS}, bfloat16"
        loops.append(LoopSide(lower, team.process(OURS, lower), {**base, "precision": "bfloat16"}))
    loops += [LoopSide(row, team.process(side, row), {**base, **more}) for row, side, more in peers]
    for loop in loops:
        loop.begin()
    limit = CallSide(LIMIT, team.process(OURS, LIMIT), limit_job(plan, size))
    blocks = interleave([*loops, limit], plan.rounds, plan.block_seconds, team.pids)
    sides = {}
    for loop in loops:
        end = loop.end()
        sides[loop.name] = {
            **columns(blocks[loop.name]),
            "before": _figures(loop.before),
            "after_warm": _figures(loop.after_warm),
            "at_end": _figures(end["at_end"]),
            "config": end["at_end"].get("config", {}),
            "peak_rss_mib": end["peak_rss_mib"],
            "gpu_peak_mib": end["at_end"].get("gpu_peak_mib"),
            "versions": loop.process.versions,
        }
    team.dismiss()  # their memory is wanted by the next kind, and a fresh process has a peak of its own
    return {
        "size": size.as_dict(),
        "kind": kind,
        "l0": float(size.k) if kind in ("topk", "batch_topk") else float(TARGET_L0),
        "sides": sides,
        LIMIT: columns(blocks[LIMIT]),
        "measured": plan.stamp(),
    }


def base_job(team: Team, plan: Plan, size: Size, kind: str, method: str) -> dict[str, Any]:
    """The job all sides share, with the weights they begin with written."""
    job = {
        "op": "train",
        "kind": kind,
        "method": method,
        "lr": LEARNING_RATE[kind],
        "l0": min(TARGET_L0, size.d_sae // 4),
        "x": str(write_pool(size, plan.folder)),
        "device": plan.device,
        **size.as_dict(),
    }
    file = str(plan.folder / f"weights-{size.d_in}-{size.d_sae}-{size.k}-{kind}.npz")
    team.ask(OURS, {**job, "op": "weights", "file": file})
    return {**job, "weights": file}


def limit_job(plan: Plan, size: Size) -> dict[str, Any]:
    """Speed of the matrix products of this size."""
    return {"op": "gemm", "seconds": min(0.2, plan.block_seconds / 5), "device": plan.device, **size.as_dict()}


def _figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("sse", "l0", "sse_in_step", "steps_done") if name in facts}


_HEADERS = (
    "side",
    "ms a step",
    "CPU ms",
    "tokens/s",
    "times ours",
    "of sparse limit",
    "of dense limit",
    "error before",
    "after 3 steps",
    "L0",
    "peak MiB",
)


def render(parts: Mapping[str, Any]) -> str:
    """A table for each size and kind."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    size, sides, limit = part["size"], part["sides"], part[LIMIT]
    # Results of before the encoder's product had a library of its own do not tell it.
    ours = f" by torch, the encoder's {Spread.of(limit['ours']).text()} by ours" if "ours" in limit else ""
    sparsity = "k" if part["kind"] in ("topk", "batch_topk") else "L0 near"
    head = (
        f"**{name.replace('/', ', ')}**: d_in {size['d_in']}, d_sae {size['d_sae']}, {sparsity} {part['l0']:.0f}, "
        f"{size['batch']} tokens a step. Matrix products, GFLOP/s: "
        f"{Spread.of(limit['harmonic_mean']).text()}{ours}. "
        f"{measured(part['measured'], _others(part))}"
    )
    rows = [_row(row, side, part) for row, side in sides.items()]
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"


def _row(name: str, side: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    size, ours = Size(**part["size"]), part["sides"][OURS]
    sparse, dense = limit_shares(side["ms"], part["limit"]["harmonic_mean"], size, part["l0"])
    return [
        name,
        Spread.of(side["ms"]).text(),
        significant(Spread.of(side["cpu_ms"]).median),
        significant(1e3 * size.batch / Spread.of(side["ms"]).median),
        Spread.of(ratios(side["ms"], ours["ms"])).text() if name != OURS else "1",
        f"{Spread.of(sparse).median:.2f}",
        f"{Spread.of(dense).median:.2f}",
        _loss(side["before"], ours["before"], name),
        _loss(side["after_warm"], ours["after_warm"], name),
        f"{side['before']['l0']:.0f}–{side['at_end']['l0']:.0f}",
        _peak(side),
    ]


def _peak(side: Mapping[str, Any]) -> str:
    """Resident memory in MiB, and on a GPU what tensors took there."""
    known = [side["peak_rss_mib"], side.get("gpu_peak_mib")]
    return " + GPU ".join(f"{value:.0f}" for value in known if value is not None) or "-"


def limit_shares(
    ms: Sequence[float], gflops: Sequence[float], size: Size, l0: float
) -> tuple[list[float], list[float]]:
    """Round by round, the share of the speed that the round's matrix products allow: sparse rule, dense rule."""
    sparse = [size.sparse_flops(l0) / (g * 1e6) / t for t, g in zip(ms, gflops, strict=True)]
    dense = [size.dense_flops() / (g * 1e6) / t for t, g in zip(ms, gflops, strict=True)]
    return sparse, dense


def _loss(figures: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> str:
    """Squared error per token; of the others also the relative difference to ours."""
    if name == OURS:
        return significant(figures["sse"], 6)
    return f"{significant(figures['sse'], 6)} ({figures['sse'] / ours['sse'] - 1:+.0e})"


def _others(part: Mapping[str, Any]) -> list[float | None]:
    return [value for side in part["sides"].values() for value in side["others"]] + list(part["limit"]["others"])


def measured(stamp: Mapping[str, Any], others: Sequence[float | None]) -> str:
    """One line on how a part was measured."""
    return (
        f"{stamp['threads']} threads, {stamp['rounds']} rounds, {stamp['date']}; "
        f"others kept {busy_text(others)} cores busy."
    )
