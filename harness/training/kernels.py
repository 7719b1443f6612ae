"""Sparse encode and decode with their gradients, for plugins to call by name.

Only the encoder's matrix product is dense. Decoding and both weight gradients touch the active (token, latent)
pairs alone, and no [n·k, d_in] tensor is built. `active.py` has the same for methods whose number of active latents
depends on the data.

Each kernel equals the plain dense definition (in the tests) up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ShapeError
from ..interfaces.codes import dense as ragged_to_dense
from ..interfaces.codes import token_of_slot
from ..interfaces.sae import RaggedCodes, SparseCodes
from ..threads.products import product
from .sparse_ops import SlotsByColumn, decode_gradients, segment_sum, slot_dots, top_k_biased

PRE_ACTIVATION_BYTES = 2**28
"""Pre-activations [n, d_sae] larger than this are made in chunks of tokens, with the same result."""


def token_chunks(x: Tensor, d_sae: int, buffer_bytes: int | None = None) -> tuple[Tensor, ...]:
    """x [n, d_in] in pieces whose pre-activations take at most `buffer_bytes` [default: PRE_ACTIVATION_BYTES]."""
    limit = PRE_ACTIVATION_BYTES if buffer_bytes is None else buffer_bytes
    return x.split(max(1, limit // (d_sae * x.element_size())))


def pre_activations(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
    """[n, d_sae] = x W_enc + b_enc, of x's dtype also where autocast makes the product in another."""
    return product(x, W_enc).add_(b_enc)  # `addmm` copies the bias to all rows first: a sixth of its time


def _largest(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest pre-activations of each token."""
    return top_k_biased(product(x, W_enc), b_enc, k)


def _even_offsets(n: int, k: int, like: Tensor) -> Tensor:
    """Offsets of n segments of k slots each."""
    return torch.arange(0, n * k + 1, k, dtype=like.dtype, device=like.device)


class _TopKEncode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, box: list, k: int, buffer_bytes: int | None
    ) -> Any:
        centred = x - b_dec
        parts = [_largest(c, W_enc, b_enc, k) for c in token_chunks(centred, len(b_enc), buffer_bytes)]
        values = torch.cat([v for v, _ in parts]).relu_()
        indices = torch.cat([i for _, i in parts])
        box.append(SlotsByColumn(indices.view(-1), k, len(b_enc)))
        ctx.box = box
        ctx.save_for_backward(centred, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, _grad_indices: Tensor | None) -> Any:
        centred, W_enc, values, indices = ctx.saved_tensors
        grad = torch.where(values > 0, grad_values, torch.zeros_like(grad_values))
        by_latent: SlotsByColumn = ctx.box[0]
        offsets = _even_offsets(indices.shape[0], indices.shape[1], indices)
        return (*encoder_gradients(ctx, centred, W_enc, grad.view(-1), by_latent, offsets), None, None, None)


def encoder_gradients(
    ctx: Any, centred: Tensor, W_enc: Tensor, grad: Tensor, by_latent: SlotsByColumn, offsets: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (x, W_enc, b_enc, b_dec) from those of the active pre-activations, `grad` [nnz] in token order."""
    if ctx.needs_input_grad[1]:
        sums, grad_b_enc = by_latent.gather_totals(grad, centred)
        grad_W_enc = sums.t()
    else:
        grad_W_enc, grad_b_enc = None, by_latent.totals(grad)
    # The sum over tokens of their input gradients: a matrix-vector product does for a matrix product.
    grad_b_dec = -(W_enc @ grad_b_enc) if ctx.needs_input_grad[3] else None
    grad_x = None
    if ctx.needs_input_grad[0]:
        grad_x = segment_sum(by_latent.columns, offsets, grad, W_enc.t().contiguous())
    return grad_x, grad_W_enc, grad_b_enc, grad_b_dec


class SegmentDecode(torch.autograd.Function):
    """x̂ [n, d_in] = sum of values times decoder rows over each token's slots, plus b_dec."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, offsets: Tensor, W_dec: Tensor, b_dec: Tensor, by_latent: SlotsByColumn
    ) -> Tensor:
        ctx.by_latent = by_latent
        ctx.save_for_backward(values, offsets, W_dec)
        return segment_sum(by_latent.columns, offsets, values.reshape(-1), W_dec).add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        values, offsets, W_dec = ctx.saved_tensors
        grad = grad.contiguous()
        grad_values, grad_W_dec = None, None
        if ctx.needs_input_grad[0] and ctx.needs_input_grad[2]:
            grad_values, grad_W_dec = decode_gradients(grad, values.reshape(-1), ctx.by_latent, offsets, W_dec)
        elif ctx.needs_input_grad[0]:
            grad_values = slot_dots(grad, ctx.by_latent, offsets, W_dec)
        elif ctx.needs_input_grad[2]:
            grad_W_dec = ctx.by_latent.gather(values, grad)
        if grad_values is not None:
            grad_values = grad_values.view_as(values)
        grad_b_dec = grad.sum(0) if ctx.needs_input_grad[3] else None
        return grad_values, None, grad_W_dec, grad_b_dec, None


def topk_autoencode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int, *, buffer_bytes: int | None = None
) -> tuple[SparseCodes, Tensor]:
    """Codes and reconstruction of a top-k SAE: f = TopK(relu((x - b_dec) W_enc + b_enc)), x̂ = f W_dec + b_dec.

    Args:
        x: [n, d_in].
        W_enc: [d_in, d_sae]; fastest when its memory is [d_sae, d_in] (see `encoder_parameter`).
        b_enc: [d_sae].
        W_dec: [d_sae, d_in], contiguous.
        b_dec: [d_in].
        k: latents kept per token.
        buffer_bytes: bound of the dense pre-activations held at once [default: PRE_ACTIVATION_BYTES].

    Returns:
        Codes ([n, k] indices and values; gradients flow to the values) and x̂ [n, d_in]. Both sort the active
        pairs once between them.

    Raises:
        ShapeError: k is not in [1, d_sae], or the shapes do not fit.

    References: Gao et al. 2024, arXiv:2406.04093.
    """
    check_shapes(x, W_enc, W_dec)
    box: list[SlotsByColumn] = []
    values, indices = _topk_encode(x, W_enc, b_enc, b_dec, box, k, buffer_bytes)
    offsets = _even_offsets(indices.shape[0], indices.shape[1], indices)
    x_hat = SegmentDecode.apply(values, offsets, W_dec, b_dec, box[0])
    return SparseCodes(indices, values), x_hat  # type: ignore[return-value]


def topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, k: int, *, buffer_bytes: int | None = None
) -> SparseCodes:
    """The codes alone (see `topk_autoencode`): for a second encoder pass, such as the previous token's."""
    values, indices = _topk_encode(x, W_enc, b_enc, b_dec, [], k, buffer_bytes)
    return SparseCodes(indices, values)


def _topk_encode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, box: list, k: int, buffer_bytes: int | None
) -> tuple[Tensor, Tensor]:
    if not 1 <= k <= W_enc.shape[1]:
        raise ShapeError(f"k must lie in [1, d_sae = {W_enc.shape[1]}], got {k}.")
    return _TopKEncode.apply(x, W_enc, b_enc, b_dec, box, k, buffer_bytes)  # type: ignore[return-value]


def sparse_decode(codes: SparseCodes | RaggedCodes, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """x̂ [n, d_in] = sum of value times decoder row over each token's latents, plus b_dec."""
    if isinstance(codes, RaggedCodes):
        rows: Tensor | int = token_of_slot(codes)
        slots = SlotsByColumn(codes.latents, rows, W_dec.shape[0])
        return SegmentDecode.apply(codes.values, codes.offsets, W_dec, b_dec, slots)  # type: ignore[return-value]
    n, k = codes.indices.shape
    slots = SlotsByColumn(codes.indices.reshape(-1), k, W_dec.shape[0])
    offsets = _even_offsets(n, k, codes.indices)
    return SegmentDecode.apply(codes.values, offsets, W_dec, b_dec, slots)  # type: ignore[return-value]


def to_dense(codes: SparseCodes | RaggedCodes, d_sae: int) -> Tensor:
    """[n, d_sae]: the codes with their zeros."""
    if isinstance(codes, RaggedCodes):
        return ragged_to_dense(codes, d_sae)
    dense = torch.zeros(codes.values.shape[0], d_sae, dtype=codes.values.dtype, device=codes.values.device)
    return dense.scatter(1, codes.indices, codes.values)


def encoder_parameter(d_in: int, d_sae: int) -> torch.nn.Parameter:
    """An uninitialised `W_enc [d_in, d_sae]` whose memory is laid out [d_sae, d_in]: each latent's weights lie
    together, as the sparse gradient writes them."""
    return torch.nn.Parameter(torch.empty(d_sae, d_in).t())


@torch.no_grad()
def normalise_rows_(W_dec: Tensor) -> None:
    """Scale each row of `W_dec [d_sae, d_in]` to norm 1, in place."""
    W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_min_(1e-12))


def check_shapes(x: Tensor, W_enc: Tensor, W_dec: Tensor) -> None:
    """Raises ShapeError unless x [n, d_in], W_enc [d_in, d_sae] and W_dec [d_sae, d_in] fit."""
    d_in, d_sae = W_enc.shape
    if x.ndim != 2 or x.shape[1] != d_in or W_dec.shape != (d_sae, d_in):
        raise ShapeError(
            f"Shapes do not fit: x {tuple(x.shape)}, W_enc {tuple(W_enc.shape)}, W_dec {tuple(W_dec.shape)}; "
            "expected [n, d_in], [d_in, d_sae], [d_sae, d_in]."
        )
