"""What all built-in architectures share: a linear encoder and decoder around one non-linearity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import SAE, SAEConfig
from harness.training.kernels import encoder_parameter, normalise_rows_


class LinearSAE(SAE):
    """x̂ = f W_dec + b_dec with pre-activations (x - b_dec) W_enc + b_enc; subclasses add the non-linearity.

    Decoder rows have norm 1; the encoder starts as the decoder's transpose (Gao et al. 2024).
    """

    unit_norm_decoder = True

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.W_enc = encoder_parameter(config.d_in, config.d_sae)
        self.b_enc = nn.Parameter(torch.empty(config.d_sae))
        self.W_dec = nn.Parameter(torch.empty(config.d_sae, config.d_in))
        self.b_dec = nn.Parameter(torch.empty(config.d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.W_dec.normal_(generator=generator)
        normalise_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.t())
        self.b_enc.zero_()
        self.b_dec.zero_()

    def pre_activations(self, x: Tensor) -> Tensor:
        """[..., d_sae] of x [..., d_in], before the non-linearity."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        self.b_enc.div_(scale)
        self.b_dec.div_(scale)

    def decoder_directions(self) -> Tensor:
        return self.W_dec
