"""Planted data in which features fire in twos: half of the firings of a feature are those of its twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness import ActivationBatch, TrainState
from harness.methods import build, resolve_method
from harness.plugins import load_catalogue
from harness.training.fit import FitJob, fit

D_IN, D_SAE, K = 24, 64, 4
BATCH = 256


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The presets of the study differ from the others in options alone: their conformance checks are slow tests."""
    for item in items:
        if "topk_orthogonality@seed" in item.nodeid:
            item.add_marker(pytest.mark.slow)


class TwinStream:
    """Features 2i and 2i + 1 fire together; their directions have cosine .5. batch(i) is a pure function of i."""

    def __init__(self, n_features: int = 40, rate: float = 0.1, together: float = 0.6) -> None:
        generator = torch.Generator().manual_seed(0)
        unit = torch.nn.functional.normalize(torch.randn(n_features, D_IN, generator=generator), dim=1)
        twin = unit[1::2] - (unit[1::2] * unit[::2]).sum(1, keepdim=True) * unit[::2]
        unit[1::2] = 0.5 * unit[::2] + 0.75**0.5 * torch.nn.functional.normalize(twin, dim=1)
        self.directions, self.rate, self.together = unit, rate, together
        self.scale = D_IN**0.5 / 2

    def codes(self, seed: int) -> Tensor:
        """[BATCH, n_features]."""
        generator = torch.Generator().manual_seed(seed)
        n = len(self.directions)
        fires = torch.rand(BATCH, n, generator=generator) < self.rate
        joins = torch.rand(BATCH, n // 2, generator=generator) < self.together
        fires[:, 1::2] = torch.where(joins, fires[:, ::2], fires[:, 1::2])
        return fires * (1 + 0.2 * torch.rand(BATCH, n, generator=generator))

    def batch(self, index: int) -> ActivationBatch:
        codes = self.codes(1000 + index)
        noise = 0.05 * torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(index))
        return ActivationBatch(
            activations=self.scale * (codes @ self.directions + noise),
            document=torch.zeros(BATCH, dtype=torch.int64),
            position=torch.arange(BATCH),
        )


@pytest.fixture(scope="session")
def stream() -> TwinStream:
    return TwinStream()


@pytest.fixture(scope="session")
def catalogue():
    names = "builtin,sae-harness-topk-orthogonality"
    found = load_catalogue({"SAE_HARNESS_PLUGINS": names, "SAE_HARNESS_STRICT": "1"})
    assert "topk_orthogonality" in found.trainers
    return found


@pytest.fixture(scope="session")
def make_job(catalogue):
    """A job as the pipeline makes it: `make_job("topk_orthogonality@random_pairs", seed=1, weight=.1)`."""

    def make(name: str, *, seed: int = 0, k: int = K, **options) -> FitJob:
        method = resolve_method(catalogue, name, overrides=options)
        trainer, sae = build(method, d_in=D_IN, d_sae=D_SAE, target_l0=k)
        return FitJob(label=name, sae=sae, trainer=trainer, seed=seed, target_l0=k, sparsity=method.sparsity)

    return make


@pytest.fixture
def start(make_job, stream):
    """A job whose weights are filled from the stream's first batch."""

    def begin(name: str = "topk_orthogonality", **options) -> FitJob:
        job = make_job(name, **options)
        generator = torch.Generator().manual_seed(job.seed)
        job.sae.reset_parameters(generator)
        job.trainer.initialise(job.sae, stream.batch(0), job.target_l0, generator)
        return job

    return begin


@pytest.fixture
def loss_of():
    """The loss of a job on a batch, at a step."""

    def loss(job: FitJob, batch: ActivationBatch, step: int = 0):
        state = TrainState(
            step=step,
            n_steps=100,
            tokens_seen=0,
            coefficient=0.1 if job.sparsity == "coefficient" else 0.0,
            target_l0=K,
            dead=torch.zeros(D_SAE, dtype=torch.bool),
            generator=torch.Generator().manual_seed(7),
        )
        return job.trainer.loss(job.sae, batch, state)

    return loss


@pytest.fixture
def train(stream):
    def run(jobs, n_steps, resume_folder=None, stream=stream):
        return fit(
            jobs,
            stream,
            n_steps=n_steps,
            batch_size=BATCH,
            dead_after_tokens=BATCH * 40,
            resume_folder=resume_folder,
            save_every_s=0.0,
        )

    return run
