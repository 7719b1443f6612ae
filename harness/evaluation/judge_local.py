"""A judge on this machine: a causal language model of transformers, answering greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..activations.language_model import load_language_model
from ..activations.sources import resolve_lm
from ..config import LMConfig
from .judge import Completion, JudgeError, Message


class LocalJudge:
    """Replies are a function of weights, tokenizer and messages. The model is loaded for the first reply that is in no
    cache."""

    def __init__(self, source: str, cache_root: Path, *, device: torch.device | str = "cpu") -> None:
        """`source` as in a suite's `lm.source`: a folder, `fetched:NAME`, `package:PACKAGE` or a hub id.

        Raises:
            MissingModelError: it is not here.
        """
        config = LMConfig(source=source)
        self._lm = load_language_model(config, resolve_lm(config, cache_root), device=device)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of weights and tokenizer."""
        return {
            "kind": "local",
            "weights": self._lm.weights_sha256,
            "tokenizer": self._lm.tokenizer_sha256,
            "dtype": self._lm.config.dtype,
        }

    @torch.no_grad()
    def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
        """The greedy reply.

        Raises:
            JudgeError: messages and reply are longer than the model takes.
        """
        tokenizer = self._lm.tokenizer
        text, special = _prompt(tokenizer, messages)
        ids = tokenizer([text], add_special_tokens=special, return_tensors="pt")["input_ids"].to(self._lm.device)
        most = self._lm.max_positions
        if most is not None and ids.shape[1] + max_tokens > most:
            raise JudgeError(
                f"The judge {self._lm.name!r} takes {most} tokens; the question has {ids.shape[1]} and the reply up to "
                f"{max_tokens}: choose a judge with a longer context, or shorter texts (max_words)."
            )
        written = self._lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        )[0, ids.shape[1] :]
        return Completion(tokenizer.decode(written, skip_special_tokens=True), ids.shape[1], len(written))


def _prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """The conversation as one text, and whether special tokens still have to be put before it."""
    if getattr(tokenizer, "chat_template", None):
        turns = [message._asdict() for message in messages]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), False
    return "\n\n".join([*(message.content for message in messages), "Answer:"]), True
