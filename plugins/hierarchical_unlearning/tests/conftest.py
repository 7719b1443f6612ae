"""A small world of trees, one of them to be forgotten, whose features are orthogonal: what clamping does is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness import SAE, ActivationBatch, RaggedCodes, SAEConfig, TrainState
from harness.activations.store import ActivationStore
from harness.activations.worlds import truth_of, truth_tensors
from harness.config import WorldConfig
from harness.data.worlds import World
from harness.evaluation.context import StoreEvalContext
from harness.methods import build, resolve_method
from harness.plugins import load_catalogue
from harness.training.fit import FitJob, fit

D_IN, D_SAE, K, BATCH = 32, 64, 4, 256


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Presets of the study differ in options alone: their conformance checks are slow tests."""
    for item in items:
        if "@seed002_fixed" in item.nodeid:
            item.add_marker(pytest.mark.slow)


class WorldStream:
    """batch(i) is a pure function of i: documents of the world's training split."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.per_batch = BATCH // world.config.seq_len

    def batch(self, index: int) -> ActivationBatch:
        found = self.world.batch("train", range(index * self.per_batch, (index + 1) * self.per_batch))
        rows = found.activations.reshape(-1, D_IN)
        return ActivationBatch(
            activations=rows * (D_IN**0.5 / 2.5),
            document=found.document.repeat_interleave(self.world.config.seq_len),
            position=torch.arange(len(rows)) % self.world.config.seq_len,
        )


class FeatureSAE(SAE):
    """Codes are the true magnitudes: latent i is feature i."""

    def __init__(self, world: World) -> None:
        super().__init__(SAEConfig(architecture="features", d_in=D_IN, d_sae=world.config.n_features))
        self.W_dec = nn.Parameter(world.features.clone(), requires_grad=False)
        self.b_dec = nn.Parameter(world.bias.clone(), requires_grad=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill."""

    def encode(self, x: Tensor) -> Tensor:
        codes = (x - self.b_dec) @ self.W_dec.T
        return codes * (codes > 1e-4)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold."""

    def decoder_directions(self) -> Tensor:
        return self.W_dec


@pytest.fixture(scope="session")
def world() -> World:
    made = World(
        WorldConfig(
            n_features=24,
            d_in=D_IN,
            seq_len=16,
            n_train_tokens=1600,
            n_eval_sequences=40,
            p_max=0.3,
            p_min=0.05,
            roots=4,
            branching=2,
            depth=1,
            forget_subtrees=1,
            forget_share=0.5,
        )
    )
    made.features = torch.linalg.qr(torch.randn(D_IN, 24, generator=torch.Generator().manual_seed(1)))[0].T.contiguous()
    return made


@pytest.fixture(scope="session")
def stream(world) -> WorldStream:
    return WorldStream(world)


@pytest.fixture
def context(world) -> StoreEvalContext:
    n = world.config.n_eval_sequences
    found = world.batch("eval", range(n))
    store = ActivationStore.from_tensors(
        found.activations, tokens=torch.ones(found.mask.shape).long(), document=found.document, mask=found.mask
    )
    truth = truth_of(truth_tensors(world))
    return StoreEvalContext(store, hookpoint="world", data_id="trees", seed=0, truth=truth)


@pytest.fixture
def feature_sae(world) -> FeatureSAE:
    return FeatureSAE(world).eval()


@pytest.fixture(scope="session")
def catalogue():
    names = "builtin,sae-harness-hierarchical-unlearning"
    found = load_catalogue({"SAE_HARNESS_PLUGINS": names, "SAE_HARNESS_STRICT": "1"})
    assert {"hierarchical_unlearning", "hierarchical_prefixes"} <= found.trainers.keys()
    return found


@pytest.fixture(scope="session")
def make_job(catalogue):
    """A job as the pipeline makes it: `make_job("hierarchical_unlearning@detached", seed=1, n_concepts=8)`."""

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


@pytest.fixture
def loss_of():
    """The loss of a job on a batch."""

    def loss(job: FitJob, batch: ActivationBatch):
        state = TrainState(
            step=0,
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
    def run(jobs, n_steps):
        return fit(jobs, stream, n_steps=n_steps, batch_size=BATCH, dead_after_tokens=BATCH * 20)

    return run


def ragged(rows: list[list[float]]) -> RaggedCodes:
    found = torch.tensor(rows)
    row, latent = found.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=len(rows)).cumsum(0)])
    return RaggedCodes(latent, offsets, found[row, latent])


@pytest.fixture
def codes_of():
    return ragged
