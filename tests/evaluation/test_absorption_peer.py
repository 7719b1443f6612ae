"""SAEBench's own absorption and ours under its definition, on the same words, activations, probes and codes.

Needs the peer's environment, which benchmarks/ makes: `SAE_HARNESS_PEERS` names the folder that holds it as `sae_bench`
[default: .cache/peers, where the benchmarks put it].
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.evaluation.absorption import Letters, letters_of
from harness.evaluation.absorption_published import PublishedProbe, published_absorption, published_probe
from harness.evaluation.absorption_words import TEST, Drawn
from harness.evaluation.codes import encode
from harness.interfaces.sae import SAE, RaggedCodes, SAEConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peer_absorption.py"
N_LETTERS, N_WORDS, D_IN, D_SAE = 26, 80, 48, 1024
SEEDS = (0, 1, 2, 3, 4)


class TopK(SAE):
    """The 12 largest projections on unit rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__(SAEConfig(architecture="test", d_in=rows.shape[1], d_sae=len(rows)))
        self.W_dec = torch.nn.Parameter(F.normalize(rows, dim=1), requires_grad=False)

    def reset_parameters(self, generator: torch.Generator) -> None: ...

    def fold_input_scale(self, scale: float) -> None: ...

    def encode(self, x: Tensor) -> Tensor:
        all_ = (x @ self.W_dec.T).relu()
        kept = all_.topk(12, dim=-1)
        return torch.zeros_like(all_).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def world() -> tuple[Letters, SAE]:
    """Words with a letter and a family; an SAE with a latent for each letter, two for some, and latents of families,
    of which some hold a letter."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    letters, families = F.normalize(normal(N_LETTERS, D_IN), dim=1), F.normalize(normal(200, D_IN), dim=1)
    letter = torch.arange(N_LETTERS).repeat_interleave(N_WORDS)
    family = torch.randint(200, (len(letter),), generator=generator)
    rows = 2.5 * letters[letter] + 2.0 * families[family] + 0.15 * normal(len(letter), D_IN)
    split = letters[:8] + 0.5 * families[:8]
    mixed = (
        letters[torch.randint(N_LETTERS, (300,), generator=generator)]
        + families[torch.randint(200, (300,), generator=generator)]
    )
    dictionary = torch.cat([letters, split, mixed, families])
    rest = normal(D_SAE - len(dictionary), D_IN)
    drawn = Drawn(torch.arange(len(letter)), letter, (torch.arange(len(letter)) % 5 - 2).clamp(min=0))
    return letters_of(rows, drawn), TopK(torch.cat([dictionary, rest]))


class Scores(NamedTuple):
    """Each by seed."""

    fraction: np.ndarray
    full: np.ndarray
    n_split: np.ndarray


def ours(codes: RaggedCodes, sae: SAE, known: Letters, probe: PublishedProbe) -> Scores:
    found = []
    for seed in SEEDS:
        result = published_absorption(codes, sae, known, probe, torch.Generator().manual_seed(seed))
        kept = result.counted
        each = (result.measured.fraction, result.measured.rate, result.n_split.double())
        found.append([float(values[kept].mean()) for values in each])
    return Scores(*np.array(found).T)


def theirs(
    codes: RaggedCodes, sae: SAE, known: Letters, probe: PublishedProbe, folder: Path
) -> tuple[Scores, np.ndarray]:
    peers = Path(os.environ.get("SAE_HARNESS_PEERS", ROOT / ".cache" / "peers"))
    python = peers / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment with sae_bench at {python}: make one with pip install -r "
            "benchmarks/requirements/sae_bench.txt, and name the folder above it in SAE_HARNESS_PEERS"
        )
    given = {
        "rows": known.rows,
        "letter": known.labels.int().argmax(0),
        "test": (known.part == TEST).int(),
        **codes._asdict(),
        "W_dec": sae.decoder_directions(),
        **probe._asdict(),
        "seeds": torch.tensor(SEEDS),
    }
    arrays = {name: value.numpy() for name, value in given.items()}
    np.savez(folder / "in.npz", **arrays)  # pyright: ignore[reportArgumentType]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), str(WORKER), str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "out.npz")
    return Scores(found["fraction"], found["full"], found["n_split"]), found["probe_f1"]


def test_our_variant_of_its_definition_agrees_within_twice_its_reseed_noise(tmp_path):
    known, sae = world()
    codes = encode(sae, known.rows)
    probes = [published_probe(known, torch.Generator().manual_seed(seed)) for seed in SEEDS]
    a, (b, their_f1) = ours(codes, sae, known, probes[0]), theirs(codes, sae, known, probes[0], tmp_path)
    for name, mine, other in zip(Scores._fields, a, b, strict=True):
        print(f"{name}: ours {_told(mine)}, SAEBench {_told(other)}")
        assert abs(mine.mean() - other.mean()) <= 2 * other.std(ddof=1), name
    assert 0.02 < float(b.full.mean()) < 0.9, "there is something to agree on"
    test = known.part == TEST
    said = [((known.rows @ p.weight.T + p.bias).T > 0)[:, test] for p in probes]
    truth = known.labels[:, test]
    f1 = np.array([float((2 * (x & truth).sum(1) / (x.sum(1) + truth.sum(1))).mean()) for x in said])
    print(f"probe F1: ours {_told(f1)}, SAEBench {_told(their_f1)}")
    assert abs(f1.mean() - their_f1.mean()) <= max(2 * their_f1.std(ddof=1), 1e-3)


def _told(values: np.ndarray) -> str:
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
