"""Small data with known structure, for the conformance kit and for plugins' own tests: made in milliseconds on a CPU.

A token stands for two planted features; its activation also carries, more weakly, those of the token before it. So
activations are sparse sums of known directions, neighbouring tokens resemble each other, and a linear readout of an
activation predicts the next token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..activations.samplers import Kind, Sampler
from ..activations.store import ActivationStore
from ..config import WorldConfig
from ..evaluation.context import StoreEvalContext
from ..interfaces.sae import SAE, RaggedCodes, SAEConfig
from ..interfaces.truth import WorldTruth

D_IN = 16
D_SAE = 64
K = 4
VOCAB = 50
N_FEATURES = 24
SEQ_LEN = 17
"""One special token, which no metric counts, and 16 others."""
HOOKPOINT = "planted"
TINY_WORLD = WorldConfig(
    n_features=24, d_in=D_IN, seq_len=8, n_train_tokens=64, n_eval_sequences=2, roots=3, branching=2, depth=1
)
"""What controls are told that must know the world (`needs={"world"}`)."""

_SEQUENCES_PER_DOCUMENT = 3
_FOLLOWS = 0.7
"""Probability that a token is followed by its successor."""


class _World(NamedTuple):
    directions: Tensor
    """[N_FEATURES, D_IN]: the planted features, of norm 1."""
    embedding: Tensor
    """[VOCAB, D_IN]: two features a token."""
    place: Tensor
    """[SEQ_LEN, D_IN]: a little that depends on the position alone."""
    codes: Tensor
    """[VOCAB, N_FEATURES]: how much of each feature is in a token's embedding."""


@lru_cache(maxsize=1)
def _world() -> _World:
    generator = torch.Generator().manual_seed(0)
    directions = nn.functional.normalize(torch.randn(N_FEATURES, D_IN, generator=generator), dim=1)
    first = torch.arange(VOCAB) % N_FEATURES
    second = (first + 1 + torch.randint(0, N_FEATURES - 1, (VOCAB,), generator=generator)) % N_FEATURES
    sizes = 1 + torch.rand(VOCAB, 2, generator=generator)
    embedding = sizes[:, :1] * directions[first] + sizes[:, 1:] * directions[second]
    place = 0.1 * torch.randn(SEQ_LEN, D_IN, generator=generator)
    codes = torch.zeros(VOCAB, N_FEATURES)
    codes[torch.arange(VOCAB), first], codes[torch.arange(VOCAB), second] = sizes[:, 0], sizes[:, 1]
    return _World(directions, embedding, place, codes)


def tiny_tokens(seed: int, n_sequences: int) -> Tensor:
    """[n_sequences, SEQ_LEN] int64: 0 opens each sequence; a token is followed by its successor seven times in ten."""
    generator = torch.Generator().manual_seed(1000 + seed)
    tokens = torch.randint(1, VOCAB, (n_sequences, SEQ_LEN), generator=generator)
    follows = torch.rand(n_sequences, SEQ_LEN, generator=generator) < _FOLLOWS
    for t in range(2, SEQ_LEN):
        tokens[:, t] = torch.where(follows[:, t], tokens[:, t - 1] % (VOCAB - 1) + 1, tokens[:, t])
    tokens[:, 0] = 0
    return tokens


def tiny_activations(tokens: Tensor) -> Tensor:
    """[b, s, D_IN] of tokens [b, s]: the token's two features, half of the previous token's, and its position."""
    world = _world()
    own = world.embedding[tokens]
    before = torch.zeros_like(own)
    before[:, 1:] = own[:, :-1]
    return own + 0.5 * before + world.place[: tokens.shape[1]]


def tiny_store(seed: int = 0, *, n_sequences: int = 96) -> ActivationStore:
    """Planted activations [n_sequences, 17, 16] in memory, three sequences a document; other seeds give other text of
    the same world. The first token of each sequence is special."""
    tokens = tiny_tokens(seed, n_sequences)
    return ActivationStore.from_tensors(
        tiny_activations(tokens),
        tokens=tokens,
        document=torch.arange(n_sequences) // _SEQUENCES_PER_DOCUMENT,
        mask=tokens != 0,
    )


def tiny_truth(seed: int = 0, *, n_sequences: int = 96) -> WorldTruth:
    """What is true of `tiny_store`, but for its positions' part: which features each token that counts is a sum of."""
    world, tokens = _world(), tiny_tokens(seed, n_sequences)
    own = world.codes[tokens]
    own[:, 1:] += 0.5 * world.codes[tokens[:, :-1]]
    counted = own[tokens != 0]
    row, feature = counted.nonzero(as_tuple=True)
    offsets = nn.functional.pad(torch.bincount(row, minlength=len(counted)).cumsum(0), (1, 0))
    return WorldTruth(
        features=world.directions,
        bias=torch.zeros(D_IN),
        codes=RaggedCodes(feature, offsets, counted[row, feature]),
        probability=(world.codes > 0).double().mean(0),
        autocorrelation=torch.zeros(N_FEATURES, dtype=torch.float64),
        parent=torch.full((N_FEATURES,), -1),
        forget=torch.zeros(N_FEATURES, dtype=torch.bool),
        forget_document=torch.zeros(n_sequences, dtype=torch.bool),
    )


def planted_batches(kind: Kind = "iid", *, seed: int = 0, batch_size: int = 128) -> Sampler:
    """An endless, seeded stream of training batches [batch_size, 16] over `tiny_store(0)`; kinds as the core's:
    `iid`, `pairs` or `contiguous`."""
    return Sampler(_training_store(), batch_size=batch_size, seed=seed, kind=kind)


@lru_cache(maxsize=1)
def _training_store() -> ActivationStore:
    return tiny_store(0)


class _Numbers:
    """A tokenizer whose tokens are written as numbers, with spaces between."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The pieces."""
        return [f" {token}" for token in ids]

    def decode(self, ids: list[int], *, clean_up_tokenization_spaces: bool = False) -> str:
        """The text of the ids."""
        return "".join(self.convert_ids_to_tokens(ids))


class TinyLM:
    """A language model of no layers: its logits are a linear readout of the hookpoint's activations.

    The readout is the least-squares prediction of the next token, so ablating the activations raises the
    cross-entropy. It satisfies `LanguageModelView`.
    """

    vocab_size = VOCAB
    tokenizer = _Numbers()

    def __init__(self) -> None:
        self.n_calls = 0
        self._head = _readout()

    def logits(self, tokens: Tensor) -> Tensor:
        """[b, s, VOCAB] of tokens [b, s]."""
        return self._read(tiny_activations(tokens))

    def run_with_replacement(
        self,
        tokens: Tensor,
        hookpoint: str,
        replace: Callable[[Tensor], Tensor],
        *,
        activations: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits [b, s, VOCAB] with the activations passed through `replace`; the hookpoint is `HOOKPOINT`."""
        if hookpoint != HOOKPOINT:
            raise ValueError(f"TinyLM has the hookpoint {HOOKPOINT!r} alone, got {hookpoint!r}")
        logits = self._read(replace(tiny_activations(tokens) if activations is None else activations))
        return logits if positions is None else logits[:, positions]

    def _read(self, activations: Tensor) -> Tensor:
        self.n_calls += 1
        # A little of all positions before, so that what is replaced at one is felt at later ones.
        past = activations.cumsum(1) / torch.arange(1, activations.shape[1] + 1)[:, None]
        return (activations + 0.1 * past) @ self._head


@lru_cache(maxsize=1)
def _readout() -> Tensor:
    """[D_IN, VOCAB]."""
    tokens = tiny_tokens(7, 64)
    x = tiny_activations(tokens)[:, 1:-1].reshape(-1, D_IN)
    wanted = nn.functional.one_hot(tokens[:, 2:].reshape(-1), VOCAB).float() - 1 / VOCAB
    return 12.0 * torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(D_IN), x.T @ wanted)


def tiny_context(
    seed: int = 0, *, language_model: bool = True, batch_sequences: int | None = None, n_sequences: int = 12
) -> StoreEvalContext:
    """An evaluation context on held-out planted data: 4 documents of 3 sequences, and a `TinyLM` unless
    `language_model=False`. `seed` is the evaluation seed; the data are always the same."""
    return StoreEvalContext(
        tiny_store(1, n_sequences=n_sequences),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=TinyLM() if language_model else None,
        lm_sha256="tiny" if language_model else "",
        truth=tiny_truth(1, n_sequences=n_sequences),
        batch_sequences=batch_sequences,
    )


class _IdentitySAE(SAE):
    """x̂ = x: latents are the positive and negative parts of each dimension, the rest unused."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Nothing to fill."""

    def encode(self, x: Tensor) -> Tensor:
        unused = x.new_zeros(*x.shape[:-1], self.config.d_sae - 2 * self.config.d_in)
        return torch.cat([x.relu(), (-x).relu(), unused], dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        d_in = self.config.d_in
        return codes[..., :d_in] - codes[..., d_in : 2 * d_in]

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold."""

    def decoder_directions(self) -> Tensor:
        eye = torch.eye(self.config.d_in)
        return torch.cat([eye, -eye, torch.zeros(self.config.d_sae - 2 * self.config.d_in, self.config.d_in)])


class _RandomSAE(SAE):
    """The K largest projections on random unit directions, which it writes back."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.W_dec = nn.Parameter(torch.empty(config.d_sae, config.d_in))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.W_dec.normal_(generator=generator)
        self.W_dec.copy_(nn.functional.normalize(self.W_dec, dim=1))

    def encode(self, x: Tensor) -> Tensor:
        projections = (x @ self.W_dec.T).relu()
        kept = projections.topk(K, dim=-1)
        return torch.zeros_like(projections).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec

    def fold_input_scale(self, scale: float) -> None:
        """Nothing to fold: codes grow with their input."""

    def decoder_directions(self) -> Tensor:
        return self.W_dec


def identity_sae() -> SAE:
    """An SAE [16 → 64 → 16] that returns its input: the ceiling of a metric."""
    return _IdentitySAE(SAEConfig(architecture="identity", d_in=D_IN, d_sae=D_SAE)).eval()


def random_sae(seed: int = 0) -> SAE:
    """An SAE [16 → 64 → 16] with random directions and 4 active latents a token: the floor of a metric."""
    sae = _RandomSAE(SAEConfig(architecture="random", d_in=D_IN, d_sae=D_SAE, options={"k": K}))
    sae.reset_parameters(torch.Generator().manual_seed(seed))
    return sae.requires_grad_(False).eval()
