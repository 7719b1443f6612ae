"""The core evaluator: sparsity, reconstruction, and how much of the LM's behaviour survives the SAE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option, SequenceBatch
from harness.evaluation.metrics import (
    GroupedSums,
    RunningFirings,
    RunningReconstruction,
    cross_entropy_from_log_probs,
    kl_from_log_probs,
    one_minus,
    predicting_positions,
    ratio_estimate,
)

_CODE_ELEMENTS = 1 << 24
"""Codes are made in chunks of about this many numbers (64 MiB in float32)."""


class _Predictions(NamedTuple):
    """The next-token predictions of one batch that are counted."""

    index: int
    batch: SequenceBatch
    keep: Tensor
    """[b, s] bool."""
    targets: Tensor
    """[n] int64: the tokens predicted."""
    document: Tensor
    """[n] int64."""


class CoreEvaluator(Evaluator):
    """L0, reconstruction, firing statistics, and the share of the LM's loss and output distribution recovered.

    Zero ablation and SAE are the same intervention with another value: both replace the activations at
    non-special positions and leave special tokens as they are. Clean and ablated losses do not depend on the SAE
    and are made once.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(f"Evaluator 'core' takes no options, got {', '.join(sorted(self.options))}: remove them.")

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: no tokens are counted, or ablation does not hurt the LM, so that nothing can be recovered.
            NonFiniteError: codes, reconstruction or logits are not finite.
        """
        shared = context.shared("clean_and_ablated", {}, lambda: _clean_and_ablated(context))
        reference = {name: tensor.cpu() for name, tensor in shared.items()}
        reconstruction = RunningReconstruction()
        firings = RunningFirings(sae.config.d_sae)
        behaviour = GroupedSums("n", "ce", "kl")
        for index, batch in enumerate(context.batches()):
            if not bool(batch.mask.any()):
                continue
            rows = batch.rows()
            document = batch.document[:, None].expand_as(batch.mask)[batch.mask]
            reconstructed = _reconstruct(sae, rows, document, firings)
            reconstruction.update(rows, reconstructed, document)
            predictions = _predictions(index, batch)
            if predictions is not None:
                replaced = batch.activations.masked_scatter(batch.mask[..., None], reconstructed)
                log_probs = _log_probs(context, predictions, replaced)
                behaviour.add(
                    predictions.document,
                    n=torch.ones_like(predictions.document),
                    ce=cross_entropy_from_log_probs(log_probs, predictions.targets),
                    kl=kl_from_log_probs(_clean_log_probs(context, predictions), log_probs),
                )
        return {
            "l0": firings.l0(),
            "fvu": reconstruction.fvu(),
            "explained_variance": one_minus(reconstruction.fvu()),
            "mse": reconstruction.mse(),
            "cosine": reconstruction.cosine(),
            "l2_ratio": reconstruction.l2_ratio(),
            "relative_reconstruction_bias": reconstruction.relative_reconstruction_bias(),
            "dead_latent_fraction": firings.dead_fraction(),
            "latent_density": firings.density(),
            **_recovered(reference, behaviour),
        }


def _reconstruct(sae: SAE, rows: Tensor, document: Tensor, firings: RunningFirings) -> Tensor:
    """The SAE's output [n, d_in] for rows [n, d_in]; counts firings on the way."""
    chunk = max(1, _CODE_ELEMENTS // sae.config.d_sae)
    parts = []
    for start in range(0, len(rows), chunk):
        codes = sae.encode(rows[start : start + chunk])
        firings.update(codes, document[start : start + chunk])
        parts.append(sae.decode(codes).to(rows.dtype))
    return torch.cat(parts)


def _predictions(index: int, batch: SequenceBatch) -> _Predictions | None:
    """The predictions of a batch that are counted, or None where there are none."""
    keep = predicting_positions(batch.mask)
    if not bool(keep.any()):
        return None
    document = batch.document[:, None].expand_as(keep)[keep]
    return _Predictions(index, batch, keep, batch.tokens.roll(-1, 1)[keep], document)


def _all_predictions(context: EvalContext) -> Iterator[_Predictions]:
    for index, batch in enumerate(context.batches()):
        predictions = _predictions(index, batch)
        if predictions is not None:
            yield predictions


def _log_probs(context: EvalContext, predictions: _Predictions, activations: Tensor) -> Tensor:
    """Log-probabilities [n, vocab] at the counted positions when the hookpoint gives `activations` [b, s, d_in]."""
    batch = predictions.batch
    logits = context.language_model.run_with_replacement(
        batch.tokens, context.hookpoint, lambda x: activations.to(x), activations=batch.activations
    )
    return torch.log_softmax(logits[predictions.keep].float(), -1)


def _clean_log_probs(context: EvalContext, predictions: _Predictions) -> Tensor:
    # From the stored activations, as the two interventions: what rounding storage brings is then in all three.
    return context.memo(
        f"clean_log_probs/{predictions.index}",
        lambda: _log_probs(context, predictions, predictions.batch.activations),
    )


def _clean_and_ablated(context: EvalContext) -> dict[str, Tensor]:
    """Per document: number of predictions and the sums of clean CE, zero-ablated CE and zero-ablated KL, float64."""
    sums = GroupedSums("n", "clean_ce", "ablated_ce", "ablated_kl")
    for predictions in _all_predictions(context):
        batch = predictions.batch
        clean = _clean_log_probs(context, predictions)
        ablated = _log_probs(context, predictions, batch.activations.masked_fill(batch.mask[..., None], 0.0))
        sums.add(
            predictions.document,
            n=torch.ones_like(predictions.document),
            clean_ce=cross_entropy_from_log_probs(clean, predictions.targets),
            ablated_ce=cross_entropy_from_log_probs(ablated, predictions.targets),
            ablated_kl=kl_from_log_probs(clean, ablated),
        )
    return {"document": sums.groups, **{name: sums.column(name) for name in sums.names}}


def _recovered(reference: Mapping[str, Tensor], behaviour: GroupedSums) -> dict[str, MetricValue]:
    if not torch.equal(reference["document"], behaviour.groups) or not torch.equal(
        reference["n"], behaviour.column("n")
    ):
        raise DataError(
            f"The clean and ablated losses cover {len(reference['document'])} documents and "
            f"{reference['n'].sum():.0f} predictions, the SAE's {len(behaviour.groups)} and "
            f"{behaviour.column('n').sum():.0f}: they are not of the same data."
        )
    n = float(reference["n"].sum())
    if n == 0:
        raise DataError("No next-token prediction is counted: every sequence is special tokens or a single token.")
    clean, ablated, ablated_kl = (float(reference[c].sum()) / n for c in ("clean_ce", "ablated_ce", "ablated_kl"))
    if ablated <= clean:
        raise DataError(
            f"ce_loss_recovered is undefined: zero ablation gives a CE of {ablated:.6g} nats a token, no more than the "
            f"clean {clean:.6g}; the LM does not use this hookpoint on this data."
        )
    if ablated_kl <= 0:
        raise DataError(f"kl_div_recovered is undefined: zero ablation gives a KL of {ablated_kl:.6g} nats a token.")
    return {
        "ce_loss_recovered": ratio_estimate(
            reference["ablated_ce"] - behaviour.column("ce"),
            reference["ablated_ce"] - reference["clean_ce"],
            "ce_loss_recovered",
        ),
        "kl_div_recovered": ratio_estimate(
            reference["ablated_kl"] - behaviour.column("kl"), reference["ablated_kl"], "kl_div_recovered"
        ),
    }
