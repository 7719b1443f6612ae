"""A whole sweep as named series, so that a record keeps every setting and not only the chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from harness.evaluation.unlearning import SELECTORS, Setting


def columns(settings: Sequence[Setting], chosen: int, measured: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    """Series of one number a setting: `selector` (its place among SELECTORS), `threshold`, `latents`, `strength` and
    what was measured; `chosen`: the place of the chosen setting, -1 where the LM is left as it is."""
    return {
        "selector": tuple(float(list(SELECTORS).index(setting.selector)) for setting in settings),
        "threshold": tuple(setting.threshold for setting in settings),
        "latents": tuple(float(setting.n) for setting in settings),
        "strength": tuple(setting.strength for setting in settings),
        **{name: tuple(values.tolist()) for name, values in measured.items()},
        "chosen": (float(chosen),),
    }
