"""The sparse step for methods whose number of active latents depends on the data: ReLU, JumpReLU, gated, batch top-k.

A trainer writes its loss once, in terms of the active pre-activations, and it runs on the active (token, latent) pairs
while there are few, and densely while there are many (as at the start of training with ReLU):

    active = active_latents(x, sae.W_enc, sae.b_enc, sae.b_dec, above=0.0)
    values = active.z.relu()
    x_hat = active.decode(values, sae.W_dec, sae.b_dec)
    l1 = values.sum() / len(x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ConfigError, ShapeError
from ..interfaces.codes import offsets_of, token_of_slot
from ..interfaces.sae import RaggedCodes
from ..threads.products import product
from .kernels import SegmentDecode, encoder_gradients, pre_activations, token_chunks
from .sparse_ops import SlotsByColumn, pairs_above, top_k

MAX_DENSITY = 1 / 8
"""Share of active pairs above which the dense path is taken. Both cost the same at .15 to .25, at each size tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveLatents:
    """The pre-activations a method works with in a batch: those of the active pairs, or all where they are many."""

    z: Tensor
    """[nnz] in token order, or [n, d_sae]: pre-activations with their gradient."""
    latents: Tensor | None
    """[nnz] int64: the latent of each; None where dense."""
    offsets: Tensor | None
    """[n + 1] int64: where each token's begin; None where dense."""
    slots: SlotsByColumn | None

    @property
    def is_dense(self) -> bool:
        """True where `z` holds all pairs, [n, d_sae]; those that are not active are the method's to zero."""
        return self.slots is None

    def of(self, per_latent: Tensor) -> Tensor:
        """A parameter [d_sae] brought to the shape of `z`; its gradient is summed per latent in a fixed order."""
        if self.slots is None:
            return per_latent.expand_as(self.z)
        return _PerLatent.apply(per_latent, self.slots)  # type: ignore[return-value]

    def decode(self, values: Tensor, W_dec: Tensor, b_dec: Tensor) -> Tensor:
        """x̂ [n, d_in] of code values in the shape of `z`."""
        if self.slots is None:
            return values @ W_dec + b_dec
        return SegmentDecode.apply(values, self.offsets, W_dec, b_dec, self.slots)  # type: ignore[return-value]

    def codes(self, values: Tensor) -> RaggedCodes | Tensor:
        """The codes of code values in the shape of `z`, as `LossTerms` wants them."""
        if self.latents is None or self.offsets is None:
            return values
        return RaggedCodes(self.latents, self.offsets, values)


def active_latents(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    b_dec: Tensor,
    *,
    above: float | Tensor | None = None,
    keep: int | None = None,
    max_density: float = MAX_DENSITY,
    buffer_bytes: int | None = None,
) -> ActiveLatents:
    """Pre-activations z = (x - b_dec) W_enc + b_enc of the active pairs, those with z > `above` or the `keep` largest
    of the batch.

    Args:
        x: [n, d_in].
        W_enc: [d_in, d_sae]; fastest when its memory is [d_sae, d_in] (see `encoder_parameter`).
        b_enc: [d_sae].
        b_dec: [d_in].
        above: a number, or one for each latent [d_sae]. Choose it so that other pairs have neither value nor gradient.
        keep: number of pairs, as n · k for batch top-k (Bussmann et al. 2024, arXiv:2412.06410).
        max_density: share of active pairs above which `z` is dense; 1 never is, so `keep` never is.
        buffer_bytes: bound of the dense pre-activations held at once [default: PRE_ACTIVATION_BYTES]; only with
            `above`, and not on the dense path.

    Raises:
        ConfigError: not exactly one of `above` and `keep` is given.
        ShapeError: `keep` is not in [1, n · d_sae].
    """
    if (above is None) == (keep is None):
        raise ConfigError("active_latents takes either above= or keep=.")
    with torch.no_grad():
        centred = x - b_dec
        if keep is not None:
            found: RaggedCodes | Tensor = _largest(pre_activations(centred, W_enc, b_enc), keep)
        else:
            assert above is not None
            found = _pairs_above(centred, W_enc, b_enc, above, max_density, buffer_bytes)
    if isinstance(found, Tensor):
        z = _DensePreActivations.apply(x, W_enc, b_enc, b_dec, centred, found)
        return ActiveLatents(z=z, latents=None, offsets=None, slots=None)  # type: ignore[arg-type]
    slots = SlotsByColumn(found.latents, token_of_slot(found), W_enc.shape[1])
    z = _ActivePreActivations.apply(x, W_enc, b_enc, b_dec, centred, found, slots)
    return ActiveLatents(z=z, latents=found.latents, offsets=found.offsets, slots=slots)  # type: ignore[arg-type]


def _pairs_above(
    centred: Tensor, W_enc: Tensor, b_enc: Tensor, above: float | Tensor, max_density: float, buffer_bytes: int | None
) -> RaggedCodes | Tensor:
    """The pairs, or the dense pre-activations where the pairs are too many."""
    latents, values, counts = list[Tensor](), list[Tensor](), list[Tensor]()
    chunks = token_chunks(centred, len(b_enc), buffer_bytes)
    for chunk in chunks:
        pre = product(chunk, W_enc)
        found = pairs_above(pre, b_enc, above, int(max_density * pre.numel()))
        if found is None:
            return pre if len(chunks) == 1 else pre_activations(centred, W_enc, b_enc)
        for part, whole in zip(found, (latents, values, counts), strict=True):
            whole.append(part)
    return RaggedCodes(torch.cat(latents), offsets_of(torch.cat(counts)), torch.cat(values))


def _largest(pre: Tensor, keep: int) -> RaggedCodes:
    n, d_sae = pre.shape
    if not 1 <= keep <= pre.numel():
        raise ShapeError(f"keep must lie in [1, n · d_sae = {pre.numel()}], got {keep}.")
    where = top_k(pre.view(1, -1), keep)[1].view(-1).sort().values
    tokens = where // d_sae
    counts = torch.bincount(tokens, minlength=n)
    return RaggedCodes(where - tokens * d_sae, offsets_of(counts), pre.view(-1)[where])


class _ActivePreActivations(torch.autograd.Function):
    """The chosen pre-activations, with the gradient of each pair alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        centred: Tensor,
        pairs: RaggedCodes,
        slots: SlotsByColumn,
    ) -> Tensor:
        ctx.slots = slots
        ctx.save_for_backward(centred, W_enc, pairs.offsets)
        return pairs.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        centred, W_enc, offsets = ctx.saved_tensors
        return (*encoder_gradients(ctx, centred, W_enc, grad.contiguous(), ctx.slots, offsets), None, None, None)


class _DensePreActivations(torch.autograd.Function):
    """All pre-activations, made before; the gradient of b_dec costs a matrix-vector product, not a matrix product."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, centred: Tensor, pre: Tensor
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        return pre

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        centred, W_enc = ctx.saved_tensors
        grad_b_enc = grad.sum(0)
        grad_W_enc = (grad.t() @ centred).t() if ctx.needs_input_grad[1] else None
        grad_b_dec = -(W_enc @ grad_b_enc) if ctx.needs_input_grad[3] else None
        grad_x = grad @ W_enc.t() if ctx.needs_input_grad[0] else None
        return grad_x, grad_W_enc, grad_b_enc, grad_b_dec, None, None


class _PerLatent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, per_latent: Tensor, slots: SlotsByColumn) -> Tensor:
        ctx.slots = slots
        return per_latent.index_select(0, slots.columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.slots.totals(grad), None
