"""Latents held against the true features of a synthetic world: matched one to one, then counted token by token.

Pure functions and exact integer counts; memory grows with latents times features for the cosines alone. `mcc` is that
of SynthSAEBench (arXiv:2602.14687), which counts dead latents and takes |cosine|; here dead latents are left out, and
the signed matching decides which feature a latent stands for: one that writes the opposite does not detect it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..interfaces.sae import RaggedCodes
from .codes import token_of_slot

ALIGNED = 0.8
"""Cosine from which a latent's direction is taken to be a feature's."""
PARENT_PART = 0.25
"""Share of the parent's direction, relative to the child's own, from which a child's latent has absorbed it."""


def cosines(directions: Tensor, features: Tensor) -> Tensor:
    """[n_latents, n_features] float32 of directions [n_latents, d_in]; 0 where a direction is 0."""
    if directions.ndim != 2 or directions.shape[1:] != features.shape[1:]:
        raise ShapeError(
            f"Directions and features must both be [n, d_in], got {tuple(directions.shape)}, {tuple(features.shape)}."
        )
    return F.normalize(directions.float(), dim=1) @ F.normalize(features.float(), dim=1).T


def match_one_to_one(similarity: Tensor) -> Tensor:
    """[n_latents] int64: the feature of each latent in the one-to-one matching of largest total similarity
    [n_latents, n_features]; -1 for latents that are left over (Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.detach().cpu().numpy(), maximize=True)
    found = torch.full((similarity.shape[0],), -1, dtype=torch.int64)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found


def matched(similarity: Tensor, match: Tensor) -> Tensor:
    """[n_pairs]: the similarity of each matched pair."""
    rows = (match >= 0).nonzero().squeeze(1)
    return similarity[rows.to(similarity.device), match[rows].to(similarity.device)]


def surplus_latents(similarity: Tensor, aligned: float = ALIGNED) -> int:
    """Latents beyond the first of each feature: a latent belongs to the feature of its largest cosine, where that is at
    least `aligned`. Two latents of one direction are one too many."""
    best, feature = similarity.max(1)
    counts = torch.bincount(feature[best >= aligned], minlength=similarity.shape[1])
    return int((counts - 1).clamp_min(0).sum())


def n_distinct(similarity: Tensor) -> int:
    """How many features are the best match of some latent."""
    return len(similarity.argmax(1).unique())


def contains(codes: RaggedCodes, tokens: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Whether latents [m] fire on tokens [m], and the slots [m] of those that do (of the others any slot).

    A token or latent below 0 is never there. The codes' latents ascend within a token.
    """
    if not len(codes.latents):
        return torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
    width = int(max(codes.latents.max(), latents.max() if len(latents) else 0)) + 1
    keys = token_of_slot(codes) * width + codes.latents
    wanted = tokens * width + latents
    slot = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
    return (keys[slot] == wanted) & (tokens >= 0) & (latents >= 0), slot


class LagCounts:
    """Firings of n units on neighbouring tokens, for their lag-1 autocorrelation."""

    def __init__(self, n: int) -> None:
        self.n_pairs = 0
        self.first, self.second, self.both = (torch.zeros(n, dtype=torch.int64) for _ in range(3))

    def update(self, codes: RaggedCodes, follows: Tensor) -> None:
        """Add some tokens; `follows` [n] bool says where the token before is there and of the same sequence."""
        token = token_of_slot(codes)
        n = len(self.first)
        leads = F.pad(follows[1:], (0, 1))
        second = follows[token]
        before, _ = contains(codes, token[second] - 1, codes.latents[second])
        self.n_pairs += int(follows.sum())
        self.first += torch.bincount(codes.latents[leads[token]], minlength=n).cpu()
        self.second += torch.bincount(codes.latents[second], minlength=n).cpu()
        self.both += torch.bincount(codes.latents[second][before], minlength=n).cpu()

    def autocorrelation(self) -> Tensor:
        """[n] float64: Pearson's correlation of firing with firing one token later; NaN where it never varies."""
        first, second, both = (count.double() / max(1, self.n_pairs) for count in (self.first, self.second, self.both))
        spread = (first * (1 - first) * second * (1 - second)).sqrt()
        return torch.where(spread > 0, (both - first * second) / spread, torch.nan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """Each latent as a detector of the feature it is matched with. All [n_latents]; 0 for latents without one."""

    fires: Tensor
    """Tokens on which the latent fires."""
    present: Tensor
    """Tokens on which its feature fires."""
    hits: Tensor
    """Tokens on which both do."""

    def precision(self) -> Tensor:
        """float64; 0 where the latent never fires."""
        return self.hits / self.fires.clamp_min(1).double()

    def recall(self) -> Tensor:
        """float64; 0 where the feature never fires."""
        return self.hits / self.present.clamp_min(1).double()

    def f1(self) -> Tensor:
        """float64: harmonic mean of the two, 0 where there is no hit."""
        return 2 * self.hits / (self.fires + self.present).clamp_min(1).double()


class TruthCounts:
    """Counts over the held-out tokens, for latents matched with features."""

    def __init__(self, match: Tensor, parent: Tensor) -> None:
        """`match` [n_latents] int64: feature of each latent or -1; `parent` [n_features] int64: or -1."""
        n_latents, n_features = len(match), len(parent)
        self.match, self.parent = match, parent
        self.latent_of = torch.full((n_features,), -1, dtype=torch.int64, device=match.device)
        rows = (match >= 0).nonzero().squeeze(1)
        self.latent_of[match[rows]] = rows
        self.fires = torch.zeros(n_latents, dtype=torch.int64)
        self.hits = torch.zeros(n_latents, dtype=torch.int64)
        self.written = torch.zeros(n_latents, dtype=torch.float64)
        self.true = torch.zeros(n_latents, dtype=torch.float64)
        self.present = torch.zeros(n_features, dtype=torch.int64)
        self.parent_kept = torch.zeros(n_features, dtype=torch.int64)
        self.replaced = torch.zeros(n_features, dtype=torch.int64)
        self.latent_lags, self.feature_lags = LagCounts(n_latents), LagCounts(n_features)

    def update(self, codes: RaggedCodes, truth: RaggedCodes, follows: Tensor) -> None:
        """Add some tokens: their codes, their true codes, and where the token before is of the same sequence."""
        n_latents, n_features = len(self.match), len(self.parent)
        self.latent_lags.update(codes, follows)
        self.feature_lags.update(truth, follows)
        self.fires += torch.bincount(codes.latents, minlength=n_latents).cpu()
        self.present += torch.bincount(truth.latents, minlength=n_features).cpu()
        hit, slot = contains(truth, token_of_slot(codes), self.match[codes.latents])
        latent = codes.latents[hit]
        self.hits += torch.bincount(latent, minlength=n_latents).cpu()
        self.written += torch.bincount(latent, codes.values[hit].double(), minlength=n_latents).cpu()
        self.true += torch.bincount(latent, truth.values[slot[hit]].double(), minlength=n_latents).cpu()
        self._update_children(codes, truth)

    def _update_children(self, codes: RaggedCodes, truth: RaggedCodes) -> None:
        n_features = len(self.parent)
        child_slot = self.parent[truth.latents] >= 0
        child, token = truth.latents[child_slot], token_of_slot(truth)[child_slot]
        kept, _ = contains(codes, token, self.latent_of[self.parent[child]])
        own, _ = contains(codes, token, self.latent_of[child])
        self.parent_kept += torch.bincount(child[kept], minlength=n_features).cpu()
        self.replaced += torch.bincount(child[own & ~kept], minlength=n_features).cpu()

    def detection(self) -> Detection:
        """Each latent against its feature."""
        match = self.match.cpu()
        present = torch.where(match >= 0, self.present[match.clamp_min(0)], 0)
        return Detection(fires=self.fires, present=present, hits=self.hits)

    def shrinkage(self, norms: Tensor) -> float:
        """Σ code · |direction| / Σ true magnitude, where latent and feature both fire; 0 where none ever do."""
        true = float(self.true.sum())
        return float((self.written * norms.double().cpu()).sum()) / true if true > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Absorption:
    """What becomes of parents when their children fire. All [n_children], of the features that have a parent and
    fire on some token."""

    child: Tensor
    """[n_children] int64: the feature."""
    firings: Tensor
    """Tokens on which the child fires (and so its parent)."""
    kept: Tensor
    """Of these, those on which the parent's latent fires, where it is aligned with the parent; else 0."""
    absorbed: Tensor
    """Of these, those on which the parent's aligned latent is silent while the child's fires, which writes the parent's
    direction too."""
    pair: Tensor
    """bool: the child has absorbed its parent: most of its firings are absorbed, while on most of the tokens on which
    the parent fires without this child the parent's latent does too."""


def absorption(counts: TruthCounts, directions: Tensor, features: Tensor) -> Absorption:
    """Absorption (Chanin et al. 2024, arXiv:2409.14507), counted where the features are known."""
    parent, latent_of, present = counts.parent.cpu(), counts.latent_of.cpu(), counts.present
    directions, features = F.normalize(directions.float().cpu(), dim=1), features.float().cpu()
    child = ((parent >= 0) & (present > 0)).nonzero().squeeze(1)
    above = parent[child]
    of_parent, of_child = latent_of[above], latent_of[child]
    toward_parent = (directions[of_parent.clamp_min(0)] * features[above]).sum(1)
    tracked = (of_parent >= 0) & (toward_parent >= ALIGNED)
    carries = (of_child >= 0) & _carries(directions[of_child.clamp_min(0)], features[child], features[above])
    firings, kept = present[child], torch.where(tracked, counts.parent_kept[child], 0)
    absorbed = torch.where(tracked & carries, counts.replaced[child], 0)
    alone = present[above] - firings
    hits = torch.where(of_parent >= 0, counts.hits[of_parent.clamp_min(0)], 0)
    kept_alone = hits - counts.parent_kept[child]
    pair = tracked & (2 * absorbed > firings) & (2 * kept_alone > alone)
    return Absorption(child=child, firings=firings, kept=kept, absorbed=absorbed, pair=pair)


def _carries(direction: Tensor, child: Tensor, parent: Tensor) -> Tensor:
    """[n] bool: of the least-squares parts of directions [n, d_in] along child and parent [n, d_in], the parent's is at
    least `PARENT_PART` of the child's, which is positive."""
    overlap = (child * parent).sum(1)
    along_child, along_parent = (direction * child).sum(1), (direction * parent).sum(1)
    scale = (1 - overlap**2).clamp_min(1e-6)
    of_child = (along_child - overlap * along_parent) / scale
    of_parent = (along_parent - overlap * along_child) / scale
    return (of_child > 0) & (of_parent >= PARENT_PART * of_child)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of a [n] and b [n]; 0 where there are fewer than three, or one of them does not vary."""
    if len(a) < 3:
        return 0.0
    x, y = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(x.norm() * y.norm())
    return max(-1.0, min(1.0, float(x @ y) / scale)) if scale > 0 else 0.0
