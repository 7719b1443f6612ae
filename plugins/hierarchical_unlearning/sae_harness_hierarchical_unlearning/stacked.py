"""The trainer `hierarchical_unlearning`: topk, and concepts that must say which latents fire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ActivationBatch, ConfigError, LossTerms, Option, SparseCodes, Trainer, TrainerOptions, TrainState
from harness.training.kernels import sparse_decode, topk_autoencode
from harness.training.median import geometric_median

from .centroids import centroids
from .explained import explain
from .residuals import dead_residual, squared_error

SIZE_RATE = 0.01
"""How fast a latent's usual code follows that of a batch."""
WARMUP_SHARE = 0.1
"""What the terms of concepts count in the first steps, where that is asked for."""
_STARTS = ("tied", "near_zero", "kmeans")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedOptions(TrainerOptions):
    """Options of `hierarchical_unlearning`."""

    aux_weight: float = 1 / 32
    """Weight of the losses that revive dead latents and dead concepts."""
    aux_k_fraction: float = 0.5
    """Dead latents used per token, as a share of d_in."""
    k_concepts: int = 0
    """Concepts a token has at most; 0 stands for a quarter of its latents, as 8 for 32."""
    n_concepts: int = 0
    """How many there are; 0 stands for d_sae / 4."""
    concept_weight: float = 0.1
    """g: weight of the error of what concepts alone reconstruct (H-SAE's weight of its top level)."""
    predict_weight: float = 1.0
    """r: weight of the relative error with which concepts predict the codes."""
    through_base: bool = True
    """Whether the two terms move the encoder of the latents too, by way of the codes that concepts read."""
    l1_base: float = 0.0
    """Weight of the sum of codes: TopK fixes their number already."""
    l1_concepts: float = 0.0
    """Weight of the sum of concepts."""
    l1_links: float = 0.0
    """Weight of the sum of |W_up|."""
    concept_rank: int = 0
    """Rank of W_up and of W_down, each then a product of two factors; at most the number of concepts. 0: dense."""
    start: str = "tied"
    """`tied`: W_up is the transpose of W_down, whose rows have norm 1, drawn at random; `near_zero`: a thousandth of
    that; `kmeans`: as `tied`, the rows being the centroids of the first tokens' codes."""
    concept_warmup: int = 0
    """For this many steps the terms of concepts count a tenth."""
    concept_dead_fraction: float = 0.05
    """A concept is dead that has not been active for this share of the steps."""

    def __post_init__(self) -> None:
        if self.start not in _STARTS:
            raise ConfigError(
                f"hierarchical_unlearning: option start is {self.start!r}; allowed are {', '.join(_STARTS)}."
            )
        if self.start == "kmeans" and self.concept_rank:
            raise ConfigError(
                "hierarchical_unlearning: start 'kmeans' gives dense weights: set concept_rank to 0 or start to 'tied'."
            )
        weights = ("aux_weight", "concept_weight", "predict_weight", "l1_base", "l1_concepts", "l1_links")
        for name in ("k_concepts", "n_concepts", "concept_rank", "concept_warmup", *weights):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"hierarchical_unlearning: option {name} is {getattr(self, name)}; it must be at least 0."
                )
        if self.concept_rank and self.l1_links:
            raise ConfigError(
                f"hierarchical_unlearning: option l1_links is {self.l1_links}, with concept_rank {self.concept_rank} "
                "there is no W_up to take the sum of: set one of them to 0."
            )
        if not 0 < self.concept_dead_fraction <= 1 or self.aux_k_fraction <= 0:
            raise ConfigError(
                "hierarchical_unlearning: concept_dead_fraction must be in (0, 1] and aux_k_fraction above 0, got "
                f"{self.concept_dead_fraction} and {self.aux_k_fraction}."
            )

    @property
    def explains(self) -> bool:
        """Whether concepts enter a reconstruction."""
        return self.concept_weight > 0 or self.predict_weight > 0


class StackedTrainer(Trainer):
    """L = ||x - x̂||² + g ||x - x̃||² + r ||sg(z1) - y1||² / ||sg(z1)||² + aux + penalties, means over tokens.

    y1 are the codes that concepts lead one to expect, x̃ = TopK_k(y1) W_dec + b_dec. These two are all that tells W_up
    what to be: x̂ does not depend on concepts. With g = r = 0 and no penalty it is `topk` to the bit.
    """

    options_type = StackedOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._idle: Tensor | None = None
        self._seen: SparseCodes | None = None
        self._active: Tensor | None = None

    def sae_options(self, target_l0: int | None) -> Mapping[str, Option]:
        options = self.options
        found = {
            "k": target_l0,
            "k_concepts": options.k_concepts or max(1, round((target_l0 or 1) / 4)),
            "n_concepts": options.n_concepts,
            "start": options.start,
            "way_down": options.explains,
        }
        return {**found, "concept_rank": options.concept_rank} if options.concept_rank else found

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        sae.b_dec.copy_(geometric_median(sample.activations))
        codes = sae.encode_sparse(sample.activations)
        sizes, fired = mean_codes(codes, sae.config.d_sae)
        usual = float(sizes[fired].mean()) if bool(fired.any()) else 1.0
        sae.code_size.copy_(torch.where(fired, sizes, usual))
        if self.options.start == "kmeans":
            scaled = codes._replace(values=codes.values / sae.code_size[codes.indices])
            found, own = centroids(scaled, sae.config.d_sae, sae.n_concepts, generator)
            sae.W_down[own.to(sae.W_down.device)] = found.to(sae.W_down)
            sae.W_up.copy_(sae.W_down.t())
        self._idle = torch.zeros(sae.n_concepts, dtype=torch.int64, device=sae.W_dec.device)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        options, x, share = self.options, batch.activations, self._share(state)
        codes, x_hat = topk_autoencode(x, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.k)
        self._seen = SparseCodes(codes.indices, codes.values.detach())
        aux = options.aux_weight
        terms = LossTerms(
            values={"sse": squared_error(x, x_hat), "aux": _aux(sae, x, x_hat, state.dead, options)},
            weights={"sse": 1.0, "aux": aux},
            codes=codes,
            reconstruction=x_hat,
        )
        if options.l1_base:
            terms = terms.plus("l1_base", codes.values.sum() / len(x), options.l1_base)
        if options.l1_links:
            terms = terms.plus("l1_links", sae.W_up.abs().sum(), share * options.l1_links)
        self._active = None
        if not options.explains and not options.l1_concepts:
            return terms
        pre = sae.concept_pre_activations(codes if options.through_base else self._seen)
        concepts = sae.kept_concepts(pre)
        self._active = active_columns(concepts, sae.n_concepts)
        if options.l1_concepts:
            terms = terms.plus("l1_concepts", concepts.values.sum() / len(x), share * options.l1_concepts)
        return self._explained(sae, x, terms, pre, concepts, state) if options.explains else terms

    def _explained(
        self, sae: Any, x: Tensor, terms: LossTerms, pre: Tensor, concepts: SparseCodes, state: TrainState
    ) -> LossTerms:
        """The terms with those of what concepts lead one to expect."""
        options, seen, share = self.options, self._seen, self._share(state)
        assert seen is not None
        dead, others = self._dead(sae, state), None
        if len(dead):
            values, slots = pre[:, dead].relu().topk(min(len(dead), 4 * sae.k_concepts), dim=1)
            others = SparseCodes(dead[slots], values)
        usual, k = sae.code_size, seen.indices.shape[1]
        found = explain(
            sae.written(concepts, others),
            sae.b_down,
            usual,
            seen,
            sae.k if options.concept_weight else 0,
            squares=options.predict_weight > 0,
            revive=others is not None,
        )
        at = found.at * usual[found.wanted]
        if options.concept_weight:
            from_concepts = sparse_decode(SparseCodes(found.wanted[:, k:], at[:, k:]), sae.W_dec, sae.b_dec)
            terms = terms.plus("concept_sse", squared_error(x, from_concepts), share * options.concept_weight)
        if found.squares is not None:
            size = seen.values.square().sum().clamp_min(1e-12)
            squares = (found.squares * usual.square()).sum()
            missed = squares - 2 * (at[:, :k] * seen.values).sum() + size
            terms = terms.plus("prediction", missed / size, share * options.predict_weight)
        if found.missed is not None:
            terms = terms.plus("concept_aux", found.missed, share * options.aux_weight)
        return terms

    def _share(self, state: TrainState) -> float:
        """What the terms of concepts count at this step."""
        return WARMUP_SHARE if state.step < self.options.concept_warmup else 1.0

    def _dead(self, sae: Any, state: TrainState) -> Tensor:
        """[m] int64: concepts that have been silent too long."""
        if self._idle is None:
            self._idle = torch.zeros(sae.n_concepts, dtype=torch.int64, device=sae.W_dec.device)
        limit = max(1, round(self.options.concept_dead_fraction * state.n_steps))
        return (self._idle >= limit).nonzero().squeeze(1)

    @torch.no_grad()
    def after_step(self, sae: Any, state: TrainState) -> None:
        assert self._seen is not None, "the loop takes the loss before it calls after_step"
        sizes, fired = mean_codes(self._seen, sae.config.d_sae)
        sae.code_size.copy_(torch.where(fired, sae.code_size.lerp(sizes, SIZE_RATE), sae.code_size))
        if self._active is not None and self._idle is not None:
            self._idle += 1
            self._idle[self._active] = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({} if self._idle is None else {"idle": self._idle})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._idle = state.get("idle")


def _aux(sae: Any, x: Tensor, x_hat: Tensor, dead: Tensor, options: StackedOptions) -> Tensor:
    return dead_residual(x, x_hat, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, dead, options.aux_k_fraction)


def mean_codes(codes: SparseCodes, d_sae: int) -> tuple[Tensor, Tensor]:
    """[d_sae] mean code of each latent where it fires, and whether it does."""
    flat = codes.indices.reshape(-1)
    counts = torch.bincount(flat, codes.values.reshape(-1).gt(0).to(codes.values.dtype), minlength=d_sae)
    sums = torch.bincount(flat, codes.values.reshape(-1), minlength=d_sae)
    return (sums / counts.clamp_min(1)).to(codes.values.dtype), counts > 0


def active_columns(codes: SparseCodes, n: int) -> Tensor:
    """[n] bool: which columns have a value above 0."""
    active = torch.zeros(n, dtype=torch.bool, device=codes.values.device)
    active[codes.indices[codes.values > 0]] = True
    return active
