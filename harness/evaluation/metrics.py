"""Metrics as pure tensor functions and as streaming sums in float64.

A metric over a data set is a ratio of two sums. The sums are kept per document, in float64, so that the value does
not depend on the batch size and its standard error can be taken over documents, which are the independent units
(the tokens of one document are not). Averages of batch averages are never taken.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError, ShapeError
from ..interfaces.specs import MetricValue

DENSE_FREQUENCY = 0.01
"""A latent that fires on more than this share of the tokens counts as dense."""

LOG10_EDGES = tuple(-8.0 + 0.25 * i for i in range(33))
"""Edges of the density histogram: fixed, so that histograms of different SAEs can be laid over one another."""


def fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    """Fraction of variance unexplained of x [n, d]: sum |x - x_hat|² / sum |x - mean(x)|², a float64 scalar.

    0 is perfect, 1 is no better than predicting the per-dimension mean, above 1 is worse. The mean is over the rows
    given: for a data set use `RunningReconstruction`, do not average batches.

    Raises:
        ShapeError: the shapes differ or are not [n, d].
        DataError: x is empty or all its rows are equal.

    References: Gao et al. 2024, arXiv:2406.04093 (normalised MSE).
    """
    x, x_hat = _pair(x, x_hat)
    total = (x - x.mean(0)).square().sum()
    if total <= 0:
        raise DataError(f"fvu needs rows that differ: all {len(x)} rows are equal, so there is no variance to explain.")
    return (x - x_hat).square().sum() / total


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared error per element of x [n, d], a float64 scalar. Raises ShapeError, DataError as `fvu`."""
    x, x_hat = _pair(x, x_hat)
    return (x - x_hat).square().mean()


def cosine(x: Tensor, x_hat: Tensor) -> Tensor:
    """Cosine between each row of x [n, d] and its reconstruction, [n] float64; 0 where either is zero.

    Raises:
        ShapeError, DataError: as `fvu`.
    """
    x, x_hat = _pair(x, x_hat)
    norms = x.norm(dim=1) * x_hat.norm(dim=1)
    return torch.where(norms > 0, (x * x_hat).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny), norms)


def l2_ratio(x: Tensor, x_hat: Tensor) -> Tensor:
    """|x_hat| / |x| of each row of x [n, d], [n] float64; NaN where the row of x is zero and has no ratio.

    Raises:
        ShapeError, DataError: as `fvu`.
    """
    x, x_hat = _pair(x, x_hat)
    norms = x.norm(dim=1)
    return torch.where(norms > 0, x_hat.norm(dim=1) / norms, torch.full_like(norms, math.nan))


def relative_reconstruction_bias(x: Tensor, x_hat: Tensor) -> Tensor:
    """sum |x_hat|² / sum x·x_hat over the rows of x [n, d]: below 1 the SAE shrinks, 1 is unbiased.

    0 where x_hat is zero everywhere, the limit of x_hat = εx.

    Raises:
        ShapeError: as `fvu`.
        DataError: x is empty, or x_hat is orthogonal to x over all rows.

    References: Rajamanoharan et al. 2024, arXiv:2404.16014, section 3.
    """
    x, x_hat = _pair(x, x_hat)
    return torch.tensor(_bias(x_hat.square().sum(1), (x * x_hat).sum(1)).value, dtype=torch.float64)


def l0(codes: Tensor) -> Tensor:
    """Number of latents that are not zero in each row of codes [n, d_sae], [n] int64."""
    return _fired(codes).sum(1)


def firing_counts(codes: Tensor) -> Tensor:
    """Number of rows of codes [n, d_sae] on which each latent is not zero, [d_sae] int64."""
    return _fired(codes).sum(0)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) in nats of each position, [...] float64, of logits [..., vocab]; finite also where q is tiny.

    Raises:
        ShapeError: the shapes differ.
    """
    return kl_from_log_probs(torch.log_softmax(logits_p.float(), -1), torch.log_softmax(logits_q.float(), -1))


def kl_from_log_probs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`kl_divergence` of normalised log-probabilities [..., vocab]. Sums over the vocabulary in their dtype."""
    if log_p.shape != log_q.shape:
        raise ShapeError(f"KL needs two tensors of one shape, got {tuple(log_p.shape)} and {tuple(log_q.shape)}.")
    return (log_p - log_q).mul_(log_p.exp()).sum(-1).double()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats of each position, [...] float64, of logits [..., vocab] and targets [...] int64.

    Raises:
        ShapeError: `targets` has not the shape of `logits` without its last dimension.
    """
    return cross_entropy_from_log_probs(torch.log_softmax(logits.float(), -1), targets)


def cross_entropy_from_log_probs(log_probs: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy` of normalised log-probabilities [..., vocab]."""
    if log_probs.shape[:-1] != targets.shape:
        raise ShapeError(
            f"Cross-entropy needs one target a position: {tuple(log_probs.shape[:-1])} positions, "
            f"targets {tuple(targets.shape)}."
        )
    return -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double()


def predicting_positions(mask: Tensor) -> Tensor:
    """Positions whose next-token prediction is counted: mask [b, s] holds there and at the next token; [b, s] bool.

    The last position of a sequence predicts nothing that is known.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ShapeError(f"A mask is [b, s] bool, got {tuple(mask.shape)} {mask.dtype}.")
    keep = torch.zeros_like(mask)
    keep[:, :-1] = mask[:, :-1] & mask[:, 1:]
    return keep


def next_token_cross_entropy(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy [n] float64 at the n `predicting_positions(mask)` of logits [b, s, vocab] and tokens [b, s]."""
    if logits.shape[:2] != tokens.shape or mask.shape != tokens.shape:
        raise ShapeError(
            f"Logits [b, s, vocab], tokens [b, s] and mask [b, s] must fit together, got {tuple(logits.shape)}, "
            f"{tuple(tokens.shape)}, {tuple(mask.shape)}."
        )
    keep = predicting_positions(mask)
    return cross_entropy(logits[keep], tokens.roll(-1, 1)[keep])


def ratio_estimate(numerator: Tensor, denominator: Tensor, what: str = "ratio") -> MetricValue:
    """Σ numerator / Σ denominator over groups, with its standard error over the groups.

    Both are [n_groups]. The standard error is the delta method's (the linearised jackknife):
    sqrt(G/(G-1) Σ (num_g - ratio·den_g)²) / |Σ den|; None with a single group.

    Raises:
        ShapeError: the shapes differ or are not [n_groups].
        DataError: there is no group, or the denominators sum to zero.
        NonFiniteError: a sum is NaN or infinite.
    """
    if numerator.ndim != 1 or numerator.shape != denominator.shape:
        raise ShapeError(
            f"{what}: numerator and denominator must be [n_groups], got {tuple(numerator.shape)} and "
            f"{tuple(denominator.shape)}."
        )
    n = len(numerator)
    if n == 0:
        raise DataError(f"{what}: there is no data to measure it on.")
    num, den = numerator.double(), denominator.double()
    top, bottom = float(num.sum()), float(den.sum())
    if not (math.isfinite(top) and math.isfinite(bottom)):
        raise NonFiniteError(f"{what}: the sums are {top} / {bottom}; activations or logits are not finite.")
    if bottom == 0.0:
        raise DataError(f"{what} is undefined on this data: {top:.6g} / {bottom:.6g}.")
    ratio = top / bottom
    stderr = None
    if n > 1:
        stderr = math.sqrt(n / (n - 1) * float((num - ratio * den).square().sum())) / abs(bottom)
    return MetricValue(value=ratio, n=n, stderr=stderr)


def one_minus(estimate: MetricValue) -> MetricValue:
    """1 - value, with the same standard error and n."""
    return MetricValue(value=1.0 - estimate.value, n=estimate.n, stderr=estimate.stderr)


class GroupedSums:
    """Sums of named columns per group (document), in float64."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._sums: dict[int, Tensor] = {}

    def add(self, group: Tensor, **columns: Tensor) -> None:
        """Add one value a row to each column: `group` [n] int64, each column [n].

        Raises:
            ShapeError: a column is missing, unknown, or not [n].
        """
        if set(columns) != set(self.names) or any(c.shape != group.shape or c.ndim != 1 for c in columns.values()):
            shapes = {name: tuple(column.shape) for name, column in columns.items()}
            raise ShapeError(f"Expected the columns {self.names}, each {tuple(group.shape)}; got {shapes}.")
        stacked = torch.stack([columns[name].double() for name in self.names], dim=1)
        ids, sums, _ = _group_sums(group, stacked)
        for i, row in zip(ids.tolist(), sums.cpu(), strict=True):
            self._sums[i] = self._sums[i] + row if i in self._sums else row

    @property
    def groups(self) -> Tensor:
        """[n_groups] int64: the groups seen, ascending."""
        return torch.tensor(sorted(self._sums), dtype=torch.int64)

    def column(self, name: str) -> Tensor:
        """[n_groups] float64: the sums of one column, in the order of `groups`."""
        at = self.names.index(name)
        return torch.tensor([float(self._sums[i][at]) for i in sorted(self._sums)], dtype=torch.float64)

    def ratio(self, numerator: str, denominator: str, what: str) -> MetricValue:
        """`ratio_estimate` of two columns."""
        return ratio_estimate(self.column(numerator), self.column(denominator), what)


class RunningReconstruction:
    """Reconstruction metrics of a data set that arrives in batches of any size and order.

    Keeps, per document, the sums behind each metric and the per-dimension mean of x with the squared deviations
    from it; partial means are merged by Chan's update, so that a large common offset costs no precision.
    """

    def __init__(self) -> None:
        self._sums = GroupedSums("tokens", "residual", "power", "overlap", "cosine", "ratio", "nonzero")
        self._means: dict[int, tuple[int, Tensor, Tensor]] = {}
        self._d_in = 0

    def update(self, x: Tensor, x_hat: Tensor, document: Tensor) -> None:
        """Add rows x [n, d] with their reconstructions x_hat [n, d] and the document [n] int64 of each.

        Raises:
            ShapeError: the shapes do not fit together or differ from those of earlier rows.
            DataError: there are no rows.
            NonFiniteError: x or x_hat holds NaN or infinity.
        """
        x, x_hat = _pair(x, x_hat)
        if document.shape != x.shape[:1] or (self._d_in and x.shape[1] != self._d_in):
            raise ShapeError(
                f"Expected rows of d_in {self._d_in or x.shape[1]} with one document each; got x {tuple(x.shape)}, "
                f"document {tuple(document.shape)}."
            )
        for what, value in (("activations", x), ("reconstruction", x_hat)):
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(f"NaN or infinite values in the {what}.")
        self._d_in = x.shape[1]
        nonzero = x.norm(dim=1) > 0
        self._sums.add(
            document,
            tokens=torch.ones_like(x[:, 0]),
            residual=(x - x_hat).square().sum(1),
            power=x_hat.square().sum(1),
            overlap=(x * x_hat).sum(1),
            cosine=cosine(x, x_hat),
            ratio=torch.where(nonzero, l2_ratio(x, x_hat), 0.0),
            nonzero=nonzero,
        )
        self._merge_means(x, document)

    def _merge_means(self, x: Tensor, document: Tensor) -> None:
        ids, sums, inverse = _group_sums(document, x)
        counts = torch.bincount(inverse, minlength=len(ids))
        means = sums / counts[:, None]
        deviations = (x - means[inverse]).square().sum(1)
        squares = torch.zeros_like(means[:, 0]).index_add_(0, inverse, deviations)
        for i, n, mean, square in zip(ids.tolist(), counts.tolist(), means.cpu(), squares.cpu(), strict=True):
            if i in self._means:
                n_old, mean_old, square_old = self._means[i]
                shift, total = mean - mean_old, n_old + n
                square = square_old + square + shift.square().sum() * (n_old * n / total)
                mean, n = mean_old + shift * (n / total), total
            self._means[i] = (n, mean, square)

    def _total_variation(self) -> Tensor:
        """[n_documents] float64: sum of |x - mean over the whole data set|² of each document."""
        if not self._means:
            raise DataError("There are no activations to measure the reconstruction of: the held-out data is empty.")
        moments = [self._means[i] for i in sorted(self._means)]
        counts = torch.tensor([m[0] for m in moments], dtype=torch.float64)
        means = torch.stack([m[1] for m in moments])
        squares = torch.stack([m[2] for m in moments])
        overall = (counts[:, None] * means).sum(0) / counts.sum()
        return squares + counts * (means - overall).square().sum(1)

    def fvu(self) -> MetricValue:
        """sum |x - x_hat|² / sum |x - mean|², the mean per dimension over the whole data set."""
        return ratio_estimate(self._sums.column("residual"), self._total_variation(), "fvu")

    def mse(self) -> MetricValue:
        """Mean squared error per element."""
        return ratio_estimate(self._sums.column("residual"), self._sums.column("tokens") * self._d_in, "mse")

    def cosine(self) -> MetricValue:
        """Mean over tokens of the cosine between x and x_hat."""
        return self._sums.ratio("cosine", "nonzero", "cosine")

    def l2_ratio(self) -> MetricValue:
        """Mean over tokens of |x_hat| / |x|."""
        return self._sums.ratio("ratio", "nonzero", "l2_ratio")

    def relative_reconstruction_bias(self) -> MetricValue:
        """sum |x_hat|² / sum x·x_hat; 0 where x_hat is zero everywhere."""
        return _bias(self._sums.column("power"), self._sums.column("overlap"))


class RunningFirings:
    """How often each latent fires: L0, dead latents and the density of live ones. A latent fires where it is not 0."""

    def __init__(self, d_sae: int) -> None:
        self.counts = torch.zeros(d_sae, dtype=torch.int64)
        """[d_sae]: tokens on which each latent fired."""
        self.n_tokens = 0
        self._sums = GroupedSums("tokens", "fired")

    def update(self, codes: Tensor, document: Tensor) -> None:
        """Add the codes [n, d_sae] of n tokens with the document [n] int64 of each.

        Raises:
            ShapeError: the codes have another d_sae, or the documents are not [n].
            NonFiniteError: a code is NaN or infinite.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self.counts) or document.shape != codes.shape[:1]:
            raise ShapeError(
                f"Expected codes [n, {len(self.counts)}] and document [n]; got {tuple(codes.shape)} and "
                f"{tuple(document.shape)}."
            )
        if not bool(torch.isfinite(codes).all()):
            raise NonFiniteError("NaN or infinite values in the codes.")
        fired = _fired(codes)
        self.counts += fired.sum(0).cpu()
        self.n_tokens += len(codes)
        per_token = fired.sum(1)
        self._sums.add(document, tokens=torch.ones_like(per_token), fired=per_token)

    def frequencies(self) -> Tensor:
        """[d_sae] float64: share of the tokens on which each latent fires. Raises DataError without tokens."""
        if not self.n_tokens:
            raise DataError("There are no tokens to count firings on: the held-out data is empty.")
        return self.counts.double() / self.n_tokens

    def l0(self) -> MetricValue:
        """Mean number of latents that fire on a token."""
        return self._sums.ratio("fired", "tokens", "l0")

    def dead_fraction(self) -> MetricValue:
        """Share of the latents that fire on no token."""
        dead = self.frequencies() == 0
        return MetricValue(value=float(dead.double().mean()), n=len(dead))

    def density(self) -> MetricValue:
        """Share of the latents that are dense, with the histogram of log10 frequency of the live ones as detail."""
        frequency = self.frequencies()
        log10 = frequency[frequency > 0].log10().clamp(LOG10_EDGES[0], LOG10_EDGES[-1])
        counts, _ = torch.histogram(log10, bins=torch.tensor(LOG10_EDGES, dtype=torch.float64))
        return MetricValue(
            value=float((frequency > DENSE_FREQUENCY).double().mean()),
            n=len(frequency),
            detail={"log10_edges": LOG10_EDGES, "counts": tuple(counts.tolist())},
        )


def _pair(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or x.shape != x_hat.shape:
        raise ShapeError(
            f"Activations and reconstruction must both be [n, d], got {tuple(x.shape)} and {tuple(x_hat.shape)}."
        )
    if x.numel() == 0:
        raise DataError(f"There are no activations to measure: x is {tuple(x.shape)}.")
    return x.double(), x_hat.double()


def _fired(codes: Tensor) -> Tensor:
    if codes.ndim != 2:
        raise ShapeError(f"Codes must be [n, d_sae], got {tuple(codes.shape)}.")
    return codes != 0


def _bias(power: Tensor, overlap: Tensor) -> MetricValue:
    if len(power) and not bool(power.any()):
        return MetricValue(value=0.0, n=len(power))
    return ratio_estimate(power, overlap, "relative_reconstruction_bias")


def _group_sums(group: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct groups [g], sums of rows [n, k] within each [g, k], and the slot [n] of each row."""
    ids, inverse = group.unique(return_inverse=True)
    sums = torch.zeros(len(ids), rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, inverse, rows)
    return ids, sums, inverse
