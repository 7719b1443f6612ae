"""Losses of public trainers on given weights and batches: run in a peer's own environment, without the harness.

    python peer_losses.py dictionary_learning|sae_lens INPUT.npz OUTPUT.npz

INPUT holds x [n, d_in], W_enc [d_in, d_sae], W_dec [d_sae, d_in], free (W_dec with rows of other norms), b_enc, b_dec,
r_mag, b_mag, dead [d_sae] (0 or 1), k, coefficient, p, groups (sizes), batches [steps, n, d_in]. OUTPUT holds
`case/term` and, for dictionary_learning, `case/grad/parameter` in the layout of INPUT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

Arrays = dict[str, Any]
COMMON = {"layer": 0, "lm_name": "", "device": "cpu", "steps": 100, "warmup_steps": 0}


def dictionary_learning(given: Arrays) -> Arrays:
    """Its five trainers."""
    found: Arrays = {}
    for case in (_dl_batchtopk, _dl_matryoshka, _dl_gated, _dl_april, _dl_p_anneal):
        found.update(case(given))
    return found


def _dl_batchtopk(given: Arrays) -> Arrays:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # pyright: ignore[reportMissingImports]

    trainer = BatchTopKTrainer(activation_dim=given["d_in"], dict_size=given["d_sae"], k=given["k"], **COMMON)
    trainer.threshold_start_step = -1
    trainer.num_tokens_since_fired = given["dead"].long() * trainer.dead_feature_threshold
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "b_dec": "b_dec"}
    _fill(trainer.ae, names, given)
    found = _terms("batchtopk", trainer.loss(given["x"], step=0, logging=True).losses)
    found["batchtopk/threshold"] = float(trainer.ae.threshold)
    trainer.loss(given["x"], step=0).backward()
    return {**found, **_gradients("batchtopk", trainer.ae, names)}


def _dl_matryoshka(given: Arrays) -> Arrays:
    from dictionary_learning.trainers.matryoshka_batch_top_k import (  # pyright: ignore[reportMissingImports]
        MatryoshkaBatchTopKTrainer,
    )

    sizes = [int(size) for size in given["groups"]]
    found: Arrays = {}
    for case, weights in (("matryoshka", [1.0] * len(sizes)), ("matryoshka_default", None)):
        trainer = MatryoshkaBatchTopKTrainer(
            activation_dim=given["d_in"],
            dict_size=given["d_sae"],
            k=given["k"],
            group_fractions=[size / given["d_sae"] for size in sizes],
            group_weights=weights,
            **COMMON,
        )
        trainer.num_tokens_since_fired = given["dead"].long() * trainer.dead_feature_threshold
        names = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        _fill(trainer.ae, names, given)
        found.update(_terms(case, trainer.loss(given["x"], step=0, logging=True).losses))
        trainer.loss(given["x"], step=0).backward()
        found.update(_gradients(case, trainer.ae, names))
    return found


def _dl_gated(given: Arrays) -> Arrays:
    from dictionary_learning.trainers.gdm import GatedSAETrainer  # pyright: ignore[reportMissingImports]

    trainer = GatedSAETrainer(
        activation_dim=given["d_in"],
        dict_size=given["d_sae"],
        l1_penalty=given["coefficient"],
        sparsity_warmup_steps=None,
        **COMMON,
    )
    names = {
        "encoder.weight": "W_enc",
        "gate_bias": "b_enc",
        "decoder.weight": "W_dec",
        "decoder_bias": "b_dec",
        "r_mag": "r_mag",
        "mag_bias": "b_mag",
    }
    _fill(trainer.ae, names, given)
    found = _terms("gated", trainer.loss(given["x"], step=0, logging=True).losses)
    trainer.loss(given["x"], step=0).backward()
    return {**found, **_gradients("gated", trainer.ae, names)}


_AUTOENCODER = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "bias": "b_dec"}


def _dl_april(given: Arrays) -> Arrays:
    from dictionary_learning.trainers.standard import (  # pyright: ignore[reportMissingImports]
        StandardTrainerAprilUpdate,
    )

    trainer = StandardTrainerAprilUpdate(
        activation_dim=given["d_in"],
        dict_size=given["d_sae"],
        l1_penalty=given["coefficient"],
        sparsity_warmup_steps=None,
        **COMMON,
    )
    names = {**_AUTOENCODER, "decoder.weight": "free"}
    _fill(trainer.ae, names, given)
    found = _terms("april", trainer.loss(given["x"], step=0, logging=True).losses)
    trainer.loss(given["x"], step=0).backward()
    return {**found, **_gradients("april", trainer.ae, names)}


def _dl_p_anneal(given: Arrays) -> Arrays:
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer  # pyright: ignore[reportMissingImports]

    names = {**_AUTOENCODER, "decoder.weight": "W_dec"}
    n_steps = len(given["batches"])
    found: Arrays = {}
    for case, function in (("p_anneal", "Lp^p"), ("p_anneal_lp", "Lp")):
        trainer = PAnnealTrainer(
            activation_dim=given["d_in"],
            dict_size=given["d_sae"],
            initial_sparsity_penalty=given["coefficient"],
            sparsity_function=function,
            sparsity_warmup_steps=None,
            anneal_start=n_steps // 3,
            p_end=0.5,
            n_sparsity_updates=3,
            **{**COMMON, "steps": n_steps},
        )
        _fill(trainer.ae, names, given)
        # No step is taken: what changes over the batches is p and the factor alone.
        scaled = [float(trainer.loss(batch, i, logging=True)[3]["scaled_lp_loss"]) for i, batch in given["steps"]]
        found[f"{case}/scaled_lp_by_step"] = np.array(scaled)
        trainer.p, trainer.sparsity_coeff, trainer.next_p = given["p"], given["coefficient"], None
        total = trainer.loss(given["x"], step=n_steps - 1)
        total.backward()
        found[f"{case}/loss"] = float(total)
        found.update(_gradients(case, trainer.ae, names))
    return found


def sae_lens(given: Arrays) -> Arrays:
    """Its training SAEs; its auxiliary term for dead latents is another one, so none is dead."""
    import sae_lens as library  # pyright: ignore[reportMissingImports]

    sizes = {"d_in": given["d_in"], "d_sae": given["d_sae"]}
    plain = {"rescale_acts_by_decoder_norm": False, "k": given["k"]}
    widths = [int(width) for width in np.cumsum(given["groups"])]
    cases = {
        "batchtopk": ("BatchTopK", plain, "W_dec", "b_enc"),
        "matryoshka": ("MatryoshkaBatchTopK", {**plain, "matryoshka_widths": widths}, "W_dec", "b_enc"),
        "gated": ("Gated", {}, "W_dec", "b_gate"),
        "april": ("Standard", {}, "free", "b_enc"),
        "p_anneal_lp": ("Standard", {"lp_norm": given["p"]}, "W_dec", "b_enc"),
    }
    found: Arrays = {}
    for case, (name, options, decoder, bias) in cases.items():
        sae = getattr(library, f"{name}TrainingSAE")(getattr(library, f"{name}TrainingSAEConfig")(**sizes, **options))
        extra = {"r_mag": "r_mag", "b_mag": "b_mag"} if case == "gated" else {}
        _fill(sae, {"W_enc": "W_enc", "W_dec": decoder, bias: "b_enc", "b_dec": "b_dec", **extra}, given)
        step = sys.modules["sae_lens.saes.sae"].TrainStepInput(
            sae_in=given["x"],
            coefficients={"l1": given["coefficient"]},
            dead_neuron_mask=None,
            n_training_steps=0,
            is_logging_step=False,
        )
        output = sae.training_forward_pass(step)
        found.update(_terms(case, {**output.losses, "loss": output.loss}))
    return found


def _fill(module: torch.nn.Module, names: dict[str, str], given: Arrays) -> None:
    for name, parameter in module.named_parameters():
        value = given[names[name]]
        with torch.no_grad():
            parameter.copy_(value if value.shape == parameter.shape else value.T)


def _terms(case: str, losses: dict[str, Any]) -> Arrays:
    return {f"{case}/{name}": float(value) for name, value in losses.items()}


def _gradients(case: str, module: torch.nn.Module, names: dict[str, str]) -> Arrays:
    found: Arrays = {}
    for name, parameter in module.named_parameters():
        ours = "W_dec" if names[name] == "free" else names[name]
        grad = parameter.grad
        assert grad is not None, name
        found[f"{case}/grad/{ours}"] = (grad.T if name.endswith("coder.weight") else grad).numpy()
    return found


def main() -> None:
    """Read, compute, write."""
    library, source, target = sys.argv[1:]
    read = dict(np.load(source))
    given: Arrays = {name: torch.from_numpy(value) for name, value in read.items() if value.ndim}
    given.update({name: value.item() for name, value in read.items() if not value.ndim})
    given.update(d_in=given["W_enc"].shape[0], d_sae=given["W_enc"].shape[1], steps=list(enumerate(given["batches"])))
    torch.set_num_threads(1)
    np.savez(Path(target), **{"dictionary_learning": dictionary_learning, "sae_lens": sae_lens}[library](given))


if __name__ == "__main__":
    main()
