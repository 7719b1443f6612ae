"""The built-in plugin: found through the same entry point, held to the same checks, as any other."""

from __future__ import annotations

from collections.abc import Iterable

from harness import EvaluatorSpec, Preset, SAESpec, TrainerSpec, hookimpl

from .evaluators.specs import EVALUATORS

_GAO = "Gao et al. 2024, arXiv:2406.04093"
_RAJAMANOHARAN = "Rajamanoharan et al. 2024, arXiv:2407.14435"
_BUSSMANN = "Bussmann et al. 2024, arXiv:2412.06410"
_MATRYOSHKA = "Bussmann et al. 2025, arXiv:2503.17547"
_GATED = "Rajamanoharan et al. 2024, arXiv:2404.16014"
_APRIL = "Conerly et al. 2024, Circuits Updates - April 2024"


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
    yield SAESpec(
        name="batchtopk",
        target=f"{home}.batchtopk:BatchTopKSAE",
        summary="Codes pass where they exceed one threshold, the same for all latents.",
        reference=_BUSSMANN,
        sparse=True,
    )
    yield SAESpec(
        name="matryoshka",
        target=f"{home}.matryoshka:MatryoshkaSAE",
        summary="As batchtopk, with latents in groups whose prefixes each reconstruct the input.",
        reference=_MATRYOSHKA,
        sparse=True,
    )
    yield SAESpec(
        name="gated",
        target=f"{home}.gated:GatedSAE",
        summary="A gate decides which codes pass, a second path how large they are.",
        reference=_GATED,
        sparse=True,
    )
    yield SAESpec(
        name="april",
        target=f"{home}.april:AprilSAE",
        summary="Codes are rectified pre-activations; decoder rows have any norm.",
        reference=_APRIL,
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
    yield from _reference_trainers()
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


def _reference_trainers() -> Iterable[TrainerSpec]:
    """Published methods that new ideas are compared with, and the hyperparameters of their publications."""
    home = "harness.builtin.trainers"
    yield TrainerSpec(
        name="batchtopk",
        target=f"{home}.batchtopk:BatchTopKTrainer",
        sae="batchtopk",
        sparsity="k",
        summary="Squared error of the largest latents of a whole batch, with an auxiliary loss for dead ones.",
        reference=_BUSSMANN,
        presets={
            "published": Preset(
                options={"lr": 3e-4, "beta2": 0.99, "aux_k_fraction": 2 / 3},
                summary="The authors' code: lr 3e-4, beta2 .99, 512 dead latents for GPT-2's 768 dimensions.",
            )
        },
    )
    yield TrainerSpec(
        name="matryoshka",
        target=f"{home}.matryoshka:MatryoshkaTrainer",
        sae="matryoshka",
        sparsity="k",
        summary="batchtopk, with the error of nested prefixes of its latents.",
        reference=_MATRYOSHKA,
        presets={
            "published": Preset(
                options={"lr": 3e-4, "bias_only": True},
                summary="The authors' code: lr 3e-4, and the decoder bias alone as one more prefix.",
            ),
            "saebench": Preset(
                options={"lr": 3e-4, "groups": "1/32,1/16,1/8,1/4,17/32"},
                summary="The groups and the lr of SAEBench's baselines.",
            ),
        },
    )
    yield TrainerSpec(
        name="gated",
        target=f"{home}.gated:GatedTrainer",
        sae="gated",
        sparsity="coefficient",
        summary="Squared error, an L1 penalty on the gate alone, and the gate's own squared error.",
        reference=_GATED,
        presets={"published": Preset(options={"lr": 5e-5}, summary="lr 5e-5, as dictionary_learning trains it.")},
    )
    yield TrainerSpec(
        name="april",
        target=f"{home}.april:AprilTrainer",
        sae="april",
        sparsity="coefficient",
        summary="Squared error and an L1 penalty weighted by the decoder rows' norms, which are free.",
        reference=_APRIL,
        presets={"published": Preset(options={"lr": 5e-5}, summary="lr 5e-5, linear decay over the last fifth.")},
    )
    yield TrainerSpec(
        name="p_anneal",
        target=f"{home}.p_anneal:PAnnealTrainer",
        sae="relu",
        sparsity="coefficient",
        summary="Squared error and an L_p penalty whose p falls from 1 during training.",
        reference="Karvonen et al. 2024, arXiv:2408.00113",
        presets={
            "saebench": Preset(
                options={"lr": 3e-4, "anneal_start": 0.04, "anneal_end": 1.0, "n_updates": 9},
                summary="SAEBench's baselines: p falls from step 10,000 of 244,000 to the last.",
            )
        },
    )


@hookimpl
def register_evaluators() -> Iterable[EvaluatorSpec]:
    yield from EVALUATORS
