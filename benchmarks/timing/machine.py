"""What the figures were measured on, how busy it was with others, and what the workers' memory peaked at."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quality_report import cpu_model

_HZ = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def machine(device: str) -> dict[str, Any]:
    """The hardware, as the results name it."""
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if device != "cpu":
        found["gpu"] = _gpu()
    return found


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    done = subprocess.run(
        [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip().partition("\n")[0] or "unknown"


class BusyMeter:
    """How many cores other processes (and other guests of the same host) kept busy since `start`.

    All of /proc/stat less this process, its ended children, and the workers; None where there is no /proc.
    """

    def __init__(self) -> None:
        self._begun: tuple[float, float, dict[int, float]] | None = None

    def start(self, workers: Iterable[int]) -> None:
        """Begin an interval; `workers` are process ids."""
        busy = _busy_seconds()
        self._begun = None if busy is None else (time.perf_counter(), busy, _own_seconds(workers))

    def stop(self) -> float | None:
        """Cores that others kept busy in the interval."""
        busy = _busy_seconds()
        if self._begun is None or busy is None:
            return None
        wall, busy_before, own_before = self._begun
        own = _own_seconds(own_before)
        passed = time.perf_counter() - wall
        ours = sum(seconds - own_before[pid] for pid, seconds in own.items())
        return max(0.0, (busy - busy_before - ours) / passed) if passed > 0 else None


def _busy_seconds() -> float | None:
    """CPU seconds all cores have been busy since boot; time stolen by the host's other guests counts."""
    try:
        fields = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / _HZ


def _own_seconds(pids: Iterable[int]) -> dict[int, float]:
    """CPU seconds of this process and of `pids`, with those of their ended children."""
    found = {}
    for pid in {os.getpid(), *pids}:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # ended meanwhile: what it used is then among its parent's ended children
        # The name, in parentheses, may hold spaces.
        fields = text.rpartition(")")[2].split()
        found[pid] = sum(int(number) for number in fields[11:15]) / _HZ
    return found


def peak_memory_mib(pid: int) -> float | None:
    """The most physical memory a process has had since its peak was last reset."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
