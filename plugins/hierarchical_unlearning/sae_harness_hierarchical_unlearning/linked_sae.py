"""The SAE `linked_topk`: a topk SAE and, beside it, a smaller one whose latents are concepts, linked afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import SAE, ConfigError, RaggedCodes, SAEConfig, SparseCodes
from harness.training.kernels import encoder_parameter, normalise_rows_, sparse_decode, to_dense, topk_encode


class LinkedTopKSAE(SAE):
    """Codes and reconstruction of a topk SAE. A second topk SAE of n_concepts latents has weights of its own; it reads
    what the first reconstructs, since an intervention knows codes alone, and is part of no reconstruction.

    Neither level knows of the other: which latent belongs to which concept is found from how they fire together.
    """

    unit_norm_decoder = True
    code_size: Tensor
    """[d_sae]: a latent's mean code where it fires; > 0; saved with the weights."""
    concept_size: Tensor
    """[n_concepts]: the same of concepts."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        options, d_in = config.options, config.d_in
        self.k = _count(options.get("k"), "k", config.d_sae)
        self.n_concepts = _count(options.get("n_concepts") or max(1, config.d_sae // 4), "n_concepts", config.d_sae)
        self.k_concepts = min(_count(options.get("k_concepts", 8), "k_concepts", config.d_sae), self.n_concepts)
        trained = bool(options.get("with_concepts", True))
        self.W_enc = encoder_parameter(d_in, config.d_sae)
        self.b_enc = nn.Parameter(torch.empty(config.d_sae))
        self.W_dec = nn.Parameter(torch.empty(config.d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))
        self.W_enc_concepts = encoder_parameter(d_in, self.n_concepts)
        self.b_enc_concepts = nn.Parameter(torch.empty(self.n_concepts))
        self.W_dec_concepts = nn.Parameter(torch.empty(self.n_concepts, d_in))
        self.b_dec_concepts = nn.Parameter(torch.empty(d_in))
        for parameter in self.of_concepts():
            parameter.requires_grad_(trained)
        self.register_buffer("code_size", torch.ones(config.d_sae))
        self.register_buffer("concept_size", torch.ones(self.n_concepts))

    def of_concepts(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter, nn.Parameter]:
        """W_enc, b_enc, W_dec and b_dec of the concepts' SAE."""
        return self.W_enc_concepts, self.b_enc_concepts, self.W_dec_concepts, self.b_dec_concepts

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        # The base first, as a topk SAE draws it: equal seeds give equal base weights.
        levels = (self.W_dec, self.W_enc), (self.W_dec_concepts, self.W_enc_concepts)
        for W_dec, W_enc in levels:
            W_dec.normal_(generator=generator)
            normalise_rows_(W_dec)
            W_enc.copy_(W_dec.t())
        for zero in (self.b_enc, self.b_dec, self.b_enc_concepts, self.b_dec_concepts):
            zero.zero_()
        self.code_size.fill_(1.0)
        self.concept_size.fill_(1.0)

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        return topk_encode(x, self.W_enc, self.b_enc, self.b_dec, self.k)

    def encode(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.config.d_in)
        return to_dense(self.encode_sparse(rows), self.config.d_sae).view(*x.shape[:-1], self.config.d_sae)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    def concepts(self, codes: SparseCodes | RaggedCodes) -> SparseCodes:
        """Concepts of the codes of n tokens: those of what the codes reconstruct."""
        return self.concepts_of(sparse_decode(codes, self.W_dec, self.b_dec))

    def concepts_of(self, x: Tensor) -> SparseCodes:
        """Concepts of activations x [n, d_in]."""
        return topk_encode(x, self.W_enc_concepts, self.b_enc_concepts, self.b_dec_concepts, self.k_concepts)

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        biases = (self.b_enc, self.b_dec, self.b_enc_concepts, self.b_dec_concepts)
        for tensor in (*biases, self.code_size, self.concept_size):
            tensor.div_(scale)

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def _count(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"A linked_topk SAE needs the option {name}, an integer in [1, {most}]; got {value!r}.")
    return value
