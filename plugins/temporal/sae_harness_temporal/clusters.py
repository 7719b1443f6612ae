"""The analysis `feature_clusters`: do latents fall into kinds by when they fire?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    Bars,
    DataError,
    Dendrogram,
    EvalContext,
    Figure,
    HeatMap,
    Line,
    Panel,
    Table,
    TrainingLog,
)

from .measures import LAGS, LagSums, lag_sums
from .sequences import Series, series

MAX_LATENTS = 2000
MIN_FIRINGS = 50
N_BINS = 16
MAX_CLUSTERS = 12
N_BOOTSTRAPS = 10
AGREEMENT = 0.5
"""Adjusted Rand index between bootstraps below which clusters are said to be none."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """What each latent is clustered by, from sums of sequences that can be weighted anew."""

    sums: LagSums
    firings: Tensor
    """[S, N_BINS, L] firings in each stretch of positions."""
    tokens: Tensor
    """[S, N_BINS] counted tokens there."""

    def autocorrelation(self, weights: Tensor | None = None) -> Tensor:
        """[L, LAGS]."""
        return self.sums.autocorrelation(weights)

    def by_position(self, weights: Tensor | None = None) -> Tensor:
        """[L, N_BINS]: firing rate in each stretch over the latent's mean rate; 1 where position does not matter."""
        w = torch.ones(len(self.tokens)) if weights is None else weights
        w = w.to(self.firings)
        rates = torch.einsum("s,sbl->lb", w, self.firings) / (w @ self.tokens).clamp_min(1)
        return rates / rates.mean(1, keepdim=True).clamp_min(1e-12)

    def matrix(self, weights: Tensor | None = None) -> np.ndarray:
        """[L, LAGS + N_BINS] float64: both parts, each scaled to the same total variance."""
        parts = (self.autocorrelation(weights), self.by_position(weights))
        scaled = [part / part.var(0).sum().sqrt().clamp_min(1e-12) for part in parts]
        return torch.cat(scaled, dim=1).double().cpu().numpy()


class FeatureClusters(Analysis):
    """Ward linkage of latents by autocorrelogram and position histogram; how many clusters, and whether they return
    when documents are drawn anew."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        from scipy.cluster.hierarchy import fcluster, linkage

        found = series(sae, context, max_latents=MAX_LATENTS, min_firings=MIN_FIRINGS)
        if len(found.latents) < 2 * MAX_CLUSTERS:
            raise DataError(
                f"Only {len(found.latents)} latents fire on {MIN_FIRINGS} held-out tokens or more: too few to cluster."
            )
        profiles = profiles_of(found)
        matrix = profiles.matrix()
        tree = linkage(matrix, method="ward")
        silhouettes = _silhouettes(matrix, tree)
        best = max(silhouettes, key=lambda n: silhouettes[n])
        labels = fcluster(tree, best, criterion="maxclust")
        agreement = bootstrap_agreement(profiles, found.document, labels, best, context.generator("bootstrap"))
        structure = agreement >= AGREEMENT
        sizes = ", ".join(map(str, sorted(np.bincount(labels)[1:].tolist(), reverse=True)))
        values = {
            "clusters": best if structure else None,
            "verdict": f"{best} clusters ({sizes} latents)" if structure else "no structure",
            "silhouette": silhouettes[best],
            "bootstrap_agreement": agreement,
            "latents": len(found.latents),
        }
        return AnalysisResult(
            values=values,
            series={"silhouette_by_clusters": [silhouettes[n] for n in sorted(silhouettes)]},
            tables={
                "clusters": _clusters(profiles, matrix, labels),
                "latents": Table(
                    columns=("latent", "cluster"),
                    rows=[[int(i), int(c)] for i, c in zip(found.latents, labels, strict=True)],
                ),
            },
            figures=(
                _clustering(tree, profiles, found, best, values),
                _patterns(profiles, labels, silhouettes, values, found.mask.shape[1]),
            ),
            notes=[
                f"Agreement is the mean adjusted Rand index between these clusters and those of {N_BOOTSTRAPS} "
                f"bootstraps over documents; below {AGREEMENT} the clusters are said to be no structure."
            ],
        )


def profiles_of(found: Series) -> Profiles:
    """The sums of each sequence."""
    n_sequences, length, n_latents = found.codes.shape
    bins = torch.arange(length, device=found.mask.device) * N_BINS // length
    firings = torch.zeros(n_sequences, N_BINS, n_latents, device=found.mask.device)
    tokens = torch.zeros(n_sequences, N_BINS, device=found.mask.device)
    for number in range(N_BINS):
        here = bins == number
        firings[:, number] = found.active[:, here].sum(1).float()
        tokens[:, number] = found.mask[:, here].sum(1).float()
    return Profiles(lag_sums(found), firings, tokens)


def _silhouettes(matrix: np.ndarray, tree: np.ndarray) -> dict[int, float]:
    """Number of clusters -> mean silhouette."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn.metrics import pairwise_distances, silhouette_score

    distances = pairwise_distances(matrix)
    found = {}
    for n in range(2, MAX_CLUSTERS + 1):
        labels = fcluster(tree, n, criterion="maxclust")
        if len(set(labels)) > 1:
            found[n] = float(silhouette_score(distances, labels, metric="precomputed"))
    return found


def bootstrap_agreement(
    profiles: Profiles, document: Tensor, labels: np.ndarray, n_clusters: int, generator: torch.Generator
) -> float:
    """Mean adjusted Rand index of `labels` with the clusters of profiles from documents drawn with replacement."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from sklearn.metrics import adjusted_rand_score

    documents, number = document.cpu().unique(return_inverse=True)
    scores = []
    for _ in range(N_BOOTSTRAPS):
        drawn = torch.randint(len(documents), (len(documents),), generator=generator)
        weights = torch.bincount(drawn, minlength=len(documents))[number].float()
        again = fcluster(linkage(profiles.matrix(weights), method="ward"), n_clusters, criterion="maxclust")
        scores.append(adjusted_rand_score(labels, again))
    return float(np.mean(scores))


def _clusters(profiles: Profiles, matrix: np.ndarray, labels: np.ndarray) -> Table:
    """Size of each cluster, how far its members are alike, and what marks it."""
    autocorrelation, rates = profiles.autocorrelation().cpu(), profiles.by_position().cpu()
    rows = []
    for cluster in sorted(set(labels.tolist())):
        inside = torch.from_numpy(labels == cluster)
        centre = matrix[labels == cluster].mean(0)
        alike = [float(np.corrcoef(row, centre)[0, 1]) for row in matrix[labels == cluster]]
        rows.append(
            [
                int(cluster),
                int(inside.sum()),
                float(np.mean(alike)),
                float(autocorrelation[inside, 0].mean()),
                float(autocorrelation[inside, -1].mean()),
                float(rates[inside, 0].mean()),
                float(rates[inside, -1].mean()),
            ]
        )
    columns = ("cluster", "latents", "consistency", "autocorrelation_lag1", f"autocorrelation_lag{LAGS}")
    return Table(columns=(*columns, "rate_at_start", "rate_at_end"), rows=rows)


def _clustering(tree: np.ndarray, profiles: Profiles, found: Series, best: int, values: dict) -> Figure:
    from scipy.cluster.hierarchy import leaves_list

    merges = [(int(a), int(b), float(height)) for a, b, height, _ in tree]
    cut = (merges[-best][2] + merges[-best + 1][2]) / 2
    rates = profiles.by_position().cpu()[torch.from_numpy(leaves_list(tree).copy()).long()]
    logs = rates.clamp(1 / 8, 8).log2()
    length = found.mask.shape[1]
    ticks = {b: str(b * length // N_BINS) for b in range(0, N_BINS, 4)}
    return Figure(
        name="temporal_clustering",
        title=f"Latents by when they fire: {values['verdict']}",
        panels=(
            Panel(
                marks=[Dendrogram(merges=merges, threshold=cut)],
                title=f"Ward linkage of {len(rates)} latents, cut into {best}",
                x_label="latents, in the order of the tree",
                y_label="linkage distance",
            ),
            Panel(
                marks=[
                    HeatMap(
                        rows=logs.tolist(), colour_label="log2 of rate over mean rate", x_ticks=ticks, diverging=True
                    )
                ],
                title="Firing rate by position, latents in the order of the tree",
                x_label="position in the sequence (tokens)",
                y_label="latent",
            ),
        ),
        caption=(
            f"Latents are clustered by autocorrelogram (lag 1 to {LAGS}) and position histogram. Agreement with "
            f"bootstraps over documents: {values['bootstrap_agreement']:.2f} (adjusted Rand index: 1 the same "
            f"clusters, 0 chance; below {AGREEMENT} there is no structure). Silhouette {values['silhouette']:.2f}."
        ),
    )


def _patterns(
    profiles: Profiles, labels: np.ndarray, silhouettes: dict[int, float], values: dict, length: int
) -> Figure:
    """`length`: tokens of a sequence."""
    autocorrelation, rates = profiles.autocorrelation().cpu(), profiles.by_position().cpu()
    lines, stretches = [], []
    for cluster in sorted(set(labels.tolist())):
        inside = torch.from_numpy(labels == cluster)
        name = f"cluster {cluster} ({int(inside.sum())} latents)"
        lines.append(_band(name, list(range(1, LAGS + 1)), autocorrelation[inside]))
        stretches.append(_band(name, [b * length / N_BINS for b in range(N_BINS)], rates[inside]))
    counts = sorted(silhouettes)
    bars = Bars(categories=[str(n) for n in counts], heights=[silhouettes[n] for n in counts])
    return Figure(
        name="cluster_patterns",
        title=f"What the clusters have in common: {values['verdict']}",
        columns=3,
        panels=(
            Panel(marks=lines, title="Autocorrelation", x_label="lag (tokens)", y_label="correlation", y_reference=0.0),
            Panel(
                marks=stretches,
                title="Firing rate by position",
                x_label=f"where a stretch of {length / N_BINS:g} tokens begins (position in the sequence)",
                y_label="rate over the latent's mean rate",
                y_reference=1.0,
            ),
            Panel(marks=[bars], title="Number of clusters", x_label="clusters", y_label="mean silhouette"),
        ),
        caption="Lines: mean over the latents of a cluster; bands: their middle half.",
    )


def _band(name: str, x: Sequence[float], values: Tensor) -> Line:
    low, high = (values.quantile(q, dim=0).tolist() for q in (0.25, 0.75))
    return Line(label=name, x=x, y=values.mean(0).tolist(), low=low, high=high)
