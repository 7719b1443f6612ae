"""The workers of a benchmark: each side in a process of its own environment, started when first asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from peer_environment import PEERS, PeerError, PeerProcess, ensure_environment

WORKERS = Path(__file__).resolve().parents[1] / "workers"
OURS = "sae-harness"
"""The name of our side in all results."""


class Team:
    """Processes by (side, role). Roles keep apart what must not share memory, such as a measurement of the limit."""

    def __init__(self, environments: Path, scratch: Path, threads: int, peers: Sequence[str] = tuple(PEERS)) -> None:
        self.scratch, self.threads, self.peers = scratch, threads, tuple(peers)
        self._environments = environments
        self._pythons: dict[str, Path] = {}
        self._processes: dict[tuple[str, str], PeerProcess] = {}

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss()

    def python(self, side: str) -> Path:
        """The Python of a side's environment.

        Raises:
            PeerError: the environment cannot be made.
        """
        if side == OURS:
            return Path(sys.executable)
        if side not in self._pythons:
            self._pythons[side] = ensure_environment((self._environments / side).resolve(), PEERS[side])
        return self._pythons[side]

    def process(self, side: str, role: str = "") -> PeerProcess:
        """The worker of a side, started if need be.

        Raises:
            PeerError: it cannot be started.
        """
        key = (side, role)
        if key not in self._processes:
            name = "ours" if side == OURS else side
            worker = WORKERS / f"side_{name}.py"
            log = self.scratch / f"{name}{role and '-' + role}.log"
            self._processes[key] = PeerProcess(
                self.python(side), self.threads, log, worker=worker, environ=self.environ()
            )
        return self._processes[key]

    def environ(self) -> Mapping[str, str]:
        """Environment variables of every worker: as many threads as asked for, which wait without spinning, and no
        network."""
        return {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "WANDB_MODE": "disabled",
            # sae_bench's checks of shapes refuse its own sparse probing with the jaxtyping it installs.
            "JAXTYPING_DISABLE": "1",
        }

    @property
    def pids(self) -> list[int]:
        """Process ids of all workers."""
        return [process.pid for process in self._processes.values()]

    def dismiss(self, sides: Iterable[str] | None = None) -> None:
        """End the workers of some sides, or all: their memory is then free."""
        chosen = set(sides) if sides is not None else None
        for side, role in list(self._processes):
            if chosen is None or side in chosen:
                self._processes.pop((side, role)).close()

    def ask(self, side: str, job: Mapping[str, Any], role: str = "") -> dict[str, Any]:
        """The first reply to a job.

        Raises:
            PeerError: the worker failed.
        """
        return self.process(side, role).run(job)


__all__ = ["OURS", "PeerError", "Team"]
