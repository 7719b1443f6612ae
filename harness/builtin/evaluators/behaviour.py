"""The behaviour evaluator: how much of the LM's loss and output distribution survives the SAE."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.metrics import GroupedSums, NextTokenLosses


class BehaviourEvaluator(Evaluator):
    """The share of the LM's loss, and of its divergence from clean, that the SAE recovers from zero ablation.

    Zero ablation and SAE are the same intervention with another value: both replace the activations at counted tokens
    and leave special tokens as they are. Clean and ablated losses do not depend on the SAE and are made once.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(
                f"Evaluator 'behaviour' takes no options, got {', '.join(sorted(self.options))}: remove them."
            )

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """Both metrics of the spec.

        Raises:
            DataError: no prediction is counted, or ablation does not hurt the LM, so that nothing can be recovered.
            NonFiniteError: codes, reconstruction or logits are not finite.
        """
        clean, ablated = context.clean_losses(), context.ablated_losses()
        _require_harm(clean, ablated)
        reconstructed = (part.replaced(part.reconstruction()) for part in context.encoded(sae))
        ours = NextTokenLosses.cat(context.next_token_losses(reconstructed))
        if not torch.equal(ours.document, clean.document) or not torch.equal(ours.document, ablated.document):
            raise DataError(
                f"The clean, ablated and SAE losses are of {len(clean)}, {len(ablated)} and {len(ours)} predictions: "
                "they are not of the same data."
            )
        sums = GroupedSums("ce", "ce_possible", "kl", "kl_possible")
        sums.add(
            ours.document,
            ce=ablated.ce - ours.ce,
            ce_possible=ablated.ce - clean.ce,
            kl=ablated.kl - ours.kl,
            kl_possible=ablated.kl,
        )
        return {
            "ce_loss_recovered": sums.ratio("ce", "ce_possible", "ce_loss_recovered"),
            "kl_div_recovered": sums.ratio("kl", "kl_possible", "kl_div_recovered"),
        }


def _require_harm(clean: NextTokenLosses, ablated: NextTokenLosses) -> None:
    """Raises DataError unless zero ablation raises the LM's loss."""
    if not len(clean):
        raise DataError("No next-token prediction is counted: every sequence is special tokens or a single token.")
    ce, ce_ablated, kl_ablated = (float(losses.mean()) for losses in (clean.ce, ablated.ce, ablated.kl))
    if ce_ablated <= ce:
        raise DataError(
            f"ce_loss_recovered is undefined: zero ablation gives a CE of {ce_ablated:.6g} nats a token, no more than "
            f"the clean {ce:.6g}; the LM does not use this hookpoint on this data."
        )
    if kl_ablated <= 0:
        raise DataError(f"kl_div_recovered is undefined: zero ablation gives a KL of {kl_ablated:.6g} nats a token.")
