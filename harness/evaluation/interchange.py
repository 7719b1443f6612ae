"""Interchange interventions: latents of one prompt's entity put into another's, and how the answers change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..interfaces.codes import dense, take, token_of_slot
from ..interfaces.evaluator import EvalContext
from ..interfaces.prompts import PromptBatch
from ..interfaces.sae import SAE, RaggedCodes
from .codes import Decoder
from .probes import fit_logistic, reduce
from .ravel import Accepted, Pairs, Quiz, last_token

_NAME = 1
_BATCH_TOKENS = 1024
_CODE_ELEMENTS = 1 << 22
_LEAST_OF_CLASS = 2
_PROBE_EXAMPLES = 512
"""Probes learn from no more prompts than about these."""


class Interchange:
    """Swaps between prompts of a quiz for one SAE."""

    def __init__(self, sae: SAE, rows: Tensor, codes: RaggedCodes, *, with_error: bool = True) -> None:
        """`rows` [p, d_in]: activations at the entities' last tokens, and their codes. With the error, what the SAE
        does not explain of the base stays; without it (as SAEBench has it), the decoded codes are put in."""
        self._decode = Decoder(sae, rows.device)
        self._rows, self._codes, self._d_sae = rows, codes, sae.config.d_sae
        self._with_error = with_error

    def rows(self, pairs: Pairs, latents: Tensor) -> Tensor:
        """[n, d_in]: the base activations with the latents [m] set to what they are in the source:
        x + decode(z') - decode(z)."""
        chunk = max(1, _CODE_ELEMENTS // self._d_sae)
        swapped = torch.zeros(self._d_sae, dtype=torch.bool, device=self._rows.device)
        swapped[latents.to(self._rows.device)] = True
        return torch.cat(
            [
                self._part(base, source, swapped)
                for base, source in zip(pairs.base.split(chunk), pairs.source.split(chunk), strict=True)
            ]
        )

    def _part(self, base: Tensor, source: Tensor, swapped: Tensor) -> Tensor:
        base, source = base.to(self._rows.device), source.to(self._rows.device)
        own = take(self._codes, base)
        mixed = torch.where(swapped, dense(take(self._codes, source), self._d_sae), dense(own, self._d_sae))
        changed = self._decode(_ragged(mixed))
        return self._rows[base] + changed - self._decode(own) if self._with_error else changed


def _ragged(codes: Tensor) -> RaggedCodes:
    found = codes.nonzero()
    counts = torch.bincount(found[:, 0], minlength=len(codes))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return RaggedCodes(found[:, 1], offsets, codes[found[:, 0], found[:, 1]])


def answers(context: EvalContext, quiz: Quiz, base: Tensor, rows: Tensor) -> Tensor:
    """[n] int64: the likeliest token after each base prompt [n] when its entity's last token has the activation
    `rows` [n, d_in]."""
    found = torch.zeros(len(base), dtype=torch.int64)
    place = torch.full((len(quiz),), -1)
    for batch in context.prompt_batches(quiz.prompts):
        place[:] = -1
        place[batch.index] = torch.arange(len(batch.index))
        at_rows = place[base]
        jobs = (at_rows >= 0).nonzero().squeeze(1)
        if not len(jobs):
            continue  # splitting no jobs gives one empty part, which LMs refuse
        for some in jobs.split(max(1, _BATCH_TOKENS // batch.tokens.shape[1])):
            own = selected(batch, at_rows[some].to(batch.tokens.device))
            found[some] = _likeliest(context, own, rows[some]).cpu()
    return found


def selected(batch: PromptBatch, which: Tensor) -> PromptBatch:
    """The rows [n] of a batch, any of them more than once."""
    return PromptBatch(
        index=batch.index[which.cpu()],
        tokens=batch.tokens[which],
        part=batch.part[which],
        activations=batch.activations[which],
    )


def _likeliest(context: EvalContext, batch: PromptBatch, rows: Tensor) -> Tensor:
    where = torch.zeros_like(batch.part, dtype=torch.bool)
    where[torch.arange(len(where), device=where.device), batch.last_of(_NAME)] = True
    activations = batch.replaced(where, rows.to(batch.activations))
    return context.prompt_logits(batch, activations, last_token(batch.part)).argmax(-1)


class Hits(NamedTuple):
    """Which pairs came out as they should."""

    entity: Tensor
    """[n] int64: of the base prompt."""
    hit: Tensor
    """[n] float64: 0 or 1."""


def cause_hits(quiz: Quiz, accepted: Accepted, pairs: Pairs, found: Tensor) -> Hits:
    """Whether the answers [n] became the sources'."""
    return Hits(quiz.entity[pairs.base], accepted.holds(pairs.source, found).double())


def isolation_hits(quiz: Quiz, accepted: Accepted, pairs: Pairs, found: Tensor) -> Hits:
    """Whether the answers [n] stayed the bases'."""
    return Hits(quiz.entity[pairs.base], accepted.holds(pairs.base, found).double())


class Estimate(NamedTuple):
    """A mean of means with its standard error."""

    value: float
    stderr: float
    n_entities: int
    parts: tuple[float, ...]
    """Each of the means."""


def estimate(parts: Sequence[Hits]) -> Estimate:
    """The mean over parts (attributes) of each part's share of hits; the standard error is that of a mean over
    entities, whose pairs in all parts go together (cluster-robust, linearised)."""
    own = [float(part.hit.mean()) for part in parts]
    width = max(int(part.entity.max()) for part in parts) + 1
    influence = torch.zeros(width, dtype=torch.float64)
    seen = torch.zeros(width, dtype=torch.bool)
    for part, mean in zip(parts, own, strict=True):
        influence.index_add_(0, part.entity, (part.hit - mean) / (len(part.hit) * len(parts)))
        seen[part.entity] = True
    n = int(seen.sum())
    spread = float(influence.square().sum()) * n / max(1, n - 1)
    return Estimate(sum(own) / len(own), math.sqrt(spread), n, tuple(own))


class Ranking(NamedTuple):
    """Latents by how much they say about one attribute, most first."""

    name: str
    latents: Tensor
    """[m] int64: those that say anything."""


def active_on(codes: RaggedCodes, prompts: Tensor) -> Tensor:
    """[m] int64: the latents that are active on any of the prompts [p] bool."""
    return take(codes, prompts.nonzero().squeeze(1).to(codes.offsets.device)).latents.unique().cpu()


def rankings(
    sae: SAE, codes: RaggedCodes, prompts: Tensor, labels: Tensor, others: Sequence[Tensor]
) -> tuple[Ranking, ...]:
    """Two rankings of latents on the prompts [n] int64 to learn from, with the classes [n] of the attribute and of
    other attributes.

    - `variance`: variance between the classes, less what chance gives, in the units of activations (times the squared
      norm of the decoder row), times its share of the latent's variance over the largest such share for another
      attribute: latents that say more about another attribute come late.
    - `probe`: one-against-rest logistic regressions with an L2 penalty (C = 1) on the latents in activations' units;
      the norm over classes of weight times standard deviation.
    """
    codes, d_sae = take(codes, prompts.to(codes.offsets.device)), sae.config.d_sae
    norms = sae.decoder_directions().detach().double().norm(dim=1).to(codes.values.device)
    shares = [_share_between(codes, own, d_sae) for own in (labels, *others)]
    share, total = shares[0]
    most = torch.stack([other for other, _ in shares[1:]]).amax(0).clamp(min=1e-3)
    variance = share * total * norms.square() * share / most
    return (
        _ranked("variance", variance),
        _ranked("probe", _probe_weights(codes, labels, norms, d_sae)),
    )


def _ranked(name: str, score: Tensor) -> Ranking:
    order = score.sort(descending=True, stable=True).indices
    return Ranking(name, order[: int((score > 0).sum())].cpu())


def _share_between(codes: RaggedCodes, labels: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Of each latent [d_sae] float64: the share of its variance between classes, less what chance gives
    (epsilon squared), at least 0; and its sum of squares about the mean. Classes of one example are left out."""
    counts = torch.bincount(labels[labels >= 0])
    kept = (labels >= 0) & (counts[labels.clamp(min=0)] >= _LEAST_OF_CLASS)
    classes, label = labels[kept].unique(return_inverse=True)
    own = take(codes, kept.nonzero().squeeze(1).to(codes.offsets.device))
    n, c = len(label), len(classes)
    label = label.to(own.values.device)
    token = token_of_slot(own)
    values = own.values.double()
    sums = values.new_zeros(c * d_sae).index_add_(0, label[token] * d_sae + own.latents, values).view(c, d_sae)
    squares = values.new_zeros(d_sae).index_add_(0, own.latents, values.square())
    sizes = torch.bincount(label, minlength=c).double()[:, None]
    centre = sums.sum(0).square() / n
    total = squares - centre
    between = (sums.square() / sizes).sum(0) - centre
    within = (total - between).clamp(min=0) / max(1, n - c)
    share = (between - (c - 1) * within) / total.clamp(min=1e-12)
    return torch.where(total > 1e-9 * squares.clamp(min=1e-30), share.clamp(0, 1), 0.0), total.clamp(min=0)


def _probe_weights(codes: RaggedCodes, labels: Tensor, norms: Tensor, d_sae: int) -> Tensor:
    """[d_sae] float64: norm over classes of the probes' weights times standard deviations."""
    counts = torch.bincount(labels[labels >= 0])
    kept = ((labels >= 0) & (counts[labels.clamp(min=0)] >= _LEAST_OF_CLASS)).nonzero().squeeze(1)
    kept = kept[:: max(1, math.ceil(len(kept) / _PROBE_EXAMPLES))]
    classes = [label for label in labels[kept].unique().tolist() if 0 < int((labels[kept] == label).sum()) < len(kept)]
    x = dense(take(codes, kept.to(codes.offsets.device)), d_sae).double() * norms
    x = x - x.mean(0)
    scale = x.square().sum(1).mean().sqrt().clamp(min=1e-12)
    x = x / scale
    reduced = reduce(x, x[:0]).training
    target = torch.stack([(labels[kept] == label).double() for label in classes]).to(x.device)
    stack = reduced.expand(len(classes), *reduced.shape)
    c = torch.ones(len(classes), dtype=torch.float64, device=x.device)
    probes = fit_logistic(stack, target, torch.ones_like(target), c)
    # Back from the span of the examples: x = coordinates · basis, so basis = pseudo-inverse of coordinates · x.
    basis = (reduced / reduced.square().sum(0).clamp(min=1e-300)).T @ x
    weights = probes.coefficients @ basis
    return weights.norm(dim=0) * x.std(0, correction=0)


def random_latents(candidates: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k of the candidate latents [m], or all where there are fewer."""
    return candidates[torch.randperm(len(candidates), generator=generator)[:k]]


def by_attribute(names: Sequence[str], values: Sequence[float]) -> Mapping[str, tuple[float, ...]]:
    """A detail series of one value an attribute."""
    return {name: (value,) for name, value in zip(names, values, strict=True)}
