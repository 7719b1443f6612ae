"""The SAE `stacked_topk`: a topk SAE and, above its codes, a level of concepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import SAE, ConfigError, RaggedCodes, SAEConfig, SparseCodes
from harness.training.kernels import encoder_parameter, normalise_rows_, sparse_decode, to_dense, topk_encode

from .explained import Factored

NEAR_ZERO = 1e-3
_GATHERED = 2**22
"""Numbers gathered at once of the columns of a factor."""


class StackedTopKSAE(SAE):
    """Codes z1 = TopK_k(relu((x - b_dec) W_enc + b_enc)) and x̂ = z1 W_dec + b_dec, as a topk SAE.

    Concepts z2 = TopK_k2(relu(n(z1) W_up + b_up)), where n divides each latent's code by its usual size; they say which
    codes to expect, y1 = size · relu(z2 W_down + b_down). Concepts change no code: they are there for interventions.

    With a `concept_rank` r > 0 W_up = A_up B_up and W_down = A_down B_down, of r columns and rows between; neither
    product is ever made.
    """

    unit_norm_decoder = True
    code_size: Tensor
    """[d_sae]: a latent's mean code where it fires; > 0; saved with the weights."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        options = config.options
        self.k = _count(options.get("k"), "k", config.d_sae)
        self.n_concepts = _count(options.get("n_concepts") or max(1, config.d_sae // 4), "n_concepts", config.d_sae)
        self.k_concepts = min(_count(options.get("k_concepts", 8), "k_concepts", config.d_sae), self.n_concepts)
        self.start = str(options.get("start", "tied"))
        self.concept_rank = _rank(options.get("concept_rank", 0), self.n_concepts)
        self.W_enc = encoder_parameter(config.d_in, config.d_sae)
        self.b_enc = nn.Parameter(torch.empty(config.d_sae))
        self.W_dec = nn.Parameter(torch.empty(config.d_sae, config.d_in))
        self.b_dec = nn.Parameter(torch.empty(config.d_in))
        # Without a way down nothing says what concepts mean: kept for the preset that shows it.
        with_way_down = bool(options.get("way_down", True))
        if self.concept_rank:
            self.A_up = nn.Parameter(torch.empty(config.d_sae, self.concept_rank))
            self.B_up = nn.Parameter(torch.empty(self.concept_rank, self.n_concepts))
        else:
            self.W_up = nn.Parameter(torch.empty(config.d_sae, self.n_concepts))
        self.b_up = nn.Parameter(torch.empty(self.n_concepts))
        if self.concept_rank:
            self.A_down = nn.Parameter(torch.empty(self.n_concepts, self.concept_rank), requires_grad=with_way_down)
            self.B_down = nn.Parameter(torch.empty(self.concept_rank, config.d_sae), requires_grad=with_way_down)
        else:
            self.W_down = nn.Parameter(torch.empty(self.n_concepts, config.d_sae), requires_grad=with_way_down)
        self.b_down = nn.Parameter(torch.empty(config.d_sae), requires_grad=with_way_down)
        self.register_buffer("code_size", torch.ones(config.d_sae))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        # The base first, as a topk SAE draws it: equal seeds give equal base weights.
        self.W_dec.normal_(generator=generator)
        normalise_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.t())
        for bias in (self.b_enc, self.b_dec, self.b_up, self.b_down):
            bias.zero_()
        if self.concept_rank:
            self._reset_factors(generator)
        else:
            self.W_down.normal_(generator=generator)
            normalise_rows_(self.W_down)
            self.W_up.copy_(self.W_down.t())
            if self.start == "near_zero":
                self.W_up.mul_(NEAR_ZERO)
        self.code_size.fill_(1.0)

    def _reset_factors(self, generator: torch.Generator) -> None:
        """W_down of rows of norm 1, W_up its transpose, by their factors alone."""
        self.A_down.normal_(generator=generator)
        self.B_down.normal_(generator=generator).div_(self.config.d_sae**0.5)
        products = self.B_down @ self.B_down.t()
        norms = ((self.A_down @ products) * self.A_down).sum(1, keepdim=True).clamp_min_(1e-24).sqrt_()
        self.A_down.div_(norms)
        self.A_up.copy_(self.B_down.t())
        self.B_up.copy_(self.A_down.t())
        if self.start == "near_zero":
            self.B_up.mul_(NEAR_ZERO)

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        return topk_encode(x, self.W_enc, self.b_enc, self.b_dec, self.k)

    def encode(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.config.d_in)
        return to_dense(self.encode_sparse(rows), self.config.d_sae).view(*x.shape[:-1], self.config.d_sae)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    def concept_pre_activations(self, codes: SparseCodes | RaggedCodes) -> Tensor:
        """[n, n_concepts], of the codes of n tokens; touches the active latents alone."""
        if isinstance(codes, RaggedCodes):
            scaled = codes._replace(values=codes.values / self.code_size[codes.latents])
        else:
            scaled = codes._replace(values=codes.values / self.code_size[codes.indices])
        if not self.concept_rank:
            return sparse_decode(scaled, self.W_up, self.b_up)
        low = sparse_decode(scaled, self.A_up, self.A_up.new_zeros(self.concept_rank))
        # In the weights' type, which under autocast a product does not have.
        return torch.addmm(self.b_up, low, self.B_up).to(low.dtype)

    def kept_concepts(self, pre: Tensor) -> SparseCodes:
        """The k_concepts largest of pre-activations [n, n_concepts], rectified."""
        values, indices = pre.relu().topk(self.k_concepts, dim=1)
        return SparseCodes(indices, values)

    def concepts(self, codes: SparseCodes | RaggedCodes) -> SparseCodes:
        """Concepts z2 of the codes of n tokens."""
        return self.kept_concepts(self.concept_pre_activations(codes))

    def expected(self, concepts: SparseCodes) -> Tensor:
        """[n, d_sae] >= 0: codes y1 that the concepts of n tokens lead one to expect."""
        return self.expected_sizes(concepts) * self.code_size

    def expected_sizes(self, concepts: SparseCodes) -> Tensor:
        """[n, d_sae] >= 0: the same in units of each latent's usual size."""
        if not self.concept_rank:
            return sparse_decode(concepts, self.W_down, self.b_down).relu()
        return (self._down(concepts) @ self.B_down + self.b_down).relu()

    def expected_at(self, concepts: SparseCodes, tokens: Tensor, latents: Tensor) -> Tensor:
        """[m] >= 0: `expected` at m pairs of a token and a latent; with factors no more is made."""
        if not self.concept_rank:
            return self.expected(concepts)[tokens, latents]
        written = self._along(self._down(concepts), tokens, latents)
        return (written + self.b_down[latents]).relu() * self.code_size[latents]

    def link_sizes(self, concepts: Tensor, latents: Tensor) -> Tensor:
        """[m]: |W_down| at m pairs of a concept and a latent."""
        if not self.concept_rank:
            return self.W_down.detach()[concepts, latents].abs()
        return self._along(self.A_down.detach(), concepts, latents).abs()

    def written(self, concepts: SparseCodes, others: SparseCodes | None = None) -> Tensor | Factored:
        """[n, d_sae]: what concepts write, without b_down, in units of usual sizes; with others [2n, d_sae], below it
        what those write. In one pass, so that one gradient of W_down is held and not two."""
        if others is None:
            return self._written(concepts)
        n, (k, m) = len(concepts.values), (concepts.values.shape[1], others.values.shape[1])
        lengths = concepts.indices.new_tensor([k] * n + [m] * n)
        both = RaggedCodes(
            torch.cat([concepts.indices.flatten(), others.indices.flatten()]),
            torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
            torch.cat([concepts.values.flatten(), others.values.flatten()]),
        )
        return self._written(both)

    def _written(self, concepts: SparseCodes | RaggedCodes) -> Tensor | Factored:
        if self.concept_rank:
            return Factored(self._down(concepts), self.B_down)
        return sparse_decode(concepts, self.W_down, torch.zeros_like(self.b_down))

    def _down(self, concepts: SparseCodes | RaggedCodes) -> Tensor:
        """[n, concept_rank]: z2 A_down."""
        return sparse_decode(concepts, self.A_down, self.A_down.new_zeros(self.concept_rank))

    def _along(self, low: Tensor, rows: Tensor, latents: Tensor) -> Tensor:
        """[m]: products of rows of `low` [n, concept_rank] with columns of B_down, a few at a time."""
        size = max(1, _GATHERED // self.concept_rank)
        columns = self.B_down.detach().t()
        parts = [
            (low[row] * columns[latent]).sum(1)
            for row, latent in zip(rows.split(size), latents.split(size), strict=True)
        ]
        return torch.cat(parts) if parts else low.new_zeros(0)

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        self.b_enc.div_(scale)
        self.b_dec.div_(scale)
        self.code_size.div_(scale)

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def _rank(value: object, n_concepts: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(
            f"A stacked_topk SAE takes the option concept_rank, 0 for dense weights or an integer above; got {value!r}."
        )
    return min(value, n_concepts)


def _count(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"A stacked_topk SAE needs the option {name}, an integer in [1, {most}]; got {value!r}.")
    return value
