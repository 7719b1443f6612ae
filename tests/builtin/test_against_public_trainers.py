"""Our losses and gradients beside those of public trainers, on the same weights and batch.

Needs the peers' environments, which benchmarks/ makes: `SAE_HARNESS_PEERS` names the folder that holds them, one named
after each library [default: .cache/peers, where the benchmarks put them].
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import ActivationBatch, TrainState
from harness.methods import build, resolve_method
from harness.plugins import load_catalogue

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peer_losses.py"
D_IN, D_SAE, N, K, COEFFICIENT, P, N_STEPS = 16, 64, 128, 4, 0.3, 0.4, 30
GROUPS = (4, 4, 8, 16, 32)
DEAD = torch.arange(D_SAE) % 4 == 3


def _inputs() -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    rows = torch.nn.functional.normalize(normal(D_SAE, D_IN), dim=1)
    encoder = rows.t() + normal(D_IN, D_SAE, scale=0.1)
    encoder[:, DEAD] *= 0.01  # so weak that no batch keeps them: dead latents with codes above 0
    tensors = {
        "x": normal(N, D_IN, scale=2.0),
        "W_enc": encoder,
        "W_dec": rows,
        "free": rows * (torch.rand(D_SAE, 1, generator=generator) + 0.5),
        "b_enc": torch.where(DEAD, 0.0, normal(D_SAE, scale=0.2)),
        "b_dec": normal(D_IN, scale=0.2),
        "r_mag": normal(D_SAE, scale=0.2),
        "b_mag": normal(D_SAE, scale=0.2),
        "dead": DEAD.float(),
        "batches": normal(N_STEPS, N, D_IN, scale=2.0) * torch.linspace(0.7, 1.3, N_STEPS)[:, None, None],
    }
    numbers = {"k": K, "coefficient": COEFFICIENT, "p": P, "groups": GROUPS}
    return {name: t.numpy() for name, t in tensors.items()} | {name: np.array(v) for name, v in numbers.items()}


def _ask(library: str, folder: Path) -> dict[str, Any]:
    peers = Path(os.environ.get("SAE_HARNESS_PEERS", ROOT / ".cache" / "peers"))
    python = peers / library / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment with {library} at {python}: make one with pip install -r "
            f"benchmarks/requirements/{library}.txt, and name the folder above it in SAE_HARNESS_PEERS"
        )
    np.savez(folder / "in.npz", **_inputs())  # pyright: ignore[reportArgumentType]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), str(WORKER), library, str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


@pytest.fixture(scope="module")
def dictionary_learning(tmp_path_factory):
    return _ask("dictionary_learning", tmp_path_factory.mktemp("dictionary_learning"))


@pytest.fixture(scope="module")
def sae_lens(tmp_path_factory):
    return _ask("sae_lens", tmp_path_factory.mktemp("sae_lens"))


def ours(name: str, **options):
    """The method's trainer and its SAE with the weights that the peers are given."""
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"})
    method = resolve_method(catalogue, name, overrides=options)
    trainer, sae = build(method, d_in=D_IN, d_sae=D_SAE, target_l0=K)
    given = _inputs()
    for which, parameter in sae.named_parameters():
        source = "free" if name == "april" and which == "W_dec" else which
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(given[source]))
    return trainer, sae


def batch_of(rows: np.ndarray) -> ActivationBatch:
    n = len(rows)
    return ActivationBatch(
        activations=torch.from_numpy(rows), document=torch.zeros(n, dtype=torch.int64), position=torch.arange(n)
    )


def state(step: int = 0, *, dead: torch.Tensor | None = None, n_steps: int = N_STEPS) -> TrainState:
    return TrainState(
        step=step,
        n_steps=n_steps,
        tokens_seen=0,
        target_l0=K,
        coefficient=COEFFICIENT,
        dead=torch.zeros(D_SAE, dtype=torch.bool) if dead is None else dead,
        generator=torch.Generator(),
    )


def loss(trainer, sae, **kwargs):
    return trainer.loss(sae, batch_of(_inputs()["x"]), state(**kwargs))


def same_gradients(sae, total: torch.Tensor, theirs: dict[str, Any], case: str, factor: float = 1.0) -> None:
    sae.zero_grad()
    total.backward()
    for name, parameter in sae.named_parameters():
        wanted = torch.from_numpy(theirs[f"{case}/grad/{name}"]) * factor
        difference = float((parameter.grad - wanted).norm() / wanted.norm())
        print(f"{case}: gradient of {name} differs by {difference:.1e}")
        assert difference < 1e-5, name


def close(found: torch.Tensor, wanted: Any) -> None:
    print(f"ours {float(found.detach()):.7g}, theirs {float(wanted):.7g}")
    assert float(found.detach()) == pytest.approx(float(wanted), rel=2e-6)


def test_batchtopk_equals_dictionary_learning(dictionary_learning):
    trainer, sae = ours("batchtopk")
    terms = loss(trainer, sae, dead=DEAD)
    assert terms.values["aux"].item() > 0.5  # dead latents do take part
    close(terms.values["sse"], dictionary_learning["batchtopk/l2_loss"])
    close(terms.values["aux"], dictionary_learning["batchtopk/auxk_loss"])
    close(terms.total, dictionary_learning["batchtopk/loss"])
    trainer.after_step(sae, state(n_steps=1))
    close(sae.threshold, dictionary_learning["batchtopk/threshold"])
    same_gradients(sae, terms.total, dictionary_learning, "batchtopk")


def test_matryoshka_equals_dictionary_learning_with_unit_weights(dictionary_learning):
    trainer, sae = ours("matryoshka")
    terms = loss(trainer, sae, dead=DEAD)
    close(terms.values["sse"], dictionary_learning["matryoshka/l2_loss"])
    close(terms.values["aux"], dictionary_learning["matryoshka/auxk_loss"])
    close(terms.total, dictionary_learning["matryoshka/loss"])
    same_gradients(sae, terms.total, dictionary_learning, "matryoshka")


def test_dictionary_learnings_default_weights_divide_twice(dictionary_learning):
    """Up to a factor 1 / |G| on all of it, which Adam does not see, its auxiliary term weighs |G| times as much."""
    trainer, sae = ours("matryoshka", aux_weight=len(GROUPS) / 32)
    total = loss(trainer, sae, dead=DEAD).total
    close(total / len(GROUPS), dictionary_learning["matryoshka_default/loss"])
    same_gradients(sae, total, dictionary_learning, "matryoshka_default", factor=len(GROUPS))


def test_gated_equals_dictionary_learning(dictionary_learning):
    trainer, sae = ours("gated")
    terms = loss(trainer, sae)
    for name, theirs in (("sse", "mse_loss"), ("l1", "sparsity_loss"), ("aux", "aux_loss")):
        close(terms.values[name], dictionary_learning[f"gated/{theirs}"])
    close(terms.total, dictionary_learning["gated/loss"])
    same_gradients(sae, terms.total, dictionary_learning, "gated")


def test_april_equals_dictionary_learning(dictionary_learning):
    trainer, sae = ours("april")
    terms = loss(trainer, sae)
    close(terms.values["sse"], dictionary_learning["april/mse_loss"])
    close(terms.values["l1"], dictionary_learning["april/sparsity_loss"])
    close(terms.total, dictionary_learning["april/loss"])
    same_gradients(sae, terms.total, dictionary_learning, "april")


@pytest.mark.parametrize(("penalty", "case"), [("lp^p", "p_anneal"), ("lp", "p_anneal_lp")])
def test_p_anneal_equals_dictionary_learning(penalty, case, dictionary_learning):
    trainer, sae = ours("p_anneal", penalty=penalty, p_end=P, n_updates=1)
    trainer.level = 1
    terms = loss(trainer, sae)
    close(terms.total, dictionary_learning[f"{case}/loss"])
    same_gradients(sae, terms.total, dictionary_learning, case)


@pytest.mark.parametrize(("penalty", "case"), [("lp^p", "p_anneal"), ("lp", "p_anneal_lp")])
def test_p_anneals_term_is_rescaled_as_in_dictionary_learning(penalty, case, dictionary_learning):
    """Its three updates at steps 10, 20 and 30 set p to 1, .75, .5: the first changes nothing, the last comes too
    late. Ours at .7 of the 30 steps is the second of them."""
    trainer, sae = ours("p_anneal", penalty=penalty, p_end=0.5, n_updates=2, anneal_start=0.4, anneal_end=1.0)
    found = []
    for number, rows in enumerate(_inputs()["batches"]):
        terms = trainer.loss(sae, batch_of(rows), state(number))
        found.append(float(terms.values["lp"].detach()) * terms.weights["lp"])
        trainer.after_step(sae, state(number))
    assert trainer.factor != 1.0
    np.testing.assert_allclose(found, dictionary_learning[f"{case}/scaled_lp_by_step"], rtol=5e-6)


def test_batchtopk_and_april_equal_sae_lens(sae_lens):
    close(loss(*ours("batchtopk")).total, sae_lens["batchtopk/loss"])
    terms = loss(*ours("april"))
    close(terms.values["sse"], sae_lens["april/mse_loss"])
    close(terms.values["l1"] * COEFFICIENT, sae_lens["april/l1_loss"])


def test_matryoshka_is_sae_lens_divided_by_the_number_of_groups(sae_lens):
    """SAELens sums over prefixes where we take the mean."""
    close(loss(*ours("matryoshka")).total * len(GROUPS), sae_lens["matryoshka/loss"])


def test_gated_equals_sae_lens_in_value(sae_lens):
    """In value alone: SAELens lets the gate's own error train the decoder, where the paper stops that gradient."""
    terms = loss(*ours("gated"))
    close(terms.values["sse"], sae_lens["gated/mse_loss"])
    close(terms.values["l1"] * COEFFICIENT, sae_lens["gated/l1_loss"])
    close(terms.values["aux"], sae_lens["gated/auxiliary_reconstruction_loss"])
    close(terms.total, sae_lens["gated/loss"])


def test_the_lp_norm_equals_sae_lens(sae_lens):
    trainer, sae = ours("p_anneal", penalty="lp", p_end=P, n_updates=1)
    trainer.level = 1
    close(loss(trainer, sae).total, sae_lens["p_anneal_lp/loss"])
