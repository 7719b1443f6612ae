"""Where and within what limits a run computes. Loads no torch until asked for the limits of a device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import ConfigError

Precision = Literal["float32", "bfloat16"]
_SHARE_OF_MACHINE = 0.8
"""Of the machine's memory, what training takes at most where no limit is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Device, precision and memory of a run. Precision moves numbers and enters keys; the memory limit does not."""

    device: str = "cpu"
    precision: Precision = "float32"
    """`bfloat16`: products in bfloat16 on the GPU, weights, optimiser and sums in float32."""
    max_memory: int | None = None
    """Bytes the SAEs of a cohort may take, on `device`; None: a share of what the machine has."""

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"--precision {self.precision!r}: allowed are float32 and bfloat16.")
        if self.precision == "bfloat16" and self.kind == "cpu":
            raise ConfigError(
                "--precision bfloat16 needs a GPU: on a CPU without bfloat16 units it is 8 to 200 times slower than "
                "float32. Add --device cuda, or leave --precision out."
            )
        if self.max_memory is not None and self.max_memory < 1:
            raise ConfigError(f"--max-memory must be above 0, got {self.max_memory} bytes.")

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`, without the number."""
        return self.device.partition(":")[0]

    def memory_limit(self) -> int:
        """Bytes a cohort may take: what was given, else a share of what the device has in all.

        In all and not what is free at the moment: a killed run must find its cohort again.
        """
        if self.max_memory is not None:
            return self.max_memory
        if self.kind == "cuda":
            import torch

            return int(_SHARE_OF_MACHINE * torch.cuda.get_device_properties(self.device).total_memory)
        return int(_SHARE_OF_MACHINE * machine_memory())

    def check(self) -> None:
        """Raises ConfigError unless tensors can be put on the device."""
        import torch

        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise ConfigError(f"--device {self.device!r} is no device: give cpu, cuda or cuda:N.") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                f"--device {self.device}: torch sees no CUDA device here. Leave it out to compute on the CPU."
            )
        if kind not in ("cpu", "cuda"):
            raise ConfigError(f"--device {self.device}: only cpu and cuda are supported.")


def machine_memory() -> int:
    """Bytes of memory this process may use in all: the machine's, or its control group's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total
