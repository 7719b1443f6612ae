"""Clusters of latents that fire together: communities of the graph of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import ConfigError
from harness.training.pairs import PairStatistics

METHODS = ("louvain", "components")
ALONE = -1
"""Label of a latent that is in no edge."""


def clusters(found: PairStatistics, weights: Tensor, *, method: str, n_edges: int, seed: int) -> Tensor:
    """[d_sae] int64: the cluster of each latent, numbered by size, the largest 0; ALONE where it is in no edge.

    Edges are the `n_edges` pairs of largest weight above 0, [P] weights.

    Args:
        method: `louvain`: communities of largest modularity (Blondel et al. 2008, arXiv:0803.0476), by networkx ·
            `components`: what hangs together at all.
        seed: of the order in which Louvain visits latents.
    """
    chosen = weights.topk(min(n_edges, len(weights)), sorted=False).indices.sort().values
    chosen = chosen[weights[chosen] > 0]
    first, second, sizes = (t.cpu() for t in (found.first[chosen], found.second[chosen], weights[chosen]))
    labels = torch.full((len(found.fires),), ALONE, dtype=torch.int64)
    if len(first) == 0:
        return labels.to(found.keys.device)
    if method == "louvain":
        groups = _louvain(first, second, sizes, seed)
    elif method == "components":
        groups = _components(first, second, len(labels))
    else:
        raise ConfigError(f"Unknown way to cluster {method!r}; allowed are {', '.join(METHODS)}.")
    for number, members in enumerate(sorted(groups, key=lambda group: (-len(group), min(group)))):
        labels[torch.tensor(sorted(members))] = number
    return labels.to(found.keys.device)


def _louvain(first: Tensor, second: Tensor, sizes: Tensor, seed: int) -> list[set[int]]:
    import networkx

    graph = networkx.Graph()
    graph.add_weighted_edges_from(zip(first.tolist(), second.tolist(), sizes.tolist(), strict=True))
    return list(networkx.community.louvain_communities(graph, seed=seed))


def _components(first: Tensor, second: Tensor, n: int) -> list[set[int]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((torch.ones(len(first)).numpy(), (first.numpy(), second.numpy())), shape=(n, n))
    _, label = connected_components(edges, directed=False)
    groups: dict[int, set[int]] = {}
    for latent in torch.cat([first, second]).unique().tolist():
        groups.setdefault(int(label[latent]), set()).add(latent)
    return list(groups.values())
