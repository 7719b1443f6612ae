"""Unlearning with an SAE: which latents are chosen, what is done to them, and what a sweep over settings shows.

The error of the SAE is kept: an intervention changes codes z to z', and x' = x + decode(z') - decode(z) at the tokens
it touches, so that tokens where no chosen latent fires stay as they were. Settings are chosen on one half of the data
and read on the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..interfaces.codes import token_of_slot
from ..interfaces.sae import RaggedCodes

_NEIGHBOURS = 8
"""A latent's random partner is drawn from so many of nearest firing rate."""
_BOOTSTRAPS = 1000

Unit = Literal["mean", "absolute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firings:
    """How latents fire on the tokens of a corpus."""

    n_tokens: int
    fired: Tensor
    """[d_sae] float64: on how many tokens each is not 0."""
    total: Tensor
    """[d_sae] float64: sum of its codes."""
    squares: Tensor
    """[d_sae] float64: sum of their squares."""
    attribution: Callable[[], Tensor] | None = None
    """Gives [d_sae] float64: what each latent's codes do for the log-probability of the texts, in nats per token (see
    `CodedPrompts.attribution`); None where there are codes alone."""

    @staticmethod
    def of(parts: Iterable[RaggedCodes], d_sae: int) -> Firings:
        """Of the codes of a corpus, part by part.

        Raises:
            DataError: there is no token.
        """
        n_tokens = 0
        sums = torch.zeros(3, d_sae, dtype=torch.float64)
        for codes in parts:
            n_tokens += len(codes.offsets) - 1
            latents, values = codes.latents.cpu(), codes.values.cpu().double()
            for row, column in enumerate((torch.ones_like(values), values, values.square())):
                sums[row].index_add_(0, latents, column)
        if n_tokens == 0:
            raise DataError("How latents fire was asked of a corpus without a token: give it texts.")
        return Firings(n_tokens=n_tokens, fired=sums[0], total=sums[1], squares=sums[2])

    @property
    def rate(self) -> Tensor:
        """[d_sae] float64: share of the tokens on which each fires."""
        return self.fired / self.n_tokens

    @property
    def mean_active(self) -> Tensor:
        """[d_sae] float64: mean code where it fires, 0 where it never does."""
        return self.total / self.fired.clamp_min(1.0)

    def plus(self, other: Firings) -> Firings:
        """Of both corpora."""
        return Firings(
            n_tokens=self.n_tokens + other.n_tokens,
            fired=self.fired + other.fired,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )


# --- which latents: each gives ids [m] int64, the first to be taken first ---


def by_forget_rate(forget: Firings, retain: Firings, threshold: float) -> Tensor:
    """Latents that fire on less than a share `threshold` of retain tokens, by their firing rate on forget tokens
    (Farrell et al. 2024, arXiv:2410.19278, as SAEBench has it). Of equal rates the lower latent comes first."""
    return _sorted(forget.rate, (retain.rate < threshold) & (forget.fired > 0))


def by_ratio(forget: Firings, retain: Firings, threshold: float) -> Tensor:
    """Latents whose mean squared code on forget tokens, over that on retain tokens, is in the upper 1 - `threshold` of
    those that fire on forget tokens; by that on forget tokens (after Muhamed et al. 2025, arXiv:2504.08192)."""
    alive = forget.fired > 0
    if not bool(alive.any()):
        return torch.empty(0, dtype=torch.int64)
    own, other = forget.squares / forget.n_tokens, retain.squares / retain.n_tokens
    ratio = own / other  # infinite where it never fires on retain tokens
    high = torch.quantile(ratio[alive], threshold, interpolation="lower")
    return _sorted(own, alive & (ratio >= high))


def by_information(forget: Firings, retain: Firings, threshold: float) -> Tensor:
    """Latents that fire on less than a share `threshold` of retain tokens and more often on forget tokens, by the
    information that firing gives about which corpus a token is of, both corpora weighing the same."""
    p, q = forget.rate, retain.rate
    both = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return _sorted(both, (q < threshold) & (p > q))


def by_attribution(forget: Firings, retain: Firings, threshold: float) -> Tensor:
    """Latents that fire on less than a share `threshold` of retain tokens and help to predict the forget texts, by how
    much: code times gradient (after Marks et al. 2024, arXiv:2403.19647).

    Raises:
        ConfigError: only codes are known, and no language model.
    """
    if forget.attribution is None:
        raise ConfigError(
            "Latents cannot be chosen by attribution here: it needs a language model's losses on texts. Choose by "
            "rate, ratio or information."
        )
    score = forget.attribution()
    return _sorted(score, (retain.rate < threshold) & (score > 0))


def _entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def _sorted(score: Tensor, allowed: Tensor) -> Tensor:
    order = score.argsort(descending=True, stable=True)
    return order[allowed[order]]


Selector = Callable[[Firings, Firings, float], Tensor]
SELECTORS: dict[str, Selector] = {
    "rate": by_forget_rate,
    "ratio": by_ratio,
    "information": by_information,
    "attribution": by_attribution,
}
"""Ways to choose latents, by name; each takes the forget and retain firings and its threshold."""


def random_matched(latents: Tensor, forget: Firings, retain: Firings, generator: torch.Generator) -> Tensor:
    """As many other latents [m], drawn at random from those that fire about as often on retain tokens: the control that
    shows what any intervention of that size does. Fewer where the SAE has too few that fire."""
    free = forget.fired + retain.fired > 0
    free[latents] = False
    found: list[int] = []
    for latent in latents.tolist():
        others = free.nonzero().squeeze(1)
        if not len(others):
            break
        near = (retain.rate[others] - retain.rate[latent]).abs().argsort(stable=True)[:_NEIGHBOURS]
        drawn = int(others[near[int(torch.randint(len(near), (1,), generator=generator))]])
        free[drawn] = False
        found.append(drawn)
    return torch.tensor(found, dtype=torch.int64)


# --- what is done to them ---


class Edit(NamedTuple):
    """Codes after an intervention."""

    codes: RaggedCodes
    changed: Tensor
    """[n] bool: tokens whose codes are others than before."""


class Intervention(Protocol):
    """A change of codes."""

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Edited copy of the codes of n tokens; `sequence` [n] int64 says which tokens stand in one prompt."""
        ...


class Clamp:
    """Each of some latents is set to a value of its own wherever it fires (SAEBench's intervention; with values of 0
    it is ablation)."""

    def __init__(self, latents: Tensor, values: Tensor) -> None:
        """`latents` [m] int64, distinct; `values` [m]: what each is set to, mostly negative.

        Raises:
            ConfigError: there is none, they are not distinct, or there are not as many values.
        """
        if not len(latents) or latents.shape != values.shape or len(latents.unique()) != len(latents):
            raise ConfigError(
                f"A clamp needs distinct latents and a value for each, got {len(latents)} latents "
                f"({len(latents.unique())} distinct) and {len(values)} values."
            )
        order = latents.argsort()
        self.latents, self.values = latents[order], values[order].float()

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes with the clamped values."""
        latents, values = self.latents.to(codes.latents.device), self.values.to(codes.values.device)
        at = torch.searchsorted(latents, codes.latents).clamp_max(len(latents) - 1)
        hit = (latents[at] == codes.latents) & (codes.values > 0)
        changed = torch.zeros(len(codes.offsets) - 1, dtype=torch.bool, device=hit.device)
        changed[token_of_slot(codes)[hit]] = True
        return Edit(RaggedCodes(codes.latents, codes.offsets, torch.where(hit, values[at], codes.values)), changed)


class SequenceGate:
    """Another intervention, in those prompts alone in which more than a share of the tokens would be changed (after
    Muhamed et al. 2025, arXiv:2504.08192, who take the 95th percentile of that share on retain texts)."""

    def __init__(self, inner: Intervention, share: float) -> None:
        self.inner, self.share = inner, share

    def edit(self, codes: RaggedCodes, sequence: Tensor) -> Edit:
        """Codes edited in the prompts that the gate lets through."""
        found = self.inner.edit(codes, sequence)
        if found.codes.latents.shape != codes.latents.shape or not torch.equal(found.codes.offsets, codes.offsets):
            raise ConfigError("A sequence gate needs an intervention that keeps which latents are listed.")
        _, group = sequence.unique(return_inverse=True)
        n_groups = int(group.max()) + 1 if len(group) else 0
        tokens = torch.bincount(group, minlength=n_groups)
        touched = torch.bincount(group[found.changed], minlength=n_groups)
        changed = found.changed & (touched > self.share * tokens)[group]
        values = torch.where(changed[token_of_slot(codes)], found.codes.values, codes.values)
        return Edit(RaggedCodes(codes.latents, codes.offsets, values), changed)


# --- settings ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One point of a sweep: how latents are chosen, how many, and what they are set to where they fire."""

    selector: str
    threshold: float
    n: int
    strength: float
    """Latents are set to minus this many units."""
    unit: Unit
    """`mean`: a latent's own mean code on the forget texts where it fires; `absolute`: codes as they are."""

    def latents(self, forget: Firings, retain: Firings) -> Tensor:
        """[m] int64, m <= n: the chosen latents."""
        return SELECTORS[self.selector](forget, retain, self.threshold)[: self.n]

    def clamp(self, latents: Tensor, forget: Firings, retain: Firings) -> Clamp | None:
        """What it does to latents, chosen by it or as a control; None where there are none."""
        if not len(latents):
            return None
        if self.unit == "absolute":
            return Clamp(latents, torch.full((len(latents),), -self.strength))
        # A control's latent may fire on retain texts alone: its mean is then that of both.
        means = torch.where(forget.fired > 0, forget.mean_active, forget.plus(retain).mean_active)
        return Clamp(latents, -self.strength * means[latents])


def settings_of(
    selectors: Sequence[tuple[str, float]], ns: Sequence[int], strengths: Sequence[float], unit: Unit
) -> tuple[Setting, ...]:
    """Every combination, the selectors slowest.

    Raises:
        ConfigError: a selector is unknown, or a number makes no sense.
    """
    unknown = sorted({name for name, _ in selectors} - set(SELECTORS))
    if unknown:
        raise ConfigError(f"Unknown ways to choose latents: {', '.join(unknown)}; known are {', '.join(SELECTORS)}.")
    if not (selectors and ns and strengths) or min(ns) < 1 or min(strengths) < 0:
        raise ConfigError(
            f"A sweep needs a way to choose latents, a number of them from 1 and a strength from 0; got {selectors}, "
            f"{list(ns)} and {list(strengths)}."
        )
    return tuple(
        Setting(selector=name, threshold=threshold, n=n, strength=strength, unit=unit)
        for (name, threshold), n, strength in itertools.product(selectors, ns, strengths)
    )


# --- what a sweep shows ---


def best_within(gain: Tensor, cost: Tensor, budget: float) -> int:
    """The setting of largest gain [s] among those of at most that cost [s]; -1 where none gains anything, which stands
    for leaving the LM as it is."""
    allowed = (cost <= budget) & (gain > 0)
    return int(gain.masked_fill(~allowed, -torch.inf).argmax()) if bool(allowed.any()) else -1


def hull_of(cost: Tensor, gain: Tensor) -> list[int]:
    """Which settings [s] lie on the upper hull of (cost, gain) between (0, 0), the LM as it is, and (1, 1), nothing
    left; by rising cost. Settings below the line between these two are never among them."""
    points = [(0.0, 0.0, -1), (1.0, 1.0, -1)]
    points += [(c, g, i) for i, (c, g) in enumerate(zip(cost.tolist(), gain.tolist(), strict=True)) if c < 1 and g > 0]
    upper: list[tuple[float, float, int]] = []
    for point in sorted((max(c, 0.0), -min(g, 1.0), i) for c, g, i in points):
        c, g, i = point[0], -point[1], point[2]
        if upper and upper[-1][0] == c:
            continue  # the higher one of equal cost came first
        while len(upper) > 1 and _turns_left(upper[-2], upper[-1], (c, g, i)):
            upper.pop()
        upper.append((c, g, i))
    return [i for _, _, i in upper if i >= 0]


def _turns_left(a: tuple[float, float, int], b: tuple[float, float, int], c: tuple[float, float, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) >= 0


def area_under(cost: Tensor, gain: Tensor) -> Tensor:
    """[...] area under the straight lines through (0, 0), the points [..., s] by rising cost, and (1, 1); costs and
    gains are held to [0, 1]. 1/2 where gains equal costs; 1 where all is gained at no cost."""
    cost, order = cost.clamp(0, 1).sort(dim=-1, stable=True)
    gain = gain.clamp(0, 1).gather(-1, order)
    zero, one = torch.zeros_like(cost[..., :1]), torch.ones_like(cost[..., :1])
    if not cost.shape[-1]:
        zero, one = cost.new_zeros(*cost.shape[:-1], 1), cost.new_ones(*cost.shape[:-1], 1)
    return torch.trapezoid(torch.cat([zero, gain, one], dim=-1), torch.cat([zero, cost, one], dim=-1), dim=-1)


class Interval(NamedTuple):
    """What resampling says of a value."""

    stderr: float
    low: float
    high: float


def bootstrap(n_units: Sequence[int], measure: Callable[..., Tensor], generator: torch.Generator) -> Interval:
    """Spread and 95 % interval of a measure over resampled units.

    Args:
        n_units: of each independent group of units, how many there are.
        measure: takes a weight [B, n] float64 of each group's units (how often each was drawn), gives [B].
    """
    weights = []
    for n in n_units:
        drawn = torch.randint(n, (_BOOTSTRAPS, n), generator=generator)
        weights.append(
            torch.zeros(_BOOTSTRAPS, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
        )
    values = measure(*weights)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(float(values.std()), low, high)
