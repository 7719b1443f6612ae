"""The TopK SAE (Gao et al. 2024, arXiv:2406.04093)."""

from __future__ import annotations

from torch import Tensor

from harness import ConfigError, SAEConfig, SparseCodes
from harness.training.kernels import to_dense, topk_encode

from .linear import LinearSAE


class TopKSAE(LinearSAE):
    """f keeps the k largest of relu((x - b_dec) W_enc + b_enc) of each token and zeroes the rest."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        k = config.options.get("k")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= config.d_sae:
            raise ConfigError(f"A topk SAE needs the option k, an integer in [1, d_sae = {config.d_sae}]; got {k!r}.")
        self.k = k

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        return topk_encode(x, self.W_enc, self.b_enc, self.b_dec, self.k)

    def encode(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.config.d_in)
        return to_dense(self.encode_sparse(rows), self.config.d_sae).view(*x.shape[:-1], self.config.d_sae)
