"""A language model that can be computed by hand, and text it predicts well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.evaluation.context import StoreEvalContext
from harness.interfaces.sae import SAE, SAEConfig

VOCAB, D_IN, N_SEQ, SEQ_LEN = 11, 11, 10, 9


class CopyingLM:
    """Predicts token + 1 from the activation at a position and, weakly, from those before it."""

    vocab_size = VOCAB

    def __init__(self, strength: float = 4.0) -> None:
        generator = torch.Generator().manual_seed(5)
        self.embedding = torch.linalg.qr(torch.randn(VOCAB, D_IN, generator=generator))[0] + 0.5
        self.head = strength * torch.linalg.pinv(self.embedding).roll(1, 1)
        self.seen: list[Tensor] = []

    def activations(self, tokens: Tensor) -> Tensor:
        return self.embedding[tokens]

    def logits(self, tokens: Tensor) -> Tensor:
        return self._head(self.activations(tokens))

    def run_with_replacement(self, tokens, hookpoint, replace, *, activations=None) -> Tensor:
        assert hookpoint == "here"
        given = self.activations(tokens) if activations is None else activations
        replaced = replace(given)
        self.seen.append(replaced)
        return self._head(replaced)

    def _head(self, x: Tensor) -> Tensor:
        before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return (x + 0.2 * before) @ self.head


@dataclass
class MemoryStore:
    activations: Tensor
    tokens: Tensor
    mask: Tensor
    document: Tensor
    d_in: int = D_IN

    def sequences(self, start: int, stop: int) -> Tensor:
        return self.activations[start:stop]


class Scaled(SAE):
    """Codes are x; the reconstruction is scale·x + noise·(a fixed rotation of x)."""

    def __init__(self, scale: float = 1.0, noise: float = 0.0, d_in: int = D_IN) -> None:
        super().__init__(SAEConfig(architecture="scaled", d_in=d_in, d_sae=d_in))
        self.scale, self.noise = scale, noise

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        return x

    def decode(self, codes):
        return self.scale * codes + self.noise * codes.roll(1, -1)

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return torch.eye(self.config.d_in)


def make_store(lm: CopyingLM) -> MemoryStore:
    """Text in which a token is followed by its successor four times in five; token 0 opens each sequence, masked."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, VOCAB, (N_SEQ, SEQ_LEN), generator=generator)
    for t in range(2, SEQ_LEN):
        follows = torch.rand(N_SEQ, generator=generator) < 0.8
        tokens[:, t] = torch.where(follows, (tokens[:, t - 1] + 1) % VOCAB, tokens[:, t])
    tokens[:, 0] = 0
    mask = tokens != 0
    return MemoryStore(lm.activations(tokens), tokens, mask, torch.tensor([3, 3, 8, 8, 8, 5, 1, 1, 0, 0]))


def make_context(lm: CopyingLM | None = None, store: MemoryStore | None = None, **options) -> StoreEvalContext:
    lm = lm or CopyingLM()
    options = {"hookpoint": "here", "data_id": "d", "lm_sha256": "l", "seed": 0, **options}
    return StoreEvalContext(store or make_store(lm), language_model=lm, **options)
