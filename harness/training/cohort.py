"""How many SAEs train at once: what each takes in memory, and the parts a cohort falls into under a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..artefacts.cache import format_bytes
from ..errors import ConfigError
from ..interfaces.sae import SAE

_BUFFERS = 7
"""Tensors the size of a batch's pre-activations that a dense step holds at once: pre-activations, codes, which are
active, and the gradients of both. Measured 6 to 7 for `relu`; a sparse step holds about 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes one SAE takes while it trains."""

    label: str
    held: int
    """All the time: weights, Adam's two averages, firing counts."""
    step: int
    """While it steps, so that a cohort needs it once: gradients and the batch's pre-activations."""


def footprint(label: str, sae: SAE, batch_size: int, *, passes: int = 1) -> Footprint:
    """What training `sae` takes. `passes`: encoder passes a step makes."""
    weights = sum(p.numel() * p.element_size() for p in sae.parameters())
    buffers = _BUFFERS * passes * batch_size * sae.config.d_sae * 4
    return Footprint(label=label, held=3 * weights + 8 * sae.config.d_sae, step=weights + buffers)


def parts(footprints: Sequence[Footprint], limit: int) -> list[list[int]]:
    """Which SAEs train together: their numbers, in order, each part within `limit` bytes, as few parts as that allows.

    Raises:
        ConfigError: one SAE alone does not fit.
    """
    found: list[list[int]] = []
    held = step = 0
    for number, one in enumerate(footprints):
        if one.held + one.step > limit:
            raise ConfigError(
                f"{one.label} needs about {format_bytes(one.held + one.step)} to train, more than the limit of "
                f"{format_bytes(limit)}. Raise --max-memory, or take a suite with a smaller d_sae or batch_size."
            )
        if not found or held + one.held + max(step, one.step) > limit:
            found.append([])
            held = step = 0
        found[-1].append(number)
        held, step = held + one.held, max(step, one.step)
    return found
