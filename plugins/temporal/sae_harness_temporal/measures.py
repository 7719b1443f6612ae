"""What the course of codes over time is measured by: pure functions of a `Series`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness import DataError

from .sequences import Series, lagged

LAGS = 32
SCALES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class LagSums:
    """Sums over each sequence that autocorrelations come from: any weighting of sequences gives another estimate."""

    products: Tensor
    """[S, LAGS + 1, L] float32: sum of f_t f_{t-lag}; lag 0 the sum of squares."""
    pairs: Tensor
    """[S, LAGS + 1]: number of pairs; lag 0 the number of tokens."""
    values: Tensor
    """[S, L]: sum of f_t."""

    def autocorrelation(self, weights: Tensor | None = None) -> Tensor:
        """[L, LAGS]: lag 1 to 32 of each latent; 0 where a latent never varies. weights: [S] of the sequences."""
        w = torch.ones(len(self.pairs)) if weights is None else weights
        w = w.to(self.products)
        n = (w @ self.pairs).double().clamp_min(1)
        mean = (w @ self.values).double() / n[0]
        moment = torch.einsum("s,slk->lk", w, self.products).double() / n[:, None]
        variance = moment[0] - mean.square()
        # Rounding of float32 sums: below it a variance is none.
        safe = variance > 1e-6 * moment[0]
        correlation = (moment[1:] - mean.square()) / torch.where(safe, variance, 1.0)
        return torch.where(safe, correlation, 0.0).t().float()


def lag_sums(found: Series) -> LagSums:
    """The sums of every sequence. One pass over the codes for each lag."""
    n_sequences, length, n_latents = found.codes.shape
    lags = min(LAGS, length - 1)
    products = torch.zeros(n_sequences, LAGS + 1, n_latents, device=found.codes.device)
    pairs = torch.zeros(n_sequences, LAGS + 1, device=found.codes.device)
    for lag in range(lags + 1):
        later, earlier = found.codes[:, lag:], found.codes[:, : length - lag]  # 0 where not counted
        products[:, lag] = torch.einsum("sti,sti->si", later, earlier)
        pairs[:, lag] = (found.mask[:, lag:] & found.mask[:, : length - lag]).sum(1).float()
    return LagSums(products, pairs, found.codes.sum(1))


def jaccard(found: Series) -> Tensor:
    """[LAGS]: mean over pairs of tokens with any latent active of |A_t and A_{t-lag}| / |A_t or A_{t-lag}|."""
    values = []
    for lag in range(1, LAGS + 1):
        total, n = 0.0, 0
        for now, before, _ in lagged(found, lag):
            a, b = now != 0, before != 0
            union = (a | b).sum(1)
            some = union > 0
            total += float(((a & b).sum(1)[some] / union[some]).sum())
            n += int(some.sum())
        values.append(total / n if n else float("nan"))
    return torch.tensor(values)


def flips(found: Series) -> Tensor:
    """[L]: of each latent, the share of its firings (at tokens with a previous one) before which it was silent; NaN for
    a latent with none."""
    fired = torch.zeros(found.codes.shape[2], device=found.codes.device)
    flipped = fired.clone()
    for now, before, _ in lagged(found, 1):
        on = now != 0
        fired += on.sum(0)
        flipped += (on & (before == 0)).sum(0)
    return flipped / fired


def dwell_counts(found: Series, longest: int = LAGS) -> Tensor:
    """[longest]: how many runs of consecutive active tokens have length 1, 2, …; the last counts all longer ones too.
    Runs at the end of a sequence count as they are seen, so long ones are cut short."""
    counts = torch.zeros(longest, dtype=torch.int64)
    for piece in range(0, len(found.mask), 16):
        active = found.active[piece : piece + 16].transpose(1, 2)  # [S, L, s]: one latent's tokens together
        padded = torch.nn.functional.pad(active, (1, 1))
        flat = padded.reshape(-1)
        begins = (flat[1:] & ~flat[:-1]).nonzero().squeeze(1)
        ends = (~flat[1:] & flat[:-1]).nonzero().squeeze(1)
        counts += torch.bincount((ends - begins).clamp_max(longest) - 1, minlength=longest).cpu()
    return counts


def total_variation(found: Series) -> float:
    """Mean over pairs of neighbours of |f_t - f_{t-1}|_1, over the mean of |f_t|_1: 2 for disjoint codes."""
    apart = sum(float((now - before).abs().sum()) for now, before, _ in lagged(found, 1))
    size = sum(float((now + before).abs().sum()) for now, before, _ in lagged(found, 1)) / 2
    return apart / size if size else float("nan")


def relative_distance(found: Series) -> float:
    """R_T: mean over neighbours with any latent active of sum|f_t - f_{t-1}| / (0.5 (|f_t|_1 + |f_{t-1}|_1))."""
    total, n = 0.0, 0
    for now, before, _ in lagged(found, 1):
        size = 0.5 * (now.abs().sum(1) + before.abs().sum(1))
        some = size > 0
        total += float(((now - before).abs().sum(1)[some] / size[some]).sum())
        n += int(some.sum())
    if not n:
        raise DataError("No latent is active on any token that has a neighbour.")
    return total / n


def multiscale(found: Series) -> Tensor:
    """[4, L]: variance of means over m = 1, 2, 4, 8 neighbouring tokens, times m, over the variance; 1 without a course
    over time, up to m for a latent that hardly changes. NaN for a latent that never varies."""
    codes = found.whole()
    variance = codes.flatten(0, 1).var(0)
    ratios = []
    for scale in SCALES:
        length = codes.shape[1] // scale * scale
        means = codes[:, :length].unflatten(1, (-1, scale)).mean(2)
        ratios.append(means.flatten(0, 1).var(0) * scale / variance)
    return torch.stack(ratios)


def spectrum(found: Series) -> tuple[Tensor, Tensor]:
    """Frequencies [F] in cycles per token, and the share of variance [F, L] at each, without the mean of the whole; NaN
    for a latent that never varies. Flat (1 / F) without a course over time.

    Sequences are taken as they are: what differs between documents shows at the lowest frequencies.
    """
    codes = found.whole()
    n_sequences, length, n_latents = codes.shape
    if not n_sequences or length < 8:
        raise DataError(f"{n_sequences} whole sequences of {length} tokens are too few for a spectrum.")
    mean = codes.flatten(0, 1).mean(0)
    power = torch.zeros(length // 2 + 1, n_latents, device=codes.device)
    for part in codes.split(16):
        power += torch.fft.rfft(part - mean, dim=1).abs().square().sum(0)
    power = power[1:]  # the mean of each sequence is no change within it
    return torch.fft.rfftfreq(length)[1:], power / power.sum(0)
