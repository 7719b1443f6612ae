"""The evaluator `temporal_stability`: do the codes of neighbouring tokens agree more than those of strangers?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option, RaggedCodes, SequenceBatch
from harness.evaluation.metrics import GroupedSums, n_active, one_minus, take, token_of_slot

POOL = 4096
"""Tokens from which the partners of the null are drawn: enough that drawing one of them anew moves no mean."""


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
        pool = context.encode(sae, shared["activations"])
        done = 0
        for part in context.encoded(sae):
            _, _, follows = _in_order(part.batch)
            second = follows.nonzero().squeeze(1)
            strangers = shared["partner"][done : done + len(second)]
            done += len(second)
            keep = n_active(part.codes)[second] > 0
            second = second[keep]
            now, before = take(part.codes, second), take(part.codes, second - 1)
            _add_pairs(sums, part.document[second], now, before, take(pool, strangers[keep]))
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


def _add_pairs(
    sums: GroupedSums, document: Tensor, now: RaggedCodes, before: RaggedCodes, stranger: RaggedCodes
) -> None:
    """Add pairs of the codes of n tokens, none of `now` empty, each with its document [n]."""
    distance, n_shared = _compare(now, before)
    active = n_active(now)
    sums.add(
        document,
        pairs=torch.ones_like(document),
        distance=distance,
        shuffled=_compare(now, stranger)[0],
        jaccard=n_shared.double() / (active + n_active(before) - n_shared),
        active=active,
        flipped=active - n_shared,
    )


def _compare(f: RaggedCodes, g: RaggedCodes) -> tuple[Tensor, Tensor]:
    """Of each of n pairs of codes: sum |f - g| / (0.5 (|f|_1 + |g|_1)), [n] float64, and the number of latents active
    in both, [n] int64. No f is empty."""
    width = 1 + max((int(codes.latents.max()) for codes in (f, g) if len(codes.latents)), default=0)
    token_f, token_g = token_of_slot(f), token_of_slot(g)
    cells_f, cells_g = token_f * width + f.latents, token_g * width + g.latents
    # Both ascend. -1 stands behind the last cell, where a search may end.
    place = torch.searchsorted(cells_g, cells_f)
    both = torch.cat([cells_g, cells_g.new_full((1,), -1)])[place] == cells_f
    place_g = place[both]
    values_f, values_g = f.values.double(), g.values.double()
    apart_f, apart_g = values_f.clone(), values_g.clone()
    apart_f[both] -= values_g[place_g]
    apart_g[place_g] = 0.0

    def total(token: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(len(f.offsets) - 1).index_add_(0, token, values.abs())

    apart = total(token_f, apart_f) + total(token_g, apart_g)
    n_shared = torch.bincount(token_f[both], minlength=len(apart))
    return apart / (0.5 * (total(token_f, values_f) + total(token_g, values_g))), n_shared
