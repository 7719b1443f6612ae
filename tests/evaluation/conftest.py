from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness.evaluation.context import StoreEvalContext


@dataclass
class MemoryStore:
    """Held-out sequences in memory: what a context reads of an ActivationStore."""

    activations: Tensor
    tokens: Tensor
    mask: Tensor
    document: Tensor

    @property
    def d_in(self) -> int:
        return self.activations.shape[2]

    def sequences(self, start: int, stop: int) -> Tensor:
        return self.activations[start:stop]


@pytest.fixture
def store() -> MemoryStore:
    """7 sequences of 5 tokens over 3 documents, d_in 4; the first token of each is special."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(7, 5, dtype=torch.bool)
    mask[:, 0] = False
    return MemoryStore(
        activations=torch.randn(7, 5, 4, generator=generator),
        tokens=torch.randint(0, 9, (7, 5), generator=generator),
        mask=mask,
        document=torch.tensor([4, 4, 9, 9, 9, 2, 2]),
    )


@pytest.fixture
def make_context(store: MemoryStore):
    def make(**options) -> StoreEvalContext:
        options = {"hookpoint": "here", "data_id": "data", "seed": 3, **options}
        return StoreEvalContext(store, **options)

    return make
