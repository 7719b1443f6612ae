"""Start-up: our commands that need no torch, beside importing the peers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.tables import render as table

from ..plan import Parts, Plan
from ..rounds import columns, interleave
from ..summary import Spread
from ..team import PeerError, Team
from .training import measured

_IMPORTS = {
    "dictionary_learning": "dictionary_learning",
    "sae_lens": "sae_lens",
    "sparsify": "sparsify",
    "sae_bench": "sae_bench.evals.core.main",
}
_COMMANDS = {
    "sae-harness --help": ("--help",),
    "sae-harness compare relu --baseline topk --from-stored": (
        "compare",
        "relu",
        "--baseline",
        "topk",
        "--from-stored",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSide:
    """A command, run once a block in a new process."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]

    def block(self, seconds: float) -> dict[str, float]:
        """Wall and CPU seconds and peak memory of one run.

        Raises:
            PeerError: it fails.
        """
        begun = time.perf_counter()
        with subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **self.environ}
        ) as process:
            assert process.stderr is not None
            told = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise PeerError(f"`{' '.join(self.command)}` ended with {process.returncode}: {told.decode()[-500:]}")
        return {"seconds": wall, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_mib": usage.ru_maxrss / 1024}


def measure(team: Team, plan: Plan) -> Parts:
    """One part: all commands in turns, each once before the first round so that files are in memory."""
    plan.tell("startup")
    script = Path(sys.executable).with_name("sae-harness")
    environ = {**team.environ(), "SAE_HARNESS_CACHE": str(plan.folder / "cache")}
    sides = [
        CommandSide(name=name, command=[str(script), *words], environ=environ) for name, words in _COMMANDS.items()
    ]
    sides.append(CommandSide(name="import torch", command=[sys.executable, "-c", "import torch"], environ=environ))
    for peer, module in _IMPORTS.items():
        if peer in team.peers:
            command = [str(team.python(peer)), "-c", f"import {module}"]
            sides.append(CommandSide(name=f"import {module}", command=command, environ=environ))
    for side in sides:
        side.block(0)
    blocks = interleave(sides, plan.rounds, 0.0, [])
    yield "startup/all", {"sides": {s.name: columns(blocks[s.name]) for s in sides}, "measured": plan.stamp()}


_HEADERS = ("command", "wall s", "CPU s", "peak MiB")


def render(parts: Mapping[str, Any]) -> str:
    """One table."""
    texts = []
    for part in parts.values():
        rows = [
            [
                f"`{name}`",
                Spread.of(side["seconds"]).text(),
                Spread.of(side["cpu_seconds"]).text(),
                f"{max(side['peak_rss_mib']):.0f}",
            ]
            for name, side in part["sides"].items()
        ]
        others = [value for side in part["sides"].values() for value in side["others"]]
        shown = table(rows, _HEADERS, "github")
        texts.append(f"{measured(part['measured'], others)}\n\n{shown}")
    return "\n\n".join(texts)
