"""Where concepts may start: the centroids of the codes that latents give before any training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness import ConfigError, SparseCodes

_BATCH = 1024


def centroids(codes: SparseCodes, d_sae: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The directions that codes of m tokens cluster along, by mini-batch k-means.

    Returns:
        [c, d_sae] float32 on the CPU, of norm 1, and [c] int64, which of the n clusters they are of: one whose tokens
        have no code above 0 has no direction.

    Raises:
        ConfigError: there are fewer tokens than clusters.

    References: Sculley 2010, doi:10.1145/1772690.1772862.
    """
    if len(codes.values) < n:
        raise ConfigError(
            f"hierarchical_unlearning: {n} centroids cannot be found in {len(codes.values)} tokens, the sample that "
            f"training starts from: set start to 'tied', or n_concepts to at most {len(codes.values)}."
        )
    # Here, since they take seconds to load and no other start needs them.
    from scipy.sparse import csr_matrix
    from sklearn.cluster import MiniBatchKMeans

    m, k = codes.values.shape
    slots = torch.arange(0, m * k + 1, k).numpy()
    values, indices = codes.values.detach().float().cpu().reshape(-1).numpy(), codes.indices.cpu().reshape(-1).numpy()
    rows = csr_matrix((values, indices, slots), shape=(m, d_sae))
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    once: Any = 1  # its annotation knows "auto" alone
    clusters = MiniBatchKMeans(n, batch_size=_BATCH, n_init=once, random_state=seed).fit(rows)
    found = torch.from_numpy(clusters.cluster_centers_).float()
    norms = found.norm(dim=1)
    own = (norms > 0).nonzero().squeeze(1)
    return found[own] / norms[own, None], own
