"""Distances between the codes of two tokens: pure functions, sparse and dense."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import RaggedCodes, SparseCodes
from harness.evaluation.metrics import take, token_of_slot
from harness.training.code_distance import l1_difference, ragged, select_tokens, token_sums
from harness.training.kernels import to_dense

EPS = 1e-8
"""Keeps 0/0 at 0 where both codes are empty; far below any code's sum in inputs of mean norm sqrt(d_in)."""

Codes = SparseCodes | RaggedCodes | Tensor


def absolute_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| of each token; of sparse codes over the union of both supports."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a - b).abs().sum(-1)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        raise TypeError("the codes of both tokens come from one encoder: both sparse or both dense")
    return l1_difference(a, b)


def relative_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i |a_i - b_i| / (0.5 (||a||_1 + ||b||_1) + eps) of each token, in [0, 2].

    0 for equal codes and for two empty ones, 2 for disjoint ones. Scaling both codes does not change it, so that it
    cannot be lowered by shrinking them.
    """
    return absolute_distance(a, b) / (0.5 * (l1_norm(a) + l1_norm(b)) + EPS)


def squared_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: sum_i (a_i - b_i)² of each token; of sparse codes over the union of both supports.

    Summed cell by cell: ||a||² + ||b||² - 2 a·b would lose all digits where the codes are nearly equal.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a - b).square().sum(-1)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        raise TypeError("the codes of both tokens come from one encoder: both sparse or both dense")
    first, second = ragged(a), ragged(b)
    n = len(first.offsets) - 1
    token = torch.cat([token_of_slot(first), token_of_slot(second)])
    latent = torch.cat([first.latents, second.latents])
    width = int(latent.max()) + 1 if len(latent) else 1
    cells, place = torch.unique(token * width + latent, return_inverse=True)
    signed = torch.cat([first.values, -second.values])
    # At most two slots meet in a cell: their sum has one order on every device.
    apart = signed.new_zeros(len(cells)).index_add(0, place, signed)
    lengths = torch.bincount(cells // width, minlength=n)
    return torch.segment_reduce(apart.square(), "sum", lengths=lengths, initial=0.0)


def euclidean_distance(a: Codes, b: Codes) -> Tensor:
    """[n]: ||a - b||_2 of each token, with gradient 0 where the codes are equal (that of a bare root is infinite)."""
    square = squared_distance(a, b)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)


def similarity_weighted_distance(a: Codes, b: Codes, x_a: Tensor, x_b: Tensor) -> Tensor:
    """[n]: sum_i |a_i - b_i| · max(0, cos(x_a, x_b)) of each token, with its inputs x [n, d_in].

    The non-contrastive loss of T-SAE (Bhalla et al. 2025, arXiv:2511.05541): codes must agree as far as inputs do.
    """
    return absolute_distance(a, b) * F.cosine_similarity(x_a, x_b, dim=-1, eps=EPS).clamp_min(0)


def info_nce(
    a: Codes, b: Codes, document_a: Tensor, document_b: Tensor, *, width: int, similarity: str, temperature: float
) -> Tensor:
    """The symmetric InfoNCE loss of n pairs of codes (T-SAE): each a must find its own b among those of other
    documents, and each b its a. A scalar; log n where codes tell nothing.

    Args:
        a, b: codes of the two tokens of each pair; latents from `width` on must be unused.
        document_a: [n] document of each pair's first token; document_b: of its second.
        similarity: `cosine` (over `temperature`) or `dot`.

    Logits take n² numbers and 2 · n · width for the dense codes.
    """
    first, second = (_dense(codes, width) for codes in (a, b))
    if similarity == "cosine":
        first, second = (F.normalize(codes, dim=1, eps=EPS) for codes in (first, second))
        first = first / temperature
    logits = first @ second.t()
    kin = document_a[:, None] == document_b[None]
    kin.fill_diagonal_(False)
    logits = logits.masked_fill(kin, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own))


def _dense(codes: Codes, width: int) -> Tensor:
    """[n, width]: the first `width` latents."""
    if isinstance(codes, Tensor):
        return codes[:, :width]
    values = codes.values * (_latents(codes) < width)
    if isinstance(codes, SparseCodes):
        return to_dense(SparseCodes(codes.indices.clamp_max(width), values), width + 1)[:, :width]
    return to_dense(RaggedCodes(codes.latents.clamp_max(width), codes.offsets, values), width + 1)[:, :width]


def first_latents(codes: Codes, width: int, d_sae: int) -> Codes:
    """The codes with the latents from `width` on at 0."""
    if width >= d_sae:
        return codes
    return weighted(codes, (torch.arange(d_sae, device=_device(codes)) < width).float())


def weighted(codes: Codes, weights: Tensor) -> Codes:
    """The codes with each latent's value multiplied by its weight, [d_sae]."""
    if isinstance(codes, Tensor):
        return codes * weights
    return codes._replace(values=codes.values * weights[_latents(codes)])


def latent_sums(codes: Codes, d_sae: int) -> Tensor:
    """[d_sae]: the sum of each latent's values over the tokens; carries no gradient."""
    if isinstance(codes, Tensor):
        return codes.detach().sum(0)
    values, latents = codes.values.detach().reshape(-1), _latents(codes).reshape(-1)
    return torch.bincount(latents, weights=values.double(), minlength=d_sae).to(codes.values.dtype)


def detached(codes: Codes) -> Codes:
    """The codes as fixed numbers."""
    return codes.detach() if isinstance(codes, Tensor) else codes._replace(values=codes.values.detach())


def l1_norm(codes: Codes) -> Tensor:
    """[n]: sum of the code values of each token (they are not negative)."""
    return token_sums(codes)


def distance_to_nothing(codes: Codes, penalty: str) -> Tensor:
    """[n]: the distance to the empty code: ||f||_1, 2 ||f||_1 / (||f||_1 + 2 eps) for `rel`, ||f||_2 and its square
    for `l2` and `sq`."""
    if penalty == "rel":
        norm = l1_norm(codes)
        return norm / (0.5 * norm + EPS)
    if penalty in ("l2", "sq"):
        square = token_sums(codes, torch.square)
        apart = square > 0
        return square if penalty == "sq" else torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    return l1_norm(codes)


def select(codes: Codes, rows: Tensor) -> Codes:
    """The codes of the tokens where rows [n] bool holds."""
    if bool(rows.all()):
        return codes  # the usual batch: no copy, and no scatter in the backward pass
    return codes[rows] if isinstance(codes, Tensor) else select_tokens(codes, rows)


def pick(codes: Codes, rows: Tensor) -> Codes:
    """The codes of the tokens rows [m] int64, in that order; a token may be named more than once."""
    if isinstance(codes, RaggedCodes):
        return take(codes, rows)
    if isinstance(codes, SparseCodes):
        return SparseCodes(codes.indices[rows], codes.values[rows])
    return codes[rows]


def _latents(codes: SparseCodes | RaggedCodes) -> Tensor:
    return codes.indices if isinstance(codes, SparseCodes) else codes.latents


def _device(codes: Codes) -> torch.device:
    return codes.device if isinstance(codes, Tensor) else codes.values.device
