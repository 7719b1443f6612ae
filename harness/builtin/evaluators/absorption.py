"""The absorption evaluator: whether first letters are carried by the latents that stand for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import (
    SAE,
    ConfigError,
    EvalContext,
    Evaluator,
    MetricValue,
    NotEvaluatedError,
    Option,
    RaggedCodes,
)
from harness.evaluation.absorption import (
    Letters,
    Measured,
    SplitLatents,
    counted_letters,
    decoded,
    letters_of,
    measure,
    said_words,
    split_latents,
)
from harness.evaluation.absorption_published import (
    Published,
    PublishedProbe,
    published_absorption,
    published_probe,
)
from harness.evaluation.absorption_words import (
    Word,
    alphabet_of,
    draw,
    last_activations,
    prompts_of,
    sha256_of,
    words_of,
)

from .absorption_specs import FLOOR
from .options import require_known

_DEFAULTS: dict[str, int] = {"words_per_letter": 150, "n_examples": 10}


class AbsorptionEvaluator(Evaluator):
    """Absorption on the LM's own single-token words: ours, and SAEBench's definition on the same activations.

    Options: at most `words_per_letter` words of a letter, of which 60 % train probes, 20 % choose and 20 % are
    measured on; `n_examples` solved examples stand before each. Draws and parts follow from the evaluation seed.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        require_known("absorption", self.options, _DEFAULTS)
        self._numbers = dict(_DEFAULTS)
        for name, least in (("words_per_letter", 10), ("n_examples", 0)):
            value = self.options.get(name, _DEFAULTS[name])
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"Evaluator 'absorption': {name} must be a whole number from {least}, got {value!r}.")
            self._numbers[name] = value

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the words are not there, too few of them are one token, or the LM does not know their letters.
            NonFiniteError: codes are not finite.
        """
        words = words_of(context.table("words"))
        alphabet = alphabet_of(words)
        inputs = {"words": sha256_of(words), **self._numbers}
        made = context.shared("letters", inputs, lambda: self._known(words, context))
        known = Letters(*(made[field].cpu() for field in Letters._fields))
        probe = PublishedProbe(made["published_weight"].cpu(), made["published_bias"].cpu())
        counted = counted_letters(known, alphabet)
        codes = RaggedCodes(*(part.cpu() for part in context.encode(sae, known.rows.to(context.device))))
        split = split_latents(codes, sae.config.d_sae, known.labels, known.part)
        said = said_words(known.labels, known.logits, known.part)
        decode = decoded(sae, known.directions)
        ours = measure(codes, known.rows, said, known.directions, decode, split.latents)
        published = published_absorption(codes, sae, known, probe, context.generator("published split latents"))
        names = [alphabet[number] for number in known.letter.tolist()]
        return {**_ours(ours, split, known, names, counted), **_published(published)}

    def _known(self, words: Sequence[Word], context: EvalContext) -> dict[str, Tensor]:
        """All that does not depend on the SAE: words, activations, probes."""
        ids = context.token_ids([word.text for word in words])
        drawn = draw(words, ids, self._numbers["words_per_letter"], context.generator("words"))
        prompts = prompts_of(words, drawn, self._numbers["n_examples"], context.generator("examples"))
        tokens = [ids[place][0] for place in drawn.place.tolist()]
        known = letters_of(last_activations(context, prompts, tokens).cpu(), drawn)
        probe = published_probe(known, context.generator("published probe"))
        return {**known._asdict(), "published_weight": probe.weight, "published_bias": probe.bias}


def _ours(
    measured: Measured, split: SplitLatents, known: Letters, names: Sequence[str], counted: Tensor
) -> dict[str, MetricValue]:
    """Means over the letters that count; a letter that the SAE does not have counts 1."""
    has = (split.n > 0) & (split.validation_f1 >= FLOOR * known.validation_f1)
    rate = torch.where(has, measured.rate, 1.0)[counted]
    n, n_full = measured.n[counted], torch.where(has, measured.n_full, measured.n)[counted]
    columns = torch.stack(
        [
            has.double(),
            measured.rate,
            measured.fraction,
            measured.n,
            split.n.double(),
            split.validation_f1,
            split.test_f1,
            known.validation_f1,
            known.test_f1,
        ],
        dim=1,
    )
    detail = {name: tuple(row) for name, row, on in zip(names, columns.tolist(), counted.tolist(), strict=True) if on}
    pooled = n_full.sum() / n.sum()
    residual = (n_full - pooled * n).square().sum() * len(n) / (len(n) - 1)
    return {
        "absorption_rate": _mean(rate),
        "absorption_fraction": _mean(torch.where(has, measured.fraction, 1.0)[counted]),
        "absorption_rate_pooled": MetricValue(
            value=float(pooled), n=int(n.sum()), stderr=float(residual.sqrt() / n.sum())
        ),
        "first_letter_f1": _mean(split.test_f1[counted]),
        "split_latents": _mean(split.n[counted].double()),
        "absorption_letters": MetricValue(value=float(counted.sum()), n=len(names), detail=detail),
    }


def _published(published: Published) -> dict[str, MetricValue]:
    """Means over SAEBench's letters.

    Raises:
        DataError: there is none.
    """
    counted = published.counted
    if not bool(counted.any()):
        raise NotEvaluatedError(
            "not evaluated: no letter has a probe of SAEBench's with an F1 above 0.6 on test words. Use more words a "
            "letter, or a larger language model."
        )
    return {
        "saebench_absorption_fraction": _mean(published.measured.fraction[counted]),
        "saebench_full_absorption": _mean(published.measured.rate[counted]),
        "saebench_split_latents": _mean(published.n_split[counted].double()),
    }


def _mean(values: Tensor) -> MetricValue:
    """Over letters, with its standard error over them, and each letter's value."""
    n = len(values)
    stderr = float(values.std()) / math.sqrt(n) if n > 1 else None
    return MetricValue(value=float(values.mean()), n=n, stderr=stderr, detail={"letter": tuple(values.tolist())})
