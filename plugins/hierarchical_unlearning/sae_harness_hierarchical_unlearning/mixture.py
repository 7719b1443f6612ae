"""The trainer `hierarchical_mixture`: parents, children in the parents' subspaces, and parents that do alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness import ActivationBatch, ConfigError, LossTerms, Option, Trainer, TrainerOptions, TrainState
from harness.training.kernels import topk_autoencode
from harness.training.median import geometric_median

from .mixture_sae import ChildCodes, MixtureTopKSAE, joined
from .residuals import dead_residual, relative_error, squared_error


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOptions(TrainerOptions):
    """Options of `hierarchical_mixture`."""

    aux_weight: float = 1 / 32
    """Weight of the losses that revive dead parents and dead children."""
    aux_k_fraction: float = 0.5
    """Dead parents used per token, as a share of d_in."""
    children: int = 15
    """Of each parent: 15, so that a family is 16 latents and divides the usual d_sae; published 16. 0 is topk."""
    subspace: int = 4
    """Dimensions that a parent's children live in."""
    parents_weight: float = 0.1
    """Weight of the error of what parents alone reconstruct."""
    cross_weight: float = 0.0
    """Weight of the mean squared cosine between the encoder of one parent and the decoder of another, times d_in."""
    l1_weight: float = 0.0
    """Weight of the sum of codes: TopK fixes their number already; published 1e-3."""

    def __post_init__(self) -> None:
        weights = ("aux_weight", "parents_weight", "cross_weight", "l1_weight")
        for name, least in (*((name, 0) for name in weights), ("children", 0), ("subspace", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"hierarchical_mixture: option {name} is {getattr(self, name)}; it must be at least {least}."
                )
        if self.aux_k_fraction <= 0:
            raise ConfigError(
                f"hierarchical_mixture: option aux_k_fraction is {self.aux_k_fraction}; it must be above 0."
            )


class MixtureTrainer(Trainer):
    """L = ||x - x̂||² + w ||x - x̂_p||² + c · cross cosines + l1 · Σ codes + aux, means over tokens.

    x̂_p is what parents alone reconstruct. With 0 children it is `topk` to the bit. After Muchane et al. 2025
    (arXiv:2506.01197), whose cross-orthogonality subtracts the diagonal of the products from every row: here the
    products of a parent with itself are left out, as meant.
    """

    options_type = MixtureOptions

    def sae_options(self, target_l0: int | None) -> Mapping[str, Option]:
        return {"k": target_l0, "children": self.options.children, "subspace": self.options.subspace}

    @torch.no_grad()
    def initialise(self, sae: Any, sample: ActivationBatch, target_l0: int | None, generator: torch.Generator) -> None:
        sae.b_dec.copy_(geometric_median(sample.activations))

    def loss(self, sae: Any, batch: ActivationBatch, state: TrainState) -> LossTerms:
        options, x = self.options, batch.activations
        parents, of_parents = topk_autoencode(x, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.k_parents)
        children, codes, x_hat = None, parents, of_parents
        if sae.k_children:
            children = sae.child_codes(x, parents)
            kept = sae.best(children)
            codes, x_hat = joined(parents, kept), of_parents + sae.decode_children(kept)
        dead = state.dead[: sae.n_parents]
        aux = dead_residual(x, x_hat, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, dead, options.aux_k_fraction)
        terms = LossTerms(
            values={"sse": squared_error(x, x_hat), "aux": aux},
            weights={"sse": 1.0, "aux": options.aux_weight},
            codes=codes,
            reconstruction=x_hat,
        )
        if children is not None:
            terms = self._of_both(sae, x, terms, of_parents, children, state)
        if options.cross_weight:
            terms = terms.plus("cross_cosines", cross_cosines(sae.W_enc, sae.W_dec), options.cross_weight)
        if options.l1_weight:
            terms = terms.plus("l1", codes.values.sum() / len(x), options.l1_weight)
        return terms

    def _of_both(
        self,
        sae: MixtureTopKSAE,
        x: Tensor,
        terms: LossTerms,
        of_parents: Tensor,
        children: ChildCodes,
        state: TrainState,
    ) -> LossTerms:
        """The terms with those that only two levels have."""
        options = self.options
        if options.parents_weight:
            terms = terms.plus("parents_sse", squared_error(x, of_parents), options.parents_weight)
        n, m = sae.n_parents, sae.n_children
        dead = state.dead[n : n + n * m].view(n, m)
        if options.aux_weight and bool(dead.any()):
            best = sae.best(children._replace(pre=children.pre.masked_fill(~dead[children.parent], -torch.inf)))
            guess = sae.decode_children(best)
            residual = (x - terms.reconstruction).detach()
            terms = terms.plus("child_aux", relative_error(residual, guess), options.aux_weight)
        return terms

    @torch.no_grad()
    def after_step(self, sae: Any, state: TrainState) -> None:
        if sae.n_children:
            sae.normalise_()


def cross_cosines(W_enc: Tensor, W_dec: Tensor) -> Tensor:
    """d_in times the mean over i ≠ j of cos(encoder of i, decoder of j)²: 1 for random directions.

    Args:
        W_enc: [d_in, n].
        W_dec: [n, d_in].
    """
    n, d_in = W_dec.shape
    cosines = torch.nn.functional.normalize(W_enc.t(), dim=1) @ torch.nn.functional.normalize(W_dec, dim=1).t()
    others = cosines.square().sum() - cosines.diagonal().square().sum()
    return others * (d_in / max(1, n * n - n))
