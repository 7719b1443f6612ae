"""What the evaluators SCR and TPP share: the pooled activations and the pooled codes of their texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import SAE, EvalContext, MetricValue
from harness.evaluation.concept_ablation import PooledCodes, mean_rows, require_linear

RELIABLE = 2.0
"""Standard errors by which what a task rests on must be above chance on selection texts for the task to count."""


def pooled_activations(context: EvalContext, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """The mean activation [n, d_in] float32 of each text over its last `max_tokens` tokens, and how many these are."""
    n_tokens = torch.zeros(len(texts), dtype=torch.int64)
    rows = []
    for part in context.text_activations(texts, max_tokens=max_tokens, last_tokens=max_tokens):
        n_tokens += torch.bincount(part.text.cpu(), minlength=len(texts))
        rows.append((part.rows, part.text))
    return mean_rows(rows, len(texts)), n_tokens


def pooled_codes(sae: SAE, context: EvalContext, texts: Sequence[str], max_tokens: int) -> PooledCodes:
    """The mean code of each text.

    Raises:
        DataError: the SAE's decode is not linear, so latents cannot be ablated one by one.
        NonFiniteError: codes are not finite.
    """
    pooled = PooledCodes(sae.config.d_sae)
    for number, part in enumerate(context.text_activations(texts, max_tokens=max_tokens, last_tokens=max_tokens)):
        if number == 0:
            require_linear(sae, part.rows)
        pooled.add(context.encode(sae, part.rows), part.text)
    return pooled


def codes_at_zero(sae: SAE, context: EvalContext) -> Tensor:
    """[d_sae] float64: the code of a row of zeros."""
    codes = context.encode(sae, torch.zeros(1, context.d_in, device=context.device))
    at_zero = torch.zeros(sae.config.d_sae, dtype=torch.float64)
    at_zero[codes.latents.cpu()] = codes.values.double().cpu()
    return at_zero


def standard_error(values: Tensor) -> float:
    """Of the mean of values [n] with n > 1."""
    return float(values.std()) / math.sqrt(len(values))


def mean_metric(values: Tensor, detail: Mapping[str, tuple[float, ...]] | None = None) -> MetricValue:
    """The mean of values [n], its standard error over them where n > 1, and each."""
    return MetricValue(
        value=float(values.mean()),
        n=len(values),
        stderr=standard_error(values) if len(values) > 1 else None,
        detail={"each": tuple(values.tolist()), **(detail or {})},
    )
