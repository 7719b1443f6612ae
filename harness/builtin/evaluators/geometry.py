"""The geometry and seed_stability evaluators: how directions lie, and whether another seed finds them again."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.geometry import composition, encoder_directions, neighbours, surrogate, twins

TWIN_COSINE = 0.7
_EDGES = tuple(round(-1.0 + 0.1 * i, 1) for i in range(21))


class _Plain(Evaluator):
    """An evaluator without options."""

    name = ""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(f"Evaluator {self.name!r} takes no options, got {', '.join(sorted(self.options))}.")


class GeometryEvaluator(_Plain):
    """Neighbours, alignment of encoder and decoder, and composition, over the latents that fire on held-out data."""

    name = "geometry"

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: fewer than 25 latents fire, or no token is counted.
            NonFiniteError: a code is not finite.
        """
        latents, rows = _strongest(sae, context)
        directions = sae.decoder_directions().detach().float().to(context.device)[latents]
        found = neighbours(directions)
        alignment = F.cosine_similarity(encoder_directions(sae, rows, latents), directions, dim=1)
        explained, n = composition(directions, context.generator("meta-SAE"))
        null = surrogate(directions, context.generator("surrogate"))
        by_chance, _ = composition(null, context.generator("meta-SAE"))
        return {
            "decoder_nearest_cosine": _mean(found.nearest, _histogram(found.nearest)),
            "decoder_max_cosine": MetricValue(value=float(found.nearest.max()), n=len(latents)),
            "decoder_mean_cosine": MetricValue(value=found.mean_absolute, n=len(latents)),
            "encoder_decoder_cosine": _mean(alignment, _histogram(alignment)),
            "composition": MetricValue(value=explained, n=n),
            "composition_by_chance": MetricValue(value=by_chance, n=n),
        }


class SeedStabilityEvaluator(_Plain):
    """Whether the same method, trained with another seed, finds the same directions."""

    name = "seed_stability"

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: there is no SAE of another seed, or in one of the two no latent fires.
            NonFiniteError: a code is not finite.
        """
        own, other = (_live_directions(which, context) for which in (sae, context.twin))
        cosines = twins(own, other)
        share = float((cosines >= TWIN_COSINE).sum()) / len(own)
        return {
            "twin_share": MetricValue(value=share, n=len(own), stderr=math.sqrt(share * (1 - share) / len(own))),
            "twin_cosine": _mean(cosines, _histogram(cosines)),
        }


def _live_directions(sae: SAE, context: EvalContext) -> Tensor:
    latents, _ = _strongest(sae, context)
    return sae.decoder_directions().detach().float().to(context.device)[latents]


def _strongest(sae: SAE, context: EvalContext) -> tuple[Tensor, Tensor]:
    """The latents [m] that fire on held-out data, and the activation [m, d_in] on which each is largest."""
    largest = torch.zeros(sae.config.d_sae, device=context.device)
    rows = torch.zeros(sae.config.d_sae, context.d_in, device=context.device)
    n = 0
    for part in context.encoded(sae):
        n += len(part.rows)
        codes = part.codes
        here = torch.zeros_like(largest).scatter_reduce(0, codes.latents, codes.values, "amax")
        # Of equal values the first token's, whatever the batches.
        is_largest = codes.values == here[codes.latents]
        token = torch.full_like(largest, len(part.rows), dtype=torch.int64)
        owners = torch.arange(len(part.rows), device=context.device).repeat_interleave(codes.offsets.diff())
        token.scatter_reduce_(0, codes.latents[is_largest], owners[is_largest], "amin")
        better = here > largest
        largest = torch.where(better, here, largest)
        rows[better] = part.rows[token[better]]
    if n == 0:
        raise DataError("geometry: no held-out token is counted.")
    latents = (largest > 0).nonzero().squeeze(1)
    if not len(latents):
        raise DataError("geometry: no latent fires on any held-out token.")
    return latents, rows[latents]


def _mean(values: Tensor, detail: Mapping[str, tuple[float, ...]]) -> MetricValue:
    n = len(values)
    stderr = float(values.double().std()) / math.sqrt(n) if n > 1 else None
    return MetricValue(value=float(values.double().mean()), n=n, stderr=stderr, detail=detail)


def _histogram(values: Tensor) -> dict[str, tuple[float, ...]]:
    counts = torch.histogram(values.float().cpu().clamp(-1, 1), torch.tensor(_EDGES)).hist
    return {"edges": _EDGES, "counts": tuple(counts.tolist())}
