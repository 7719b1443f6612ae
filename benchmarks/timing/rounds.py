"""Sides in turns: in each round each side runs one block of steps, in an order that rotates; the others wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from peer_environment import PeerProcess

from .machine import BusyMeter, peak_memory_mib

WARM_STEPS = 3


class Side(Protocol):
    """What takes part in the rounds."""

    @property
    def name(self) -> str:
        """In the results."""
        ...

    def block(self, seconds: float) -> dict[str, Any]:
        """Run for about so many seconds; the figures of the block."""
        ...


@dataclass
class LoopSide:
    """A loop in a worker that stops between two steps (`serve.Pacer`)."""

    name: str
    process: PeerProcess
    job: Mapping[str, Any]
    before: dict[str, Any] = field(default_factory=dict)
    """What the worker said before the first step."""
    after_warm: dict[str, Any] = field(default_factory=dict)
    """And after the warm-up, when all sides have made as many steps."""
    seconds_per_step: float = 0.0

    def begin(self) -> None:
        """Start the loop and let it make its first steps."""
        self.before = self.process.run({**self.job, "warm": WARM_STEPS})
        warm = self.process.read()
        self.after_warm = self.process.run({"op": "facts"})
        # The first steps also fetch memory from the system: one more says how long a step takes.
        probe = self.process.run({"op": "block", "steps": 1})
        self.seconds_per_step = min(probe["seconds"], warm["seconds"] / warm["steps"])

    def block(self, seconds: float) -> dict[str, float]:
        """A block of about `seconds`, at least one step."""
        steps = max(1, round(seconds / max(self.seconds_per_step, 1e-6)))
        reply = self.process.run({"op": "block", "steps": steps})
        self.seconds_per_step = reply["seconds"] / steps
        return {
            "ms": 1e3 * reply["seconds"] / steps,
            "cpu_ms": 1e3 * reply["cpu_seconds"] / steps,
            "steps": steps,
        }

    def end(self) -> dict[str, Any]:
        """Stop the loop; what the worker says of its end, and its peak memory."""
        facts = self.process.run({"op": "facts"})
        peak = peak_memory_mib(self.process.pid)
        self.process.run({"op": "stop"})
        return {"at_end": facts, "peak_rss_mib": peak}


@dataclass
class CallSide:
    """A job that is one measurement in itself, such as the limit."""

    name: str
    process: PeerProcess
    job: Mapping[str, Any]

    def block(self, seconds: float) -> dict[str, Any]:
        """The worker's reply."""
        return self.process.run(self.job)


def interleave(
    sides: Sequence[Side], rounds: int, seconds: float, pids: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """The blocks of each side, round by round; to each is added how busy others kept the machine (`others`, cores)."""
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    meter = BusyMeter()
    for number in range(rounds):
        turn = number % len(sides)
        for side in [*sides[turn:], *sides[:turn]]:
            meter.start(pids)
            block = side.block(seconds)
            found[side.name].append({**block, "others": meter.stop()})
    return found


def columns(blocks: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The same figures as one list a name."""
    return {name: [block[name] for block in blocks] for name in blocks[0]}
