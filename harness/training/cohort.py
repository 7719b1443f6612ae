"""How a cohort trains: what each SAE takes in memory, the parts a cohort falls into under a limit, and which SAEs step
side by side on one thread each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..artefacts.cache import format_bytes
from ..errors import ConfigError
from ..interfaces.sae import SAE

_BUFFERS = 7
"""Tensors the size of a batch's pre-activations that a dense step holds at once: pre-activations, codes, which are
active, and the gradients of both. Measured 6 to 7 for `relu`; a sparse step holds about 2."""

_ONE_THREAD_FLOP = 3e9
"""Of the encoder's product. Below it a second thread gains less than waking it at every operation costs."""


def one_thread(batch_size: int, d_in: int, d_sae: int) -> bool:
    """Whether each step of an SAE of this size runs on one thread of the CPU, and those of others beside it.

    By size alone: an SAE ends the same whether it trains in a cohort or alone, and whatever the number of threads.
    """
    return 2.0 * batch_size * d_in * d_sae <= _ONE_THREAD_FLOP


def at_once(batch_size: int, d_in: int, d_sae: int, device: str) -> int:
    """How many SAEs of this size step at the same time."""
    alone = torch.device(device).type == "cpu" and one_thread(batch_size, d_in, d_sae)
    return torch.get_num_threads() if alone else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes one SAE takes while it trains."""

    label: str
    held: int
    """All the time: weights, Adam's two averages, firing counts."""
    step: int
    """While it steps, so that a cohort needs it once for each SAE that steps at the same time: gradients, the batch's
    pre-activations, and the largest gradient once more, for which the allocator may find no gap."""


def footprint(label: str, sae: SAE, batch_size: int, *, passes: int = 1) -> Footprint:
    """What training `sae` takes. `passes`: encoder passes a step makes."""
    sizes = [p.numel() * p.element_size() for p in sae.parameters()]
    buffers = _BUFFERS * passes * batch_size * sae.config.d_sae * 4
    step = sum(sizes) + max(sizes, default=0) + buffers
    return Footprint(label=label, held=3 * sum(sizes) + 8 * sae.config.d_sae, step=step)


def parts(footprints: Sequence[Footprint], limit: int, *, at_once: int = 1) -> list[list[int]]:
    """Which SAEs train together: their numbers, in order, each part within `limit` bytes, as few parts as that allows.
    `at_once`: how many of them step at the same time.

    Raises:
        ConfigError: one SAE alone does not fit.
    """
    found: list[list[int]] = []
    held, steps = 0, list[int]()
    for number, one in enumerate(footprints):
        if one.held + one.step > limit:
            raise ConfigError(
                f"{one.label} needs about {format_bytes(one.held + one.step)} to train, more than the limit of "
                f"{format_bytes(limit)}. Raise --max-memory, or take a suite with a smaller d_sae or batch_size."
            )
        together = sorted([*steps, one.step], reverse=True)[:at_once]
        if not found or held + one.held + sum(together) > limit:
            found.append([])
            held, together = 0, [one.step]
        found[-1].append(number)
        held, steps = held + one.held, together
    return found
