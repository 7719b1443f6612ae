"""The presets of `temporal`: its penalties, its controls, published settings, and the notebook's runs as they were.

Every run of the notebook is a base `relu` on the mean L2 norm of the error, with a fixed L1 weight of .04, which
means the same at any scale of the inputs. Marked faulty are those that compare a token with one that is unrelated
(the same row of the batch before) or let gradients through alpha. What cannot be had here: its cosine decay of the
learning rate is linear.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness import Option, Preset

_NORM: Mapping[str, Option] = {"base": "relu", "reconstruction": "l2norm", "l1": 0.04}
_NOTEBOOK: Mapping[str, Option] = {
    **_NORM,
    "scale": "absolute",
    "gap": "none",
    "tracker": "ema",
    "partner": "batch_row",
    "stop_grad": "prev",
    "penalty": "abs",
    "warmup_fraction": 0.2,  # 1000 of 4882 steps
    "decay_fraction": 0.0,
    "grad_clip": 0.0,
}
_SPECIFIED: Mapping[str, Option] = {
    **_NORM,
    "scale": "absolute",
    "gap": "none",
    "penalty": "abs",
    "strength": 0.02,
    "start": "zero",
    "lr": 3e-4,
}
_TSAE: Mapping[str, Option] = {
    "base": "matryoshka",
    "groups": "1/5,4/5",
    "group_weights": "1/5,4/5",
    "lr": 3e-4,
    "penalty": "nce",
    "share": 0.2,
    "strength": 0.1,
    "adaptive": "const",
}


def _run(summary: str, **options: Option) -> Preset:
    """A run of the notebook."""
    return Preset(options={**_NOTEBOOK, **options}, faulty=True, summary=f"Notebook run {summary}")


CONTROLS: Mapping[str, Preset] = {
    "shuffled": Preset(
        options={"partner": "shuffled"},
        control=True,
        summary="The same penalty against a random other token: what is not due to time.",
    ),
    "off": Preset(options={"strength": 0.0}, control=True, summary="Strength 0: the base trainer to the bit."),
}

PENALTIES: Mapping[str, Preset] = {
    "rel_default": Preset(summary="The defaults: relative distance, strength .05, adaptive."),
    "abs": Preset(options={"penalty": "abs"}, summary="Absolute distance: can also be lowered by shrinking the codes."),
    "l2": Preset(options={"penalty": "l2"}, summary="L2 norm of the difference."),
    "sq": Preset(options={"penalty": "sq"}, summary="Squared L2 norm of the difference."),
    "xsim": Preset(options={"penalty": "xsim"}, summary="Absolute distance, weighted by the inputs' cosine."),
    "nce": Preset(options={"penalty": "nce"}, summary="Symmetric InfoNCE on cosines, negatives of other documents."),
    "relu": Preset(options={"base": "relu"}, summary="The defaults on ReLU + L1."),
    "batchtopk": Preset(options={"base": "batchtopk"}, summary="The defaults on BatchTopK."),
    "relu_abs": Preset(options={"base": "relu", "penalty": "abs"}, summary="Absolute distance on ReLU + L1."),
}

PUBLISHED: Mapping[str, Preset] = {
    "tsae": Preset(
        options=_TSAE,
        summary="T-SAE: Matryoshka groups .2 and .8, InfoNCE on the first; 10 % of R at the start (the published "
        "weight .1 is in units of unscaled activations).",
    ),
    "tsae_dot": Preset(
        options={**_TSAE, "similarity": "dot"}, summary="T-SAE with dot products for logits, as its code has it."
    ),
    "spec003": Preset(
        options={**_SPECIFIED, "detach": False},
        faulty=True,
        summary="The notebook's specification to the letter: gradients pass through alpha.",
    ),
    "spec003_detached": Preset(
        options=_SPECIFIED,
        faulty=True,
        summary="The notebook's specification with alpha as a number: its sigmoid still takes a loss gap with a unit.",
    ),
}

RUNS: Mapping[str, Preset] = {
    "seed003_run1": _run("1: previous batch, no detaching.", strength=0.02, detach=False, lr=9e-4),
    "seed003_run2": _run("2: strength .005 and lr 1.2e-3.", strength=0.005, detach=False, lr=1.2e-3),
    "seed003_run3": _run("3: strength .01.", strength=0.01, detach=False, lr=1.2e-3),
    "seed003_run4": _run(
        "4: strength .002, alpha averaged and detached.", strength=0.002, alpha_momentum=0.99, lr=1.2e-3
    ),
    "seed003_run5": _run(
        "5: both memories .95, decaying lr.",
        strength=0.002,
        momentum=0.95,
        alpha_momentum=0.95,
        lr=1.2e-3,
        decay_fraction=0.8,
    ),
    "seed003_run6": _run(
        "6: the penalty removed, clipping at 1.", strength=0.0, lr=2e-3, decay_fraction=0.8, grad_clip=1.0
    ),
    "seed003_run7": _run(
        "7: L2 distance, strength by improvement over the first batch.",
        penalty="l2",
        strength=0.001,
        adaptive="relative",
        reference_start=0,
        reference_steps=1,
        lr=2e-3,
        decay_fraction=0.8,
        grad_clip=1.0,
    ),
    "same_lr_control": Preset(
        options={**_NOTEBOOK, "strength": 0.0, "lr": 9e-4},
        control=True,
        summary="Run 1 without its penalty: what its learning rate and loss do alone.",
    ),
}

PRESETS: Mapping[str, Preset] = {**PENALTIES, **CONTROLS, **PUBLISHED, **RUNS}

CONTIGUOUS_PRESETS: Mapping[str, Preset] = {
    **CONTROLS,
    "earlier": Preset(options={"partner": "earlier"}, summary="Against a random earlier token of the sequence."),
    "tsae_earlier": Preset(
        options={**_TSAE, "partner": "earlier"}, summary="T-SAE's other mode: a random earlier token of the context."
    ),
}
