from __future__ import annotations

import pytest
import torch

from harness.builtin.saes.jumprelu import JumpReLUSAE
from harness.builtin.saes.relu import ReluSAE
from harness.builtin.saes.topk import TopKSAE
from harness.builtin.trainers.jumprelu import JumpReLUTrainer
from harness.builtin.trainers.relu import ReluTrainer
from harness.builtin.trainers.topk import TopKTrainer
from harness.interfaces.batch import ActivationBatch
from harness.interfaces.sae import SAEConfig
from harness.training import sparse_ops
from harness.training.fit import FitJob

KINDS = {"topk": (TopKSAE, TopKTrainer), "relu": (ReluSAE, ReluTrainer), "jumprelu": (JumpReLUSAE, JumpReLUTrainer)}


@pytest.fixture(params=["compiled", "plain"])
def each_way(request, monkeypatch):
    """With numba's kernels, and as where numba is not installed."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(sparse_ops, "_native_ops", lambda: None)


class PlantedStream:
    """Tokens that are sums of a few of n_features unit directions; batch(i) is a pure function of i."""

    def __init__(self, d_in: int = 24, n_features: int = 32, rate: float = 0.08, batch_size: int = 256) -> None:
        self.batch_size, self.rate = batch_size, rate
        g = torch.Generator().manual_seed(0)
        directions = torch.randn(n_features, d_in, generator=g)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.scale = d_in**0.5 / 2.5

    def batch(self, index: int) -> ActivationBatch:
        g = torch.Generator().manual_seed(1000 + index)
        n = self.batch_size
        fires = torch.rand(n, len(self.directions), generator=g) < self.rate
        codes = fires * (1 + 0.2 * torch.rand(n, len(self.directions), generator=g))
        return ActivationBatch(
            activations=self.scale * codes @ self.directions,
            document=torch.zeros(n, dtype=torch.int64),
            position=torch.arange(n),
        )


@pytest.fixture
def stream():
    return PlantedStream()


@pytest.fixture
def make_job():
    def make(kind: str, seed: int = 0, target_l0: int = 3, d_in: int = 24, d_sae: int = 64, **options) -> FitJob:
        sae_class, trainer_class = KINDS[kind]
        trainer = trainer_class(trainer_class.options_type(**options))
        config = SAEConfig(architecture=kind, d_in=d_in, d_sae=d_sae, options=trainer.sae_options(target_l0))
        return FitJob(
            label=f"{kind} seed {seed}",
            sae=sae_class(config),
            trainer=trainer,
            seed=seed,
            target_l0=target_l0,
            sparsity={"topk": "k", "relu": "coefficient", "jumprelu": "target"}[kind],
        )

    return make
