"""Self-tests of the pieces a loss is made of, for a plugin's own tests: what the kit cannot reach from outside.

Each calls a function of yours on numbers whose answer is known and raises ConformanceError where it gives another:

    def test_my_tracker():
        check_moving_maximum(lambda: MyTracker(decay=0.99).update)

What a plugin need not write itself: `harness.training.pairs` (correlations, competition, selection),
`harness.training.pair_penalties`, `harness.training.relative_scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .bench import require

_LOSSES = (100.0, 80.0, 60.0, 55.0, 300.0, 54.0, 53.0, 20.0, 19.0, 40.0, 18.0, 18.0, 500.0, 17.0)
"""A falling loss with batches far above it."""


def check_moving_maximum(make: Callable[[], Callable[[float], float]]) -> None:
    """A moving maximum is never below the value it was just given (FAULTS F35: an average was called one).

    `make()` gives a new tracker, a function of the next value. It must also forget: after 10,000 small values it is
    below the largest.
    """
    track = make()
    for value in _LOSSES:
        found = track(value)
        require(
            found >= value * (1 - 1e-9),
            f"The moving maximum is {found:.6g} after {value:g}: it must be at least its last input. "
            "max(last, decay · before + (1 - decay) · last) is one; an average of the inputs is none.",
        )
    for _ in range(10_000):
        found = track(1.0)
    require(
        found < max(_LOSSES),
        f"The moving maximum is still {found:.6g} ten thousand values after {max(_LOSSES):g}: it does not move. "
        "Let it decay, or take the maximum of a window.",
    )


def check_schedule(make: Callable[[], Callable[[float], float]]) -> None:
    """A factor computed from losses is the same whatever their units (FAULTS F37: a sigmoid of a loss of 100).

    `make()` gives a new schedule, a function of the next loss. Losses of 1/1000 and 1000 times the size must give the
    same factors.
    """
    plain = [_number(f) for f in map(make(), _LOSSES)]
    for scale in (1e-3, 1e3):
        schedule = make()
        found = [_number(schedule(scale * loss)) for loss in _LOSSES]
        for loss, a, b in zip(_LOSSES, plain, found, strict=True):
            require(
                math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12),
                f"The factor of loss {loss:g} is {a:.6g}, and {b:.6g} where all losses are {scale:g} times as large: "
                "divide by the losses' own size or spread before a sigmoid, an exponential or a threshold.",
            )


def check_correlation(correlate: Callable[[Tensor], Tensor]) -> None:
    """Two equal columns have correlation 1, whatever the number of tokens (FAULTS F38: divided by it once more).

    `correlate` takes codes [n, 4] and gives [4, 4]: columns 0 and 1 are equal and 2 and 3 are not.
    """
    for n in (64, 1024):
        generator = torch.Generator().manual_seed(n)
        codes = torch.rand(n, 4, generator=generator) * (torch.rand(n, 4, generator=generator) < 0.2)
        codes[:, 1] = codes[:, 0]
        found = correlate(codes)
        require(
            tuple(found.shape) == (4, 4) and not found.requires_grad,
            f"Correlations of [{n}, 4] codes must be [4, 4] without gradient, got {list(found.shape)}"
            f"{' with gradient: detach the codes' if found.requires_grad else ''}.",
        )
        one, other = float(found[0, 1]), float(found[2, 3])
        require(
            abs(one - 1) <= 1e-3,
            f"Two equal columns of codes of {n} tokens have correlation {one:.4g}, not 1: a threshold would select "
            "nothing. Are unit columns divided by the number of tokens once more?",
        )
        require(other < 0.9, f"Two unlike columns of codes of {n} tokens have correlation {other:.4g}.")


def check_competition(compete: Callable[[Tensor], Tensor]) -> None:
    """A pair of latents seen once does not compete more than one that always fires together (FAULTS F39: n_ij over the
    smaller count is 1 for a latent seen once).

    `compete` takes codes [400, 4] and gives [4, 4]: 0 and 1 fire together on 100 tokens, 2 and 3 each on one, the same.
    """
    codes = torch.zeros(400, 4)
    codes[:100, :2] = 1.0
    codes[200, 2:] = 1.0
    found = compete(codes)
    require(tuple(found.shape) == (4, 4), f"Coefficients of 4 latents must be [4, 4], got {list(found.shape)}.")
    often, once = float(found[0, 1]), float(found[2, 3])
    require(
        once < 0.5 * often,
        f"Two latents that fired once, together, have coefficient {once:.4g}; two that did a hundred times "
        f"{often:.4g}. Leave out pairs seen too seldom, or add a constant to the denominator.",
    )


def _number(factor: float) -> float:
    require(math.isfinite(factor), f"The factor is {factor}: it must be finite.")
    return factor
