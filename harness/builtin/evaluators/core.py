"""The core evaluator: sparsity, reconstruction, and how often latents fire. It needs no LM."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from harness import SAE, ConfigError, EvalContext, Evaluator, MetricValue, Option
from harness.evaluation.metrics import RunningFirings, RunningReconstruction, RunningVariation, Variation, one_minus


class CoreEvaluator(Evaluator):
    """L0, reconstruction and firing statistics over the counted tokens. The variance to be explained does not depend
    on the SAE and is measured once."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(f"Evaluator 'core' takes no options, got {', '.join(sorted(self.options))}: remove them.")

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: no tokens are counted.
            NonFiniteError: codes or reconstruction are not finite.
        """
        variation = Variation(**context.shared("variation", {}, lambda: _variation(context)))
        reconstruction = RunningReconstruction(variation)
        firings = RunningFirings(sae.config.d_sae)
        for part in context.encoded(sae):
            if len(part.rows):
                firings.update(part.codes, part.document)
                reconstruction.update(part.rows, part.reconstruction(), part.document)
        return {
            "l0": firings.l0(),
            "fvu": reconstruction.fvu(),
            "explained_variance": one_minus(reconstruction.fvu()),
            "mse": reconstruction.mse(),
            "cosine": reconstruction.cosine(),
            "l2_ratio": reconstruction.l2_ratio(),
            "relative_reconstruction_bias": reconstruction.relative_reconstruction_bias(),
            "dead_latent_fraction": firings.dead_fraction(),
            "latent_density": firings.density(),
        }


def _variation(context: EvalContext) -> dict[str, Tensor]:
    running = RunningVariation()
    for batch in context.batches():
        running.update(batch.rows(), batch.document[:, None].expand_as(batch.mask)[batch.mask])
    return running.total()._asdict()
