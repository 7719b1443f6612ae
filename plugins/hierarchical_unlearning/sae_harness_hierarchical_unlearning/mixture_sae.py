"""The SAE `mixture_topk`: parents by top-k, and for each active parent its best child in a subspace of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness import SAE, ConfigError, Option, SAEConfig, SparseCodes
from harness.training.kernels import encoder_parameter, normalise_rows_, sparse_decode, to_dense, topk_encode


class ChildCodes(NamedTuple):
    """Of the active parents of n tokens that may have a child."""

    parent: Tensor
    """[n, m] int64."""
    pre: Tensor
    """[n, m, children]: pre-activations; -inf where the parent is silent."""


class MixtureTopKSAE(SAE):
    """A hierarchical SAE after Muchane et al. 2025 (arXiv:2506.01197).

    Latents below `n_parents` are parents, those that follow their children, family by family; what is left over by
    division, fewer than a family, is unused. Parents: TopK_kp(relu((x - b_dec)
    W_enc + b_enc)). An active parent p reads (x - b_dec) W_down[p], a subspace of few dimensions, with its children's
    encoder; the largest of them alone is kept and writes atom · W_up[p]. So x̂ = codes · decoder_directions + b_dec.

    Of k latents a token, (k + 1) // 2 are parents and k // 2 children, those of the largest parents: L0 is k at most.
    With 0 children it is a topk SAE.
    """

    W_down: nn.Parameter
    """[d_in, n_parents · subspace]."""
    W_child: nn.Parameter
    """[n_parents, children, subspace]: encoders in the subspaces."""
    b_child: nn.Parameter
    """[n_parents, children]."""
    atoms: nn.Parameter
    """[n_parents, children, subspace]: what each child writes in its subspace."""
    W_up: nn.Parameter
    """[n_parents · subspace, d_in]."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        options = config.options
        self.k = _at_least(1, options.get("k"), "k")
        self.n_children = m = _at_least(0, options.get("children", 15), "children")
        self.subspace = _at_least(1, options.get("subspace", 4), "subspace")
        self.n_parents = n = config.d_sae // (m + 1)
        self.k_parents = (self.k + 1) // 2 if m else self.k
        self.k_children = self.k - self.k_parents
        if self.k_parents > n:
            raise ConfigError(
                f"A mixture_topk SAE of k = {self.k} needs {self.k_parents} parents; families of 1 + {m} leave {n} "
                f"among {config.d_sae} latents: take fewer children or a smaller k."
            )
        # A topk SAE's decoder is held to norm 1 by the loop; with children the trainer does it for both levels.
        self.unit_norm_decoder = m == 0
        self.W_enc = encoder_parameter(config.d_in, n)
        self.b_enc = nn.Parameter(torch.empty(n))
        self.W_dec = nn.Parameter(torch.empty(n, config.d_in))
        self.b_dec = nn.Parameter(torch.empty(config.d_in))
        if m:
            self.W_down = encoder_parameter(config.d_in, n * self.subspace)
            self.W_child = nn.Parameter(torch.empty(n, m, self.subspace))
            self.b_child = nn.Parameter(torch.empty(n, m))
            self.atoms = nn.Parameter(torch.empty(n, m, self.subspace))
            self.W_up = nn.Parameter(torch.empty(n * self.subspace, config.d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.W_dec.normal_(generator=generator)
        normalise_rows_(self.W_dec)
        self.W_enc.copy_(self.W_dec.t())
        self.b_enc.zero_()
        self.b_dec.zero_()
        if not self.n_children:
            return
        self.W_up.normal_(generator=generator)
        self.atoms.normal_(generator=generator)
        self.normalise_()
        self.W_down.copy_(self.W_up.t())
        self.W_child.copy_(self.atoms)
        self.b_child.zero_()

    @torch.no_grad()
    def normalise_(self) -> None:
        """Give norm 1 to the directions of all latents and to the rows of W_up."""
        normalise_rows_(self.W_dec)
        normalise_rows_(self.W_up)
        up = self.W_up.view(self.n_parents, self.subspace, -1)
        # ||a W_up||² = a (W_up W_upᵀ) aᵀ: no child's direction in d_in is built.
        products = up @ up.transpose(1, 2)
        norms = ((self.atoms @ products) * self.atoms).sum(-1, keepdim=True).clamp_min(1e-12).sqrt()
        self.atoms.div_(norms)

    def child_codes(self, x: Tensor, parents: SparseCodes) -> ChildCodes:
        """What the children of the largest k_children active parents see of x [n, d_in]."""
        values, slots = parents.values.topk(self.k_children, dim=1)
        parent = parents.indices.gather(1, slots)
        seen = ((x - self.b_dec) @ self.W_down).view(len(x), self.n_parents, self.subspace)
        seen = seen.gather(1, parent[..., None].expand(-1, -1, self.subspace))
        pre = (self.W_child[parent] @ seen[..., None]).squeeze(-1) + self.b_child[parent]
        return ChildCodes(parent, torch.where(values[..., None] > 0, pre, -torch.inf))

    def best(self, children: ChildCodes) -> SparseCodes:
        """The largest child of each parent, rectified, among all d_sae latents."""
        value, which = children.pre.max(-1)
        latent = self.n_parents + children.parent * self.n_children + which
        return SparseCodes(latent, value.relu())

    def decode_children(self, children: SparseCodes) -> Tensor:
        """[n, d_in]: what children write, by way of their subspaces."""
        place = children.indices - self.n_parents
        family = place.div(self.n_children, rounding_mode="floor")
        in_subspace = children.values[..., None] * self.atoms.view(-1, self.subspace)[place]
        axes = family[..., None] * self.subspace + torch.arange(self.subspace, device=family.device)
        flat = SparseCodes(axes.flatten(1), in_subspace.flatten(1))
        return sparse_decode(flat, self.W_up, torch.zeros_like(self.b_dec))

    def encode_sparse(self, x: Tensor) -> SparseCodes:
        parents = topk_encode(x, self.W_enc, self.b_enc, self.b_dec, self.k_parents)
        if not self.k_children:
            return parents
        return joined(parents, self.best(self.child_codes(x, parents)))

    def encode(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.config.d_in)
        return to_dense(self.encode_sparse(rows), self.config.d_sae).view(*x.shape[:-1], self.config.d_sae)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.decoder_directions() + self.b_dec

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        self.b_enc.div_(scale)
        self.b_dec.div_(scale)
        if self.n_children:
            self.b_child.div_(scale)

    def decoder_directions(self) -> Tensor:
        if not self.n_children:
            return self.W_dec
        up = self.W_up.view(self.n_parents, self.subspace, -1)
        used = torch.cat([self.W_dec, (self.atoms @ up).flatten(0, 1)])
        return torch.nn.functional.pad(used, (0, 0, 0, self.config.d_sae - len(used)))

    def parents(self) -> Tensor:
        """[d_sae] int64: each child's parent; -1 for parents and unused latents."""
        found = torch.full((self.config.d_sae,), -1)
        of_children = torch.arange(self.n_parents).repeat_interleave(self.n_children)
        found[self.n_parents : self.n_parents + len(of_children)] = of_children
        return found


def joined(parents: SparseCodes, children: SparseCodes) -> SparseCodes:
    """Both levels' codes side by side."""
    return SparseCodes(
        torch.cat([parents.indices, children.indices], dim=1), torch.cat([parents.values, children.values], dim=1)
    )


def _at_least(least: int, value: Option, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"A mixture_topk SAE needs the option {name}, an integer from {least}; got {value!r}.")
    return value
