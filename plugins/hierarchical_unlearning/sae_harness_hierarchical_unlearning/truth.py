"""What an intervention does to true features: how much of each firing it takes away or adds, on every token."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import DataError, RaggedCodes, WorldTruth
from harness.evaluation.metrics import n_active, take, token_of_slot

CHANGED = 0.5
"""A firing is removed, or disturbed, where more than this share of its magnitude goes, or comes or goes."""
STAND_IN_RATE = 1 / 8
_RIDGE = 1e-4
_CHUNK = 4096


def forget_features(truth: WorldTruth) -> Tensor:
    """[n_features] bool: those of the marked subtrees; where there is none, those of the one tree (or lone feature)
    that is there on a share of tokens nearest to 1/8, so that worlds without marks can be used too."""
    if bool(truth.forget.any()):
        return truth.forget.cpu()
    root = roots(truth.parent.cpu())
    codes = truth.codes
    keys = token_of_slot(codes).cpu() * truth.n_features + root[codes.latents.cpu()]
    present = torch.bincount(keys.unique() % truth.n_features, minlength=truth.n_features)
    distance = (present / max(1, len(codes.offsets) - 1) - STAND_IN_RATE).abs()
    return root == int(distance.masked_fill(present == 0, torch.inf).argmin())


def roots(parent: Tensor) -> Tensor:
    """[n_features] int64: the root of each feature's tree, of parents [n_features] (-1 for roots)."""
    root = torch.arange(len(parent))
    while bool((parent[root] >= 0).any()):
        root = torch.where(parent[root] >= 0, parent[root], root)
    return root


class FiringChanges:
    """Splits changes of activations into parts along the features that fire on each token."""

    def __init__(self, truth: WorldTruth, device: torch.device) -> None:
        """Raises DataError where no feature ever fires."""
        self.codes = RaggedCodes(*(tensor.to(device) for tensor in truth.codes))
        if not len(self.codes.latents):
            raise DataError("No true feature fires on any held-out token: there is nothing to remove or to disturb.")
        self._features = truth.features.to(device)
        self.n_tokens = len(self.codes.offsets) - 1
        self._width = int(n_active(self.codes).max())
        inverses = [self._inverse(tokens) for tokens in torch.arange(self.n_tokens, device=device).split(_CHUNK)]
        self._inverses = torch.cat(inverses)

    def relative(self, tokens: Tensor, change: Tensor) -> Tensor:
        """Of each firing on the tokens [m], in their order, what share of its magnitude comes (> 0) or goes (< 0) when
        the tokens' activations change by `change` [m, d_in]."""
        found = []
        for part, moved in zip(tokens.split(_CHUNK), change.split(_CHUNK), strict=True):
            codes, active, used = self._active(part)
            along = (self._features[active] @ moved.unsqueeze(2)).squeeze(2) * used
            share = (self._inverses[part] @ along.unsqueeze(2)).squeeze(2)
            found.append(share[used] / codes.values)
        return torch.cat(found) if found else change.new_zeros(0)

    def _active(self, tokens: Tensor) -> tuple[RaggedCodes, Tensor, Tensor]:
        """Codes of the tokens, their features [m, width] (0 where there is none) and which slots are used."""
        codes = take(self.codes, tokens)
        used = torch.arange(self._width, device=tokens.device) < n_active(codes)[:, None]
        active = torch.zeros_like(used, dtype=torch.int64)
        active[used] = codes.latents
        return codes, active, used

    def _inverse(self, tokens: Tensor) -> Tensor:
        """[m, width, width]: inverse of the features' products, 0 outside the used slots."""
        _, active, used = self._active(tokens)
        rows = self._features[active] * used[..., None]
        products = rows @ rows.transpose(1, 2)
        products.diagonal(dim1=1, dim2=2).add_(torch.where(used, _RIDGE, 1.0))
        return torch.cholesky_inverse(torch.linalg.cholesky(products)) * used[:, None] * used[..., None]


class Tally:
    """Removed and disturbed firings of each document."""

    def __init__(self, changes: FiringChanges, forget: Tensor, document: Tensor) -> None:
        """`forget` [n_features] bool; `document` [n_tokens] int64 from 0: which document a token is of."""
        self.changes = changes
        self.document = document
        self._forget = forget.to(document.device)
        self.n_documents = int(document.max()) + 1 if len(document) else 0
        token = token_of_slot(changes.codes)
        self._of_forget = self._forget[changes.codes.latents]
        self.forget_firings = self._per_document(token[self._of_forget])
        self.retain_firings = self._per_document(token[~self._of_forget])
        self.is_forget_token = torch.zeros_like(document, dtype=torch.bool)
        self.is_forget_token[token[self._of_forget]] = True

    def count(self, tokens: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """[n_documents] float64 each: forget firings removed, and retain firings disturbed, when the activations of
        the tokens change; other tokens stay as they are."""
        hit, token, _ = self._hits(tokens, change)
        return self._per_document(token[hit & self._is_forget(tokens)]), self._per_document(
            token[hit & ~self._is_forget(tokens)]
        )

    def by_feature(self, tokens: Tensor, change: Tensor) -> Tensor:
        """[n_features] float64: how many of each feature's firings are removed (forget) or disturbed (retain)."""
        hit, _, feature = self._hits(tokens, change)
        return torch.bincount(feature[hit], minlength=len(self._forget)).double().cpu()

    def _hits(self, tokens: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = take(self.changes.codes, tokens)
        share = self.changes.relative(tokens, change)
        forget = self._forget[codes.latents]
        return torch.where(forget, share < -CHANGED, share.abs() > CHANGED), tokens[token_of_slot(codes)], codes.latents

    def _is_forget(self, tokens: Tensor) -> Tensor:
        return self._forget[take(self.changes.codes, tokens).latents]

    def _per_document(self, token: Tensor) -> Tensor:
        return torch.bincount(self.document[token], minlength=self.n_documents).double().cpu()
