"""Sparse encode and decode with their gradients, for plugins to call by name.

Only the encoder's matrix product is dense. Decoding and both weight gradients touch the active (token, latent)
pairs alone: gradients are gathered per latent over the transposed index (a stable sort of the latent ids), so
no [n·k, d_in] tensor is built, and the order of every sum is fixed: equal inputs give equal bits.

Each kernel equals the plain dense definition (`*_dense`, used by the tests) up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ShapeError
from ..interfaces.sae import SparseCodes


class _LatentIndex:
    """For [n, k] latent ids: which rows use each latent, grouped by latent. Sorted once, used by both gradients."""

    def __init__(self, indices: Tensor, d_sae: int) -> None:
        self.indices = indices
        self.d_sae = d_sae
        self._sorted: tuple[Tensor, Tensor, Tensor] | None = None

    def grouped(self) -> tuple[Tensor, Tensor, Tensor]:
        """(order, rows, offsets): slots sorted by latent, the token of each, and where each latent's slots begin."""
        if self._sorted is None:
            flat = self.indices.reshape(-1)
            order = torch.argsort(flat, stable=True)
            counts = torch.bincount(flat, minlength=self.d_sae)
            offsets = torch.cumsum(counts, 0) - counts
            self._sorted = (order, order // self.indices.shape[1], offsets)
        return self._sorted

    def gather(self, weights: Tensor, rows_of: Tensor) -> Tensor:
        """[d_sae, d]: for each latent the sum over its slots of weight times that token's row of `rows_of` [n, d]."""
        order, rows, offsets = self.grouped()
        return F.embedding_bag(
            rows, rows_of, offsets, mode="sum", per_sample_weights=weights.reshape(-1)[order].contiguous()
        )


def _weighted_rows(indices: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    """[n, d]: for each token the weighted sum of the rows of `table` [d_sae, d] it names."""
    return F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)


def _row_dots(grad: Tensor, indices: Tensor, table: Tensor, *, chunk: int = 256) -> Tensor:
    """[n, k]: dot product of each token's `grad` row [n, d] with the rows of `table` it names.

    Chunked over tokens so that the gathered [chunk, k, d] block stays in cache.
    """
    if grad.device.type == "cpu":
        n, k = indices.shape
        offsets = torch.arange(0, n * k, k, device=indices.device)
        bag = torch.arange(n, device=indices.device).repeat_interleave(k)
        # embedding_bag's own backward for its weights: a gathered dot product without the gathered block.
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad.contiguous(), table, indices.reshape(-1), offsets, bag, 0
        )
        return dots.view(n, k)
    parts = [
        torch.bmm(table[idx], row.unsqueeze(-1)).squeeze(-1)
        for idx, row in zip(indices.split(chunk), grad.split(chunk), strict=True)
    ]
    return torch.cat(parts)


class _TopKEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, index_box: list, k: int) -> Any:
        centred = x - b_dec
        pre = torch.addmm(b_enc, centred, W_enc)
        values, indices = torch.topk(pre, k, dim=-1, sorted=False)
        values = values.relu_()
        index_box.append(_LatentIndex(indices, W_enc.shape[1]))
        ctx.index_box = index_box
        ctx.save_for_backward(centred, W_enc, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, _grad_indices: Tensor | None) -> Any:
        centred, W_enc, values, indices = ctx.saved_tensors
        grad = torch.where(values > 0, grad_values, torch.zeros_like(grad_values))
        grad_b_enc = torch.zeros(W_enc.shape[1], dtype=grad.dtype, device=grad.device)
        grad_b_enc.index_add_(0, indices.reshape(-1), grad.reshape(-1))
        grad_W_enc = ctx.index_box[0].gather(grad, centred).t()
        grad_b_dec = -(W_enc @ grad_b_enc) if ctx.needs_input_grad[3] else None
        grad_x = _weighted_rows(indices, grad, W_enc.t()) if ctx.needs_input_grad[0] else None
        return grad_x, grad_W_enc, grad_b_enc, grad_b_dec, None, None


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, b_dec: Tensor, index: _LatentIndex) -> Tensor:
        ctx.index = index
        ctx.save_for_backward(values, indices, W_dec)
        return _weighted_rows(indices, values, W_dec).add_(b_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        values, indices, W_dec = ctx.saved_tensors
        grad = grad.contiguous()
        grad_values = _row_dots(grad, indices, W_dec) if ctx.needs_input_grad[0] else None
        grad_W_dec = ctx.index.gather(values, grad) if ctx.needs_input_grad[2] else None
        grad_b_dec = grad.sum(0) if ctx.needs_input_grad[3] else None
        return grad_values, None, grad_W_dec, grad_b_dec, None


def topk_autoencode(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int
) -> tuple[SparseCodes, Tensor]:
    """Codes and reconstruction of a top-k SAE: f = TopK(relu((x - b_dec) W_enc + b_enc)), x̂ = f W_dec + b_dec.

    Args:
        x: [n, d_in].
        W_enc: [d_in, d_sae]; fastest when its memory is [d_sae, d_in] (see `encoder_parameter`).
        b_enc: [d_sae].
        W_dec: [d_sae, d_in], contiguous.
        b_dec: [d_in].
        k: latents kept per token.

    Returns:
        Codes ([n, k] indices and values; gradients flow to the values) and x̂ [n, d_in]. Both sort the active
        pairs once between them.

    Raises:
        ShapeError: k is not in [1, d_sae], or the shapes do not fit.

    References: Gao et al. 2024, arXiv:2406.04093.
    """
    _check(x, W_enc, W_dec, k)
    box: list[_LatentIndex] = []
    values, indices = _TopKEncode.apply(x, W_enc, b_enc, b_dec, box, k)  # type: ignore[misc]
    x_hat = _SparseDecode.apply(values, indices, W_dec, b_dec, box[0])
    return SparseCodes(indices, values), x_hat  # type: ignore[return-value]


def topk_encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, k: int) -> SparseCodes:
    """The codes alone (see `topk_autoencode`): for a second encoder pass, such as the previous token's."""
    if not 1 <= k <= W_enc.shape[1]:
        raise ShapeError(f"k must lie in [1, d_sae = {W_enc.shape[1]}], got {k}.")
    values, indices = _TopKEncode.apply(x, W_enc, b_enc, b_dec, [], k)  # type: ignore[misc]
    return SparseCodes(indices, values)


def sparse_decode(codes: SparseCodes, W_dec: Tensor, b_dec: Tensor) -> Tensor:
    """x̂ [n, d_in] = sum of value times decoder row over each token's latents, plus b_dec."""
    index = _LatentIndex(codes.indices, W_dec.shape[0])
    return _SparseDecode.apply(codes.values, codes.indices, W_dec, b_dec, index)  # type: ignore[return-value]


def to_dense(codes: SparseCodes, d_sae: int) -> Tensor:
    """[n, d_sae]: the codes with their zeros."""
    dense = torch.zeros(codes.values.shape[0], d_sae, dtype=codes.values.dtype, device=codes.values.device)
    return dense.scatter(1, codes.indices, codes.values)


def l1_difference(a: SparseCodes, b: SparseCodes) -> Tensor:
    """[n]: sum over latents of |a - b| for each token, over the union of both supports.

    Costs O(n·k²) comparisons and no [n, d_sae] tensor.
    """
    if a.indices.shape[0] != b.indices.shape[0]:
        raise ShapeError(f"Codes of {a.indices.shape[0]} and {b.indices.shape[0]} tokens cannot be subtracted.")
    match = (a.indices.unsqueeze(2) == b.indices.unsqueeze(1)).to(a.values.dtype)
    b_at_a = torch.bmm(match, b.values.unsqueeze(2)).squeeze(2)
    b_shared = match.amax(dim=1)
    return (a.values - b_at_a).abs().sum(1) + (b.values * (1 - b_shared)).abs().sum(1)


def encoder_parameter(d_in: int, d_sae: int) -> torch.nn.Parameter:
    """An uninitialised `W_enc [d_in, d_sae]` whose memory is laid out [d_sae, d_in]: each latent's weights lie
    together, as the sparse gradient writes them."""
    return torch.nn.Parameter(torch.empty(d_sae, d_in).t())


@torch.no_grad()
def remove_parallel_gradient_(W_dec: Tensor, grad: Tensor) -> None:
    """Remove from each row of `grad` its part along the row of `W_dec` (rows of norm 1), in place."""
    grad.addcmul_((W_dec * grad).sum(1, keepdim=True), W_dec, value=-1.0)


@torch.no_grad()
def normalise_rows_(W_dec: Tensor) -> None:
    """Scale each row of `W_dec [d_sae, d_in]` to norm 1, in place."""
    W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_min_(1e-12))


def _check(x: Tensor, W_enc: Tensor, W_dec: Tensor, k: int) -> None:
    d_in, d_sae = W_enc.shape
    if x.ndim != 2 or x.shape[1] != d_in or W_dec.shape != (d_sae, d_in):
        raise ShapeError(
            f"Shapes do not fit: x {tuple(x.shape)}, W_enc {tuple(W_enc.shape)}, W_dec {tuple(W_dec.shape)}; "
            "expected [n, d_in], [d_in, d_sae], [d_sae, d_in]."
        )
    if not 1 <= k <= d_sae:
        raise ShapeError(f"k must lie in [1, d_sae = {d_sae}], got {k}.")
