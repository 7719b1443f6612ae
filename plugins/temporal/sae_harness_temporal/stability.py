"""The evaluator `temporal_stability`: do the codes of neighbouring tokens agree more than those of strangers?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness import (
    SAE,
    ConfigError,
    DataError,
    EvalContext,
    Evaluator,
    MetricValue,
    NonFiniteError,
    Option,
    SequenceBatch,
)
from harness.evaluation.metrics import GroupedSums, one_minus

POOL = 4096
"""Tokens from which the partners of the null are drawn: enough that drawing one of them anew moves no mean."""

_CODE_ELEMENTS = 1 << 22
"""Codes are made in chunks of about this many numbers (16 MiB in float32)."""


class StabilityEvaluator(Evaluator):
    """Lag-1 agreement of codes in document order, and its null with partners from other documents.

    A pair is two neighbouring counted tokens of one sequence whose second has a code that is not empty: real and null
    then rest on the same tokens, and no ratio is 0/0. Codes may be negative (as those of `identity` and `pca`).
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(
                f"Evaluator 'temporal_stability' takes no options, got {', '.join(sorted(self.options))}: remove them."
            )

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec, each with its standard error over documents.

        Raises:
            DataError: there are no neighbouring tokens, only one document, or no latent is ever active.
            NonFiniteError: a code is NaN or infinite.
        """
        shared = context.shared("partners", {"pool": POOL}, lambda: _partners(context))
        sums = GroupedSums("pairs", "distance", "shuffled", "jaccard", "active", "flipped")
        done = 0
        for batch in context.batches():
            rows, document, follows = _in_order(batch)
            n_pairs = int(follows.sum())
            strangers = shared["partner"][done : done + n_pairs]
            done += n_pairs
            _add(sums, sae, rows, document, follows, shared["activations"], strangers)
        if not len(sums.groups):
            raise DataError("temporal_stability: no latent is active on any token that has a neighbour.")
        return {
            "temporal_distance": sums.ratio("distance", "pairs", "temporal_distance"),
            "temporal_distance_shuffled": sums.ratio("shuffled", "pairs", "temporal_distance_shuffled"),
            "temporal_gain": one_minus(sums.ratio("distance", "shuffled", "temporal_gain")),
            "lag1_jaccard": sums.ratio("jaccard", "pairs", "lag1_jaccard"),
            "flip_rate": sums.ratio("flipped", "active", "flip_rate"),
        }


def _in_order(batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Counted tokens in document order: activations [n, d_in], document [n], and whether the row above is the
    token just before [n] bool."""
    follows = torch.zeros_like(batch.mask)
    follows[:, 1:] = batch.mask[:, 1:] & batch.mask[:, :-1]
    document = batch.document[:, None].expand_as(batch.mask)
    return batch.rows(), document[batch.mask], follows[batch.mask]


def _partners(context: EvalContext) -> dict[str, Tensor]:
    """The null's pool of activations [p, d_in], and for each pair of the data its partner's row in it [n_pairs].

    The pool is a sample of first tokens of pairs. A partner is uniform over the pool without the pair's own document.
    Drawn at once, so that it depends neither on the SAE nor on the size of the batches.
    """
    documents = [document[follows] for _, document, follows in map(_in_order, context.batches())]
    document = torch.cat(documents).cpu() if documents else torch.empty(0, dtype=torch.int64)
    generator = context.generator("partners")
    chosen = torch.randperm(len(document), generator=generator)[:POOL]
    chosen = chosen[torch.argsort(document[chosen], stable=True)]
    pool = document[chosen].contiguous()
    first = torch.searchsorted(pool, document)
    own = torch.searchsorted(pool, document, right=True) - first
    others = len(pool) - own
    if len(document) == 0 or bool((others == 0).any()):
        raise DataError(
            f"temporal_stability compares neighbouring tokens with tokens of other documents: {len(document)} "
            f"neighbouring tokens of {len(document.unique())} documents are too few. Give it more held-out text."
        )
    uniform = torch.rand(len(document), generator=generator, dtype=torch.float64)
    drawn = torch.minimum((uniform * others).long(), others - 1)
    # The pool lies in order of documents: stepping over the pair's own block leaves the others.
    partner = torch.where(drawn >= first, drawn + own, drawn)
    return {"activations": _gather(context, chosen), "partner": partner}


def _gather(context: EvalContext, chosen: Tensor) -> Tensor:
    """[p, d_in]: the first tokens of the pairs numbered `chosen` [p]."""
    chosen = chosen.to(context.device)
    found = torch.empty(len(chosen), context.d_in, device=context.device)
    done = 0
    for batch in context.batches():
        rows, _, follows = _in_order(batch)
        before = follows.nonzero().squeeze(1) - 1
        here = ((chosen >= done) & (chosen < done + len(before))).nonzero().squeeze(1)
        found[here] = rows[before[chosen[here] - done]]
        done += len(before)
    return found


def _add(
    sums: GroupedSums, sae: SAE, rows: Tensor, document: Tensor, follows: Tensor, pool: Tensor, strangers: Tensor
) -> None:
    """Add the pairs of one batch; `strangers` [n_pairs] are their partners' rows in `pool`."""
    size = max(1, _CODE_ELEMENTS // sae.config.d_sae)
    done = 0
    for start in range(0, len(rows), size):
        stop = min(start + size, len(rows))
        second = follows[start:stop].nonzero().squeeze(1) + start
        if len(second) == 0:
            continue
        begin = max(0, start - 1)  # the row before the chunk is encoded again
        codes = _encode(sae, rows[begin:stop])
        now, before = codes[second - begin], codes[second - begin - 1]
        stranger = _encode(sae, pool[strangers[done : done + len(second)]])
        done += len(second)
        keep = (now != 0).any(1)
        if bool(keep.any()):
            _add_pairs(sums, document[second[keep]], now[keep], before[keep], stranger[keep])


def _add_pairs(sums: GroupedSums, document: Tensor, now: Tensor, before: Tensor, stranger: Tensor) -> None:
    """Add pairs of codes [n, d_sae], none of `now` empty, each with its document [n]."""
    active, active_before = now != 0, before != 0
    n_active = active.sum(1)
    n_shared = (active & active_before).sum(1)
    sums.add(
        document,
        pairs=torch.ones_like(document),
        distance=_distance(now, before),
        shuffled=_distance(now, stranger),
        jaccard=n_shared.double() / (n_active + active_before.sum(1) - n_shared),
        active=n_active,
        flipped=n_active - n_shared,
    )


def _distance(f: Tensor, g: Tensor) -> Tensor:
    """[n]: sum |f - g| / (0.5 (|f|_1 + |g|_1)) of codes [n, d_sae]; f is not empty."""
    return (f - g).abs().sum(1) / (0.5 * (f.abs().sum(1) + g.abs().sum(1)))


def _encode(sae: SAE, rows: Tensor) -> Tensor:
    """Codes [n, d_sae] float32 of rows [n, d_in]."""
    codes = sae.encode(rows).float()
    if not bool(torch.isfinite(codes).all()):
        raise NonFiniteError("NaN or infinite values in the codes.")
    return codes
