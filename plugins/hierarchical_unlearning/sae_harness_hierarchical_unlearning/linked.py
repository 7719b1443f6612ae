"""The trainer `hierarchical_linked`: two topk SAEs of one input, and the same from two that are already trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import (
    SAE,
    ActivationBatch,
    ConfigError,
    LossTerms,
    Option,
    SAEConfig,
    SparseCodes,
    Trainer,
    TrainerOptions,
    TrainState,
)
from harness.training.kernels import normalise_rows_, topk_autoencode
from harness.training.median import geometric_median

from .linked_sae import LinkedTopKSAE
from .residuals import dead_residual, squared_error
from .stacked import SIZE_RATE, active_columns, mean_codes

_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedOptions(TrainerOptions):
    """Options of `hierarchical_linked`."""

    aux_weight: float = 1 / 32
    """Weight of the losses that revive dead latents and dead concepts."""
    aux_k_fraction: float = 0.5
    """Dead latents used per token, as a share of d_in."""
    k_concepts: int = 0
    """Concepts a token has at most; 0 stands for a quarter of its latents, as 8 for 32."""
    n_concepts: int = 0
    """How many there are; 0 stands for d_sae / 4."""
    concepts_weight: float = 1.0
    """Weight of the concepts' SAE; no gradient of it reaches the latents, nor of theirs the concepts. 0 is `topk`."""
    concept_dead_fraction: float = 0.05
    """A concept is dead that has not been active for this share of the steps."""

    def __post_init__(self) -> None:
        for name in ("aux_weight", "concepts_weight", "k_concepts", "n_concepts"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"hierarchical_linked: option {name} is {getattr(self, name)}; it must be at least 0."
                )
        if not 0 < self.concept_dead_fraction <= 1 or self.aux_k_fraction <= 0:
            raise ConfigError(
                "hierarchical_linked: concept_dead_fraction must be in (0, 1] and aux_k_fraction above 0, got "
                f"{self.concept_dead_fraction} and {self.aux_k_fraction}."
            )


class LinkedTrainer(Trainer):
    """The losses of two topk SAEs, of d_sae latents and of fewer concepts, on one batch.

    Neither's gradient reaches the other. They share the optimiser, so clipping takes the norm of both gradients; with
    `concepts_weight` 0 the base is `topk` to the bit.
    """

    options_type = LinkedOptions

    def __init__(self, options: Any, base: Trainer | None = None) -> None:
        super().__init__(options, base)
        self._idle: Tensor | None = None
        self._seen: tuple[SparseCodes, SparseCodes | None] | None = None

    def sae_options(self, target_l0: int | None) -> Mapping[str, Option]:
        options = self.options
        return {
            "k": target_l0,
            "k_concepts": options.k_concepts or max(1, round((target_l0 or 1) / 4)),
            "n_concepts": options.n_concepts,
            "with_concepts": options.concepts_weight > 0,
        }

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        sae.b_dec.copy_(geometric_median(sample.activations))
        sae.b_dec_concepts.copy_(sae.b_dec)
        measure_sizes_(sae, sample.activations)
        self._idle = torch.zeros(sae.n_concepts, dtype=torch.int64, device=sae.W_dec.device)

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        options, x = self.options, batch.activations
        codes, x_hat = topk_autoencode(x, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.k)
        self._seen = SparseCodes(codes.indices, codes.values.detach()), None
        base = sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec
        terms = LossTerms(
            values={
                "sse": squared_error(x, x_hat),
                "aux": dead_residual(x, x_hat, *base, state.dead, options.aux_k_fraction),
            },
            weights={"sse": 1.0, "aux": options.aux_weight},
            codes=codes,
            reconstruction=x_hat,
        )
        if not options.concepts_weight:
            return terms
        weights = sae.of_concepts()
        concepts, x_hat = topk_autoencode(x, *weights, k=sae.k_concepts)
        self._seen = self._seen[0], SparseCodes(concepts.indices, concepts.values.detach())
        terms = terms.plus("concept_sse", squared_error(x, x_hat), options.concepts_weight)
        dead = self._dead(sae, state)
        if options.aux_weight and bool(dead.any()):
            aux = dead_residual(x, x_hat, *weights, dead=dead, k_fraction=options.aux_k_fraction)
            terms = terms.plus("concept_aux", aux, options.aux_weight * options.concepts_weight)
        return terms

    def _dead(self, sae: Any, state: TrainState) -> Tensor:
        """[n_concepts] bool: those that have been silent too long."""
        if self._idle is None:
            self._idle = torch.zeros(sae.n_concepts, dtype=torch.int64, device=sae.W_dec.device)
        return self._idle >= max(1, round(self.options.concept_dead_fraction * state.n_steps))

    @torch.no_grad()
    def after_step(self, sae: Any, state: TrainState) -> None:
        assert self._seen is not None, "the loop takes the loss before it calls after_step"
        codes, concepts = self._seen
        _follow_(sae.code_size, codes)
        if concepts is None or self._idle is None:
            return
        normalise_rows_(sae.W_dec_concepts)
        _follow_(sae.concept_size, concepts)
        self._idle += 1
        self._idle[active_columns(concepts, sae.n_concepts)] = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({} if self._idle is None else {"idle": self._idle})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._idle = state.get("idle")


def _follow_(sizes: Tensor, codes: SparseCodes) -> None:
    found, fired = mean_codes(codes, len(sizes))
    sizes.copy_(torch.where(fired, sizes.lerp(found, SIZE_RATE), sizes))


@torch.no_grad()
def measure_sizes_(sae: LinkedTopKSAE, x: Tensor) -> None:
    """Set the usual sizes of latents and concepts to their means on x [n, d_in]; of those that never fire, to the mean
    of the others."""
    for size, encode in ((sae.code_size, sae.encode_sparse), (sae.concept_size, sae.concepts_of)):
        found = [encode(part) for part in x.split(_CHUNK)]
        codes = SparseCodes(torch.cat([c.indices for c in found]), torch.cat([c.values for c in found]))
        means, fired = mean_codes(codes, len(size))
        size.copy_(torch.where(fired, means, float(means[fired].mean()) if bool(fired.any()) else 1.0))


@torch.no_grad()
def linked(base: SAE, concepts: SAE, x: Tensor) -> LinkedTopKSAE:
    """One SAE of two levels from two topk SAEs that are already trained, to be saved and used as any other.

    Args:
        base: its codes and reconstruction are kept to the bit.
        concepts: mostly of fewer latents.
        x: [n, d_in] activations on which usual sizes of codes are measured; not those of an evaluation.

    Raises:
        ConfigError: one is no topk SAE, or they act on different widths.
    """
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    for sae in (base, concepts):
        if sae.config.architecture != "topk":
            raise ConfigError(
                f"Only topk SAEs can be linked, got one of architecture {sae.config.architecture!r}: train `topk` with "
                "two values of d_sae."
            )
    if base.config.d_in != concepts.config.d_in or concepts.config.d_sae > base.config.d_sae:
        raise ConfigError(
            "Linked SAEs act on one width, and there are no more concepts than latents; got d_in "
            f"{base.config.d_in} and {concepts.config.d_in}, d_sae {base.config.d_sae} and {concepts.config.d_sae}."
        )
    options = {
        "k": base.config.options["k"],
        "k_concepts": concepts.config.options["k"],
        "n_concepts": concepts.config.d_sae,
        "with_concepts": True,
    }
    config = SAEConfig(architecture="linked_topk", d_in=base.config.d_in, d_sae=base.config.d_sae, options=options)
    found = LinkedTopKSAE(config).to(x)
    for sae, own in ((base, [getattr(found, name) for name in names]), (concepts, found.of_concepts())):
        for parameter, name in zip(own, names, strict=True):
            parameter.copy_(getattr(sae, name))
    measure_sizes_(found, x)
    return found.eval()
