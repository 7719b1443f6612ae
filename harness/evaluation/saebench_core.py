"""SAEBench's core numbers by its own definitions, faults included (sae-bench 0.6.0, `evals/core/main.py`).

A batch is 16 held-out sequences in their order, whatever the batches of the context are: some of the definitions are
means of batches. What counts as a special token is the suite's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import NotEvaluatedError
from ..interfaces.codes import token_of_slot
from ..interfaces.evaluator import EncodedBatch, EvalContext
from ..interfaces.sae import SAE
from ..interfaces.specs import MetricValue
from .estimates import GroupedSums
from .geometry import encoder_directions, neighbours
from .predictions import cross_entropy_from_log_probs, kl_from_log_probs

__all__ = ["Reference", "downstream", "misc", "reference", "token_metrics"]

BATCH = 16
"""Sequences of a batch: SAEBench's `batch_size_prompts`."""
_TOKENS = ("tokens", "norm_in", "norm_out", "l1", "legacy", "mse")
_PREDICTED = ("ce_n", "ce", "ce_zero", "kl_n", "kl_zero")
_LOGIT_ELEMENTS = 1 << 25
"""Largest logits tensor, in numbers (128 MiB in float32)."""


class Reference(NamedTuple):
    """What does not depend on the SAE."""

    counts: Tensor
    """[batches] float64: counted tokens."""
    mean: Tensor
    """[batches, d_in] float64: mean of their activations."""
    squares: Tensor
    """[batches] float64: mean of |x|²."""
    document: Tensor
    """[documents] int64."""
    losses: Tensor
    """[documents, 5] float64: predictions at counted tokens but the last of a sequence, their sums of clean CE and of
    CE with all activations 0; positions of counted tokens, and their sum of KL(clean || all activations 0)."""

    @property
    def n_batches(self) -> int:
        """Batches with a counted token."""
        return int((self.counts > 0).sum())


def reference(context: EvalContext) -> Reference:
    """Batches' moments, and the LM's losses without an SAE.

    Raises:
        DataError: no token is counted.
    """
    moments: dict[int, list[Tensor]] = {}
    losses = GroupedSums(*_PREDICTED)
    start = 0
    for batch in context.batches():
        rows = batch.rows().double()
        group = _batch_of(batch.mask, start)
        for number in group.unique().tolist():
            own = rows[group == number]
            sums = [torch.tensor(float(len(own)), dtype=torch.float64), own.sum(0).cpu(), own.square().sum().cpu()]
            moments[number] = [a + b for a, b in zip(moments[number], sums, strict=True)] if number in moments else sums
        start += len(batch.tokens)
        found = _compared(context, batch.tokens, batch.activations, torch.zeros_like(batch.activations))
        losses.add(_of_positions(batch.document, batch.mask), **_counted(found, batch.mask, "zero"))
    if not moments:
        raise NotEvaluatedError("not evaluated: no held-out token is counted.")
    order = [moments.get(number) for number in range(-(-start // BATCH))]
    width = len(next(iter(moments.values()))[1])
    none = [torch.zeros((), dtype=torch.float64), torch.zeros(width, dtype=torch.float64), torch.zeros(()).double()]
    counts, sums, squares = (torch.stack(list(column)) for column in zip(*(own or none for own in order), strict=True))
    n = counts.clamp(min=1)
    document = losses.groups
    return Reference(
        counts, sums / n[:, None], squares / n, document, torch.stack([losses.column(c) for c in _PREDICTED], dim=1)
    )


def token_metrics(sae: SAE, context: EvalContext, known: Reference) -> tuple[dict[str, MetricValue], Tensor]:
    """Reconstruction, shrinkage and sparsity by field; and the share of counted tokens on which each latent is above 0,
    [d_sae] float64.

    Raises:
        NonFiniteError: codes or reconstruction are not finite.
    """
    tokens = GroupedSums(*_TOKENS)
    by_batch = torch.zeros(3, len(known.counts), dtype=torch.float64)
    above = torch.zeros(sae.config.d_sae, dtype=torch.float64)
    start = 0
    for part in context.encoded(sae):
        group = _batch_of(part.batch.mask, start).cpu()
        start += len(part.batch.tokens)
        if not len(part.rows):
            continue
        x, made = part.rows.double().cpu(), part.reconstruction().double().cpu()
        residual, power, overlap = (x - made).square().sum(1), made.square().sum(1), (x * made).sum(1)
        by_batch.index_add_(1, group, torch.stack([residual, power, overlap]))
        norm_in, norm_out = x.norm(dim=1), made.norm(dim=1)
        owners, values = token_of_slot(part.codes), part.codes.values
        above += torch.bincount(part.codes.latents[values > 0], minlength=len(above)).cpu()
        tokens.add(
            part.document.cpu(),
            tokens=torch.ones_like(norm_in),
            norm_in=norm_in,
            norm_out=norm_out,
            l1=torch.zeros_like(norm_in).index_add_(0, owners.cpu(), values.double().cpu()),
            legacy=1 - residual / (x - known.mean[group]).square().sum(1),
            mse=residual / known.counts[group],
        )
    means = {field: tokens.ratio(column, "tokens", field) for field, column in _TOKEN_FIELDS.items()}
    return {**means, **_batch_metrics(by_batch, known)}, above / known.counts.sum()


_TOKEN_FIELDS = {
    "l2_norm_in": "norm_in",
    "l2_norm_out": "norm_out",
    "l1": "l1",
    "explained_variance_legacy": "legacy",
    "mse": "mse",
}


def _batch_metrics(sums: Tensor, known: Reference) -> dict[str, MetricValue]:
    """The means of batches: `sums` [3, batches] of |x - x_hat|², |x_hat|² and x·x_hat."""
    there = known.counts > 0
    residual, power, overlap = (row[there] for row in sums)
    counts = known.counts[there]
    if not bool(overlap.all()):
        raise NotEvaluatedError("not evaluated: the reconstruction of a batch is 0 or orthogonal to its activations.")
    bias = power / overlap
    mean_square = (known.squares[there] / known.mean.shape[1]).mean()
    # SAEBench squares the mean of x², over dimensions too, where the square of each dimension's mean is meant.
    total = known.squares[there].mean() - mean_square**2
    n = len(bias)
    return {
        "relative_reconstruction_bias": MetricValue(
            value=float(bias.mean()), n=n, stderr=float(bias.std()) / n**0.5 if n > 1 else None
        ),
        "explained_variance": MetricValue(value=float(1 - (residual / counts).mean() / total), n=n),
    }


def downstream(sae: SAE, context: EvalContext, known: Reference) -> dict[str, MetricValue]:
    """CE and KL by field, with every activation replaced, those of special tokens too.

    Raises:
        NotEvaluatedError: activations of 0 do not hurt the LM.
        NonFiniteError: codes, reconstruction or logits are not finite.
    """
    sums = GroupedSums("ce_n", "ce", "ce_sae", "kl_n", "kl_sae")
    for part in context.encoded(sae):
        batch = part.batch
        found = _compared(context, batch.tokens, batch.activations, _all_replaced(sae, context, part))
        sums.add(_of_positions(batch.document, batch.mask), **_counted(found, batch.mask, "sae"))
    found = GroupedSums("ce_sae", "kl_sae", *_PREDICTED, "gain", "loss", "kl_gain")
    ce_n, ce, ce_zero, kl_n, kl_zero = known.losses.T
    ce_sae, kl_sae = sums.column("ce_sae"), sums.column("kl_sae")
    if float((ce_zero - ce).sum()) <= 0 or float(kl_zero.sum()) <= 0:
        bare, zeroed = (float(column.sum() / ce_n.sum()) for column in (ce, ce_zero))
        raise NotEvaluatedError(
            f"not evaluated: with activations of 0 the LM's CE is {zeroed:.4g} nats a token, and {bare:.4g} without: "
            "nothing can be recovered."
        )
    found.add(
        known.document,
        ce_sae=ce_sae,
        kl_sae=kl_sae,
        gain=ce_zero - ce_sae,
        loss=ce_zero - ce,
        kl_gain=kl_zero - kl_sae,
        ce_n=ce_n,
        ce=ce,
        ce_zero=ce_zero,
        kl_n=kl_n,
        kl_zero=kl_zero,
    )
    ratios = {
        "ce_loss_score": ("gain", "loss"),
        "ce_loss_with_ablation": ("ce_zero", "ce_n"),
        "ce_loss_with_sae": ("ce_sae", "ce_n"),
        "ce_loss_without_sae": ("ce", "ce_n"),
        "kl_div_score": ("kl_gain", "kl_zero"),
        "kl_div_with_ablation": ("kl_zero", "kl_n"),
        "kl_div_with_sae": ("kl_sae", "kl_n"),
    }
    return {field: found.ratio(top, bottom, field) for field, (top, bottom) in ratios.items()}


def misc(sae: SAE, frequency: Tensor, typical_norm: float) -> dict[str, MetricValue]:
    """How often latents are above 0, from `frequency` [d_sae], and how near each is to its nearest neighbour."""
    n, total = len(frequency), frequency.sum()
    found = {"frac_alive": float((frequency > 0).double().mean())}
    for percent in (1, 10):
        often = frequency > percent / 100
        found[f"freq_over_{percent}_percent"] = float(often.double().mean())
        share = float(frequency[often].sum() / total) if total > 0 else 0.0
        found[f"normalized_freq_over_{percent}_percent"] = share
    decoder = sae.decoder_directions().detach().float()
    for part, rows in (("encoder", _encoder(sae, decoder, typical_norm)), ("decoder", decoder)):
        found[f"average_max_{part}_cosine_sim"] = float(neighbours(rows).nearest.double().mean())
    return {field: MetricValue(value=value, n=n) for field, value in found.items()}


def _encoder(sae: SAE, decoder: Tensor, typical_norm: float) -> Tensor:
    """[d_sae, d_in]: what each latent reads: W_enc, or the gradient of its code at its own direction."""
    weights = getattr(sae, "W_enc", None)
    if isinstance(weights, Tensor) and weights.shape == (sae.config.d_in, sae.config.d_sae):
        return weights.detach().T.float()
    rows = typical_norm * torch.nn.functional.normalize(decoder, dim=1)
    return encoder_directions(sae, rows, torch.arange(len(rows), device=rows.device))


def _batch_of(mask: Tensor, start: int) -> Tensor:
    """[n] int64: the batch of each counted token; `start`: the number of the first sequence of the mask [b, s]."""
    sequence = torch.arange(start, start + len(mask), device=mask.device) // BATCH
    return sequence[:, None].expand_as(mask)[mask]


def _all_replaced(sae: SAE, context: EvalContext, part: EncodedBatch) -> Tensor:
    """[b, s, d_in]: the reconstruction of every token."""
    special = ~part.batch.mask
    replaced = part.replaced(part.reconstruction())
    if bool(special.any()):
        others = part.decode(context.encode(sae, part.batch.activations[special]))
        replaced = replaced.masked_scatter(special[..., None], others)
    return replaced


class _Compared(NamedTuple):
    """Of each position [b, s] float64; the last predicts nothing and has 0 in the first two."""

    clean: Tensor
    """Cross-entropy of the next token with the LM's own activations."""
    replaced: Tensor
    """The same with others."""
    kl: Tensor
    """KL(clean || replaced)."""


def _compared(context: EvalContext, tokens: Tensor, activations: Tensor, replaced: Tensor) -> _Compared:
    lm = context.language_model
    size = max(1, _LOGIT_ELEMENTS // (tokens.shape[1] * lm.vocab_size))
    parts = []
    for own, before, after in zip(tokens.split(size), activations.split(size), replaced.split(size), strict=True):
        clean, ours = (
            torch.log_softmax(
                lm.run_with_replacement(own, context.hookpoint, lambda given: given, activations=given_now).float(), -1
            )
            for given_now in (before, after)
        )
        losses = [
            torch.nn.functional.pad(cross_entropy_from_log_probs(log_probs[:, :-1], own[:, 1:]), (0, 1))
            for log_probs in (clean, ours)
        ]
        parts.append((*losses, kl_from_log_probs(clean, ours)))
    return _Compared(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _counted(found: _Compared, mask: Tensor, name: str) -> dict[str, Tensor]:
    """Columns [b · s]: SAEBench counts a prediction by the token it is made at, whatever the token it is of."""
    predicting = mask.clone()
    predicting[:, -1] = False
    zero = torch.zeros_like(found.kl)
    return {
        "ce_n": predicting.flatten(),
        "ce": torch.where(predicting, found.clean, zero).flatten(),
        f"ce_{name}": torch.where(predicting, found.replaced, zero).flatten(),
        "kl_n": mask.flatten(),
        f"kl_{name}": torch.where(mask, found.kl, zero).flatten(),
    }


def _of_positions(document: Tensor, mask: Tensor) -> Tensor:
    """[b · s]: the document of each position."""
    return document[:, None].expand_as(mask).flatten()
