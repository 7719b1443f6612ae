"""The ground_truth evaluator: which of a world's features an SAE has found, and what it made of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option, RaggedCodes, SequenceBatch
from harness.evaluation.metrics import take
from harness.evaluation.truth import (
    TruthCounts,
    absorption,
    correlation,
    cosines,
    match_one_to_one,
    matched,
    n_distinct,
    surplus_latents,
)

RECOVERED_COSINE = 0.9
RECOVERED_F1 = 0.5
MIN_FIRINGS = 30
"""Firings below which an autocorrelation is noise."""
_BANDS = ("frequent", "middle", "rare")


class GroundTruthEvaluator(Evaluator):
    """Latents against the true features: only for data of a synthetic world.

    Latents that never fire on held-out data are matched with nothing.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(
                f"Evaluator 'ground_truth' takes no options, got {', '.join(sorted(self.options))}: remove them."
            )

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: there are no counted tokens, no latent fires, or the truth is of other tokens.
            NonFiniteError: a code is not finite.
        """
        truth = context.truth
        directions = sae.decoder_directions().detach().float().to(context.device)
        features = truth.features.to(context.device)
        alive = _alive(sae, context)
        similarity = cosines(directions[alive], features)
        signed = match_one_to_one(similarity)
        unsigned = match_one_to_one(similarity.abs())
        match = torch.full((sae.config.d_sae,), -1, dtype=torch.int64)
        match[alive.cpu()] = signed
        counts = _counted(sae, context, match.to(context.device))
        n_alive = len(alive)
        surplus = surplus_latents(similarity)
        detection = counts.detection()
        here = alive.cpu()
        return {
            "mcc": _mean(matched(similarity.abs(), unsigned)),
            "mcc_signed": _mean(matched(similarity, signed)),
            "uniqueness": MetricValue(value=n_distinct(similarity) / min(n_alive, truth.n_features), n=n_alive),
            "truth_precision": _mean(detection.precision()[here]),
            "truth_recall": _mean(detection.recall()[here]),
            "truth_f1": _mean(detection.f1()[here]),
            "splitting": MetricValue(value=surplus / n_alive, n=n_alive, detail={"surplus": (float(surplus),)}),
            "shrinkage": MetricValue(value=counts.shrinkage(directions.norm(dim=1)), n=n_alive),
            "temporal_fidelity": _temporal_fidelity(counts),
            **_recovered(counts, directions, features, truth.probability),
            **_hierarchy(counts, directions, features),
        }


def _alive(sae: SAE, context: EvalContext) -> Tensor:
    """[n_alive] int64: the latents that fire on some held-out token."""
    fires = torch.zeros(sae.config.d_sae, dtype=torch.bool, device=context.device)
    n = 0
    for part in context.encoded(sae):
        fires[part.codes.latents] = True
        n += len(part.rows)
    if n == 0:
        raise DataError("ground_truth: no held-out token is counted.")
    if not bool(fires.any()):
        raise DataError("ground_truth: no latent fires on any held-out token, so none can be matched with a feature.")
    return fires.nonzero().squeeze(1)


def _counted(sae: SAE, context: EvalContext, match: Tensor) -> TruthCounts:
    truth = context.truth
    counts = TruthCounts(match, truth.parent.to(context.device))
    codes = RaggedCodes(*(tensor.to(context.device) for tensor in truth.codes))
    done = 0
    for part in context.encoded(sae):
        tokens = torch.arange(done, done + len(part.rows), device=context.device)
        done += len(tokens)
        if done >= len(codes.offsets):
            break
        counts.update(part.codes, take(codes, tokens), _follows(part.batch))
    if done != len(codes.offsets) - 1:
        raise DataError(
            f"ground_truth: the truth is of {len(codes.offsets) - 1} tokens, the held-out data hold others."
        )
    return counts


def _follows(batch: SequenceBatch) -> Tensor:
    """[n] bool, of the counted tokens: the token before is counted too, and of the same sequence."""
    follows = batch.mask.clone()
    follows[:, 1:] &= batch.mask[:, :-1]
    follows[:, 0] = False
    return follows[batch.mask]


def _mean(values: Tensor) -> MetricValue:
    """The mean over latents, with its standard error."""
    n = len(values)
    stderr = float(values.double().std()) / math.sqrt(n) if n > 1 else None
    return MetricValue(value=float(values.double().mean()), n=n, stderr=stderr)


def _share(found: Tensor) -> MetricValue:
    """The share of features, with its binomial standard error."""
    n = len(found)
    share = float(found.double().mean()) if n else 0.0
    return MetricValue(value=share, n=max(1, n), stderr=math.sqrt(share * (1 - share) / n) if n > 1 else None)


def _recovered(
    counts: TruthCounts, directions: Tensor, features: Tensor, probability: Tensor
) -> dict[str, MetricValue]:
    """Shares of the features that fire on held-out data: of all, and of the thirds of all by rate."""
    latent = counts.latent_of.cpu()
    there = latent.clamp_min(0)
    aligned = torch.nn.functional.cosine_similarity(directions.cpu()[there], features.cpu(), dim=1) >= RECOVERED_COSINE
    detects = counts.detection().f1()[there] >= RECOVERED_F1
    found = (latent >= 0) & aligned & detects
    present = counts.present > 0
    order = probability.cpu().argsort(descending=True, stable=True)
    metrics = {"recovered": _share(found[present])}
    for name, band in zip(_BANDS, order.tensor_split(len(_BANDS)), strict=True):
        metrics[f"recovered_{name}"] = _share(found[band][present[band]])
    return metrics


def _hierarchy(counts: TruthCounts, directions: Tensor, features: Tensor) -> dict[str, MetricValue]:
    found = absorption(counts, directions, features)
    firings, n = int(found.firings.sum()), max(1, len(found.child))
    pairs = int(found.pair.sum())
    return {
        "hierarchy_recall": MetricValue(value=int(found.kept.sum()) / firings if firings else 1.0, n=n),
        "true_absorption": MetricValue(value=int(found.absorbed.sum()) / firings if firings else 0.0, n=n),
        "absorbed_pairs": MetricValue(value=float(pairs), n=n),
    }


def _temporal_fidelity(counts: TruthCounts) -> MetricValue:
    """Over matched pairs that both fire often enough, and vary."""
    match = counts.match.cpu()
    latents = (match >= 0).nonzero().squeeze(1)
    often = (counts.fires[latents] >= MIN_FIRINGS) & (counts.present[match[latents]] >= MIN_FIRINGS)
    ours = counts.latent_lags.autocorrelation()[latents[often]]
    theirs = counts.feature_lags.autocorrelation()[match[latents[often]]]
    known = torch.isfinite(ours) & torch.isfinite(theirs)
    return MetricValue(value=correlation(ours[known], theirs[known]), n=max(1, int(known.sum())))
