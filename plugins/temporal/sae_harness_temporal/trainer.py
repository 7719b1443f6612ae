"""The trainers `temporal` and `temporal_contiguous`: a base trainer's loss and one more term, the distance to the code
of an earlier token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from harness import SAE, ActivationBatch, ConfigError, LossTerms, RaggedCodes, SparseCodes, Trainer, TrainState
from harness.training.kernels import to_dense

from .modules import PositionWeights, Pruning, Resampling
from .options import ContiguousOptions, TemporalOptions
from .partners import Partners, of_pairs, of_rows, starts_of_rows
from .penalties import (
    Codes,
    absolute_distance,
    detached,
    distance_to_nothing,
    euclidean_distance,
    first_latents,
    info_nce,
    pick,
    relative_distance,
    select,
    similarity_weighted_distance,
    squared_distance,
)
from .sparsity_log import l0_by_octave
from .strength import Strength

_DISTANCES = {"rel": relative_distance, "abs": absolute_distance, "l2": euclidean_distance, "sq": squared_distance}


class TemporalTrainer(Trainer):
    """The base's loss + strength · scale · alpha · R_T, with R_T the mean distance to the previous token's code.

    The previous token is encoded in a second pass, sparsely where the base's codes are sparse. An empty V makes the
    term 0. Needs a base whose reconstruction term is called `sse`, as all that the spec names.
    """

    options_type = TemporalOptions
    options: TemporalOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._refuse()
        self._restart()

    def _refuse(self) -> None:
        if self.options.partner == "earlier":
            raise ConfigError(
                "temporal: partner='earlier' needs rows in document order: use the method temporal_contiguous."
            )

    def _restart(self) -> None:
        options = self.options
        self.strength = Strength(options)
        self.positions = PositionWeights(options.position_weights)
        self.pruning = Pruning(options.prune, options.prune_quantile)
        self.resampling = Resampling(options.resample_every, options.resample_share)
        self._last: Codes | None = None
        self._seen: tuple[Codes, Tensor] | None = None
        """Codes and positions of the last batch, for the log."""

    def initialise(self, sae: SAE, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        self._restart()
        super().initialise(sae, sample, target_l0, generator)

    def loss(self, sae: SAE, batch: ActivationBatch, state: TrainState) -> LossTerms:
        assert self.base is not None, "the spec says `extends`"
        self._seen = None  # let go of before others are made
        terms = self.base.loss(sae, batch, state)
        if self.options.is_off:
            return terms
        self._seen = detached(terms.codes), batch.position
        terms = self._of_base(terms, batch)
        if self.options.strength > 0.0:
            terms = self._temporal(sae, terms, batch, state)
        return self._modules(sae, terms, batch, state)

    def _of_base(self, terms: LossTerms, batch: ActivationBatch) -> LossTerms:
        """The base's terms with the reconstruction loss and the L1 weight that the options ask for."""
        values, weights = dict(terms.values), dict(terms.weights)
        if self.options.reconstruction == "l2norm":
            weights.pop("sse")
            values = {"l2norm": _norms(terms, batch).mean(), **{k: v for k, v in values.items() if k != "sse"}}
            weights = {"l2norm": 1.0, **weights}
        if self.options.l1 > 0.0:
            if "l1" not in weights:
                raise ConfigError("temporal: option l1 fixes the weight of an L1 term, and this base has none.")
            weights["l1"] = self.options.l1
        return LossTerms(values=values, weights=weights, codes=terms.codes, reconstruction=terms.reconstruction)

    def _temporal(self, sae: SAE, terms: LossTerms, batch: ActivationBatch, state: TrainState) -> LossTerms:
        if self.options.partner == "batch_row":
            penalty, starts = self._to_last_batch(sae, terms.codes), None
        else:
            partners = self._partners(batch, state.generator)
            penalty = self._penalty(sae, terms.codes, partners, batch, state.step)
            starts = self._starts(batch) if self.options.start == "zero" else None
        loss = float(terms.values["l2norm" if "l2norm" in terms.values else "sse"].detach())
        weight = self.strength.update(loss, float(penalty.detach()))
        if not self.options.detach:
            penalty = penalty * self._undetached(terms, batch) / self.strength.alpha
        terms = terms.plus("temporal", penalty, weight)
        if starts is not None:
            terms = terms.plus("temporal_start", self._start(sae, terms.codes, starts), weight)
        return terms

    def _undetached(self, terms: LossTerms, batch: ActivationBatch) -> Tensor:
        """alpha with its gradient with respect to the reconstruction: the mistake of the notebook's first runs."""
        factor = self.strength.factor
        norms = _norms(terms, batch)
        loss = norms.mean() if self.options.reconstruction == "l2norm" else norms.square().mean()
        scale = 1.0 if self.options.gap == "none" else factor.deviation or 1.0
        assert factor.maximum is not None
        return torch.sigmoid(factor.beta * (factor.maximum - loss) / scale)

    def _partners(self, batch: ActivationBatch, generator: torch.Generator) -> Partners:
        """The tokens that are compared with an earlier one, and that one."""
        return of_pairs(batch, self.options.partner, generator)

    def _starts(self, batch: ActivationBatch) -> Tensor:
        """[n] bool: tokens without a previous one."""
        assert batch.has_previous is not None
        return ~batch.has_previous

    def _penalty(self, sae: SAE, codes: Codes, partners: Partners, batch: ActivationBatch, step: int) -> Tensor:
        """R_T: a 0-dimensional tensor, 0 where V is empty."""
        if len(partners.x) == 0:
            return partners.x.new_zeros(())
        fixed = self.options.stop_grad
        fix_now = fixed == "both_alternating" and step % 2 == 1
        fix_before = fixed == "prev" or (fixed == "both_alternating" and step % 2 == 0)
        with torch.no_grad() if fix_before else nullcontext():
            before = self._codes_of(sae, codes, partners)
        now = select(codes, partners.valid)
        if fix_now:
            now = detached(now)
        if fix_before:
            before = detached(before)
        return self._distance(sae, now, before, partners, batch)

    def _codes_of(self, sae: SAE, codes: Codes, partners: Partners) -> Codes:
        """The partners' codes: of rows of the batch those that are known, else encoded now."""
        if partners.rows is not None:
            return pick(codes, partners.rows)
        return sae.encode(partners.x) if isinstance(codes, Tensor) else sae.encode_sparse(partners.x)

    def _distance(self, sae: SAE, now: Codes, before: Codes, partners: Partners, batch: ActivationBatch) -> Tensor:
        options, d_sae = self.options, sae.config.d_sae
        width = self._width(sae)
        if options.penalty == "nce":
            return info_nce(
                now,
                before,
                batch.document[partners.valid],
                partners.document,
                width=width,
                similarity=options.similarity,
                temperature=options.temperature,
            )
        now, before = first_latents(now, width, d_sae), first_latents(before, width, d_sae)
        if options.penalty == "xsim":
            return similarity_weighted_distance(now, before, batch.activations[partners.valid], partners.x).mean()
        return _DISTANCES[options.penalty](now, before).mean()

    def _width(self, sae: SAE) -> int:
        """How many latents the penalty sees."""
        return max(1, round(self.options.share * sae.config.d_sae))

    def _to_last_batch(self, sae: SAE, codes: Codes) -> Tensor:
        """The distance to the same row of the batch before, of which it knows nothing; 0 at the first batch."""
        last, self._last = self._last, detached(codes)
        if last is None:
            return torch.zeros(())
        if type(last) is not type(codes):  # dense while many latents are active, ragged later
            codes, last = (c if isinstance(c, Tensor) else to_dense(c, sae.config.d_sae) for c in (codes, last))
        if self.options.penalty not in _DISTANCES:
            raise ConfigError(f"temporal: partner='batch_row' goes with the penalties {', '.join(_DISTANCES)}.")
        return _DISTANCES[self.options.penalty](codes, last).mean()

    def _start(self, sae: SAE, codes: Codes, starts: Tensor) -> Tensor:
        """Sum over tokens without a previous one, divided by |V|: each counts as much as a token that has one."""
        if not bool(starts.any()):
            return starts.new_zeros((), dtype=torch.float32)
        seen = first_latents(select(codes, starts), self._width(sae), sae.config.d_sae)
        return distance_to_nothing(seen, self.options.penalty).sum() / max(1, int((~starts).sum()))

    def _modules(self, sae: SAE, terms: LossTerms, batch: ActivationBatch, state: TrainState) -> LossTerms:
        options = self.options
        if options.position_weights > 0.0:
            norms = _norms(terms, batch)
            losses = norms if options.reconstruction == "l2norm" else norms.square()
            terms = terms.plus("position", self.positions.term(losses, batch.position), 1.0)
        if options.prune > 0.0:
            weight = self.pruning.weight(state.progress)
            terms = terms.plus("prune", self.pruning.term(terms.codes, sae), weight)
        if options.resample_every > 0:
            self.resampling.see(batch, terms.reconstruction)
        return terms

    def after_step(self, sae: SAE, state: TrainState) -> None:
        super().after_step(sae, state)
        if self.options.resample_every > 0:
            self.resampling.after_step(sae, state)

    def diagnostics(self) -> dict[str, float]:
        """What the log may keep of the last step beside the terms: L0 by position, alpha, M and s, and R_0."""
        assert self.base is not None, "the spec says `extends`"
        found: dict[str, float | None] = dict(self.base.diagnostics())
        if self._seen is not None:
            found |= l0_by_octave(*self._seen)
        if self.options.strength > 0.0:
            found |= self._strength_told()
        return {name: value for name, value in found.items() if value is not None}

    def _strength_told(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {"alpha": self.strength.alpha}
        if self.options.adaptive == "sigmoid":
            factor = self.strength.factor
            found |= {"loss_maximum": factor.maximum, "loss_deviation": factor.deviation}
        elif self.options.adaptive == "relative":
            found["loss_reference"] = self.strength.improvement.reference
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "strength": self.strength.state_dict(),
            "positions": self.positions.state_dict(),
            "pruning": self.pruning.state_dict(),
            "last": _packed(self._last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.strength.load_state_dict(state["strength"])
        self.positions.load_state_dict(state["positions"])
        self.pruning.load_state_dict(state["pruning"])
        self._last = _unpacked(state["last"])


class ContiguousTemporalTrainer(TemporalTrainer):
    """`temporal` on rows in document order: one encoder pass, any lag, and random earlier tokens as partners.

    Batches then hold neighbouring tokens, which are less varied than shuffled ones: compare with `off` of this
    method, not with the base on shuffled tokens.
    """

    options_type = ContiguousOptions
    options: ContiguousOptions

    def _refuse(self) -> None:
        pass

    def _partners(self, batch: ActivationBatch, generator: torch.Generator) -> Partners:
        return of_rows(batch, self.options.partner, self.options.lag, generator)

    def _starts(self, batch: ActivationBatch) -> Tensor:
        return starts_of_rows(batch)


def _norms(terms: LossTerms, batch: ActivationBatch) -> Tensor:
    """[n]: ||x - x̂||_2 of each token, with gradient 0 where it is 0."""
    square = (batch.activations - terms.reconstruction).square().sum(1)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def _packed(codes: Codes | None) -> dict[str, Any] | None:
    """Codes as a tree of tensors, for a saved state."""
    if codes is None:
        return None
    if isinstance(codes, Tensor):
        return {"dense": codes}
    return dict(codes._asdict())


def _unpacked(tree: Mapping[str, Any] | None) -> Codes | None:
    if tree is None:
        return None
    if "dense" in tree:
        return tree["dense"]
    return SparseCodes(**tree) if "indices" in tree else RaggedCodes(**tree)
