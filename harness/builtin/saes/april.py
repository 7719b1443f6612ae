"""The ReLU SAE with free decoder rows (Conerly et al. 2024, Transformer Circuits' April update)."""

from __future__ import annotations

from .relu import ReluSAE


class AprilSAE(ReluSAE):
    """f = relu((x - b_dec) W_enc + b_enc); decoder rows start at norm 1 and may take any.

    A latent's strength is f·||d||, its code alone has no scale.
    """

    unit_norm_decoder = False
