"""RAVEL under SAEBench's definition, beside our own in `ravel`."""

from __future__ import annotations

from collections.abc import Mapping

from harness import SAE, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.interchange import by_attribute, estimate
from harness.evaluation.interchange_published import PublishedRavel, draw_wanted
from harness.evaluation.ravel import known_quiz

from .ravel import read_options

_DEFAULTS: dict[str, int | str] = {"table": "cities", "n_entities": 240, "n_pairs": 128}


class SAEBenchRavelEvaluator(Evaluator):
    """Cause, isolation and their mean with a mask trained by gradients through the LM.

    Options: `table` and `n_entities` as in `ravel`; `n_pairs` an attribute, for cause and for isolation each.
    """

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        self._table, self._n_entities, self._n_pairs = read_options("saebench_ravel", self.options, _DEFAULTS)

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: the table is not there, the LM knows too little of it, or gives no gradients.
            NonFiniteError: codes or logits are not finite.
        """
        quiz, accepted, asked, knowledge = known_quiz(context, self._table, self._n_entities)
        published = PublishedRavel(context, quiz, asked, sae)
        attributes = tuple(knowledge.enough.nonzero().squeeze(1).tolist())
        cause, isolation = [], []
        for attribute in attributes:
            generator = context.generator(f"published pairs: {attribute}")
            wanted = draw_wanted(quiz, asked, knowledge.used, attribute, attributes, self._n_pairs, generator)
            for kind, hits in zip((cause, isolation), published.hits(wanted, accepted, asked), strict=True):
                kind.append(hits)
        found = {
            "cause": estimate(cause),
            "isolation": estimate(isolation),
            "disentanglement": estimate([*cause, *isolation]),
        }
        names = [quiz.attributes[attribute] for attribute in attributes]
        each = {name: own.parts for name, own in found.items()}
        each["disentanglement"] = tuple((a + b) / 2 for a, b in zip(each["cause"], each["isolation"], strict=True))
        return {
            f"saebench_ravel_{name}": MetricValue(
                value=own.value, stderr=own.stderr, n=own.n_entities, detail=by_attribute(names, each[name])
            )
            for name, own in found.items()
        }
