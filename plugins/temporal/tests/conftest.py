"""Sticky synthetic data: features that tend to go on firing from one token to the next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness import ActivationBatch
from harness.evaluation.context import StoreEvalContext
from harness.methods import build, resolve_method
from harness.plugins import load_catalogue
from harness.training.fit import FitJob

D_IN, D_SAE, K = 24, 64, 4


class StickyWorld:
    """Half of the features go on firing with probability `stay`; the other half fire anew at each token."""

    def __init__(self, n_features: int = 40, rate: float = 0.1, stay: float = 0.9) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(n_features, D_IN, generator=generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.rate = rate
        self.stay = torch.where(torch.arange(n_features) % 2 == 0, stay, rate)
        # Chosen so that the rate is stationary: rate = rate · stay + (1 - rate) · begin.
        self.begin = rate * (1 - self.stay) / (1 - rate)
        self.scale = D_IN**0.5 / 2

    def sequences(self, n: int, length: int, seed: int) -> Tensor:
        """[n, length, D_IN]."""
        generator = torch.Generator().manual_seed(seed)
        fires = torch.rand(n, len(self.stay), generator=generator) < self.rate
        rows = []
        for _ in range(length):
            sizes = 1 + 0.2 * torch.rand(fires.shape, generator=generator)
            noise = 0.05 * torch.randn(n, D_IN, generator=generator)
            rows.append(self.scale * ((fires * sizes) @ self.directions + noise))
            fires = torch.rand(fires.shape, generator=generator) < torch.where(fires, self.stay, self.begin)
        return torch.stack(rows, dim=1)


class PairStream:
    """Batches of pairs; batch(i) is a pure function of i. One row in eight begins a document."""

    def __init__(self, world: StickyWorld, batch_size: int = 256) -> None:
        self.world, self.batch_size = world, batch_size

    def batch(self, index: int) -> ActivationBatch:
        pairs = self.world.sequences(self.batch_size, 2, seed=1000 + index)
        has_previous = torch.arange(self.batch_size) % 8 != 0
        return ActivationBatch(
            activations=pairs[:, 1].contiguous(),
            document=torch.arange(self.batch_size),
            position=has_previous.long(),
            previous=pairs[:, 0] * has_previous[:, None],
            has_previous=has_previous,
        )


@dataclass
class MemoryStore:
    """Held-out sequences in memory: what a context reads of an ActivationStore."""

    activations: Tensor
    mask: Tensor
    document: Tensor

    @property
    def d_in(self) -> int:
        return self.activations.shape[2]

    @property
    def tokens(self) -> Tensor:
        return torch.zeros(self.mask.shape, dtype=torch.int64)

    def sequences(self, start: int, stop: int) -> Tensor:
        return self.activations[start:stop]


@pytest.fixture(scope="session")
def world() -> StickyWorld:
    return StickyWorld()


@pytest.fixture(scope="session")
def stream(world) -> PairStream:
    return PairStream(world)


@pytest.fixture
def make_context():
    def make(activations: Tensor, mask: Tensor | None = None, document: Tensor | None = None, **options):
        n, length = activations.shape[:2]
        store = MemoryStore(
            activations=activations,
            mask=torch.ones(n, length, dtype=torch.bool) if mask is None else mask,
            document=torch.arange(n) if document is None else document,
        )
        return StoreEvalContext(store, **{"hookpoint": "here", "data_id": "data", "seed": 3, **options})

    return make


@pytest.fixture(scope="session")
def catalogue():
    found = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,sae-harness-temporal", "SAE_HARNESS_STRICT": "1"})
    assert "temporal" in found.trainers
    return found


@pytest.fixture(scope="session")
def make_job(catalogue):
    """A job as the pipeline makes it: `make_job("temporal@abs", seed=1, strength=.1)`."""

    def make(name: str, *, seed: int = 0, k: int = K, **options) -> FitJob:
        method = resolve_method(catalogue, name, overrides=options)
        trainer, sae = build(method, d_in=D_IN, d_sae=D_SAE, target_l0=k)
        return FitJob(label=name, sae=sae, trainer=trainer, seed=seed, target_l0=k, sparsity=method.sparsity)

    return make


@pytest.fixture
def start(make_job, stream):
    """A job whose weights are filled from the stream's first batch."""

    def begin(name: str, **options) -> FitJob:
        job = make_job(name, **options)
        generator = torch.Generator().manual_seed(job.seed)
        job.sae.reset_parameters(generator)
        job.trainer.initialise(job.sae, stream.batch(0), job.target_l0, generator)
        return job

    return begin
