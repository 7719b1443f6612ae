"""Synthetic worlds: activations that are sparse sums of known features, for suites with a ground truth.

A world gives documents. Each is a pure function of (config, split, number): the same whatever was drawn before, in any
batch, in any process of one machine; the documents of different splits are different draws. Firing is fixed by
`world_structure`; here are directions, magnitudes, and the drawing of a document:

- every unit draws a normal number each token; a unit that lasts keeps that of the token before with a fixed
  probability, so its state is a two-state Markov chain of the same marginal, which may be hidden (`emission`);
- a child shows where its parent does;
- magnitudes are |mean + std · normal|, so a feature that fires is never 0 (SynthSAEBench rectifies: with its values
  fewer than one firing in a hundred is then lost); a child's is multiplied by its parent's over the parent's mean.

All of it runs on the CPU, so that a world is the same for every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import WorldConfig
from ..interfaces.sae import RaggedCodes
from .world_structure import Regime, Structure, build_structure, world_generator

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorldBatch:
    """Some documents with what they were made from."""

    activations: Tensor
    """[n, seq_len, d_in] float32."""
    codes: RaggedCodes
    """Of the n · seq_len tokens: the true features, ascending within a token, values > 0."""
    document: Tensor
    """[n] int64: the documents' numbers in their split."""
    forget: Tensor
    """[n] bool: whether a document is of the forget kind."""
    mask: Tensor
    """[n, seq_len] bool: True, for a world has no special tokens."""


class World:
    """One world. Its directions are made on first use."""

    def __init__(self, config: WorldConfig) -> None:
        """Raises ConfigError where the config's parts do not fit together."""
        self.config = config
        self.structure: Structure = build_structure(config)
        n = config.n_features
        self.magnitude_mean = torch.linspace(config.magnitude_first, config.magnitude_last, n)
        spread = torch.randn(n, generator=world_generator(config, "magnitude"))
        self.magnitude_std = (config.magnitude_std_mean + config.magnitude_std_std * spread).abs()
        self._lasting = (self.structure.stay > 0).nonzero().squeeze(1)

    @cached_property
    def features(self) -> Tensor:
        """[n_features, d_in] float32, of norm 1."""
        config = self.config
        drawn = torch.randn(config.n_features, config.d_in, generator=world_generator(config, "features"))
        return spread_apart(drawn, steps=config.orthogonal_steps, lr=config.orthogonal_lr)

    @cached_property
    def bias(self) -> Tensor:
        """[d_in] float32."""
        drawn = torch.randn(self.config.d_in, generator=world_generator(self.config, "bias"))
        return F.normalize(drawn, dim=0) * self.config.bias_norm

    def is_forget(self, number: int) -> bool:
        """Whether the document of that number, in either split, is of the forget kind: evenly spread, so that any run
        of documents has the configured share."""
        if not self.config.forget_subtrees:
            return False
        share = self.config.forget_share
        return int((number + 1) * share) > int(number * share)

    def codes(self, split: Split, number: int) -> RaggedCodes:
        """The true features of the tokens of one document."""
        structure, steps = self.structure, self.config.seq_len
        generator = world_generator(self.config, "document", split, number)
        regime = structure.forgetting if self.is_forget(number) else structure.retain
        token, feature = self._fired(self._outcomes(regime, generator))
        noise = torch.randn(len(feature), generator=generator)
        values = (self.magnitude_mean[feature] + self.magnitude_std[feature] * noise).abs_()
        values = values.clamp_min_(torch.finfo(torch.float32).tiny)
        if self.config.scale_by_parent and self._depth:
            values = self._scaled(token, feature, values)
        counts = torch.bincount(token, minlength=steps)
        return RaggedCodes(feature, F.pad(counts.cumsum(0), (1, 0)), values)

    def activations(self, codes: RaggedCodes) -> Tensor:
        """[n, d_in] float32: codes · features + bias."""
        summed = F.embedding_bag(
            codes.latents, self.features, codes.offsets, mode="sum", per_sample_weights=codes.values,
            include_last_offset=True,
        )  # fmt: skip
        return summed.add_(self.bias)

    def batch(self, split: Split, numbers: Sequence[int]) -> WorldBatch:
        """The documents of these numbers."""
        codes = [self.codes(split, number) for number in numbers]
        # One document at a time: a sum over more rows might be taken in another order.
        activations = torch.stack([self.activations(found) for found in codes])
        return WorldBatch(
            activations=activations,
            codes=join_codes(codes),
            document=torch.tensor(list(numbers), dtype=torch.int64),
            forget=torch.tensor([self.is_forget(number) for number in numbers]),
            mask=torch.ones(activations.shape[:2], dtype=torch.bool),
        )

    def _outcomes(self, regime: Regime, generator: torch.Generator) -> Tensor:
        """[seq_len, n_units] uint8: the outcome of each unit's draw, whatever its parent does; `width` for none."""
        structure, steps = self.structure, self.config.seq_len
        n_units, width = structure.members.shape
        draw = torch.randn(steps, n_units, generator=generator).mul_(structure.own_std)
        if structure.loadings.shape[1]:
            common = torch.randn(steps, structure.loadings.shape[1], generator=generator)
            draw += common @ structure.loadings.T
        outcome = torch.zeros(steps, n_units, dtype=torch.uint8)
        for column in range(width):
            outcome += draw <= regime.threshold[:, column]
        lasting = self._lasting
        if len(lasting):
            drawn_anew = torch.rand(steps, len(lasting), generator=generator) >= structure.stay[lasting].float()
            drawn_anew[0] = True
            since = torch.where(drawn_anew, torch.arange(steps)[:, None], 0).cummax(0).values
            kept = outcome[:, lasting].gather(0, since)
            hidden = torch.rand(steps, len(lasting), generator=generator) >= regime.emission[lasting].float()
            outcome[:, lasting] = kept.masked_fill(hidden, width)
        return outcome

    def _fired(self, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """Token and feature [m] of all that fires, sorted by token, then feature: from the roots down, so that only
        the draws below a feature that fires are looked at."""
        members = self.structure.members
        width, n = members.shape[1], self.config.n_features
        token, place = (outcome[:, self._top_units] < width).nonzero(as_tuple=True)
        unit = self._top_units[place]
        found = []
        while len(unit):
            feature = members[unit, outcome[token, unit].long()]
            found.append(token * n + feature)
            below = self._units_below[feature]
            token, unit = token[:, None].expand_as(below)[below >= 0], below[below >= 0]
            on = outcome[token, unit] < width
            token, unit = token[on], unit[on]
        cells = torch.cat(found).sort().values if found else token
        return cells // n, cells % n

    @cached_property
    def _top_units(self) -> Tensor:
        """[m] int64: units whose features have no parent."""
        return (self.structure.parent[self.structure.members[:, 0]] < 0).nonzero().squeeze(1)

    @cached_property
    def _units_below(self) -> Tensor:
        """[n_features, most] int64: the units of a feature's children; -1 where there are no more."""
        parent = self.structure.parent[self.structure.members[:, 0]]
        units = (parent >= 0).nonzero().squeeze(1)
        above, order = parent[units].sort(stable=True)
        counts = torch.bincount(above, minlength=self.config.n_features)
        table = torch.full((self.config.n_features, max(1, int(counts.max()))), -1)
        place = torch.arange(len(above)) - (counts.cumsum(0) - counts)[above]
        table[above, place] = units[order]
        return table

    def _scaled(self, token: Tensor, feature: Tensor, values: Tensor) -> Tensor:
        """The values, each child's times its parent's over the parent's mean, from the roots down."""
        parent, level = self.structure.parent[feature], self.structure.level[feature]
        # Only what fires is written, and only that is read: a child's parent fires.
        ratio = torch.empty(self.config.seq_len, self.config.n_features)
        ratio[token, feature] = values / self.magnitude_mean[feature]
        for depth in range(1, self._depth + 1):
            here = (level == depth).nonzero().squeeze(1)
            ratio[token[here], feature[here]] *= ratio[token[here], parent[here]]
        return (ratio[token, feature] * self.magnitude_mean[feature]).clamp_min_(torch.finfo(torch.float32).tiny)

    @cached_property
    def _depth(self) -> int:
        """Levels below the roots."""
        return int(self.structure.level.max())


def join_codes(parts: Sequence[RaggedCodes]) -> RaggedCodes:
    """The codes of all parts' tokens, one part after the other."""
    counts = torch.cat([part.offsets.diff() for part in parts])
    return RaggedCodes(
        torch.cat([part.latents for part in parts]),
        F.pad(counts.cumsum(0), (1, 0)),
        torch.cat([part.values for part in parts]),
    )


def spread_apart(vectors: Tensor, *, steps: int, lr: float) -> Tensor:
    """Vectors [n, d] made less alike, then of norm 1: Adam on Σ_{i≠j} (v_i·v_j)² + n Σ_i (|v_i|² - 1)².

    SynthSAEBench's objective. Its gradient is 4 V (VᵀV) - 4 |v|² v + 4 n (|v|² - 1) v, which needs the [d, d] product
    alone where the peer makes all n² dot products: twenty times less work at 16,384 vectors.
    """
    vectors = F.normalize(vectors, dim=1).clone()
    optimiser = torch.optim.Adam([vectors], lr=lr)
    for _ in range(steps):
        squared = vectors.square().sum(1, keepdim=True)
        gradient = vectors @ (vectors.T @ vectors) - squared * vectors + len(vectors) * (squared - 1) * vectors
        vectors.grad = gradient.mul_(4)
        optimiser.step()
    return F.normalize(vectors, dim=1)
