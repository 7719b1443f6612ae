"""The saebench_core evaluator: the numbers of SAEBench's core files, measured as it measures them."""

from __future__ import annotations

from collections.abc import Mapping

from harness import SAE, ConfigError, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.saebench_core import Reference, downstream, misc, reference, token_metrics


class SAEBenchCoreEvaluator(Evaluator):
    """Two runs of the rest of the LM over the held-out data for each SAE: `core` and `behaviour` are cheaper, and free
    of the faults that the formulas name."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            names = ", ".join(sorted(self.options))
            raise ConfigError(f"Evaluator 'saebench_core' takes no options, got {names}: remove them.")

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: no token is counted, or the reconstruction of a batch has no part along its activations.
            NonFiniteError: codes, reconstruction or logits are not finite.
        """
        shared = context.shared("reference", {}, lambda: reference(context)._asdict())
        known = Reference(**{name: tensor.cpu() for name, tensor in shared.items()})
        of_tokens, frequency = token_metrics(sae, context, known)
        n_tokens = sum(batch.tokens.numel() for batch in context.batches())
        found = {
            **of_tokens,
            **downstream(sae, context, known),
            **misc(sae, frequency, of_tokens["l2_norm_in"].value),
            "total_tokens": MetricValue(value=float(n_tokens), n=n_tokens),
        }
        return {f"saebench_core_{field}": value for field, value in found.items()}
