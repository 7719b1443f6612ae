"""Losses of next-token predictions, from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) in nats of each position, [...] float64, of logits [..., vocab]; finite also where q is tiny.

    Raises:
        ShapeError: the shapes differ.
    """
    return kl_from_log_probs(torch.log_softmax(logits_p.float(), -1), torch.log_softmax(logits_q.float(), -1))


def kl_from_log_probs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`kl_divergence` of normalised log-probabilities [..., vocab]. Sums over the vocabulary in their dtype."""
    if log_p.shape != log_q.shape:
        raise ShapeError(f"KL needs two tensors of one shape, got {tuple(log_p.shape)} and {tuple(log_q.shape)}.")
    return (log_p - log_q).mul_(log_p.exp()).sum(-1).double()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats of each position, [...] float64, of logits [..., vocab] and targets [...] int64.

    Raises:
        ShapeError: `targets` has not the shape of `logits` without its last dimension.
    """
    return cross_entropy_from_log_probs(torch.log_softmax(logits.float(), -1), targets)


def cross_entropy_from_log_probs(log_probs: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy` of normalised log-probabilities [..., vocab]."""
    if log_probs.shape[:-1] != targets.shape:
        raise ShapeError(
            f"Cross-entropy needs one target a position: {tuple(log_probs.shape[:-1])} positions, "
            f"targets {tuple(targets.shape)}."
        )
    return -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double()


def predicting_positions(mask: Tensor) -> Tensor:
    """Positions whose next-token prediction is counted: mask [b, s] holds there and at the next token; [b, s] bool.

    The last position of a sequence predicts nothing that is known.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ShapeError(f"A mask is [b, s] bool, got {tuple(mask.shape)} {mask.dtype}.")
    keep = torch.zeros_like(mask)
    keep[:, :-1] = mask[:, :-1] & mask[:, 1:]
    return keep


def next_token_cross_entropy(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy [n] float64 at the n `predicting_positions(mask)` of logits [b, s, vocab] and tokens [b, s]."""
    if logits.shape[:2] != tokens.shape or mask.shape != tokens.shape:
        raise ShapeError(
            f"Logits [b, s, vocab], tokens [b, s] and mask [b, s] must fit together, got {tuple(logits.shape)}, "
            f"{tuple(tokens.shape)}, {tuple(mask.shape)}."
        )
    keep = predicting_positions(mask)
    return cross_entropy(logits[keep], tokens.roll(-1, 1)[keep])
