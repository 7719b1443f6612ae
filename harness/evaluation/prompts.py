"""Prompts of evaluators: their tokens by part, their activations made once and kept on disk, and the LM run on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..activations.ragged import RaggedBatch, length_buckets, pad_right
from ..artefacts.cache import Cache
from ..errors import DataError, NonFiniteError
from ..interfaces.evaluator import LanguageModelView
from ..interfaces.prompts import PromptBatch

PROMPTS_VERSION = 1
"""Raised by every change here that can move an activation."""

_BATCH_TOKENS = 1024
_LOGIT_ELEMENTS = 1 << 26
"""Largest logits tensor of a batch, in numbers (256 MiB in float32)."""


class TextModel(Protocol):
    """The part of a language model that is used here."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""
        ...

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer's files."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def ragged_batches(self, sequences: Sequence[Tensor], hookpoints: Sequence[str]) -> Iterator[RaggedBatch]:
        """Activations of token sequences in batches of like lengths."""
        ...


class PromptData:
    """Prompts of one LM at one hookpoint."""

    def __init__(
        self,
        language_model: TextModel,
        *,
        hookpoint: str,
        identity: Mapping[str, Any],
        prefix: Tensor,
        cache: Cache | None = None,
    ) -> None:
        """`identity`: what activations depend on besides the prompts; `prefix` [p] int64: what stands before each.
        Without a cache, activations are held in memory."""
        self._lm = language_model
        self._hookpoint = hookpoint
        self._identity = dict(identity)
        self._prefix = prefix
        self._cache = cache
        self._held: dict[str, np.ndarray] = {}

    def batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None = None) -> Iterator[PromptBatch]:
        """As `EvalContext.prompt_batches`."""
        if not prompts:
            raise DataError("Activations of no prompt were asked for: give at least one.")
        sequences, parts = self._tokens(prompts, max_tokens)
        lengths = torch.tensor([len(tokens) for tokens in sequences])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).tolist()
        values = self._stored(sequences, offsets)
        budget = max(1, min(_BATCH_TOKENS, _LOGIT_ELEMENTS // self._lm.vocab_size))
        for index in length_buckets(lengths, budget):
            chosen = index.tolist()
            tokens, _ = pad_right([sequences[i] for i in chosen])
            part = torch.full(tokens.shape, -1)
            activations = torch.zeros(*tokens.shape, values.shape[1])
            for row, i in enumerate(chosen):
                part[row, : len(parts[i])] = parts[i]
                own = np.array(values[offsets[i] : offsets[i + 1]])
                activations[row, : len(own)] = torch.from_numpy(own)
            yield PromptBatch(index=index, tokens=tokens, part=part, activations=activations)

    def _tokens(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> tuple[list[Tensor], list[Tensor]]:
        """Token ids of each prompt with what stands before it, and the part each is of."""
        flat = [part for prompt in prompts for part in prompt]
        encoded = iter(self._lm.tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"] if flat else [])
        sequences, parts = [], []
        for prompt in prompts:
            ids = [(number, token) for number, _ in enumerate(prompt) for token in next(encoded)]
            ids = ids[:max_tokens]
            if not ids:
                raise DataError(f"The prompt {''.join(prompt)[:60]!r} has no token: leave it out.")
            sequences.append(torch.cat([self._prefix, torch.tensor([token for _, token in ids])]))
            parts.append(torch.tensor([-1] * len(self._prefix) + [number for number, _ in ids]))
        return sequences, parts

    def _stored(self, sequences: Sequence[Tensor], offsets: Sequence[int]) -> np.ndarray:
        """Activations [tokens of all prompts, d_in] float32."""
        digest = hashlib.sha256()
        for tokens in sequences:
            digest.update(json.dumps(tokens.tolist()).encode())
        inputs = {**self._identity, "hookpoint": self._hookpoint, "tokens": digest.hexdigest()}
        if self._cache is None:
            key = digest.hexdigest()
            if key not in self._held:
                self._held[key] = self._capture(sequences, offsets, None)
            return self._held[key]

        def make(folder: Path) -> None:
            self._capture(sequences, offsets, folder / "values.npy")

        folder = self._cache.get_or_make("prompt_activations", inputs, PROMPTS_VERSION, make)
        return np.load(folder / "values.npy", mmap_mode="r")

    def _capture(self, sequences: Sequence[Tensor], offsets: Sequence[int], path: Path | None) -> np.ndarray:
        values: np.ndarray | None = None
        for batch in self._lm.ragged_batches(sequences, [self._hookpoint]):
            activations = batch.activations[self._hookpoint].cpu().float()
            if values is None:
                shape = (offsets[-1], activations.shape[-1])
                values = (
                    np.empty(shape, np.float32)
                    if path is None
                    else np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                )
            for row, index in enumerate(batch.index.tolist()):
                length = offsets[index + 1] - offsets[index]
                values[offsets[index] : offsets[index + 1]] = activations[row, :length].numpy()
        if values is None:
            raise DataError("The language model gave no activations.")
        if isinstance(values, np.memmap):
            values.flush()
        return values


def prompt_logprobs(lm: LanguageModelView, hookpoint: str, batch: PromptBatch, activations: Tensor) -> Tensor:
    """As `EvalContext.prompt_logprobs`."""
    logits = _logits(lm, hookpoint, batch, activations)[:, :-1]
    own = logits.gather(2, batch.tokens[:, 1:, None].to(logits.device)).squeeze(2) - logits.logsumexp(2)
    found = torch.zeros(batch.tokens.shape, device=logits.device)
    found[:, 1:] = own
    counted = (batch.part >= 0).to(logits.device)
    found = found.masked_fill(~counted, 0.0)
    if not bool(torch.isfinite(found).all()):
        raise NonFiniteError("The language model gives NaN or infinite logits on these prompts.")
    return found


def prompt_logits(
    lm: LanguageModelView, hookpoint: str, batch: PromptBatch, activations: Tensor, positions: Tensor
) -> Tensor:
    """As `EvalContext.prompt_logits`."""
    # The head is the most of the work where the vocabulary is large: it is applied to the positions asked for alone.
    wanted, place = positions.unique(return_inverse=True)
    logits = lm.run_with_replacement(
        batch.tokens, hookpoint, lambda given: given, activations=activations, positions=wanted
    )
    found = logits[torch.arange(len(logits)), place.to(logits.device)]
    if not bool(torch.isfinite(found).all()):
        raise NonFiniteError("The language model gives NaN or infinite logits on these prompts.")
    return found


def _logits(lm: LanguageModelView, hookpoint: str, batch: PromptBatch, activations: Tensor) -> Tensor:
    return lm.run_with_replacement(batch.tokens, hookpoint, lambda given: given, activations=activations)
