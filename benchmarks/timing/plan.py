"""What a run of the benchmark was asked to do, and what a section gives back."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sizes import Size
from .team import Team


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Options that all sections share."""

    sizes: tuple[Size, ...]
    threads: int
    rounds: int
    block_seconds: float
    device: str
    lms: tuple[str, ...]
    """Names in `lms.LMS`."""
    grid_tokens: int
    """Tokens of each SAE of the grid."""
    grid_runs: int | None
    """Runs of each peer that are measured; None: all."""
    folder: Path
    """For pools, weights, LMs and caches; kept only where the user named it."""
    tell: Callable[[str], None]
    """Takes one line of progress."""

    def stamp(self, **more: Any) -> dict[str, Any]:
        """How a part was measured."""
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        return {"date": today, "threads": self.threads, "rounds": self.rounds, "device": self.device, **more}


Parts = Iterator[tuple[str, dict[str, Any]]]
"""Parts of the results with their names, such as `training/A/topk`, as they are measured: each is kept at once."""
Measure = Callable[[Team, Plan], Parts]
Render = Callable[[Mapping[str, Any]], str]
"""Markdown of a section from its parts, by name without the section."""
