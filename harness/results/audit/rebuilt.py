"""What an evaluation's numbers must be, given other numbers of the same record."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .evidence import Evaluation, Evidence

_WHOLE_ERROR = ("topk", "relu", "jumprelu")
"""Architectures whose loss term `sse` is the error of the whole SAE (not of prefixes, nor of a second path)."""


def rebuilt_loss(record: Evidence) -> tuple[str, str, float, float] | None:
    """(evaluation, field, rebuilt, found); None where the formula or a number is not known."""
    training = record.training
    if training is None or training.loss is None or record.control:
        return None
    if record.kind == "harness":
        mse, scale = _mse(record), training.input_scale
        if training.trainer in _WHOLE_ERROR and "sse" in training.terms and mse and scale and record.d_in:
            return mse[0], "training.final_terms.sse", mse[1] * record.d_in * scale * scale, training.terms["sse"]
        return None
    expected = _formula(record)
    return None if expected is None else ("core", "final_info.final_loss", expected, training.loss)


def _mse(record: Evidence) -> tuple[str, float] | None:
    return next(((n, e.metrics["mse"]) for n, e in record.evaluations.items() if "mse" in e.metrics), None)


def _formula(record: Evidence) -> float | None:
    """The loss that these metrics give by the formulas of the trainers that made such records.

    SAEBench's `mse` is the squared error of a token over the number of tokens in the batch (F40).
    """
    training, core = record.training, record.evaluations.get("core")
    if training is None or core is None or "mse" not in core.metrics:
        return None
    prompts, length = core.config.get("batch_size_prompts"), core.config.get("context_size")
    if not isinstance(prompts, int) or not isinstance(length, int):
        return None
    sse = core.metrics["mse"] * prompts * (length - 1)  # the first token of a prompt is left out
    l0, l1 = core.metrics.get("l0"), core.metrics.get("l1")
    if training.trainer == "TrainerTopK":
        return sse
    if training.trainer == "JumpReLUTrainer" and l0 is not None and training.target_l0:
        weight = _setting(record, "sparsity_penalty")
        off = l0 / training.target_l0 - 1
        return None if weight is None else sse + weight * off * off
    if training.trainer == "CustomTrainer" and l1 is not None and sse >= 0:
        weight = _setting(record, "l1_penalty")
        return None if weight is None else math.sqrt(sse) + weight * l1
    return None


def _setting(record: Evidence, name: str) -> float | None:
    value = record.training.settings.get(name) if record.training is not None else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def rebuilt_scores(evaluation: Evaluation) -> Iterator[tuple[str, str, float]]:
    """(metric, from what, expected) of scores that are functions of other metrics of the same evaluation."""
    m = evaluation.metrics
    if {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"} <= m.keys() and m["kl_div_with_ablation"] > 0:
        without = m["kl_div_with_ablation"]
        yield "kl_div_score", "(ablated - SAE) / ablated", (without - m["kl_div_with_sae"]) / without
    if {"ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"} <= m.keys():
        span = m["ce_loss_with_ablation"] - m["ce_loss_without_sae"]
        if span > 0:
            yield (
                "ce_loss_score",
                "(ablated - SAE) / (ablated - clean)",
                (m["ce_loss_with_ablation"] - m["ce_loss_with_sae"]) / span,
            )
    if {"fvu", "explained_variance"} <= m.keys():
        yield "explained_variance", "1 - fvu", 1 - m["fvu"]
