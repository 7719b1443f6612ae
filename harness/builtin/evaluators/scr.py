"""The SCR evaluator: does ablating the latents of one attribute mend a probe that was trained to lean on it?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from harness import SAE, EvalContext, Evaluator, MetricValue, NotEvaluatedError, Option
from harness.evaluation.attribute_tasks import Pairs, PairTexts, Sizes, pairs_of, sha256_of
from harness.evaluation.concept_ablation import (
    PooledCodes,
    Probes,
    accuracy,
    correct,
    decoder_products,
    effects_of,
    fit_probes,
    fit_published_probes,
    logits_after,
    padded_codes,
    published_choice,
    strongest,
)

from .ablating import (
    RELIABLE,
    codes_at_zero,
    mean_metric,
    pooled_activations,
    pooled_codes,
    standard_error,
)
from .options import chosen_options
from .scr_tpp_specs import NS

_DEFAULTS: dict[str, int | str] = {
    "table": "vader-attributes",
    "target": "source",
    "spurious": "sentiment",
    "n_train": 512,
    "n_selection": 256,
    "n_test": 384,
    "max_tokens": 64,
    "max_pairs": 0,
}
_BIASED = 2
"""A pair's probes: of the target (0), of the spurious attribute (1), and the biased one (2). In direction k (0 or 1)
attribute k is measured, and the latents of attribute 1 - k are ablated."""
_LEAST_GAP = 0.001
"""Published: a smaller difference to be mended scores 0."""


class ScrEvaluator(Evaluator):
    """Spurious correlation removal on texts with two attributes.

    Options: `table` of texts with the columns `target` and `spurious` (of two values); `n_train`, `n_selection`,
    `n_test` texts of a probe, a fourth of each combination of the attributes; a text is its last `max_tokens` tokens;
    `max_pairs` bounds the number of pairs of target values (0: all). Draws follow from the evaluation seed.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        chosen = chosen_options("scr", _DEFAULTS, self.options)
        self._table, self._target, self._spurious = (str(chosen[name]) for name in ("table", "target", "spurious"))
        train, selection, test, self._max_tokens, self._max_pairs = (
            int(chosen[name]) for name in ("n_train", "n_selection", "n_test", "max_tokens", "max_pairs")
        )
        self._sizes = Sizes(train=train // 4, validation=selection // 4, test=test // 4)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the table is not there or too small, the LM's activations carry no pair, or the SAE's decode
                is not linear.
            NonFiniteError: codes are not finite.
        """
        pairs = pairs_of(
            context.table(self._table),
            target=self._target,
            spurious=self._spurious,
            sizes=self._sizes,
            seed=context.seed,
            most=self._max_pairs,
        )
        key = {"texts": _sha256(pairs), "max_tokens": self._max_tokens}
        raw = context.shared("probes", key, lambda: self._raw(context, pairs))
        raw = {name: series.cpu() for name, series in raw.items()}
        plan = _plan(raw, pairs)
        pooled = pooled_codes(sae, context, pairs.texts, self._max_tokens)
        after = _after(pooled, pairs, raw["test"], decoder_products(sae, _flat(raw["weights"])))
        padding = (codes_at_zero(sae, context), raw["n_tokens"], self._max_tokens)
        products = decoder_products(sae, _flat(raw["published_weights"]))
        published = _after(pooled, pairs, raw["published_test"], products, padding)
        return {**_metrics(after, plan, pairs), **_published_metrics(published, raw["published_test"], pairs)}

    def _raw(self, context: EvalContext, pairs: Pairs) -> dict[str, Tensor]:
        """Probes [pairs, 3, d] and what they say of balanced texts [pairs, 3, n]. Nothing depends on the SAE."""
        activations, n_tokens = pooled_activations(context, pairs.texts, self._max_tokens)
        n = len(pairs.pairs)

        def stacked(parts: list[PairTexts]) -> tuple[Tensor, Tensor]:
            own = [texts for part in parts for texts in part.probes()]
            return activations[torch.stack([texts.texts for texts in own])], torch.stack([t.labels for t in own])

        training, selection, test = (
            stacked([getattr(pair, part) for pair in pairs.pairs]) for part in ("training", "selection", "test")
        )
        rows, labels = (torch.cat(two, dim=1) for two in zip(training, selection, strict=True))
        ours = fit_probes(*training, *selection)
        published = fit_published_probes(rows, labels, *test, context.generator("published probes"))

        def said(probes: Probes, part: str) -> Tensor:
            texts = torch.stack([getattr(pair, part).balanced for pair in pairs.pairs])
            return probes.logits(activations[texts.repeat_interleave(3, dim=0)]).view(n, 3, -1)

        return {
            "weights": ours.weights.view(n, 3, -1),
            "selection": said(ours, "selection"),
            "test": said(ours, "test"),
            "published_weights": published.weights.view(n, 3, -1),
            "published_test": said(published, "test"),
            "n_tokens": n_tokens,
        }


def _sha256(pairs: Pairs) -> str:
    parts = [part for pair in pairs.pairs for part in (pair.training, pair.selection, pair.test)]
    return sha256_of(pairs.texts, (own for part in parts for own in (part.balanced, *part.biased)))


def _flat(weights: Tensor) -> Tensor:
    return weights.reshape(-1, weights.shape[-1])


def _labels(pairs: Pairs, part: str) -> Tensor:
    """[pairs, 2, n]: both attributes of the balanced texts."""
    parts = [getattr(pair, part) for pair in pairs.pairs]
    return torch.stack([torch.stack([own.target, own.spurious]) for own in parts])


class _Plan(NamedTuple):
    """What follows from the LM alone."""

    direction: Tensor
    """[pairs] int64: 0 or 1."""
    counted: Tensor
    """[pairs] bool."""
    chosen: Tensor
    """[pairs, 2]: on selection texts, accuracy of the clean probe - of the biased one, and its standard error."""
    clean: Tensor
    """[pairs, 2, n]: on test texts and by what is measured, is the clean probe right (1 or 0)?"""
    before: Tensor
    """[pairs, 2, n]: is the biased probe right?"""


def _plan(raw: Mapping[str, Tensor], pairs: Pairs) -> _Plan:
    """Which pairs count, in which direction, judged on selection texts.

    Raises:
        DataError: fewer than two count, or not the only one there is.
    """
    labels = _labels(pairs, "selection")
    clean, biased = (correct(logits, labels) for logits in (raw["selection"][:, :2], raw["selection"][:, _BIASED:]))
    direction = (biased[:, 1].mean(1) < biased[:, 0].mean(1)).long()
    each = torch.arange(len(direction))
    gaps = (clean - biased)[each, direction]
    chosen = torch.stack([gaps.mean(1), gaps.std(1) / math.sqrt(gaps.shape[1])], dim=1)
    counted = chosen[:, 0] > RELIABLE * chosen[:, 1]
    on_test = _labels(pairs, "test")
    clean, before = (correct(logits, on_test) for logits in (raw["test"][:, :2], raw["test"][:, _BIASED:]))
    gap = (clean - before).mean(2)[each, direction][counted].sum()
    # Of several pairs one may pass by chance.
    if int(counted.sum()) < min(2, len(direction)) or float(gap) <= 0:
        best = int(chosen[:, 0].argmax())
        raise NotEvaluatedError(
            f"Not evaluated: in {int(counted.sum())} of {len(direction)} pairs a probe trained on biased texts is less "
            f"accurate than one trained on balanced texts by more than {RELIABLE:g} standard errors, on selection "
            f"texts; {min(2, len(direction))} must be. The largest such difference is {float(chosen[best, 0]):.3f} ± "
            f"{float(chosen[best, 1]):.3f} ({pairs.pairs[best].name}). The clean probes' mean test accuracy is "
            f"{float(clean[:, 0].mean()):.3f} (target) and {float(clean[:, 1].mean()):.3f} (spurious attribute). Use a "
            "larger LM or more texts."
        )
    return _Plan(direction, counted, chosen, clean, before)


def _after(
    pooled: PooledCodes,
    pairs: Pairs,
    logits: Tensor,
    products: Tensor,
    padding: tuple[Tensor, Tensor, int] | None = None,
) -> Tensor:
    """[pairs, 2, N, n]: is the biased probe right on test texts (1 or 0) after the ablation of each direction?

    `logits` [pairs, 3, n] before it, `products` [d_sae, pairs · 3]; `padding` (codes at zero, tokens of each text,
    length) makes it the published one.
    """
    found = []
    for number, pair in enumerate(pairs.pairs):
        known = torch.cat([pair.training.balanced, pair.selection.balanced])
        codes, tested = pooled.features(known), pooled.features(pair.test.balanced)
        labels = (
            torch.cat([pair.training.target, pair.selection.target]),
            torch.cat([pair.training.spurious, pair.selection.spurious]),
        )
        for measured, own in enumerate((pair.test.target, pair.test.spurious)):
            ablated = 1 - measured
            effects = effects_of(codes, labels[ablated], products[:, 3 * number + ablated], positive_only=False)
            order = strongest(effects, NS[-1]) if padding is None else published_choice(effects, NS[-1])
            here = tested[:, order]
            if padding is not None:
                at_zero, n_tokens, length = padding
                here = padded_codes(here, at_zero[order], n_tokens[pair.test.balanced], length)
            by = products[order, 3 * number + _BIASED]
            found.append(correct(logits_after(logits[number, _BIASED], here, by, NS), own))
    return torch.stack(found).unflatten(0, (len(pairs.pairs), 2))


def _metrics(after: Tensor, plan: _Plan, pairs: Pairs) -> dict[str, MetricValue]:
    each = torch.arange(len(plan.direction))
    columns = torch.cat(
        [
            plan.counted.double()[:, None],
            1.0 + plan.direction.double()[:, None],
            plan.chosen,
            plan.clean.mean(2),
            plan.before.mean(2),
        ],
        dim=1,
    )
    detail = {pair.name: tuple(row) for pair, row in zip(pairs.pairs, columns.tolist(), strict=True)}
    metrics = {"scr_pairs": MetricValue(value=float(plan.counted.sum()), n=len(each), detail=detail)}
    gaps = (plan.clean - plan.before)[each, plan.direction][plan.counted]
    gains = (after - plan.before[:, :, None])[plan.counted]
    chosen = gains[torch.arange(len(gains)), plan.direction[plan.counted]]
    for index, n in enumerate(NS):
        metrics[f"scr_n{n}"] = _ratio(chosen[:, index], gaps)
        for way in (0, 1):
            metrics[f"scr_dir{way + 1}_gain_n{n}"] = _gain(gains[:, way, index])
    return metrics


def _ratio(gains: Tensor, gaps: Tensor) -> MetricValue:
    """Sum of gains over sum of gaps, of values of texts [pairs, n]. The standard error is that over pairs, or over
    texts where there is one pair, by the delta method."""
    gain, gap = gains.mean(1), gaps.mean(1)
    ratio = float(gain.sum() / gap.sum())
    residual = gain - ratio * gap if len(gain) > 1 else (gains - ratio * gaps)[0]
    scale = float(gap.mean())
    return MetricValue(
        value=ratio,
        n=len(gain),
        stderr=standard_error(residual) / abs(scale),
        detail={"gain": tuple(gain.tolist()), "gap": tuple(gap.tolist())},
    )


def _gain(gains: Tensor) -> MetricValue:
    """The mean over pairs of the gains of texts [pairs, n]; its standard error over pairs, or over texts of one."""
    own = gains.mean(1)
    error = standard_error(own if len(own) > 1 else gains[0])
    return MetricValue(value=float(own.mean()), n=len(own), stderr=error, detail={"each": tuple(own.tolist())})


def _published_metrics(after: Tensor, logits: Tensor, pairs: Pairs) -> dict[str, MetricValue]:
    labels = _labels(pairs, "test")
    clean, before = accuracy(logits[:, :2], labels), accuracy(logits[:, _BIASED:], labels)
    gap = (clean - before)[:, :, None]
    score = torch.where(gap < _LEAST_GAP, 0.0, (after.mean(-1) - before[:, :, None]) / gap.clamp(min=_LEAST_GAP))
    direction = (before[:, 1] < before[:, 0]).long()
    chosen = score[torch.arange(len(score)), direction]
    metrics = {}
    for index, n in enumerate(NS):
        metrics[f"saebench_scr_n{n}"] = mean_metric(chosen[:, index])
        for way in (0, 1):
            metrics[f"saebench_scr_dir{way + 1}_n{n}"] = mean_metric(score[:, way, index])
    return metrics
