"""The built-in plugin: found through the same entry point, held to the same checks, as any other."""

from __future__ import annotations

from collections.abc import Iterable

from harness import EvaluatorSpec, SAESpec, TrainerSpec, hookimpl

from .evaluators.specs import EVALUATORS

_GAO = "Gao et al. 2024, arXiv:2406.04093"
_RAJAMANOHARAN = "Rajamanoharan et al. 2024, arXiv:2407.14435"


@hookimpl
def register_saes() -> Iterable[SAESpec]:
    home = "harness.builtin.saes"
    yield SAESpec(
        name="relu",
        target=f"{home}.relu:ReluSAE",
        summary="Codes are rectified pre-activations.",
        sparse=True,
    )
    yield SAESpec(
        name="topk",
        target=f"{home}.topk:TopKSAE",
        summary="Codes keep the k largest pre-activations of each token.",
        reference=_GAO,
        sparse=True,
    )
    yield SAESpec(
        name="jumprelu",
        target=f"{home}.jumprelu:JumpReLUSAE",
        summary="Codes pass where they exceed a learned threshold.",
        reference=_RAJAMANOHARAN,
        sparse=True,
    )
    yield SAESpec(name="identity", target="harness.builtin.controls.identity:IdentitySAE", summary="Returns its input.")
    yield SAESpec(name="pca", target="harness.builtin.controls.pca:PcaSAE", summary="Principal components.")
    yield SAESpec(
        name="oracle",
        target="harness.builtin.controls.oracle:OracleSAE",
        summary="A world's true features; true codes of held-out rows by lookup.",
    )


@hookimpl
def register_trainers() -> Iterable[TrainerSpec]:
    home = "harness.builtin.trainers"
    controls = "harness.builtin.controls"
    yield TrainerSpec(
        name="topk",
        target=f"{home}.topk:TopKTrainer",
        sae="topk",
        sparsity="k",
        summary="Squared error of the k largest latents, with an auxiliary loss for dead ones.",
        reference=_GAO,
    )
    yield TrainerSpec(
        name="relu",
        target=f"{home}.relu:ReluTrainer",
        sae="relu",
        sparsity="coefficient",
        summary="Squared error and an L1 penalty, unit-norm decoder.",
        reference="Bricken et al. 2023, Towards Monosemanticity",
    )
    yield TrainerSpec(
        name="jumprelu",
        target=f"{home}.jumprelu:JumpReLUTrainer",
        sae="jumprelu",
        sparsity="target",
        summary="Squared error and an L0 target on learned thresholds, by straight-through gradients.",
        reference=_RAJAMANOHARAN,
    )
    yield TrainerSpec(
        name="identity",
        target=f"{controls}.identity:IdentityTrainer",
        sae="identity",
        sparsity="none",
        trained=False,
        control=True,
        summary="Ceiling: the reconstruction is the input.",
    )
    yield TrainerSpec(
        name="random",
        target=f"{controls}.random:RandomTrainer",
        sae="topk",
        sparsity="k",
        trained=False,
        control=True,
        summary="Floor: random directions at the same L0.",
    )
    yield TrainerSpec(
        name="pca",
        target=f"{controls}.pca:PcaTrainer",
        sae="pca",
        sparsity="k",
        trained=False,
        control=True,
        summary="Linear reference: the largest principal components at the same L0.",
    )
    yield TrainerSpec(
        name="oracle",
        target=f"{controls}.oracle:OracleTrainer",
        sae="oracle",
        needs=frozenset({"world"}),
        sparsity="none",
        trained=False,
        control=True,
        summary="Ceiling on worlds: the true features with their true codes, which no method is told.",
    )
    yield TrainerSpec(
        name="permuted_decoder",
        target=f"{controls}.permuted:PermutedDecoderTrainer",
        sae="oracle",
        needs=frozenset({"world"}),
        sparsity="none",
        trained=False,
        control=True,
        summary="Floor on worlds: true codes, each written along another feature's direction.",
    )


@hookimpl
def register_evaluators() -> Iterable[EvaluatorSpec]:
    yield from EVALUATORS
