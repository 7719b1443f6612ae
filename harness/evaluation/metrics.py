"""Metrics as pure tensor functions and as streaming sums in float64: the names plugins may use.

A metric over a data set is a ratio of two sums. The sums are kept per document, in float64, so that the value does
not depend on the batch size and its standard error can be taken over documents, which are the independent units
(the tokens of one document are not). Averages of batch averages are never taken.
"""

from __future__ import annotations

from ..interfaces.evaluator import NextTokenLosses
from .codes import dense, n_active, take, token_of_slot
from .estimates import GroupedSums, one_minus, ratio_estimate
from .firings import DENSE_FREQUENCY, LOG10_EDGES, RunningFirings, firing_counts, l0
from .predictions import (
    cross_entropy,
    cross_entropy_from_log_probs,
    kl_divergence,
    kl_from_log_probs,
    next_token_cross_entropy,
    predicting_positions,
)
from .reconstruction import (
    RunningReconstruction,
    RunningVariation,
    Variation,
    cosine,
    fvu,
    l2_ratio,
    mse,
    relative_reconstruction_bias,
)

__all__ = [
    "DENSE_FREQUENCY",
    "LOG10_EDGES",
    "GroupedSums",
    "NextTokenLosses",
    "RunningFirings",
    "RunningReconstruction",
    "RunningVariation",
    "Variation",
    "cosine",
    "cross_entropy",
    "cross_entropy_from_log_probs",
    "dense",
    "firing_counts",
    "fvu",
    "kl_divergence",
    "kl_from_log_probs",
    "l0",
    "l2_ratio",
    "mse",
    "n_active",
    "next_token_cross_entropy",
    "one_minus",
    "predicting_positions",
    "ratio_estimate",
    "relative_reconstruction_bias",
    "take",
    "token_of_slot",
]
