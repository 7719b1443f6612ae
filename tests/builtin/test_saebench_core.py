"""SAEBench's core numbers: what its definitions give on known cases, and beside the installed package."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.builtin.evaluators.core import CoreEvaluator
from harness.builtin.evaluators.saebench_core import SAEBenchCoreEvaluator
from harness.builtin.evaluators.saebench_core_specs import FIELDS, SAEBENCH_CORE
from harness.builtin.saes.topk import TopKSAE
from harness.errors import ConfigError
from harness.evaluation.context import StoreEvalContext
from harness.interfaces.sae import SAE, SAEConfig
from harness.testing.fixtures import (
    D_IN,
    D_SAE,
    HOOKPOINT,
    TinyLM,
    identity_sae,
    random_sae,
    tiny_activations,
    tiny_store,
    tiny_tokens,
)

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peer_core.py"
SEQUENCES, K = 48, 6


def context(batch_sequences: int | None = None) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=SEQUENCES),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=0,
        language_model=TinyLM(),
        lm_sha256="tiny",
        batch_sequences=batch_sequences,
    )


def topk() -> TopKSAE:
    """Random directions, and biases, so that no bias is 0 by chance."""
    found = TopKSAE(SAEConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, options={"k": K}))
    generator = torch.Generator().manual_seed(0)
    found.reset_parameters(generator)
    with torch.no_grad():
        found.b_dec.normal_(generator=generator).mul_(0.2)
        found.b_enc.normal_(generator=generator).mul_(0.2)
    return found.requires_grad_(False).eval()


def measure(sae: SAE, batch_sequences: int | None = None) -> dict[str, float]:
    with torch.no_grad():
        found = SAEBenchCoreEvaluator().evaluate(sae, context(batch_sequences))
    assert found.keys() == {metric.name for metric in SAEBENCH_CORE.metrics}
    return {name.removeprefix("saebench_core_"): value.value for name, value in found.items()}


def test_an_sae_that_returns_its_input_recovers_everything():
    found = measure(identity_sae())
    for field in ("kl_div_score", "ce_loss_score", "relative_reconstruction_bias"):
        assert found[field] == pytest.approx(1.0, abs=1e-5), field
    assert found["ce_loss_with_sae"] == pytest.approx(found["ce_loss_without_sae"], abs=1e-6)
    assert found["explained_variance"] == pytest.approx(1.0)
    assert found["explained_variance_legacy"] == pytest.approx(1.0)
    assert found["mse"] == pytest.approx(0.0, abs=1e-9)
    assert found["l2_norm_out"] == pytest.approx(found["l2_norm_in"])
    # 16 dimensions, both signs; the other 32 latents never fire.
    assert found["frac_alive"] == 0.5
    assert found["total_tokens"] == SEQUENCES * 17


def test_a_known_reconstruction_gives_saebenchs_own_variance_and_error():
    """Worked by hand: x_hat = 0.5 x."""

    class Half(type(identity_sae())):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return super().decode(codes) / 2

    found = measure(Half(identity_sae().config).eval())
    x = tiny_activations(tiny_tokens(1, SEQUENCES))[:, 1:].double().reshape(3, -1, D_IN)
    total = x.square().sum(2).mean() - x.square().mean() ** 2
    assert found["explained_variance"] == pytest.approx(float(1 - 0.25 * x.square().sum(2).mean() / total), rel=1e-6)
    spread = (x - x.mean(1, keepdim=True)).square().sum(2)
    legacy = (1 - 0.25 * x.square().sum(2) / spread).mean()
    assert found["explained_variance_legacy"] == pytest.approx(float(legacy), rel=1e-6)
    assert found["mse"] == pytest.approx(float(0.25 * x.square().sum(2).mean() / (16 * 16)), rel=1e-6)
    assert found["relative_reconstruction_bias"] == pytest.approx(0.5)


@pytest.mark.parametrize("batch_sequences", [1, 5, 48])
def test_the_batches_of_the_context_do_not_matter(batch_sequences):
    assert measure(random_sae(), batch_sequences) == pytest.approx(measure(random_sae()), rel=1e-4)


def test_it_takes_no_options():
    with pytest.raises(ConfigError, match="takes no options, got batch"):
        SAEBenchCoreEvaluator({"batch": 8})


@pytest.mark.slow
def test_every_number_is_that_of_the_installed_package(tmp_path):
    python = Path(os.environ.get("SAE_HARNESS_PEERS", ROOT / ".cache" / "peers")) / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment with sae-bench at {python}: make one with pip install -r "
            "benchmarks/requirements/sae_bench.txt, and name the folder above it in SAE_HARNESS_PEERS"
        )
    sae, tokens = topk(), tiny_tokens(1, SEQUENCES)
    inputs = {name: parameter.numpy() for name, parameter in sae.named_parameters()}
    np.savez(
        tmp_path / "in.npz",
        k=np.array(K),
        tokens=tokens.numpy(),
        special=np.array(0),
        activations=tiny_activations(tokens).numpy(),
        head=TinyLM()._head.numpy(),
        **inputs,
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), str(WORKER), str(tmp_path / "in.npz"), str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "out.json").read_text())
    ours = measure(sae)
    assert theirs["total_tokens_eval_reconstruction"] == ours["total_tokens"]
    for field in (field for field in FIELDS if field != "total_tokens"):
        assert ours[field] == pytest.approx(theirs[field], rel=1e-3), field
        print(f"{field:32} {ours[field]:.6g} peer {theirs[field]:.6g}")
    with torch.no_grad():
        shared = CoreEvaluator().evaluate(sae, context())
    for name, field in {"l0": "l0", "cosine": "cossim", "l2_ratio": "l2_ratio"}.items():
        assert shared[name].value == pytest.approx(theirs[field], rel=1e-3), field
