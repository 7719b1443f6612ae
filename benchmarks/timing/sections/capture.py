"""Tokens to activations at the middle of an LM of GPT-2 small's shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.report.tables import render as table

from ..lms import SEQ_LEN, write_text
from ..plan import Parts, Plan
from ..rounds import LoopSide, columns, interleave
from ..summary import Spread, paragraph, ratios, significant
from ..team import OURS, Team
from .encode import largest_difference
from .grid import GRIDS, Grid
from .training import SAE_LENS, SPARSIFY, measured

SEQUENCES = 16
STORE_TOKENS = 4096
TO_STORE = f"{OURS}, to a store on disk"
_WAYS = {
    OURS: "the pass ends at the hookpoint",
    TO_STORE: "and the activations are checked, written and synced",
    SAE_LENS: "TransformerLens, stop_at_layer",
    SPARSIFY: "Hugging Face, all blocks, no head",
}


def measure(team: Team, plan: Plan) -> Parts:
    """One part: the toy LM where only the toy size was asked for."""
    name = "toy" if {size.name for size in plan.sizes} == {"toy"} else "gpt2"
    yield f"capture/{name}", _measure(team, plan, GRIDS[name])


def _measure(team: Team, plan: Plan, grid: Grid) -> dict[str, Any]:
    plan.tell(f"capture {grid.name}")
    folder = plan.folder / f"lm-{grid.name}"
    team.ask(OURS, {"op": "make_lm", "folder": str(folder), "shape": dict(grid.shape)})
    tokens = plan.folder / "capture-tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 4096, (4 * SEQUENCES, SEQ_LEN)))
    base = {
        "op": "capture",
        "lm": str(folder),
        "text": str(write_text(plan.folder, 24 * STORE_TOKENS)),
        "seq_len": SEQ_LEN,
        "n_train_tokens": STORE_TOKENS,
        "n_eval_sequences": 1,
        "n_tokens": STORE_TOKENS,
        "batch": grid.batch,
        "d_sae": grid.d_sae,
        "l0_grid": [grid.ks[0]],
        "n_seeds": 1,
        "evaluators": [],
        "layer": grid.layer,
        "hookpoint": f"blocks.{grid.layer}.hook_resid_post",
        "tokens": str(tokens),
        "sequences": SEQUENCES,
        "cache": str(plan.folder / "capture-cache"),
        "device": plan.device,
    }
    sides = [(OURS, OURS, "", "capture"), (TO_STORE, OURS, "store", "capture_to_store")]
    sides += [(peer, peer, "", "capture") for peer in (SAE_LENS, SPARSIFY) if peer in team.peers]
    loops = [
        LoopSide(name, team.process(side, role), {**base, "op": op, "activations": str(_file(plan, name))})
        for name, side, role, op in sides
    ]
    for loop in loops:
        loop.begin()
    blocks = interleave(loops, plan.rounds, plan.block_seconds, team.pids)
    found = {}
    for loop in loops:
        to_store = loop.name == TO_STORE
        found[loop.name] = {
            **columns(blocks[loop.name]),
            "tokens_a_step": STORE_TOKENS if to_store else SEQUENCES * SEQ_LEN,
            "difference": None if to_store else largest_difference(_file(plan, loop.name), _file(plan, OURS)),
            "peak_rss_mib": loop.end()["peak_rss_mib"],
            "versions": loop.process.versions,
        }
    team.dismiss()
    return {"grid": grid.name, "shape": dict(grid.shape), "layer": grid.layer, "sides": found} | {
        "measured": plan.stamp()
    }


def _file(plan: Plan, name: str) -> Path:
    return plan.folder / f"activations-{name.partition(',')[0]}.npy"


_HEADERS = ("side", "tokens/s", "times ours", "activations differ by", "peak MiB")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each LM."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    sides, shape = part["sides"], part["shape"]
    per_token = {row: [ms / side["tokens_a_step"] for ms in side["ms"]] for row, side in sides.items()}
    head = (
        f"**{name}**: {shape['n_layer']} blocks of width {shape['n_embd']}, read after block {part['layer'] + 1}; "
        f"{SEQUENCES} sequences of {SEQ_LEN} tokens at once. "
        f"{measured(part['measured'], [v for side in sides.values() for v in side['others']])}"
    )
    rows = [
        [
            f"{row}: {_WAYS[row]}",
            Spread.of([1e3 / ms for ms in per_token[row]]).text(),
            "1" if row == OURS else Spread.of(ratios(per_token[row], per_token[OURS])).text(),
            "-" if side["difference"] is None else f"{side['difference']:.0e}",
            "-" if side["peak_rss_mib"] is None else significant(side["peak_rss_mib"], 4),
        ]
        for row, side in sides.items()
    ]
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"
