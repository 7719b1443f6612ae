"""The autointerp evaluator: can a judge say in words what makes a latent fire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness import SAE, ConfigError, EvalContext, Evaluator, MetricValue, NotEvaluatedError, Option
from harness.evaluation.autointerp import Judge, Verdict, cases, collect, corpus_of, eligible, judged
from harness.evaluation.judge import Budget, cache_root, endpoint_of, local_of
from harness.evaluation.probing import Sizes

from .options import require_known

_DEFAULTS: dict[str, int | float | str] = {
    "judge": "endpoint",
    "url": "",
    "model": "",
    "key_variable": "",
    "collection": "sae-probes",
    "n_latents": 20,
    "n_texts": 600,
    "max_words": 48,
    "max_judge_tokens": 500_000,
    "max_usd": 0.0,
    "usd_per_million_in": 0.0,
    "usd_per_million_out": 0.0,
}
_TOKENS_PER_WORD = 3
_SIZES = Sizes(train=64, validation=32, test=32)
"""Texts taken from each task of the collection, of each class."""
_BITS = 48


class AutointerpEvaluator(Evaluator):
    """Explanation and detection by a judge, with the null score beside it.

    Options: `judge`, `endpoint` or `local`. An endpoint is `url` and `model`, else what the environment says
    (SAE_HARNESS_JUDGE_URL, SAE_HARNESS_JUDGE_MODEL); its key is in the environment variable `key_variable`, else in
    SAE_HARNESS_JUDGE_KEY. A local judge is `model`: a folder of transformers, `fetched:NAME` or a hub id; or what
    SAE_HARNESS_JUDGE_LOCAL names, where there is no endpoint. `n_latents` of the SAE are judged on `n_texts` of a
    `collection` of labelled texts, each cut after `max_words`. The judge may read and write `max_judge_tokens`, and
    cost `max_usd` at the given prices (0: not bounded in dollars); replies are kept, so that a run that stops there
    goes on later, and costs nothing twice.
    """

    def __init__(self, options: Mapping[str, Option] | None = None, *, judge: Judge | None = None) -> None:
        """`judge`: instead of what options and environment name."""
        super().__init__(options)
        chosen = _checked(self.options)
        self._kind, self._url, self._model, self._key = (
            str(chosen[n]) for n in ("judge", "url", "model", "key_variable")
        )
        self._collection = str(chosen["collection"])
        self._n_latents, self._n_texts, self._max_words = (
            int(chosen[n]) for n in ("n_latents", "n_texts", "max_words")
        )
        self._budget = Budget(
            max_tokens=int(chosen["max_judge_tokens"]),
            max_usd=float(chosen["max_usd"]) or math.inf,
            usd_per_million_in=float(chosen["usd_per_million_in"]),
            usd_per_million_out=float(chosen["usd_per_million_out"]),
        )
        self._judge = judge

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: no judge is configured, the texts are not there, or fewer than two latents can be judged.
            JudgeError: the judge fails, or its budget is spent.
            ConfigError: the judge that is configured cannot be used.
        """
        judge = self._judge or context.judge(lambda folder: self._configured(context, folder))
        samples = context.labelled_samples(self._collection, _SIZES)
        texts = [text for sample in samples for text in sample.texts]
        corpus = corpus_of(texts, self._n_texts, self._max_words, context.generator("texts"))
        activity = collect(context, sae, corpus, _TOKENS_PER_WORD * self._max_words)
        found = eligible(activity, len(corpus.words), sae.config.d_sae)
        order = torch.randperm(len(found.latents), generator=context.generator("latents"))[: self._n_latents]
        latents = found.latents[order].sort().values
        verdict = judged(
            judge, cases(activity, corpus, latents.tolist(), context), context.generator("null explanations")
        )
        counts = tuple(map(float, (found.alive, len(found.latents), found.rare, found.dense)))
        return {
            **_scores(verdict, latents, judge),
            "autointerp_latents": MetricValue(value=float(len(latents)), n=len(latents), detail={"counts": counts}),
        }

    def _configured(self, context: EvalContext, folder: Path | None) -> Judge:
        root = cache_root() if folder is None else folder.parent
        local = self._model if self._kind == "local" else local_of(self._url)
        if local:
            from harness.evaluation.judge_local import LocalJudge

            backend = LocalJudge(local, root, device=context.device)
        elif self._kind == "local":
            raise NotEvaluatedError(
                "not evaluated: judge: local needs the option model, such as fetched:smollm2 or a folder."
            )
        else:
            backend = endpoint_of(self._url, self._model, self._key)
        return Judge(backend, folder or root / "judge", self._budget)


def _checked(given: Mapping[str, Option]) -> dict[str, int | float | str]:
    """The options with their defaults.

    Raises:
        ConfigError: there is no such option, or a value is out of range.
    """
    require_known("autointerp", given, _DEFAULTS)
    chosen = dict(_DEFAULTS)
    for name, value in given.items():
        default = _DEFAULTS[name]
        wanted = (int, float) if isinstance(default, float) else type(default)
        least = 2 if name == "n_latents" else 1 if isinstance(default, int) else 0
        low = isinstance(value, (int, float)) and not value >= least  # NaN is low too
        if isinstance(value, bool) or not isinstance(value, wanted) or low:
            raise ConfigError(f"Evaluator 'autointerp': {name} is {value!r}; give one like {default!r}.")
        chosen[name] = value  # type: ignore[assignment]
    if chosen["judge"] not in ("endpoint", "local"):
        raise ConfigError(f"Evaluator 'autointerp': judge must be endpoint or local, got {chosen['judge']!r}.")
    return chosen


def _scores(verdict: Verdict, latents: Tensor, judge: Judge) -> dict[str, MetricValue]:
    readable = ~verdict.published.isnan()
    if not bool(readable.any()):
        raise NotEvaluatedError(
            f"not evaluated: none of the judge's {len(latents)} replies is a list of numbers or None. Choose a judge "
            "that follows instructions."
        )
    detail = {
        "latent": tuple(latents.double().tolist()),
        "score": tuple(verdict.score.tolist()),
        "null": tuple(verdict.null.tolist()),
        "judge": (float(int(judge.identity_sha256, 16) >> (256 - _BITS)),),
    }
    return {
        "autointerp_score": _mean(verdict.score, detail),
        "autointerp_null_score": _mean(verdict.null),
        "autointerp_gain": _mean(verdict.score - verdict.null),
        "saebench_autointerp_score": _mean(verdict.published[readable]),
        "autointerp_unreadable": _mean(1 - verdict.readable),
        "autointerp_judge_tokens": MetricValue(value=float(verdict.tokens.sum()), n=len(latents)),
    }


def _mean(values: Tensor, detail: Mapping[str, tuple[float, ...]] | None = None) -> MetricValue:
    """The mean over latents with its standard error."""
    n = len(values)
    stderr = float(values.std()) / math.sqrt(n) if n > 1 else None
    return MetricValue(value=float(values.mean()), n=n, stderr=stderr, detail=detail)
